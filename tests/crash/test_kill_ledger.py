"""Two real nodes make random transfers and are killed with SIGKILL; in the end both books say the same."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from node.net.bootstrap import peer_multiaddr
from node.units import Multiaddr, PeerId
from tests.conftest import FULL

pytestmark = pytest.mark.swarm

TRANSFERS = 10_000 if FULL else 1_000
KILL_EVERY = 500 if FULL else 125
KILLS_MIN = TRANSFERS // (2 * KILL_EVERY)
PATIENCE_S = 180.0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Node:
    """One node, over all of its lives."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.said: queue.Queue[list[str]] = queue.Queue()
        self.served: dict[str, int] = {}
        self.transfers = 0
        self.process: subprocess.Popen[str]
        self.peer_id = PeerId(b"")

    @property
    def address(self) -> str:
        return peer_multiaddr(Multiaddr(f"/ip4/127.0.0.1/tcp/{self.port}"), self.peer_id)

    def start(self, *other: str) -> None:
        command = [sys.executable, "-m", "tests.crash.ledger_node", str(self.home), str(self.port), *other]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()
        self.peer_id = PeerId(bytes.fromhex(self.wait("ready")[1]))

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):  # what a kill cut off was not said
                self.said.put(line.split(maxsplit=2))
        process.stdout.close()

    def tell(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def wait(self, *kinds: str) -> list[str]:
        """The next line of one of these kinds; transfers are counted on the way."""
        while True:
            words = self.said.get(timeout=PATIENCE_S)
            if words[0] in ("read", "put", "audit"):
                self.transfers += 1
                if words[0] == "read":
                    self.served[words[1]] = max(self.served.get(words[1], 0), int(words[2]))
            if words[0] in kinds:
                return words

    def kill(self) -> None:
        """SIGKILL, and all that was said before."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        while not self.said.empty():
            self.said.put(["end"])
            self.wait("end")


def test_both_ends_agree_to_the_unit_however_often_either_is_killed(tmp_path: Path) -> None:
    source = random.Random(os.environ.get("CAIRN_TEST_SEED", "7"))
    one, other = Node(tmp_path / "one"), Node(tmp_path / "other")
    one.start()
    other.start(one.address)
    pairs = ((one, other), (other, one))
    for node, far in pairs:
        node.tell("other", far.address)
    other.tell("sync")
    assert other.wait("done", "failed")[0] == "done"
    kills = 0
    try:
        for node in (one, other):
            node.tell("go", TRANSFERS)
        while one.transfers + other.transfers < TRANSFERS or kills < KILLS_MIN:
            target = one.transfers + other.transfers + source.randrange(1, 2 * KILL_EVERY)
            while one.transfers + other.transfers < target:
                for node in (one, other):
                    node.wait("read", "put", "audit", "done")
            node, far = source.choice(pairs)
            node.kill()
            kills += 1
            node.start(far.address)
            node.tell("other", far.address)
            node.tell("go", TRANSFERS)
        for node, far in pairs:
            node.kill()
            node.start(*([far.address] if node is other else []))
            node.tell("other", far.address)
        reports = settle(one, other)
    finally:
        for node in (one, other):
            node.kill()
    check(one, other, reports)


def settle(one: Node, other: Node) -> list[dict[str, Any]]:
    """Exchange once from either side, and ask both for everything."""
    reports = []
    for node in (one, other, one):
        node.tell("sync")
        said = node.wait("done", "failed")
        assert said[0] == "done", said
    for node in (one, other):
        node.tell("report")
        reports.append(json.loads(" ".join(node.wait("report")[1:])))
    return reports


def check(one: Node, other: Node, reports: list[dict[str, Any]]) -> None:
    mine, theirs = reports
    assert mine["ids"] == theirs["ids"]
    assert mine["net"] == -theirs["net"]
    assert (mine["low"], mine["high"]) == (theirs["low"], theirs["high"])
    assert mine["agreed"] == theirs["agreed"]
    assert mine["agreed"] is not None
    for node, report in ((one, mine), (other, theirs)):
        assert report["same"], "the running book differs from the sum over all records"
        assert report["net"] == report["scratch"]
        lost = {s: n for s, n in node.served.items() if report["served"].get(s, 0) < n}
        assert not lost, "what was said to be durable is gone"
