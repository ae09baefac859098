"""A node's streams to itself, in memory. Layer 3, a wrapper around any Network.

A holder that gets, checks or renews a file finds itself among its holders: its own shards count like anybody
else's. Invariants: streams to others pass through untouched; a stream to oneself is served by the handler
that serves everybody, with the same bytes; unread bytes are bounded.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from node import limits
from node.crypto.identity import peer_id_text
from node.errors import NodeError, RefusedError, UnreachableError
from node.net.wrapping import WrappedNetwork
from node.ports import Buffer, Network, Stream, StreamHandler
from node.units import Contact, PeerId

logger = logging.getLogger(__name__)

WRITES_AHEAD: Final = 4
"""Writes (of 64 KiB at most) that wait for the reader: a Yamux window."""


@asynccontextmanager
async def with_loopback(network: Network) -> AsyncIterator[LoopbackNetwork]:
    """`network`, with streams to the node itself; their handlers end with the context."""
    async with trio.open_nursery() as nursery:
        yield LoopbackNetwork(network, nursery)
        nursery.cancel_scope.cancel()


class LoopbackNetwork(WrappedNetwork):
    """See `with_loopback`."""

    def __init__(self, network: Network, nursery: trio.Nursery) -> None:
        super().__init__(network)
        self._nursery = nursery
        self._handlers: dict[str, StreamHandler] = {}

    def over(self, network: Network) -> LoopbackNetwork:
        """The same loop over another way to the same peers (one that counts as given to others)."""
        other = LoopbackNetwork(network, self._nursery)
        other._handlers = self._handlers
        return other

    async def open_stream(self, contact: Contact, protocol: str) -> Stream:
        """As the port says."""
        if contact.peer_id != self.peer_id:
            return await super().open_stream(contact, protocol)
        await trio.lowlevel.checkpoint()
        handler = self._handlers.get(protocol)
        if handler is None:
            raise RefusedError(peer_id_text(self.peer_id), "protocol", f"does not speak {protocol}")
        ours, theirs = _pair(self.peer_id)
        self._nursery.start_soon(self._run, handler, theirs)
        return ours

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """As the port says; the limits are for others."""
        self._handlers[protocol] = handler
        super().serve(protocol, handler, streams_max=streams_max, streams_max_per_peer=streams_max_per_peer)

    async def _run(self, handler: StreamHandler, stream: LoopbackStream) -> None:
        try:
            await handler(stream)
        except NodeError as error:
            logger.debug("a stream handler ended: %s", error)
            await stream.reset()
        else:
            await stream.aclose()


class LoopbackStream:
    """One end of a stream in memory."""

    def __init__(
        self,
        peer_id: PeerId,
        outgoing: trio.MemorySendChannel[bytes],
        incoming: trio.MemoryReceiveChannel[bytes],
    ) -> None:
        self._peer_id = peer_id
        self._outgoing = outgoing
        self._incoming = incoming
        self._unread = b""

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        return self._peer_id

    async def send_all(self, data: Buffer) -> None:
        """As the port says."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), limits.STREAM_WRITE_BYTES_MAX):
                await self._outgoing.send(bytes(view[start : start + limits.STREAM_WRITE_BYTES_MAX]))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._gone() from error
        except trio.Cancelled:
            self._close()  # half of the data may have left
            raise

    async def receive_some(self, max_bytes: int) -> bytes:
        """As the port says."""
        if not self._unread:
            try:
                self._unread = await self._incoming.receive()
            except trio.EndOfChannel:
                return b""
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self._gone() from error
        else:
            await trio.lowlevel.checkpoint()
        data, self._unread = self._unread[:max_bytes], self._unread[max_bytes:]
        return data

    async def close_write(self) -> None:
        """As the port says."""
        self._outgoing.close()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """As the port says."""
        self._close()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """As the port says; the other end may take it for a clean end."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._outgoing.close()
        self._incoming.close()

    def _gone(self) -> UnreachableError:
        return UnreachableError(peer_id_text(self._peer_id), "the stream was closed")


def _pair(peer_id: PeerId) -> tuple[LoopbackStream, LoopbackStream]:
    there_send, there_receive = trio.open_memory_channel[bytes](WRITES_AHEAD)
    back_send, back_receive = trio.open_memory_channel[bytes](WRITES_AHEAD)
    return (
        LoopbackStream(peer_id, there_send, back_receive),
        LoopbackStream(peer_id, back_send, there_receive),
    )
