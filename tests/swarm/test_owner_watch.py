"""The owner's node, while it is online, makes good the first lost shard by itself: real processes."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from node.units import MIB
from tests.patience import comes_true
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

DONORS, CODE = 7, (2, 5)
SETTINGS = {
    "audit.interval_s": 5,
    "repair.check_interval_s": 5,
    "repair.dead_after_s": 15,
    "repair.stagger_s": 2,
    "repair.threshold": 1.0,
}
"""Holders wait for all of the parity to be lost, so what heals one shard is the owner."""
WORDS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
TIMEOUT_S = 300.0


def test_the_owner_makes_good_one_lost_shard_and_nobody_else_does(swarm: LocalSwarm, tmp_path: Path) -> None:
    cap = str(32 * MIB)
    first = swarm.spawn(donate=cap, arguments=WORDS).wait_ready()
    others = [swarm.spawn(donate=cap, bootstrap=[first], arguments=WORDS) for _ in range(DONORS - 1)]
    donors = [first, *(each.wait_ready() for each in others)]
    owner, friend = (swarm.spawn(bootstrap=[first], arguments=WORDS).wait_ready() for _ in range(2))
    assert swarm.wait_known(owner, DONORS) >= DONORS
    source = write_random(tmp_path / "film", 2 * MIB)
    put = owner.call("put", path=str(source), code=f"{CODE[0]}/{CODE[1]}")
    assert put["holders"] == CODE[1]

    def alive() -> int:
        (segment,) = friend.call("health", link=put["hash"], verify=True)["segments"]
        return int(segment["alive"])

    def holders() -> set[str]:
        (segment,) = friend.call("health", link=put["hash"])["segments"]
        return {each["peer_id"] for each in segment["holders"] if each["state"] == "proved"}

    assert alive() == CODE[1]
    keeping = holders()
    victim = next(donor for donor in donors[1:] if donor.peer_id in keeping)
    victim.kill()
    assert alive() == CODE[1] - 1
    assert comes_true(lambda: alive() == CODE[1], TIMEOUT_S), owner.log_tail()
    assert victim.peer_id not in holders()
    assert len(holders()) == CODE[1]
    got = friend.call("get", link=put["link"], output=str(tmp_path / "got"))
    assert filecmp.cmp(source, got["path"], shallow=False)
