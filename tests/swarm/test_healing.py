"""A file heals while its owner is gone: holders are killed, rot, or have nothing of what they claim."""

from __future__ import annotations

import filecmp
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.crypto.links import parse_link
from node.units import MIB
from tests.patience import comes_true
from tests.swarm.processes import FULL, found_in_home, found_in_memory, write_random

pytestmark = pytest.mark.swarm

DONORS, CODE, FILE_BYTES = (30, (6, 20), 30 * MIB) if FULL else (9, (2, 6), 2 * MIB)
KILLED = 10 if FULL else 3
ROTTEN, EMPTY = (3, 2) if FULL else (1, 1)
CAP = str((160 if FULL else 48) * MIB)
SETTINGS = {
    "audit.interval_s": 5,
    "repair.check_interval_s": 5,
    "repair.dead_after_s": 30,
    "repair.stagger_s": 2,
}
WORDS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
HEAL_TIMEOUT_S = 900.0


class Crew:
    """Donors, a friend who never had a key, and a file whose owner is gone."""

    def __init__(self, swarm: LocalSwarm, tmp_path: Path) -> None:
        self.source = write_random(tmp_path / "film", FILE_BYTES)
        first = swarm.spawn(donate=CAP, arguments=WORDS).wait_ready()
        others = [swarm.spawn(donate=CAP, bootstrap=[first], arguments=WORDS) for _ in range(DONORS - 1)]
        self.donors = [first, *(each.wait_ready() for each in others)]
        owner, self.friend = (swarm.spawn(bootstrap=[first], arguments=WORDS).wait_ready() for _ in range(2))
        assert swarm.wait_known(owner, min(DONORS, 20)) >= min(DONORS, 20)
        self.put = owner.call("put", path=str(self.source), code=f"{CODE[0]}/{CODE[1]}")
        assert self.put["holders"] == CODE[1]
        owner.kill()

    def alive(self) -> list[int]:
        """Shards of each segment that are there, every block read."""
        report = self.friend.call("health", link=self.put["hash"], verify=True)
        return [segment["alive"] for segment in report["segments"]]

    def holders(self) -> list[NodeProcess]:
        """Living donors that hold a good shard of segment 0."""
        report = self.friend.call("health", link=self.put["hash"])
        names = {each["peer_id"] for each in report["segments"][0]["holders"] if each["state"] == "proved"}
        return [donor for donor in self.donors if donor.peer_id in names and donor.is_running]

    def is_whole(self) -> bool:
        return all(alive == CODE[1] for alive in self.alive())

    def check_whole(self, tmp_path: Path, *, honest: Sequence[NodeProcess]) -> None:
        """The file heals, is right, and nobody who keeps it has its key."""
        assert comes_true(self.is_whole, HEAL_TIMEOUT_S), self.alive()
        got = self.friend.call("get", link=self.put["link"], output=str(tmp_path / "got"))
        assert filecmp.cmp(self.source, got["path"], shallow=False)
        key = parse_link(self.put["link"]).key
        assert key is not None
        if sys.platform == "linux":
            for donor in honest:
                assert not found_in_home(donor, [key])
                assert not found_in_memory(donor, [key])


def test_what_died_is_remade_by_the_others(swarm: LocalSwarm, tmp_path: Path) -> None:
    crew = Crew(swarm, tmp_path)
    assert crew.alive()[0] == CODE[1]
    for donor in crew.holders()[:KILLED]:
        donor.kill()
    assert crew.alive()[0] < CODE[1]
    crew.check_whole(tmp_path, honest=[donor for donor in crew.donors if donor.is_running])


def test_rotten_and_empty_holders_are_replaced(swarm: LocalSwarm, tmp_path: Path) -> None:
    crew = Crew(swarm, tmp_path)
    holders = crew.holders()
    for donor in holders[:ROTTEN]:
        spoil(donor, every_bytes=65_472)
    for donor in holders[ROTTEN : ROTTEN + EMPTY]:
        spoil(donor, every_bytes=None)
    for donor in holders[ROTTEN + EMPTY : KILLED + ROTTEN + EMPTY - (ROTTEN + EMPTY)]:
        donor.kill()
    assert comes_true(lambda: crew.alive()[0] < CODE[1])
    bad = set(holders[: ROTTEN + EMPTY])
    crew.check_whole(
        tmp_path, honest=[donor for donor in crew.donors if donor.is_running and donor not in bad]
    )


def spoil(donor: NodeProcess, *, every_bytes: int | None) -> None:
    """Flip a bit every so often in all packs, or blank them, below a store that goes on claiming them."""
    for path in (donor.home.path / "packs").iterdir():
        size = path.stat().st_size
        with path.open("r+b") as file:
            if every_bytes is None:
                file.write(bytes(size))
                continue
            for offset in range(every_bytes // 2, size, every_bytes):
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
