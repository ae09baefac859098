"""The node of this machine as a source of bytes, over its control socket. Layer 5; the standard library only.

Invariants: a connection carries one call at a time and is used again if its answer was read to the end, so
reads cost no connection each; links and passwords travel in bodies.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from node.control.client import LINE_BYTES_MAX, UnixConnection, error_from_json, send_call
from node.daemon.home import Home
from node.errors import NoDaemonError, NodeError, TransferInterruptedError
from node.mount.ports import Opened

SILENCE_S = 90.0
"""For the next byte of an answer: longer than any deadline of the node, so that its own error comes first."""
IDLE_CONNECTIONS_MAX = 8
_READ_BYTES = 1024 * 1024


class NodeSource:
    """What `node.mount` needs, from the node of a home."""

    def __init__(self, home: Home, password: str | None) -> None:
        """`password` is for links that need one."""
        self._home = home
        self._password = password
        self._lock = threading.Lock()
        self._idle: list[UnixConnection] = []

    def open(self, link: str) -> Opened:
        """See `node.mount.ports.Source`."""
        with self._call("open", {"link": link, "password": self._password}) as answer:
            result, index = answer.finish()
        return Opened(
            hash=str(result["hash"]),
            name=str(result["name"]),
            size_bytes=int(result["bytes"]),
            created_s=result["created"],
            stripe_bytes=int(result["stripe_bytes"]),
            index=index if result["folder"] else None,
        )

    @contextmanager
    def stream(self, link: str, first: int, stop: int) -> Iterator[_Answer]:
        """See `node.mount.ports.Source`."""
        request = {"link": link, "password": self._password, "first": first, "last": stop - 1}
        with self._call("read", request) as answer:
            yield answer
            if answer.received_bytes == stop - first:
                answer.finish()  # its end is there or about to be, and then the connection is free

    def own_files(self) -> Sequence[tuple[str, str, int, int]]:
        """See `node.mount.ports.Source`."""
        with self._call("ls", {"brief": True}) as answer:
            result, _ = answer.finish()
        return [(each["hash"], each["name"], each["bytes"], each["created"]) for each in result["files"]]

    @contextmanager
    def _call(self, command: str, request: Mapping[str, object]) -> Iterator[_Answer]:
        """A call; its connection is kept if the answer was read to the end, else closed, which cancels it."""
        connection, response = self._send(command, request)
        answer = _Answer(response)
        try:
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise TransferInterruptedError(f"the node stopped answering: {error}") from error
        finally:
            if answer.is_over and not response.will_close:
                with self._lock:
                    self._idle.append(connection)
                    spare = self._idle[:-IDLE_CONNECTIONS_MAX]
                    del self._idle[:-IDLE_CONNECTIONS_MAX]
            else:
                spare = [connection]
            for each in spare:
                each.close()

    def _send(
        self, command: str, request: Mapping[str, object]
    ) -> tuple[UnixConnection, http.client.HTTPResponse]:
        """The beginning of an answer, on an old connection or a new one. Raises `NodeError`."""
        while True:
            with self._lock:
                old = self._idle.pop() if self._idle else None
            connection = old or UnixConnection(self._home.socket_path())
            try:
                send_call(connection, self._home, command, request)
                assert connection.sock is not None
                connection.sock.settimeout(SILENCE_S)
                return connection, connection.getresponse()
            except NoDaemonError:
                connection.close()
                if old is None:
                    raise
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if old is None:
                    raise TransferInterruptedError(f"the node stopped answering: {error}") from error
            # The node closes connections that rest: the next one is younger, or new.


class _Answer:
    """The events of one call."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self._data_left = 0
        self.received_bytes = 0
        self._result: dict[str, Any] | None = None
        self.is_over = False

    def read(self, count: int) -> bytes:
        """See `node.mount.ports.ByteStream`."""
        data = bytearray(count)
        view = memoryview(data)
        done = 0
        while done < count:
            if not self._data_left and not self._next_data():
                raise NodeError("the node sent fewer bytes than it was asked for")
            got = self._response.readinto(view[done : done + min(self._data_left, _READ_BYTES)])
            if not got:
                raise _cut_off()
            done += got
            self._data_left -= got
        self.received_bytes += count
        return bytes(data)

    def finish(self) -> tuple[dict[str, Any], bytes]:
        """The result, and all data that came before it. Raises `NodeError`."""
        data = bytearray()
        while self._data_left or self._next_data():
            data += self.read(self._data_left)
        assert self._result is not None
        return self._result, bytes(data)

    def _next_data(self) -> bool:
        """Go on to the next data; False at the end. Raises `NodeError`."""
        while line := self._response.readline(LINE_BYTES_MAX):
            ((name, value),) = json.loads(line).items()
            if name == "data":
                self._data_left = int(value)
                if self._data_left:
                    return True
            elif name in ("error", "result"):
                self.is_over = not self._response.read(1)
                if name == "error":
                    raise error_from_json(value)
                self._result = value
                return False
        raise _cut_off()


def _cut_off() -> TransferInterruptedError:
    return TransferInterruptedError("the node stopped while it was answering")
