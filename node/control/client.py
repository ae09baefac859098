"""Calls to the daemon over its Unix socket. Layer 5; the standard library only.

A call is `POST /v1/<command>` with a JSON body; keys and links travel in the body, never in the path. The
answer is a sequence of events, one JSON object a line: `{"progress": {...}}`, `{"note": text}`, `{"data": N}`
followed by N raw bytes, and at the end one `{"result": {...}}` or `{"error": {...}}`. Closing the connection
cancels the call.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from node.daemon.home import Home
from node.errors import NoDaemonError, NodeError, TransferInterruptedError

CONNECT_TIMEOUT_S = 10.0
LINE_BYTES_MAX = 64 * 1024 * 1024  # bytes: a result is one line; the health of a 5 TB file is the longest
DATA_READ_BYTES = 256 * 1024

Json = dict[str, Any]


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(str(self._path))
        self.sock.settimeout(None)  # a put may take hours; the node's own deadlines bound every step of it


def call(
    home: Home,
    command: str,
    request: Mapping[str, object],
    *,
    on_progress: Callable[[Json], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
    on_data: Callable[[bytes], None] = lambda _: None,
) -> Json:
    """The result of a command.

    Raises:
        NoDaemonError: nothing answers in this home.
        TransferInterruptedError: the daemon went away before it answered.
        NodeError: whatever the daemon answered, as the class it raised there.
    """
    connection = UnixConnection(home.socket_path())
    try:
        send_call(connection, home, command, request)
        for name, value in _events(connection):
            if name == "progress":
                on_progress(value)
            elif name == "note":
                on_note(value)
            elif name == "data":
                on_data(value)
            elif name == "error":
                raise error_from_json(value)
            elif name == "result":
                assert isinstance(value, dict)
                return value
    finally:
        connection.close()
    raise TransferInterruptedError(
        "the node stopped before it was done: start it again with `cairn run` and repeat the command to go on"
    )


def error_from_json(fields: Mapping[str, Any]) -> NodeError:
    """The error that the daemon described, as an instance of the class it raised."""
    kind, message = str(fields.get("kind")), str(fields.get("message"))
    for error_class in _subclasses(NodeError):
        error = error_class.__new__(error_class)  # not __init__: some classes add the peer to the message
        error.args = (message,)
        if error.kind == kind:
            return error
    return NodeError(message)


def _subclasses(error_class: type[NodeError]) -> Iterator[type[NodeError]]:
    for child in error_class.__subclasses__():
        yield child
        yield from _subclasses(child)


def send_call(connection: UnixConnection, home: Home, command: str, request: Mapping[str, object]) -> None:
    """Send a call; its answer is the connection's response. Raises `NoDaemonError`."""
    try:
        connection.request(
            "POST", f"/v1/{command}", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NoDaemonError(
            f"no node runs in {home.path}: start one with `cairn run`, or name another folder with --home"
        ) from None
    except BrokenPipeError:
        return  # refused before all of it was read: the answer, which is there already, says why
    except OSError as error:
        raise NoDaemonError(f"can't reach the node in {home.path}: {error.strerror or error}") from error


def _events(connection: UnixConnection) -> Iterator[tuple[str, Any]]:
    """Events until the connection ends; an abrupt end is an end."""
    try:
        response = connection.getresponse()
        while line := response.readline(LINE_BYTES_MAX):
            ((name, value),) = json.loads(line).items()
            if name != "data":
                yield name, value
                continue
            left = int(value)
            while left:
                data = response.read(min(left, DATA_READ_BYTES))
                if not data:
                    return
                left -= len(data)
                yield name, data
    except (http.client.HTTPException, ConnectionError):
        return
