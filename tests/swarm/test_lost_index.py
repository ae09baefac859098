"""A donor whose index is deleted, or whose packs are: real daemons, real disks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.people import gathering
from tests.swarm.processes import write_random
from tests.swarm.test_space import wait_until

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


def test_a_donor_whose_packs_are_gone_says_so_and_serves_on(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=3, donate="64MB") as people:
        source = write_random(tmp_path / "file", 400_000)
        put = cairn_json(people.sharer, "put", str(source), "--code", "2/3")
        donor = people.donors[2]
        # While it runs the disk goes away: what is not there is not served, and the node lives.
        packs = donor.home.path / "packs"
        packs.rename(donor.home.path / "unmounted")
        assert cairn(donor, "--json", "status").returncode == 0
        target = tmp_path / "copy"
        cairn_json(people.friend, "get", put["link"], "-o", str(target))
        assert target.read_bytes() == source.read_bytes()
        (donor.home.path / "unmounted").rename(packs)
        assert cairn_json(people.friend, "health", put["hash"])["healthy"]
        # It does not come back.
        assert donor.stop() == 0
        shutil.rmtree(packs)
        refused = cairn(donor, "--json", "run", *donor.arguments)
        assert "is the disk mounted" in str(error_of(refused)["message"])
        packs.mkdir()
        (packs / "lost").touch()
        back = again(people.swarm, donor)
        status = cairn_json(back, "status")["store"]
        assert (status["shards"], status["lost"]) == (0, 1)
        wait_until(lambda: "are lost here; holders of 1 were told" in back.home.log_path.read_text(), 75)
        assert cairn_json(people.friend, "health", put["hash"])["segments"][0]["alive"] >= 2
