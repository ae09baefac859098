"""A donor whose index is deleted, cut or overwritten: real daemons, real disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.swarm.command_line import cairn_json
from tests.swarm.people import gathering
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm


def again(swarm: LocalSwarm, node: NodeProcess) -> NodeProcess:
    """The node, in its home, once more."""
    started = NodeProcess(node.folder, node.arguments)
    swarm.nodes.append(started)
    return started.wait_ready()


def cut(index: Path) -> None:
    """Half of it is gone: a read behind the end would be the end of the process."""
    path = index / "data.mdb"
    os.truncate(path, path.stat().st_size // 2)


def blank(index: Path) -> None:
    """Its head is whole, what that points to is not."""
    path = index / "data.mdb"
    size = path.stat().st_size
    os.truncate(path, 2 * 4096)
    os.truncate(path, size)


def overwrite(index: Path) -> None:
    """Something else stands there."""
    (index / "data.mdb").write_bytes(b"something else " * 10_000)


def test_a_donor_without_its_index_comes_back_with_every_shard(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=2, donate="64MB") as people:
        links = [
            cairn_json(
                people.sharer,
                "put",
                str(write_random(tmp_path / f"{size}", size, seed=size)),
                "--code",
                "1/2",
            )["link"]
            for size in (10, 70_000, 5_000_000)
        ]
        donor, other = people.donors[1], people.donors[0]
        before = cairn_json(donor, "status")["store"]
        assert before["shards"] == 4  # the largest file has two segments
        for spoil in (shutil.rmtree, cut, blank, overwrite):
            donor.kill()
            spoil(donor.home.path / "index")
            donor = again(people.swarm, donor)
            after = cairn_json(donor, "status")["store"]
            assert {key: after[key] for key in ("shards", "leases", "lost", "quarantined")} == {
                "shards": 4,
                "leases": 4,
                "lost": 0,
                "quarantined": 0,
            }
        other.kill()  # so that every byte comes from the one that lost its index
        people.swarm.wait_known(people.friend, 1)
        for number, link in enumerate(links):
            target = tmp_path / f"back {number}"
            cairn_json(people.friend, "get", link, "-o", str(target))
            assert target.read_bytes() == (tmp_path / f"{(10, 70_000, 5_000_000)[number]}").read_bytes()
