"""One or two real daemons and the real command line against them."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from node.control.local_swarm import LOOPBACK, LocalSwarm, NodeProcess
from tests.patience import PATIENCE_S
from tests.swarm.command_line import ROOT, cairn, cairn_json, error_of

pytestmark = pytest.mark.swarm


def test_the_life_of_a_daemon(swarm: LocalSwarm) -> None:
    (node,) = swarm.start(donate="64MB")
    assert set(node.ready) == {"event", "peer_id", "addresses", "account", "web", "pid"}
    assert node.ready["pid"] == node.process.pid
    assert node.ready["web"] is None
    assert all(address.endswith(f"/p2p/{node.peer_id}") for address in node.ready["addresses"])

    status = cairn_json(node, "status")
    assert {"peer_id", "account", "addresses", "nat", "peers", "dht", "store", "uptime_s"} <= set(status)
    assert status["peer_id"] == node.peer_id
    assert status["addresses"] == node.ready["addresses"]
    assert cairn_json(node, "peers") == {"peers": []}
    assert cairn_json(node, "ls") == {"files": []}
    gives = cairn_json(node, "donate")
    assert set(gives) == {"cap_bytes", "used_bytes", "shards", "rate_bytes_s", "pledge", "earned"}
    assert gives["cap_bytes"] == 64_000_000
    for words in (["status"], ["peers"], ["ls"], ["donate"]):  # for people: no error, something to read
        done = cairn(node, *words)
        assert (done.returncode, bool(done.stdout + done.stderr)) == (0, True)

    assert node.stop() == 0
    assert not node.home.socket_path().exists()
    assert "Traceback" not in node.log_tail()


def test_what_is_given_and_who_one_is_outlive_the_process(swarm: LocalSwarm) -> None:
    (node,) = swarm.start()
    assert cairn_json(node, "donate")["cap_bytes"] == 0
    set_to = cairn_json(node, "donate", "80MiB", "--rate", "2MiB/s", "--pledge", "25%")
    assert (set_to["cap_bytes"], set_to["rate_bytes_s"], set_to["pledge"]) == (80 * 2**20, 2 * 2**20, 0.25)
    before = node.ready
    node.kill()
    again = NodeProcess(node.folder, ["--listen", LOOPBACK, "--no-mdns"])
    swarm.nodes.append(again)
    again.wait_ready()
    assert (again.peer_id, again.ready["account"]) == (before["peer_id"], before["account"])
    assert cairn_json(again, "donate")["cap_bytes"] == 80 * 2**20


def test_a_cap_that_holds_nothing_is_refused_with_the_least_that_does(lone_node: NodeProcess) -> None:
    error = error_of(cairn(lone_node, "--json", "donate", "5"))
    assert (error["code"], error["kind"]) == (2, "usage")
    assert "16MiB" in error["message"]
    assert cairn_json(lone_node, "donate")["cap_bytes"] == 0
    assert cairn_json(lone_node, "donate", "16MiB")["cap_bytes"] == 16 * 2**20
    assert cairn_json(lone_node, "donate", "0")["cap_bytes"] == 0


def test_announced_addresses_are_told_before_the_node_s_own(swarm: LocalSwarm) -> None:
    swarm.folder.mkdir(parents=True)
    announced = "/dns4/node.example.org/tcp/4001"
    node = NodeProcess(swarm.folder / "x", ["--announce", announced, "--listen", LOOPBACK, "--no-mdns"])
    swarm.nodes.append(node)
    node.wait_ready()
    first, second = node.ready["addresses"]
    assert first == f"{announced}/p2p/{node.peer_id}"
    assert second.startswith("/ip4/127.0.0.1/tcp/")
    assert cairn_json(node, "status")["addresses"] == [first, second]


def test_a_second_process_in_the_same_home_is_exit_11(swarm: LocalSwarm) -> None:
    (node,) = swarm.start()
    error = error_of(cairn(node, "--json", "run", "--no-mdns", "--listen", LOOPBACK))
    assert (error["code"], error["kind"]) == (11, "store_in_use")
    error = error_of(cairn(node, "--json", "recovery", "restore", text="x"))
    assert error["code"] == 11
    assert cairn_json(node, "recovery", "show")["account"] == node.ready["account"]


def test_an_address_that_cannot_be_listened_on_is_exit_3(swarm: LocalSwarm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = swarm.spawn()
        node.kill()
        port = taken.getsockname()[1]
        error = error_of(cairn(node, "--json", "run", "--no-mdns", "--listen", f"/ip4/127.0.0.1/tcp/{port}"))
    assert error["code"] == 3
    assert str(port) in str(error["message"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["put", "/nonexistent/file"], 2),
        (["put", "/etc/hostname", "--code", "40/30"], 2),
        (["get", "nonsense"], 2),
        (["link", "nonsense"], 2),
        (["health", "nonsense"], 2),
        (["ls", "nonsense"], 2),
        (["renew", "nonsense"], 2),
        (["rm", "nonsense"], 2),
    ],
)
def test_wrong_arguments_are_said_in_one_line(lone_node: NodeProcess, words: list[str], code: int) -> None:
    assert error_of(cairn(lone_node, "--json", *words))["code"] == code


def test_a_link_from_stdin_is_read(lone_node: NodeProcess) -> None:
    error = error_of(cairn(lone_node, "--json", "get", "-", text="not a link\n"))
    assert error["code"] == 2


@pytest.fixture(scope="module")
def lone_node(tmp_path_factory: pytest.TempPathFactory) -> object:
    with LocalSwarm(tmp_path_factory.mktemp("lone")) as nodes:
        yield nodes.start()[0]


def test_the_default_port_is_chosen_once_and_remembered(swarm: LocalSwarm) -> None:
    swarm.folder.mkdir(parents=True)
    ports = []
    for _ in range(2):
        node = NodeProcess(swarm.folder / "default", ["--no-mdns"])
        swarm.nodes.append(node)
        node.wait_ready()
        ports.append({address.split("/tcp/")[1].split("/")[0] for address in node.ready["addresses"]})
        assert node.stop() == 0
    assert ports[0] == ports[1]


def test_a_home_of_any_length_works_and_is_private(tmp_path: Path, swarm: LocalSwarm) -> None:
    node = NodeProcess(tmp_path / ("deep" * 40), ["--listen", LOOPBACK, "--no-mdns"])
    swarm.nodes.append(node)
    node.wait_ready()
    assert cairn_json(node, "status")["peer_id"] == node.peer_id
    path = node.home.socket_path()
    assert not path.is_relative_to(node.home.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(node.home.path.stat().st_mode) == 0o700


def test_two_nodes_know_each_other(swarm: LocalSwarm) -> None:
    (first,) = swarm.start(donate="64MB")
    (second,) = swarm.start(bootstrap=[first])
    for node, other in ((first, second), (second, first)):
        assert swarm.wait_known(node, 1) == 1
        (peer,) = cairn_json(node, "peers")["peers"]
        assert peer["peer_id"] == other.peer_id


def test_friendly_words_without_json(swarm: LocalSwarm, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "cli",
            "--home",
            str(tmp_path / "home"),
            "run",
            "--listen",
            LOOPBACK,
            "--no-mdns",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Cairn node 12D3KooW")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.wait()
