"""Files through the real command line: put, list, get, share, check, keep, remove."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.swarm.command_line import cairn, cairn_json, command, environment, error_of
from tests.swarm.people import People

pytestmark = pytest.mark.swarm

DONORS = 4


def test_the_life_of_a_file(people: People, tmp_path: Path) -> None:
    source = tmp_path / "holiday film.bin"
    source.write_bytes(os.urandom(2_000_000))
    put = cairn_json(people.sharer, "put", str(source), "--expires", "60d")
    assert set(put) == {
        "link", "hash", "name", "bytes", "stored_bytes", "code", "segments", "holders", "weak", "expires",
        "price", "seconds",
    }  # fmt: skip
    assert (put["name"], put["bytes"], put["code"]) == (source.name, 2_000_000, [10, 30])
    assert (put["segments"], put["holders"]) == (1, DONORS)
    assert put["stored_bytes"] >= 3 * 2_000_000
    assert put["weak"] is False
    assert abs(put["expires"] - time.time() - 60 * 86_400) <= 2 * 86_400
    assert put["hash"] in put["link"]

    (listed,) = [file for file in cairn_json(people.sharer, "ls")["files"] if file["hash"] == put["hash"]]
    assert set(listed) == {"hash", "name", "bytes", "health", "code", "created", "expires", "last_proved"}
    assert (listed["name"], listed["health"], listed["expires"]) == (source.name, "healthy", put["expires"])

    shown = cairn_json(people.sharer, "link", put["hash"])
    assert shown["link"] == put["link"]
    assert shown["verify_link"] == put["link"].split("#")[0]

    output = tmp_path / "out"
    got = cairn_json(people.friend, "get", "-", "-o", str(output), text=put["link"] + "\n")
    assert set(got) == {"path", "name", "bytes", "fetched_bytes", "seconds"}
    assert (got["path"], got["name"], got["bytes"]) == (str(output), source.name, 2_000_000)
    assert got["fetched_bytes"] >= 2_000_000
    assert output.read_bytes() == source.read_bytes()

    health = cairn_json(people.friend, "health", put["hash"], "--verify")
    assert set(health) == {"hash", "healthy", "segments"}
    (segment,) = health["segments"]
    assert {key: segment[key] for key in ("index", "alive", "needed", "total")} == {
        "index": 0, "alive": 30, "needed": 10, "total": 30,
    }  # fmt: skip
    assert {holder["state"] for holder in segment["holders"]} == {"proved"}
    assert {holder["peer_id"] for holder in segment["holders"]} == {node.peer_id for node in people.donors}

    assert cairn_json(people.sharer, "renew", put["hash"], "--for", "90d") == {
        "hash": put["hash"], "leases": 30,
    }  # fmt: skip
    (again,) = [file for file in cairn_json(people.sharer, "ls")["files"] if file["hash"] == put["hash"]]
    assert again["expires"] > put["expires"]
    assert error_of(cairn(people.friend, "--json", "rm", put["hash"]))["code"] == 2

    kept = sum(donor.call("status")["store"]["leases"] for donor in people.donors)
    assert cairn_json(people.sharer, "rm", put["hash"])["leases"] > 0
    left = sum(donor.call("status")["store"]["leases"] for donor in people.donors)
    assert kept - left == 60  # thirty of the put, thirty of the renewal
    assert put["hash"] not in {file["hash"] for file in cairn_json(people.sharer, "ls")["files"]}
    assert error_of(cairn(people.friend, "--json", "health", put["hash"]))["code"] == 22
    assert (
        error_of(cairn(people.friend, "--json", "get", put["link"], "-o", str(tmp_path / "no")))["code"] == 22
    )


def test_get_to_stdout_ranges_and_no_overwriting(people: People, tmp_path: Path) -> None:
    source = tmp_path / "bytes"
    source.write_bytes(os.urandom(200_000))
    link = cairn_json(people.sharer, "put", str(source), "--code", "2/6")["link"]
    done = subprocess.run(
        command(people.friend, "get", link, "-o", "-", "--range", "1000-150999"),
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout == source.read_bytes()[1000:151_000]

    folder = tmp_path / "downloads"
    folder.mkdir()
    first = cairn(people.friend, "get", link, cwd=folder)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{folder / 'bytes'}\n"
    (folder / "bytes").write_text("mine")
    again = cairn(people.friend, "--json", "get", link, "-o", str(folder))
    assert error_of(again)["kind"] == "output_exists"
    assert (folder / "bytes").read_text() == "mine"
    cairn_json(people.friend, "get", link, "-o", str(folder), "--force")
    assert (folder / "bytes").read_bytes() == source.read_bytes()
    assert error_of(cairn(people.friend, "--json", "get", link, "--range", "200000-200001"))["code"] == 2


def test_a_folder_and_one_entry_of_it(people: People, tmp_path: Path) -> None:
    source = tmp_path / "thesis"
    (source / "parts").mkdir(parents=True)
    for number in range(20):
        (source / "parts" / f"{number}.txt").write_bytes(os.urandom(4096))
    put = cairn_json(people.sharer, "put", str(source))
    entries = cairn_json(people.friend, "ls", put["link"])["entries"]
    assert {entry["path"]: entry["bytes"] for entry in entries} == {f"parts/{n}.txt": 4096 for n in range(20)}
    cairn_json(people.friend, "get", put["link"] + "/parts/7.txt", "-o", str(tmp_path / "seven"))
    assert (tmp_path / "seven").read_bytes() == (source / "parts" / "7.txt").read_bytes()
    got = cairn_json(people.friend, "get", put["link"], "-o", str(tmp_path / "copy"))
    for number in range(20):
        name = f"parts/{number}.txt"
        assert (Path(got["path"]) / name).read_bytes() == (source / name).read_bytes()
    refused = cairn(people.friend, "get", put["link"], "-o", "-")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_a_password_link_needs_its_password(people: People, tmp_path: Path) -> None:
    source, right, wrong = tmp_path / "secret", tmp_path / "right", tmp_path / "wrong"
    source.write_text("the treasure")
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    link = cairn_json(people.sharer, "put", str(source), "--password-file", str(right))["link"]
    output = tmp_path / "out"
    bad = cairn(people.friend, "--json", "get", link, "-o", str(output), "--password-file", str(wrong))
    assert error_of(bad)["code"] == 12
    assert not output.exists()
    cairn_json(people.friend, "get", link, "-o", str(output), "--password-file", str(right))
    assert output.read_text() == "the treasure"


def test_a_link_with_addresses_is_enough_for_a_node_that_knows_nobody(people: People, tmp_path: Path) -> None:
    source = tmp_path / "hello"
    source.write_text("hello")
    put = cairn_json(people.sharer, "put", str(source))
    shared = cairn_json(people.sharer, "link", put["hash"], "--via")["link"]
    assert "?via=" in shared
    (stranger,) = people.swarm.start()
    cairn_json(stranger, "get", shared, "-o", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "hello"
    drawn = cairn(people.sharer, "link", put["hash"], "--qr")
    assert drawn.returncode == 0
    assert "█" in drawn.stdout or "▀" in drawn.stdout or "▄" in drawn.stdout


def test_a_dry_run_sends_nothing(people: People, tmp_path: Path) -> None:
    source = tmp_path / "dry"
    source.write_bytes(bytes(100_000))
    before = [donor.call("donate")["shards"] for donor in people.donors]
    planned = cairn_json(people.sharer, "put", str(source), "--dry-run")
    assert (planned["link"], planned["bytes"], planned["holders"]) == (None, 100_000, 0)
    assert planned["stored_bytes"] > 300_000
    assert [donor.call("donate")["shards"] for donor in people.donors] == before


def test_ctrl_c_ends_a_put_with_exit_5_and_the_same_command_goes_on(people: People, tmp_path: Path) -> None:
    source = tmp_path / "long"
    source.write_bytes(os.urandom(60_000_000))
    process = subprocess.Popen(
        command(people.sharer, "--json", "put", str(source)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that a shell runs in the background ignores SIGINT, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    journals = people.sharer.home.path / "puts"
    while process.poll() is None and not (journals.is_dir() and any(journals.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert error_of(subprocess.CompletedProcess([], process.returncode, out, errors))["code"] == 5
    put = cairn_json(people.sharer, "put", str(source))
    output = tmp_path / "out"
    cairn_json(people.friend, "get", put["link"], "-o", str(output))
    assert output.read_bytes() == source.read_bytes()


def test_nothing_secret_is_in_a_log(people: People, tmp_path: Path) -> None:
    source = tmp_path / "a name nobody else has"
    source.write_text("x")
    link = cairn_json(people.sharer, "put", str(source))["link"]
    cairn_json(people.friend, "get", link, "-o", str(tmp_path / "out"))
    key = link.split("#")[1]
    for node in people.swarm.nodes:
        text = "".join(
            path.read_text(errors="replace") for path in (node.folder / "stderr", node.home.log_path)
        )
        assert key not in text
        assert source.name not in text
