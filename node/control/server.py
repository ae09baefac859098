"""The local API: HTTP/1.1 over a Unix socket that only its owner can open. Layer 5.

The page (node/control/web.py) makes the same calls over TCP, behind a token.

Invariants: the socket has mode 0600 in a folder of mode 0700 before it listens; a request's body is bounded
before it is read; a client that goes away cancels what it asked for; an answer is a sequence of events
(node/control/client.py) that ends with exactly one result or error; keys and links are neither in a path
nor in a log.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

from node import limits
from node.errors import NodeError, UsageError

_PROGRESS_INTERVAL_S = 0.1  # a terminal needs no more, and a fast put would drown the socket
_STOP_GRACE_S = 2.0  # for answers in flight when the node stops
_logger = logging.getLogger(__name__)

Json = dict[str, Any]


class Events:
    """The answer to one call while it is being made."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._lock = trio.Lock()
        self._progress: Json | None = None
        self._progressed = trio.Event()
        self._is_over = False

    def progress(self, **fields: object) -> None:
        """Say how far it is. Never blocks; only the latest of a burst is sent."""
        self._progress = fields
        self._progressed.set()

    async def note(self, text: str) -> None:
        """Say something for people, on their stderr."""
        await self.emit("note", text)

    async def data(self, data: bytes) -> None:
        """Send bytes of the output itself; waits for a slow reader."""
        async with self._lock:
            await self._write(json.dumps({"data": len(data)}).encode() + b"\n")
            await self._write(data)

    async def emit(self, name: str, value: object) -> None:
        """One event."""
        async with self._lock:
            await self._write(json.dumps({name: value}).encode() + b"\n")

    async def finish(self, name: str, value: object) -> None:
        """The last event; what is still said after it goes nowhere."""
        async with self._lock:
            await self._write(json.dumps({name: value}).encode() + b"\n")
            self._is_over = True
            await _finish(self._send)

    async def pump_progress(self) -> None:
        """Send progress at a bounded rate, until cancelled."""
        while True:
            await self._progressed.wait()
            self._progressed = trio.Event()
            await self.emit("progress", self._progress)
            await trio.sleep(_PROGRESS_INTERVAL_S)

    async def _write(self, data: bytes) -> None:
        if not self._is_over:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


Handler = Callable[[Json, Events], Awaitable[Json]]
"""A command: the request's fields in, the result's fields out; raises `NodeError`."""


class ControlApp:
    """The ASGI application: finds the handler, feeds it, renders what it raises."""

    def __init__(self, handlers: Mapping[str, Handler], *, log_path: Path) -> None:
        """`log_path` is named in the message of an internal error."""
        self._handlers = handlers
        self._log_path = log_path

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """One request, or (ASGI's "lifespan") the life of the server."""
        if scope["type"] == "lifespan":
            await live(receive, send)
        if scope["type"] != "http":
            return
        try:
            handler, request = await self._parse(scope, receive)
        except UsageError as error:
            await _start(send, 400)
            await Events(send).finish("error", error_to_json(error))
            return
        await _start(send, 200)
        events = Events(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
            nursery.start_soon(events.pump_progress)
            name, value = await self._run(handler, request, events)
            await events.finish(name, value)
            nursery.cancel_scope.cancel()

    async def _parse(self, scope: Any, receive: ASGIReceiveCallable) -> tuple[Handler, Json]:
        handler = self._handlers.get(scope["path"].removeprefix("/v1/"))
        if handler is None or scope["method"] != "POST":
            raise UsageError(
                "this node does not know that command: is `cairn` newer than the node that runs?"
            )
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise UsageError("the request ended early")
            body += message["body"]
            if len(body) > limits.CONTROL_REQUEST_BYTES_MAX:
                raise UsageError("the request is too long")
            if not message["more_body"]:
                break
        try:
            request = json.loads(body)
        except ValueError:
            raise UsageError("the request is not JSON") from None
        if not isinstance(request, dict):
            raise UsageError("the request is not a JSON object")
        return handler, request

    async def _run(self, handler: Handler, request: Json, events: Events) -> tuple[str, Json]:
        try:
            return "result", await handler(request, events)
        except NodeError as error:
            return "error", error_to_json(error)
        except Exception as error:  # the boundary: whatever a bug raises becomes one line
            found = list(_leaves(error))
            if found and all(isinstance(leaf, NodeError) for leaf in found):
                return "error", error_to_json(found[0])
            _logger.exception("internal error")
            message = f"internal error ({type(found[0]).__name__}): the details are in {self._log_path}"
            return "error", {"code": 1, "kind": "internal", "message": message}


def error_to_json(error: BaseException) -> Json:
    """`{"code", "kind", "message"}`; the message is one line."""
    assert isinstance(error, NodeError)
    return {"code": error.exit_code, "kind": error.kind, "message": " ".join(str(error).split())}


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside nested groups: several tasks of one call may fail at once."""
    if isinstance(error, BaseExceptionGroup):
        for child in error.exceptions:
            yield from _leaves(child)
    else:
        yield error


async def live(receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Nothing to prepare: say so when asked."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _start(send: ASGISendCallable, status: int) -> None:
    headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})


async def _finish(send: ASGISendCallable) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def cancel_on_disconnect(receive: ASGIReceiveCallable, scope: trio.CancelScope) -> None:
    """Cancel what a client that has gone away had asked for."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


@asynccontextmanager
async def serving(path: Path, handlers: Mapping[str, Handler], *, log_path: Path) -> AsyncIterator[None]:
    """Answer calls on a Unix socket at `path` until the context ends; removes the socket then.

    The caller holds the home's lock, so a socket that is already there is a dead one.
    """
    try:
        async with answering(_listen(path), ControlApp(handlers, log_path=log_path)):
            yield
    finally:
        _remove(path)


@asynccontextmanager
async def answering(listener: socket.socket, app: ASGIFramework) -> AsyncIterator[None]:
    """Serve an application on a socket that listens already, until the context ends."""
    config = HypercornConfig()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn")
    config.errorlog.setLevel(logging.WARNING)  # where it listens is not news
    config.graceful_timeout = _STOP_GRACE_S
    config.h11_max_incomplete_size = limits.CONTROL_REQUEST_BYTES_MAX
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait, mode="asgi"))
        try:
            yield
        finally:
            stop.set()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600 from its first instant."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(umask)
    listener.listen(64)
    return listener
