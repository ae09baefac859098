"""`cairn drain` on a real node: every file keeps full health, and nothing is left there."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from node.units import MIB
from tests.swarm.command_line import cairn_json
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

FILES, DONORS, CODE, KEPT = (100, 3, (10, 30), 1000) if FULL else (6, 5, (2, 8), 6)
"""In the full run each of three donors keeps ten of the thirty shards of each of 100 files."""
CAP = str((512 if FULL else 64) * MIB)


def test_a_drained_node_leaves_every_file_whole(swarm: LocalSwarm, tmp_path: Path) -> None:
    (first,) = swarm.start(donate=CAP)
    leaver, *others = swarm.start(DONORS - 1, donate=CAP, bootstrap=[first])
    (owner,) = swarm.start(bootstrap=[first])
    assert swarm.wait_known(owner, DONORS) >= DONORS
    puts = []
    for number in range(FILES):
        source = write_random(tmp_path / f"file {number}", 100_000, seed=number)
        puts.append((source, owner.call("put", path=str(source), code=f"{CODE[0]}/{CODE[1]}")))
    kept = int(leaver.call("status")["store"]["shards"])
    assert kept >= KEPT

    lowest: list[int] = []

    def on_progress(_event: object) -> None:
        hash_ = puts[len(lowest) % FILES][1]["hash"]
        (segment,) = owner.call("health", link=hash_)["segments"]
        lowest.append(segment["alive"])

    assert swarm.wait_known(leaver, DONORS) >= DONORS
    result = leaver.call_with_progress("drain", on_progress)
    assert result == {"moved": kept, "remaining": 0}
    assert lowest
    assert min(lowest) == CODE[1]
    print(f"{kept} shards of {FILES} files moved; {len(lowest)} looks, never under {min(lowest)}")
    assert cairn_json(leaver, "drain") == {"moved": 0, "remaining": 0}
    assert int(leaver.call("status")["store"]["shards"]) == 0
    leaver.kill()

    for source, put in puts:
        (segment,) = owner.call("health", link=put["hash"])["segments"]
        assert segment["alive"] == CODE[1]
        proved = {each["peer_id"] for each in segment["holders"] if each["state"] == "proved"}
        assert leaver.peer_id not in proved
        output = tmp_path / "got"
        owner.call("get", link=put["link"], output=str(output))
        assert output.read_bytes() == source.read_bytes()
        output.unlink()
    assert all(node.is_running for node in (first, *others))
