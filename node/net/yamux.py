"""Streams over one secure connection: Yamux, bounded. Layer 3.

Source: github.com/hashicorp/yamux/blob/master/spec.md, with the notes of libp2p/specs/yamux.

The library's Yamux is not used. It takes what a peer sends beyond its window, and any number of streams; a
write that waits 5 s for window, or is cancelled, ends in a reset or in a dead connection; it polls for
window every 10 ms; and a subclass can't mend it, since its negotiator makes the stock class whatever
`muxer_opt` names (`MuxerMultistream.new_conn`).

Between Cairn nodes it is `/cairn/yamux/1`, agreed like any muxer: Yamux and two kinds of frame more.
- FIRST_WINDOW (4), on stream 0: what each stream opened from here on may begin with, whoever opens it.
  Each side's first frame; again when it changes, and answered with ACK: a stream that the peer opens before
  its answer begins with what held before. Until it is heard: 512 bytes.
- BLOCKED (5): the sender has so many bytes ready beyond its window.
So a node with a rate gives window for what is ready to come, when there is bandwidth, and nothing ahead.
Yamux itself has a first window of 256 KiB for each stream, asked for or not.

How this one works, per connection:
- One task reads. It never waits for a write, so two peers can't block each other. What arrives goes to its
  stream's buffer at once; a byte beyond the window, or a malformed frame, ends the connection.
- One task writes, from one queue: data, window updates and control frames leave in the order in which they
  were queued, small frames together in one sealed message. Senders wait while the queue is long; a sender
  that is cancelled leaves no half frame behind, so only its stream suffers. A peer that makes us queue
  answers without reading them loses the connection.
- One task pings, notices silence, and forgets streams that were closed here and not there.
- Unread bytes are counted per connection and per node; over either limit, the
  fullest stream of the fullest connection is reset.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from node import limits
from node.errors import ProtocolError
from node.net.noise import ChannelError, SecureChannel
from node.net.upgrade import CAIRN_YAMUX
from node.net.windows import Unpaced, WindowPacer
from node.net.yamux_stream import BLOCKED, DATA, FIN, PEER_RESET, RST, WINDOW_UPDATE, StreamError, YamuxStream
from node.ports import Buffer

_HEADER: Final = struct.Struct(">BBHII")
_PING: Final = 2
_GO_AWAY: Final = 3
_FIRST_WINDOW: Final = 4
_SYN: Final = 1
_ACK: Final = 2
_MESSAGE_BYTES_MAX: Final = 65_519  # a Noise message without its tag
_MESSAGES_AT_ONCE: Final = 64  # one read brings four full ones, or thousands that are nearly empty


class UnreadBytes:
    """How much this node holds for handlers that have not read it yet; shared by its connections."""

    def __init__(self) -> None:
        self.count = 0
        self.connections: set[YamuxConnection] = set()

    def shed(self) -> None:
        """Reset the fullest stream of the fullest connection: who fills buffers pays, and nobody else."""
        fullest = max(self.connections, key=lambda connection: connection.unread_bytes, default=None)
        if fullest is not None:
            fullest.shed()


class YamuxConnection:
    """All streams with one peer over one connection."""

    def __init__(
        self,
        channel: SecureChannel,
        *,
        dialled: bool,
        unread: UnreadBytes,
        on_stream: Callable[[YamuxStream], None],
        windows: Callable[[], WindowPacer] = Unpaced,
    ) -> None:
        """`on_stream` is called for each stream that the peer opens, and must not block."""
        self.streams: dict[int, YamuxStream] = {}
        self.end_reason = ""
        self.is_told_of_blocked = channel.muxer == CAIRN_YAMUX
        self._windows = windows
        self._channel = channel
        self._next_id = 1 if dialled else 2
        self._unread_everywhere = unread
        self.unread_bytes = 0
        self._on_stream = on_stream
        self._incoming_count = 0
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._queue_filled = trio.Event()
        self._queue_drained = trio.lowlevel.ParkingLot()
        self._last_heard_s = trio.current_time()
        self._last_used_s = trio.current_time()
        self._ended = False
        self._scope = trio.CancelScope()
        self._first_send_bytes = limits.STREAM_FIRST_WINDOW_BYTES
        self._first_receive_bytes = limits.STREAM_FIRST_WINDOW_BYTES
        """What streams begin with that the peer opens, as far as it has confirmed."""
        self._announced_bytes = limits.STREAM_FIRST_WINDOW_BYTES
        self._has_heard_first = False
        self._announcements: deque[int] = deque()  # not confirmed yet
        if self.is_told_of_blocked:
            self._first_send_bytes = limits.STREAM_PACED_WINDOW_BYTES
            # The first one holds for streams that the peer opened before it heard it, too.
            self._first_receive_bytes = self._announced_bytes = self._windows().first_window_bytes
            self._announce()

    @property
    def ended(self) -> bool:
        """Whether nothing passes any more."""
        return self._ended

    @property
    def idle_since_s(self) -> float:
        """When the last stream ended; now, while there is one."""
        return trio.current_time() if self.streams else self._last_used_s

    async def run(self) -> None:
        """Carry bytes until the connection ends, for whatever reason; never raises but for cancellation."""
        with self._scope:
            self._unread_everywhere.connections.add(self)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_alive)
            finally:
                self._unread_everywhere.connections.discard(self)
                self.end("this node stops")
                await self._channel.aclose()

    def open_stream(self) -> YamuxStream:
        """A new stream; the peer learns of it with the next bytes that leave. Raises `StreamError`."""
        if self._ended:
            raise StreamError(self.end_reason)
        if len(self.streams) - self._incoming_count >= limits.STREAMS_MAX_PER_CONNECTION:
            raise StreamError("too many open streams on one connection")
        # What was announced before the frame that opens the stream, the peer hears before it.
        stream = self._new_stream(self._next_id, incoming=False, first_receive_bytes=self._announced_bytes)
        self._next_id += 2
        self.queue(WINDOW_UPDATE, _SYN, stream.stream_id, stream.first_grant())
        return stream

    def announce_first_window(self) -> None:
        """The node's rates have changed: tell the peer, if that changes what streams begin with."""
        first_bytes = self._windows().first_window_bytes
        if self.is_told_of_blocked and first_bytes != self._announced_bytes:
            self._announced_bytes = first_bytes
            self._announce()

    def end(self, reason: str) -> None:
        """End the connection and all streams. Idempotent."""
        if not self._ended:
            self._ended = True
            self.end_reason = reason
            for stream in list(self.streams.values()):
                stream.fail(reason)
            self._queue_drained.unpark_all()
            self._scope.cancel()

    # What streams use.

    @property
    def is_queue_long(self) -> bool:
        """Whether senders should wait."""
        is_long = (
            self._queued_bytes >= limits.SEND_QUEUE_BYTES or len(self._queue) >= limits.SEND_QUEUE_FRAMES
        )
        return is_long and not self._ended

    async def wait_for_queue(self) -> None:
        """Return when the queue is shorter, or the connection has ended."""
        await self._queue_drained.park()

    def queue(self, kind: int, flags: int, stream_id: int, length: int, body: Buffer = b"") -> None:
        """Have a frame sent after what is queued already."""
        if self._ended:
            return
        frame = b"".join((_HEADER.pack(0, kind, flags, stream_id, length), body))
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._queue_filled.set()
        if len(self._queue) > limits.SEND_QUEUE_FRAMES_MAX:
            self.end("the peer does not read the answers that it makes us send")

    def count_unread(self, byte_count: int) -> None:
        """Keep the sums."""
        self.unread_bytes += byte_count
        self._unread_everywhere.count += byte_count

    def forget(self, stream: YamuxStream) -> None:
        """Drop the entry of a stream."""
        if self.streams.pop(stream.stream_id, None) is not None and stream.incoming:
            self._incoming_count -= 1
        self._last_used_s = trio.current_time()

    # The three tasks.

    async def _write(self) -> None:
        while True:
            if not self._queue:
                self._queue_filled = trio.Event()
                await self._queue_filled.wait()
            messages, taken_bytes = self._next_messages()
            try:
                await self._channel.send(messages)
            except ChannelError as error:
                self.end(str(error))
                return
            self._queued_bytes -= taken_bytes
            self._queue_drained.unpark_all()

    def _next_messages(self) -> tuple[list[bytes], int]:
        """What leaves in one write, small frames joined, and how much of the queue that was."""
        messages: list[bytes] = []
        parts: list[bytes] = []
        taken_bytes = message_bytes = 0
        while self._queue and taken_bytes < limits.SEND_QUEUE_BYTES:
            frame = self._queue.popleft()
            taken_bytes += len(frame)
            if message_bytes + len(frame) > _MESSAGE_BYTES_MAX:
                messages.append(b"".join(parts))
                parts, message_bytes = [], 0
            parts.append(frame)
            message_bytes += len(frame)
        messages.append(parts[0] if len(parts) == 1 else b"".join(parts))
        return messages, taken_bytes

    async def _keep_alive(self) -> None:
        ping_id = 0
        while True:
            await trio.sleep(limits.PING_INTERVAL_S)
            now_s = trio.current_time()
            if now_s - self._last_heard_s > limits.CONNECTION_SILENCE_S:
                self.end("the peer went silent")
                return
            ping_id = (ping_id + 1) % 2**32
            self.queue(_PING, _SYN, 0, ping_id)
            for stream in list(self.streams.values()):
                closed_s = stream.closed_here_s
                if closed_s is not None and now_s - closed_s > limits.CLOSED_STREAM_LINGER_S:
                    stream.reset()

    async def _read(self) -> None:
        try:
            await self._read_frames()
        except ProtocolError as error:
            self.end(f"the peer broke the Yamux protocol: {error}")
        except ChannelError as error:
            self.end(str(error))

    async def _read_frames(self) -> None:
        # A peer that sends faster than this reads does not keep the other tasks from running: what is
        # received at once is bounded, and receiving is a checkpoint wherever it reads from the socket.
        parser = _FrameParser(self)
        while True:
            messages = await self._channel.receive_some(_MESSAGES_AT_ONCE)
            self._last_heard_s = trio.current_time()
            for message in messages:
                parser.feed(message)
            if len(messages) == _MESSAGES_AT_ONCE:
                await trio.lowlevel.checkpoint()

    def on_frame(self, kind: int, flags: int, stream_id: int, length: int) -> YamuxStream | None:
        """Act on a header; the stream that a body of `length` bytes belongs to, if anyone wants it."""
        if kind == _PING:
            if flags & _SYN:
                self.queue(_PING, _ACK, 0, length)
            return None
        if kind == _GO_AWAY:
            raise ChannelError("the peer closed the connection")
        if kind == _FIRST_WINDOW and self.is_told_of_blocked:
            self._on_first_window(flags, length)
            return None
        if kind == BLOCKED and self.is_told_of_blocked:
            if (blocked := self.streams.get(stream_id)) is not None:
                blocked.on_blocked(length)
            return None
        if kind not in (DATA, WINDOW_UPDATE):
            raise ProtocolError("an unknown kind of frame")
        stream = self._on_new_stream(stream_id) if flags & _SYN else self.streams.get(stream_id)
        if stream is None:
            if kind == DATA and length > limits.STREAM_WINDOW_BYTES_MAX:
                raise ProtocolError("a frame larger than any window")
            return None
        if flags & RST:
            stream.fail(PEER_RESET)
            return None
        if kind == WINDOW_UPDATE:
            stream.on_window(length)
            if flags & FIN:
                stream.on_end()
            return None
        stream.on_header(length)
        return stream

    def _on_first_window(self, flags: int, length: int) -> None:
        if flags & _ACK:
            if not self._announcements or self._announcements[0] != length:
                raise ProtocolError("an answer to a window that was not announced")
            self._first_receive_bytes = self._announcements.popleft()
            return
        if length < limits.STREAM_PACED_WINDOW_BYTES:
            raise ProtocolError("a first window that takes no message")
        if not self._has_heard_first:
            self._has_heard_first = True
            for stream in self.streams.values():
                stream.on_window(length - self._first_send_bytes)
        self._first_send_bytes = length
        self.queue(_FIRST_WINDOW, _ACK, 0, length)

    def _announce(self) -> None:
        self._announcements.append(self._announced_bytes)
        self.queue(_FIRST_WINDOW, 0, 0, self._announced_bytes)

    def _new_stream(self, stream_id: int, *, incoming: bool, first_receive_bytes: int) -> YamuxStream:
        stream = self.streams[stream_id] = YamuxStream(
            self,
            stream_id,
            incoming=incoming,
            first_send_bytes=self._first_send_bytes,
            first_receive_bytes=first_receive_bytes,
            windows=self._windows(),
        )
        return stream

    def _on_new_stream(self, stream_id: int) -> YamuxStream | None:
        if stream_id == 0 or stream_id % 2 == self._next_id % 2 or stream_id in self.streams:
            raise ProtocolError("a stream number that is not the peer's to give")
        if self._incoming_count >= limits.STREAMS_MAX_PER_CONNECTION:
            self.queue(WINDOW_UPDATE, RST, stream_id, 0)
            return None
        first_bytes = self._first_receive_bytes
        stream = self._new_stream(stream_id, incoming=True, first_receive_bytes=first_bytes)
        self._incoming_count += 1
        self.queue(WINDOW_UPDATE, _ACK, stream_id, stream.first_grant())
        self._on_stream(stream)
        return stream

    def deliver(self, stream: YamuxStream, chunk: bytes) -> None:
        stream.on_data(chunk)
        if self.unread_bytes > limits.UNREAD_BYTES_MAX_PER_CONNECTION:
            self.shed()
        elif self._unread_everywhere.count > limits.UNREAD_BYTES_MAX:
            self._unread_everywhere.shed()

    def shed(self) -> None:
        """Give up the stream that holds most."""
        fullest = max(self.streams.values(), key=lambda stream: stream.unread_bytes, default=None)
        if fullest is None or not fullest.unread_bytes:
            self.end("too many unread bytes")
        else:
            fullest.reset()


class _FrameParser:
    """Where the connection's bytes are within frames."""

    def __init__(self, connection: YamuxConnection) -> None:
        self._connection = connection
        self._rest = b""
        self._body_stream: YamuxStream | None = None
        self._body_left = 0
        self._body_ends = False

    def feed(self, message: bytes) -> None:
        """Act on the frames in a message, and what it ends. Raises `ProtocolError`, `ChannelError`."""
        data = self._rest + message if self._rest else message
        position = 0
        while True:
            if self._body_left:
                chunk = data[position : position + self._body_left]
                position += len(chunk)
                self._body_left -= len(chunk)
                if chunk and self._body_stream is not None:
                    self._connection.deliver(self._body_stream, chunk)
                if self._body_left:
                    break
            if self._body_ends and self._body_stream is not None:
                self._body_ends = False
                self._body_stream.on_end()
            if len(data) - position < _HEADER.size:
                break
            version, kind, flags, stream_id, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            if version != 0:
                raise ProtocolError("an unknown version")
            self._body_stream = self._connection.on_frame(kind, flags, stream_id, length)
            if kind == DATA:
                self._body_left = length
                self._body_ends = bool(flags & FIN)
        self._rest = data[position:]
