"""Bytes to and from the other end of a connection, as few turns of the event loop as they take. Layer 3.

A socket is read and written by its descriptor: trio's own calls cost more than the system's, and a busy node
makes thousands a second. Any other stream of trio's serves as well, through its methods.

Invariants: `read` and `write` are checkpoints. Faults are those of
the system (`OSError`) and of trio (`BrokenResourceError`, `ClosedResourceError`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import trio

from node import limits
from node.ports import Buffer


class ByteWire(Protocol):
    """Both directions of a connection. One reader and one writer at a time."""

    async def read(self) -> bytes:
        """What is there, after waiting for something; empty at the end."""
        ...

    def write_nowait(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """Send of `parts`, in order, what needs no waiting; the rest, empty if none."""
        ...

    async def write(self, parts: Sequence[Buffer]) -> None:
        """Send all of `parts`, in order. A cancellation leaves some of them sent."""
        ...


def wire_over(stream: trio.abc.Stream) -> ByteWire:
    """The wire of a stream, which stays the caller's to close."""
    return SocketWire(stream) if isinstance(stream, trio.SocketStream) else StreamWire(stream)


class SocketWire:
    """`ByteWire` over a socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream.socket

    async def read(self) -> bytes:
        """As the protocol says."""
        has_waited = False
        while True:
            try:
                data = os.read(self._socket.fileno(), limits.SOCKET_READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket.fileno())
                has_waited = True
                continue
            if not has_waited:
                await trio.lowlevel.checkpoint()
            return data

    async def write(self, parts: Sequence[Buffer]) -> None:
        """As the protocol says."""
        while parts:
            await trio.lowlevel.wait_writable(self._socket.fileno())
            parts = self.write_nowait(parts)

    def write_nowait(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """As the protocol says."""
        try:
            written = os.writev(self._socket.fileno(), parts)
        except BlockingIOError:
            return parts
        for index, part in enumerate(parts):
            if written < len(part):
                return [memoryview(part)[written:], *parts[index + 1 :]]
            written -= len(part)
        return ()


class StreamWire:
    """`ByteWire` over any stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self) -> bytes:
        """As the protocol says."""
        return bytes(await self._stream.receive_some(limits.SOCKET_READ_BYTES))

    def write_nowait(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """As the protocol says."""
        return parts

    async def write(self, parts: Sequence[Buffer]) -> None:
        """As the protocol says."""
        await self._stream.send_all(b"".join(parts))
