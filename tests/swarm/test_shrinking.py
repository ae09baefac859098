"""`cairn donate` with a lower cap on a real node: files stay whole, and the disk gets its space back."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from node.units import MIB
from tests.patience import comes_true
from tests.swarm.command_line import cairn, cairn_json
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

FILES, DONORS, CODE, FILE_BYTES = 6, 5, (2, 8), 4_000_000
LOWER = 16 * MIB
TIMEOUT_S = 300.0


def test_a_lower_cap_gives_space_back_and_every_file_stays_whole(swarm: LocalSwarm, tmp_path: Path) -> None:
    (first,) = swarm.start()
    others = swarm.start(DONORS - 1, bootstrap=[first])
    for each in (first, *others):
        each.call("donate", cap_bytes=128 * MIB)
    (owner,) = swarm.start(bootstrap=[first])
    assert swarm.wait_known(owner, DONORS) >= DONORS
    puts = []
    for number in range(FILES):
        source = write_random(tmp_path / f"file {number}", FILE_BYTES, seed=number)
        puts.append((source, owner.call("put", path=str(source), code=f"{CODE[0]}/{CODE[1]}")))
    donor = max(others, key=lambda each: int(each.call("donate")["used_bytes"]))
    before = donor.call("donate")
    assert before["used_bytes"] > LOWER
    assert "shrinking" not in before
    assert swarm.wait_known(donor, DONORS) >= DONORS

    assert cairn_json(donor, "donate", str(LOWER))["cap_bytes"] == LOWER
    donor.kill()  # at whatever point it is by now
    donor = swarm.restart(donor)

    def holds() -> bool:
        now = donor.call("donate")
        return "shrinking" not in now and now["used_bytes"] <= LOWER

    assert comes_true(holds, TIMEOUT_S), donor.log_tail()
    after = donor.call("donate")
    assert 0 < after["shards"] < before["shards"]
    assert sum(path.stat().st_blocks * 512 for path in donor.home.path.rglob("*") if path.is_file()) <= LOWER
    status = cairn(donor, "status").stdout
    assert "makes room" not in status
    assert "lost shards" not in status
    for source, put in puts:
        (segment,) = owner.call("health", link=put["hash"])["segments"]
        assert segment["alive"] == CODE[1]
        output = tmp_path / "got"
        owner.call("get", link=put["link"], output=str(output))
        assert filecmp.cmp(source, output, shallow=False)
        output.unlink()
