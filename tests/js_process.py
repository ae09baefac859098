"""A JavaScript program as a child process, driven over its standard streams (there: js_process.mjs)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.patience import PATIENCE_S

_LINE_BYTES_MAX = 1_000_000
_END_S = 10.0  # to end by itself


class JsError(Exception):
    """The program's own error."""


class JsProcess:
    """`call` names an operation of the program."""

    def __init__(self, process: trio.Process, first_line: dict[str, Any]) -> None:
        """`first_line` is what the program said of itself."""
        self.first_line = first_line
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
        """Owned by `js_process`."""
        async for answer in lines:
            async with self._answered:
                self._answers[answer["id"]] = answer
                self._answered.notify_all()


@asynccontextmanager
async def js_process(script: Path, environment: Mapping[str, str]) -> AsyncIterator[JsProcess]:
    """The program, until the context ends; `environment` is added to this process's."""
    process = await trio.lowlevel.open_process(
        [_node(script.parent), script.name],
        cwd=script.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        lines = _lines(process)
        with trio.fail_after(PATIENCE_S):
            running = JsProcess(process, await anext(lines))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.collect_answers, lines)
            yield running
            nursery.cancel_scope.cancel()
    finally:
        assert process.stdin is not None
        with trio.CancelScope(shield=True):
            # Its input ends, so that it ends what it started itself; then it has to go.
            await process.stdin.aclose()
            with trio.move_on_after(_END_S):
                await process.wait()
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


async def _lines(process: trio.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    unread = b""
    while chunk := await process.stdout.receive_some(65_536):
        *whole, unread = (unread + chunk).split(b"\n")
        assert len(unread) < _LINE_BYTES_MAX
        for line in whole:
            yield json.loads(line)
    raise AssertionError("the JavaScript program ended: is `scripts/setup-node` done?")


def _node(folder: Path) -> str:
    """Node.js 20 or newer, where `scripts/setup-node` left it or on the path."""
    beside_python = Path(sys.executable).parent / "node"
    found = str(beside_python) if beside_python.exists() else shutil.which("node")
    assert found is not None, "no Node.js: run scripts/setup-node, as `make test` does"
    assert (folder / "node_modules").is_dir(), "no npm packages: run scripts/setup-node, as `make test` does"
    return found
