"""A js-libp2p node as a child process, driven over its standard streams."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from node.crypto.identity import parse_peer_id
from node.units import Contact, Multiaddr
from tests.patience import PATIENCE_S

FOLDER = Path(__file__).parent
_LINE_BYTES_MAX = 1_000_000


class JsError(Exception):
    """js-libp2p's own error."""


class JsPeer:
    """One js-libp2p node; `call` names an operation of peer.js."""

    def __init__(self, process: trio.Process, first_line: dict[str, Any]) -> None:
        self.peer: str = first_line["peer"]
        addresses = [address.partition("/p2p/")[0] for address in first_line["addresses"]]
        self.contact = Contact(parse_peer_id(self.peer), tuple(map(Multiaddr, addresses)))
        self._process = process
        self._calls = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._answered = trio.Condition()

    async def call(self, operation: str, **arguments: Any) -> Any:
        """The operation's result. Raises `JsError`."""
        self._calls += 1
        call_id = self._calls
        line = json.dumps({"id": call_id, "op": operation, **arguments}) + "\n"
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode())
        with trio.fail_after(PATIENCE_S):
            async with self._answered:
                while call_id not in self._answers:
                    await self._answered.wait()
        answer = self._answers.pop(call_id)
        if not answer["ok"]:
            raise JsError(answer["error"])
        return answer["result"]

    async def collect_answers(self, lines: AsyncIterator[dict[str, Any]]) -> None:
        """Owned by `js_peer`."""
        async for answer in lines:
            async with self._answered:
                self._answers[answer["id"]] = answer
                self._answered.notify_all()


@asynccontextmanager
async def js_peer(*, namespaces: tuple[str, ...] = ("cairn-hint",)) -> AsyncIterator[JsPeer]:
    """A js-libp2p node on loopback, until the context ends."""
    process = await trio.lowlevel.open_process(
        [_node(), "peer.js"],
        cwd=FOLDER,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "DHT_NAMESPACES": ",".join(namespaces)},
    )
    try:
        lines = _lines(process)
        with trio.fail_after(PATIENCE_S):
            peer = JsPeer(process, await anext(lines))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.collect_answers, lines)
            yield peer
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def _lines(process: trio.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    unread = b""
    while chunk := await process.stdout.receive_some(65_536):
        *whole, unread = (unread + chunk).split(b"\n")
        assert len(unread) < _LINE_BYTES_MAX
        for line in whole:
            yield json.loads(line)
    raise AssertionError("the js-libp2p node ended: is `scripts/setup-interop` done?")


def _node() -> str:
    """Node.js 20 or newer, where `scripts/setup-interop` left it or on the path."""
    beside_python = Path(sys.executable).parent / "node"
    found = str(beside_python) if beside_python.exists() else shutil.which("node")
    assert found is not None, "no Node.js: run scripts/setup-interop, as `make test` does"
    assert (FOLDER / "node_modules").is_dir(), "no js-libp2p: run scripts/setup-interop, as `make test` does"
    return found
