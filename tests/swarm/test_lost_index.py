"""A donor whose index is deleted: real daemons, real disks."""

from __future__ import annotations

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
        donor.kill()
        shutil.rmtree(donor.home.path / "index")
        back = again(people.swarm, donor)
        after = cairn_json(back, "status")["store"]
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
