"""What is removed gives its space back, on real disks, within one round of housekeeping."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.control.local_swarm import NodeProcess
from tests.patience import comes_true
from tests.swarm.command_line import cairn_json
from tests.swarm.people import gathering
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm


def pack_bytes(node: NodeProcess) -> int:
    """What the packs take of the disk, by the file system."""
    return sum(path.stat().st_blocks * 512 for path in (node.home.path / "packs").iterdir())


def test_rm_gives_the_donors_disks_their_space_back(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=2, donate="64MB") as people:
        kept = cairn_json(
            people.sharer, "put", str(write_random(tmp_path / "kept", 3_000_000)), "--code", "1/2"
        )
        before = [pack_bytes(donor) for donor in people.donors]
        removed = cairn_json(
            people.sharer, "put", str(write_random(tmp_path / "gone", 20_000_000, seed=2)), "--code", "1/2"
        )
        assert all(pack_bytes(donor) > 20_000_000 for donor in people.donors)
        assert cairn_json(people.sharer, "rm", removed["hash"])["leases"] == removed["segments"] * 2
        for donor, old in zip(people.donors, before, strict=True):
            assert comes_true(lambda donor=donor, old=old: pack_bytes(donor) < old + 2_000_000)  # type: ignore[misc]
        target = tmp_path / "again"
        cairn_json(people.friend, "get", kept["link"], "-o", str(target))
        assert target.read_bytes() == (tmp_path / "kept").read_bytes()
