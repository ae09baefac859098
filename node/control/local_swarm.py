"""Real node processes on this machine, for the demo and for tests of the whole. Layer 5.

Invariants: every process listens on loopback alone and looks for nobody (no mDNS);
each is ended by the object that started it, by its own process handle; a start that fails shows the end of
the node's log.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import node
from node.control.client import Json, call
from node.daemon.home import Home
from node.errors import NodeError

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
LOG_TAIL_BYTES = 3000
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class NodeProcess:
    """One `cairn run` in a folder of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        """Start it; `wait_ready` tells when it answers. The home is kept over several processes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.arguments = tuple(arguments)
        self.home = Home(folder / "home")
        self.ready: Json = {}
        words = ["--home", str(self.home.path), "--json", "run", *arguments]
        with (folder / "stderr").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for whoever runs the swarm, who ends its nodes in order
            )

    @property
    def peer_id(self) -> str:
        """Known once ready."""
        return str(self.ready["peer_id"])

    @property
    def address(self) -> str:
        """A multiaddr to join through; known once ready."""
        return str(self.ready["addresses"][0])

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process.poll() is None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> NodeProcess:
        """Wait for the ready line. Raises `NodeError` with the end of the log if it does not come."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            self.kill()
            raise NodeError(f"the node in {self.folder} did not start: {self.log_tail()}")
        self.ready = json.loads(line)
        if self.ready.get("event") != "ready":
            self.kill()
            raise NodeError(f"the node in {self.folder} did not start: {self.ready}")
        return self

    def call(self, command: str, /, **request: object) -> Json:
        """The result of a control call. Raises what the node answers."""
        return call(self.home, command, request)

    def call_with_progress(
        self, command: str, on_progress: Callable[[Json], None], /, **request: Any
    ) -> Json:
        """As `call`, with the progress events of the way."""
        return call(self.home, command, request, on_progress=on_progress)

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Idempotent."""
        self.process.kill()
        self._reap(STOP_TIMEOUT_S)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM and wait; its exit code. Killed if it takes too long."""
        self.ask_to_stop()
        try:
            return self._reap(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def log_tail(self) -> str:
        """The end of what it wrote to stderr and to its log."""
        parts = []
        for path in (self.folder / "stderr", self.home.log_path):
            if path.exists():
                parts.append(path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace"))
        return "\n".join(parts).strip()

    def _reap(self, timeout_s: float) -> int:
        code = self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


class LocalSwarm:
    """Several nodes below one folder; ends all of them with its context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[NodeProcess] = []

    def __enter__(self) -> LocalSwarm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def spawn(
        self,
        *,
        donate: str | None = None,
        bootstrap: Sequence[NodeProcess] = (),
        arguments: Sequence[str] = (),
        page: bool = False,
    ) -> NodeProcess:
        """Start a node without waiting for it. Without `bootstrap` it knows nobody."""
        words = ["--listen", LOOPBACK, "--no-mdns", *([] if page else ["--no-web"]), *arguments]
        for peer in bootstrap:
            words += ["--bootstrap", peer.address]
        if donate is not None:
            words += ["--donate", donate]
        node_process = NodeProcess(self.folder / f"node-{len(self.nodes):03}", words)
        self.nodes.append(node_process)
        return node_process

    def start(
        self, count: int = 1, *, donate: str | None = None, bootstrap: Sequence[NodeProcess] = ()
    ) -> list[NodeProcess]:
        """Start `count` nodes side by side and wait until all are ready."""
        started = [self.spawn(donate=donate, bootstrap=bootstrap) for _ in range(count)]
        for each in started:
            each.wait_ready()
        return started

    def restart(self, ended: NodeProcess) -> NodeProcess:
        """Start a node that was ended again: its home, its arguments, and the address that others know."""
        listen = ended.address.split("/p2p/")[0]
        words = [listen if word == LOOPBACK else word for word in ended.arguments]
        node_process = NodeProcess(ended.folder, words)
        self.nodes[self.nodes.index(ended)] = node_process
        return node_process.wait_ready()

    def wait_known(self, node_process: NodeProcess, contacts: int, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Wait until a node's routing table has `contacts` entries; how many it has when time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            known = int(node_process.call("status")["dht"]["contacts"])
            if known >= contacts or time.monotonic() > deadline:
                return known
            time.sleep(0.1)

    def stop(self) -> None:
        """End every node: all are asked at once, then waited for."""
        for each in self.nodes:
            each.ask_to_stop()
        for each in self.nodes:
            each.stop()


def _environment() -> dict[str, str]:
    """This process's, with the program's own folder first on the path: it may run from a checkout."""
    program = str(Path(node.__file__).resolve().parent.parent)
    rest = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([program, rest]) if rest else program
    return {**os.environ, "PYTHONPATH": path}
