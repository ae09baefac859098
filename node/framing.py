"""Frames over a stream: canonical messages, raw blocks, a preamble, errors in words. Layer 3.

A frame is a 4-byte big-endian length and that many bytes (node/wire.py). Its first byte tells the kind: a
message is one canonical msgpack array (0x90 and up); a block frame is one byte with the length of a small
msgpack header (1 to 30), the header, and the raw block. So a full block with its header is 65,507 bytes, one
Yamux frame in one Noise message (network.md, trap 2).

The opener's first frame is the preamble [network id, protocol version, parameters]; it leaves together
with the first message, so agreeing costs no round trip. Who does not agree answers with an error frame
["error", code, message] and ends the stream; that shows at the opener as `RefusedError`.

A cap is checked before a byte of the frame is waited for, every receive has a deadline, and an end of the
stream inside a frame is `UnreachableError`: the transport may disguise a reset as an end (trap 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from node import limits, wire
from node.crypto.identity import peer_id_text
from node.errors import ProtocolError, RefusedError, UnreachableError
from node.ports import Buffer, Stream
from node.units import PeerId
from node.wire import Value

_ERROR_TAG: Final = "error"
_MESSAGE_FIRST_BYTE_MIN: Final = 0x80


@dataclass(frozen=True, slots=True)
class Preamble:
    """What both ends must agree on. `parameters` are the network's own, as (name, value), sorted by name."""

    network_id: str
    version: int
    parameters: tuple[tuple[str, int], ...] = ()

    def as_value(self) -> Value:
        """The array that is sent."""
        return [self.network_id, self.version, [[name, value] for name, value in self.parameters]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A message (`block` is None), or a block with its header in `values`."""

    values: Sequence[Value]
    block: memoryview | None = None


class FramedStream:
    """One stream, read and written in whole frames. Make one with `opened` or `accepted`."""

    def __init__(self, stream: Stream) -> None:
        """Frames without a preamble: for a protocol that carries it by itself."""
        self._stream = stream
        self._unsent = b""
        self._unread = memoryview(b"")

    @classmethod
    def opened(cls, stream: Stream, preamble: Preamble) -> FramedStream:
        """The opener's end; the preamble leaves with the first frame."""
        framed = cls(stream)
        framed._unsent = _message(preamble.as_value())
        return framed

    @classmethod
    async def accepted(
        cls, stream: Stream, expected: Preamble, *, deadline_s: float = limits.PREAMBLE_DEADLINE_S
    ) -> FramedStream:
        """The other end; reads the preamble and answers a mismatch in words.

        Raises:
            RefusedError: the opener's network, version or parameters differ (code "network").
            ProtocolError: what came is no preamble.
            UnreachableError: nothing came in time.
        """
        framed = cls(stream)
        values = await framed.receive(deadline_s=deadline_s, size_max=limits.PREAMBLE_BYTES_MAX)
        mismatch = _mismatch(values, expected)
        if mismatch is not None:
            await framed.send_error("network", mismatch)
            raise RefusedError(framed.peer, "network", mismatch)
        return framed

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end."""
        return self._stream.peer_id

    @property
    def peer(self) -> str:
        """The same as text, for errors."""
        return peer_id_text(self._stream.peer_id)

    async def send(self, value: Value) -> None:
        """Send one message. Raises `ProtocolError` if it has no encoding or is too long."""
        await self._send(_message(value))

    async def send_together(self, values: Sequence[Value]) -> None:
        """Send some short messages in one write. Raises as `send` does."""
        if values:
            await self._send(b"".join(_message(value) for value in values))

    async def send_block(
        self, header: Value, block: Buffer, *, deadline_s: float | None = limits.SEND_DEADLINE_S
    ) -> None:
        """Send a block with a header whose encoding takes at most 30 bytes, in one write.

        Without a `deadline_s` the caller has one of its own, for many blocks. Raises `ProtocolError` if
        either is too large, `UnreachableError`.
        """
        packed = wire.encode(header)
        if len(packed) > limits.BLOCK_HEADER_BYTES_MAX or len(block) > limits.BLOCK_BYTES:
            raise ProtocolError(f"a block frame of {len(packed)} + {len(block)} bytes is too large")
        size = 1 + len(packed) + len(block)
        length = wire.frame_header(size, size_max=limits.FRAME_BYTES_MAX)
        await self._send(b"".join((length, bytes((len(packed),)), packed, block)), deadline_s)

    async def send_error(self, code: str, message: str) -> None:
        """Decline in words and close the sending side; an absent listener is no error."""
        try:
            await self.send([_ERROR_TAG, code, message[: limits.ERROR_TEXT_CHARACTERS_MAX]])
            await self._stream.close_write()
        except UnreachableError:
            pass  # whoever left does not need to be told

    async def receive(self, *, deadline_s: float, size_max: int = limits.FRAME_BYTES_MAX) -> Sequence[Value]:
        """The next message.

        Raises:
            RefusedError: the peer declined, in words.
            ProtocolError: over `size_max` bytes, not canonical, or a block.
            UnreachableError: the stream ended, or nothing whole came within `deadline_s`.
        """
        frame = await self.receive_frame(deadline_s=deadline_s, size_max=size_max)
        if frame.block is not None:
            raise ProtocolError("a block where a message was due")
        return frame.values

    async def receive_block(self, *, deadline_s: float) -> tuple[Sequence[Value], memoryview]:
        """The next block with its header; the view is of memory that nothing else writes to.

        Raises as `receive` does; `ProtocolError` for a message other than an error.
        """
        frame = await self.receive_frame(deadline_s=deadline_s)
        if frame.block is None:
            raise ProtocolError("a message where a block was due")
        return frame.values, frame.block

    async def receive_frame(self, *, deadline_s: float, size_max: int = limits.FRAME_BYTES_MAX) -> Frame:
        """The next frame of either kind. Raises as `receive` does, but for the kind."""
        frame = await self._receive(deadline_s, size_max, end_allowed=False)
        assert frame is not None
        return frame

    async def receive_or_end(self, *, deadline_s: float) -> Frame | None:
        """The next frame, or None if the peer ended the stream between two frames.

        Only where an early end does no harm: it may be a reset in disguise.
        """
        return await self._receive(deadline_s, limits.FRAME_BYTES_MAX, end_allowed=True)

    async def close_write(self) -> None:
        """Nothing more will be sent. Raises `UnreachableError`."""
        await self._flush()
        await self._stream.close_write()

    async def aclose(self) -> None:
        """Close both directions."""
        await self._stream.aclose()

    async def reset(self) -> None:
        """Drop both directions."""
        await self._stream.reset()

    async def _flush(self) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self._send_all(unsent)

    async def _send(self, frame: bytes, deadline_s: float | None = limits.SEND_DEADLINE_S) -> None:
        if len(self._unsent) + len(frame) > limits.STREAM_WRITE_BYTES_MAX:
            await self._flush()
        unsent, self._unsent = self._unsent, b""
        await self._send_all(unsent + frame if unsent else frame, deadline_s)

    async def _send_all(self, data: bytes, deadline_s: float | None = limits.SEND_DEADLINE_S) -> None:
        """A peer that answers pings and takes nothing would otherwise hold the sender for ever."""
        if deadline_s is None:
            await self._stream.send_all(data)
            return
        with trio.move_on_after(deadline_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise UnreachableError(self.peer, f"took nothing for {deadline_s:g} s")

    async def _receive(self, deadline_s: float, size_max: int, *, end_allowed: bool) -> Frame | None:
        if not self._unsent and (body := self._take_buffered(size_max)) is not None:
            return self._parse(body)
        with trio.move_on_after(deadline_s):
            await self._flush()
            header = await self._take(wire.FRAME_HEADER_BYTES, end_allowed=end_allowed)
            if header is None:
                return None
            size = wire.frame_size(bytes(header), size_max=size_max)
            body = await self._take(size, end_allowed=False)
            assert body is not None
            return self._parse(body)
        raise UnreachableError(self.peer, f"nothing whole came within {deadline_s:g} s")

    def _take_buffered(self, size_max: int) -> memoryview | None:
        """The next frame, where all of it came with the one before: no wait, and no deadline to set up."""
        unread = self._unread
        if len(unread) < wire.FRAME_HEADER_BYTES:
            return None
        size = wire.frame_size(bytes(unread[: wire.FRAME_HEADER_BYTES]), size_max=size_max)
        end = wire.FRAME_HEADER_BYTES + size
        if len(unread) < end:
            return None
        self._unread = unread[end:]
        return unread[wire.FRAME_HEADER_BYTES : end]

    async def _take(self, count: int, *, end_allowed: bool) -> memoryview | None:
        """Exactly `count` bytes; None at a clean end before the first one, where that is allowed."""
        if len(self._unread) < count:
            parts: list[Buffer] = [self._unread] if self._unread else []
            have = len(self._unread)
            while have < count:
                chunk = await self._stream.receive_some(limits.STREAM_READ_BYTES)
                if not chunk:
                    if not have and end_allowed:
                        return None
                    raise UnreachableError(self.peer, "the stream ended early")
                parts.append(chunk)
                have += len(chunk)
            self._unread = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken

    def _parse(self, body: memoryview) -> Frame:
        if not body:
            raise ProtocolError("an empty frame")
        first = body[0]
        if first < _MESSAGE_FIRST_BYTE_MIN:
            if not 1 <= first <= limits.BLOCK_HEADER_BYTES_MAX or len(body) <= first:
                raise ProtocolError("a block frame with a wrong header length")
            header = wire.decode(bytes(body[1 : 1 + first]), size_max=limits.BLOCK_HEADER_BYTES_MAX)
            return Frame(header, body[1 + first :])
        values = wire.decode(bytes(body), size_max=limits.FRAME_BYTES_MAX)
        if values and values[0] == _ERROR_TAG:
            raise self._refusal(values)
        return Frame(values)

    def _refusal(self, values: Sequence[Value]) -> RefusedError:
        wire.expect_list(values, count=3)
        code = wire.expect_str(values[1], bytes_max=limits.ERROR_CODE_BYTES_MAX)
        message = wire.expect_str(values[2], bytes_max=4 * limits.ERROR_TEXT_CHARACTERS_MAX)
        return RefusedError(self.peer, code, "".join(c if c.isprintable() else " " for c in message))


def _message(value: Value) -> bytes:
    packed = wire.encode(value)
    if not isinstance(value, list | tuple):
        raise ProtocolError("a message is an array")
    return wire.frame_header(len(packed), size_max=limits.FRAME_BYTES_MAX) + packed


def _mismatch(values: Sequence[Value], expected: Preamble) -> str | None:
    """Why these two nodes can't work together, in words; None if they can. Raises `ProtocolError`."""
    wire.expect_list(values, count=3)
    network_id = wire.expect_str(values[0], bytes_max=limits.NETWORK_ID_BYTES_MAX)
    version = wire.expect_int(values[1], low=0, high=2**32)
    if network_id != expected.network_id:
        return f"this node is in network {expected.network_id!r}, not {network_id!r}"
    if version != expected.version:
        return f"this node speaks version {expected.version} of the protocol, not {version}"
    theirs: dict[str, int] = {}
    for item in wire.expect_list(values[2], count_max=limits.PREAMBLE_PARAMETERS_MAX):
        pair = wire.expect_list(item, count=2)
        name = wire.expect_str(pair[0], bytes_max=limits.PREAMBLE_NAME_BYTES_MAX)
        theirs[name] = wire.expect_int(pair[1], low=-(2**63), high=2**63)
    for name, value in expected.parameters:
        if theirs.get(name) != value:
            return f"this network's {name} is {value}, not {theirs.get(name)}"
    if len(theirs) != len(expected.parameters):
        return "the parameters of the two networks differ"
    return None
