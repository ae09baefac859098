"""A machine is lost; the words bring its files back on a clean one: real daemons, real command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from node.control.local_swarm import LOOPBACK, NodeProcess
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.people import gathering
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

CODE = "2/6"


def test_the_words_list_and_get_every_file_that_a_lost_machine_had_put(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=3, donate="64MB") as people:
        lost, swarm = people.sharer, people.swarm
        folder = tmp_path / "folder"
        (folder / "below").mkdir(parents=True)
        write_random(folder / "below" / "entry", 5_000, seed=9)
        files = {
            f"file {size}": write_random(tmp_path / f"file {size}", size) for size in (0, 1_000, 300_000)
        }
        for path in (*files.values(), folder):
            cairn_json(lost, "put", str(path), "--code", CODE)
        gone = cairn_json(lost, "put", str(write_random(tmp_path / "gone", 2_000)), "--code", CODE)
        cairn_json(lost, "rm", gone["hash"])
        words = " ".join(cairn_json(lost, "recovery", "show", "--reveal")["words"])
        lost.kill()  # nothing of its home is used from here on

        clean = NodeProcess(
            swarm.folder / "clean",
            ["--listen", LOOPBACK, "--no-mdns", "--bootstrap", people.donors[0].address],
        )
        swarm.nodes.append(clean)
        clean.wait_ready()
        error = error_of(cairn(clean, "--json", "recovery", "restore", text=words))
        assert error["code"] == 11
        assert clean.stop() == 0
        shutil.rmtree(clean.home.path)
        account = cairn_json(clean, "recovery", "restore", text=words)["account"]
        assert account == lost.ready["account"]
        again = NodeProcess(clean.folder, clean.arguments)
        swarm.nodes.append(again)
        again.wait_ready()
        listed = {file["name"]: file for file in cairn_json(again, "ls")["files"]}
        assert set(listed) == {*files, "folder"}
        for name, path in files.items():
            link = cairn_json(again, "link", listed[name]["hash"])["link"]
            target = tmp_path / f"{name} again"
            cairn_json(again, "get", link, "-o", str(target))
            assert target.read_bytes() == path.read_bytes()
        link = cairn_json(again, "link", listed["folder"]["hash"])["link"]
        cairn_json(again, "get", link, "-o", str(tmp_path / "folder again"))
        entry = tmp_path / "folder again" / "below" / "entry"
        assert entry.read_bytes() == (folder / "below" / "entry").read_bytes()
        # The leases are this machine's again.
        some = listed["file 1000"]["hash"]
        assert cairn_json(again, "renew", some, "--for", "60d")["leases"] == 6
        for file in listed.values():
            cairn_json(again, "rm", file["hash"])
        assert cairn_json(again, "ls")["files"] == []
        assert sum(cairn_json(donor, "status")["store"]["leases"] for donor in people.donors) == 0


def test_words_are_not_restored_over_the_files_of_another_account(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=2, donate="64MB") as people:
        sharer = people.sharer
        cairn_json(sharer, "put", str(write_random(tmp_path / "file", 1_000)), "--code", "1/2")
        words = " ".join(cairn_json(people.friend, "recovery", "show", "--reveal")["words"])
        own = " ".join(cairn_json(sharer, "recovery", "show", "--reveal")["words"])
        assert sharer.stop() == 0
        error = error_of(cairn(sharer, "--json", "recovery", "restore", text=words))
        assert error["code"] == 2
        assert "another account" in error["message"]
        assert cairn_json(sharer, "recovery", "restore", text=own)["account"] == sharer.ready["account"]


def test_of_two_machines_of_an_account_the_one_restored_last_pays(tmp_path: Path) -> None:
    with gathering(tmp_path / "swarm", donors=2, donate="64MB") as people:
        swarm, first = people.swarm, people.sharer
        source = str(write_random(tmp_path / "file", 1_000))
        cairn_json(first, "put", source, "--code", CODE)
        words = " ".join(cairn_json(first, "recovery", "show", "--reveal")["words"])
        second = swarm.spawn(bootstrap=[people.donors[0]]).wait_ready()
        assert second.stop() == 0
        cairn_json(second, "recovery", "restore", text=words)
        second = swarm.restart(second)
        cairn_json(second, "put", source, "--code", CODE)
        error = error_of(cairn(first, "--json", "put", source, "--code", CODE))
        assert error["code"] == 30
        assert "acts through a newer device" in error["message"]
        assert "cairn recovery restore" in error["message"]
        assert len(cairn_json(first, "ls")["files"]) >= 1

        assert first.stop() == 0
        assert cairn_json(first, "recovery", "restore", text=words)["account"] == first.ready["account"]
        first = swarm.restart(first)
        put = cairn_json(first, "put", source, "--code", CODE)
        cairn_json(first, "renew", put["hash"], "--for", "60d")
        assert len(cairn_json(first, "ls")["files"]) == 3
        assert error_of(cairn(second, "--json", "put", source, "--code", CODE))["code"] == 30
