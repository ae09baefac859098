"""One stream of a Yamux connection: its two windows, its unread bytes, its end. Layer 3.

Part of `node/net/yamux.py`, which has the rules and the source. Who reads renews the window: at once where
nothing limits what may arrive, else through the stream's gate (node/net/windows.py), which grants what the
node's rates allow and no sooner.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import trio

from node import limits
from node.errors import ProtocolError
from node.net.fair_queue import Flow
from node.net.noise import ChannelError
from node.net.windows import WindowPacer
from node.ports import Buffer

DATA: Final = 0
WINDOW_UPDATE: Final = 1
BLOCKED: Final = 5
FIN: Final = 4
RST: Final = 8
PEER_RESET: Final = "the peer reset the stream"
_PACED_AHEAD_BYTES: Final = 64 * 1024  # granted and unread: a reader that stops must not fill memory
_FAST_READ_S: Final = 1.0  # half a window in less: even with a round trip of 0.5 s the window is what slows
_SEND_WINDOW_BYTES_MAX: Final = 2**32 - 1
_SMALL_CHUNK_BYTES: Final = 16 * 1024  # smaller pieces are joined: none costs more than it holds
_JOINED_CHUNK_BYTES: Final = 64 * 1024
_READS_IN_A_ROW_MAX: Final = (
    16  # then other tasks get their turn: what is here may be a megabyte of small frames
)


class StreamError(ChannelError):
    """The stream was reset, by either side, or its connection ended. Stays inside node/net."""


class Carrier(Protocol):
    """What a stream needs of its connection."""

    @property
    def is_queue_long(self) -> bool:
        """Whether senders should wait."""
        ...

    async def wait_for_queue(self) -> None:
        """Return when the queue is shorter, or the connection has ended."""
        ...

    @property
    def is_told_of_blocked(self) -> bool:
        """Whether the two ends tell each other that they wait for window."""
        ...

    def queue(self, kind: int, flags: int, stream_id: int, length: int, body: Buffer = b"") -> None:
        """Have a frame sent after what is queued already."""
        ...

    def count_unread(self, byte_count: int) -> None:
        """Keep the sums."""
        ...

    def forget(self, stream: YamuxStream) -> None:
        """Drop the entry of a stream."""
        ...


class YamuxStream:
    """One stream; made by `YamuxConnection`."""

    def __init__(
        self,
        connection: Carrier,
        stream_id: int,
        *,
        incoming: bool,
        first_send_bytes: int,
        first_receive_bytes: int,
        windows: WindowPacer,
    ) -> None:
        """`first_*_bytes` are the windows that both ends know of without a word."""
        self.stream_id = stream_id
        self.incoming = incoming
        self.fault: str | None = None  # why nothing passes any more
        self.send_window_bytes = first_send_bytes
        self.receive_window_bytes = first_receive_bytes
        self.unread_bytes = 0
        self.closed_here_s: float | None = None
        self._connection = connection
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._window_target_bytes = limits.STREAM_FIRST_WINDOW_BYTES
        self._reads_in_a_row = 0  # without waiting
        self._renewed_s = trio.current_time()
        self._gate = windows.gate(self._grant)
        self._paid_bytes = 0  # of the window
        self._wanted_bytes = 0  # what the peer has ready beyond its window, as it said
        self._said_blocked_bytes = 0  # what this end has ready, as it said
        self._fin_sent = False
        self._fin_received = False
        self._changed = trio.lowlevel.ParkingLot()  # the reader waits here
        self._window_grew = trio.lowlevel.ParkingLot()  # the writer waits here

    @property
    def finished(self) -> bool:
        """Whether both sides have said that they are done."""
        return self._fin_sent and self._fin_received

    async def send_all(self, data: Buffer) -> None:
        """Queue all of `data`, in frames of one sealed message each. Raises `StreamError`.

        Waits only for window and for room in the queue: what several calls queue leaves in one write. A
        cancellation while it waits resets the stream.
        """
        view = memoryview(data)
        start = 0
        try:
            while start < len(view):
                size = min(len(view) - start, limits.STREAM_WRITE_BYTES_MAX)
                self._check_sendable()
                if not self.send_window_bytes:
                    await self._wait_window(len(view) - start)
                    continue
                if self._connection.is_queue_long:
                    await self._connection.wait_for_queue()
                    continue
                # A frame that the window cuts short would cost both ends a second one for the rest.
                size = min(size, self.send_window_bytes)
                self.send_window_bytes -= size
                self._connection.queue(DATA, 0, self.stream_id, size, view[start : start + size])
                start += size
        except trio.Cancelled:
            self.reset()
            raise

    async def wait_window(self, wanted_bytes: int) -> int:
        """Wait until some of `wanted_bytes` may be sent; how many. Raises `StreamError`.

        A cancellation changes nothing: no byte has left.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_sendable()
            if self.send_window_bytes:
                return min(self.send_window_bytes, wanted_bytes)
            await self._wait_window(wanted_bytes)

    async def receive_some(self, max_bytes: int) -> bytes:
        """1 to `max_bytes` bytes, or b"" at the end. Raises `StreamError`."""
        self._reads_in_a_row += 1
        if self._chunks and self._reads_in_a_row >= _READS_IN_A_ROW_MAX:
            self._reads_in_a_row = 0
            await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self.fault is not None:
                raise StreamError(self.fault)
            if self.closed_here_s is not None:
                raise StreamError("this end closed the stream")
            if self._fin_received:
                return b""
            self._reads_in_a_row = 0
            await self._changed.park()
        chunk = self._chunks[0]
        if len(chunk) <= max_bytes:
            self._chunks.popleft()
            taken = bytes(chunk)
        elif isinstance(chunk, bytearray):
            taken = bytes(chunk[:max_bytes])
            del chunk[:max_bytes]
        else:
            taken = bytes(chunk[:max_bytes])
            self._chunks[0] = memoryview(chunk)[max_bytes:]
        self._release(len(taken))
        self._renew_window()
        return taken

    async def read_exactly(self, count: int) -> bytes:
        """`count` bytes. Raises `StreamError` also at an early end."""
        parts = bytearray()
        while len(parts) < count:
            part = await self.receive_some(count - len(parts))
            if not part:
                raise StreamError("the stream ended early")
            parts += part
        return bytes(parts)

    def close_write(self) -> None:
        """Nothing more will be sent. Idempotent."""
        if not self._fin_sent and self.fault is None:
            self._fin_sent = True
            self._connection.queue(WINDOW_UPDATE, FIN, self.stream_id, 0)
            self._forget_if_finished()

    def close(self) -> None:
        """Close both directions; what still arrives is dropped. Idempotent."""
        if self.closed_here_s is None:
            self.closed_here_s = trio.current_time()
            self._gate.close()
            self._drop_unread()
            self.close_write()
            self._wake()

    def reset(self) -> None:
        """Drop both directions at once. Idempotent."""
        if self.fault is None and not self.finished:
            self._connection.queue(WINDOW_UPDATE, RST, self.stream_id, 0)
        self.fail("this end reset the stream")

    def fail(self, reason: str) -> None:
        """The stream is no more; whoever waits for it learns why."""
        if self.fault is None:
            self.fault = reason
            self._gate.close()
            self._drop_unread()
            self._connection.forget(self)
            self._wake()

    def pay_from(self, flow: Flow) -> None:
        """Have what arrives paid from these buckets."""
        self._gate.pay_from(flow)
        self._renew_window()

    def first_grant(self) -> int:
        """What the frame that begins the stream adds to its first window: all, if nothing limits it."""
        if not self._gate.is_open:
            return 0
        missing = max(0, self._window_target_bytes - self.receive_window_bytes)
        self.receive_window_bytes += missing
        return missing

    def on_header(self, byte_count: int) -> None:
        """So many bytes follow. Raises `ProtocolError` where the window does not allow them."""
        if byte_count > self.receive_window_bytes:
            raise ProtocolError("more bytes than the window allows")
        self.receive_window_bytes -= byte_count
        paid = min(byte_count, self._paid_bytes)
        self._paid_bytes -= paid
        if paid < byte_count:
            self._gate.came_unpaid(byte_count - paid)

    def on_data(self, chunk: bytes) -> None:
        """Bytes that the window allowed."""
        if self.closed_here_s is not None or self.fault is not None:
            return
        if len(chunk) >= _SMALL_CHUNK_BYTES:
            self._chunks.append(chunk)
        elif (
            self._chunks
            and isinstance(tail := self._chunks[-1], bytearray)
            and len(tail) < _JOINED_CHUNK_BYTES
        ):
            tail += chunk
        else:
            self._chunks.append(bytearray(chunk))
        self.unread_bytes += len(chunk)
        self._connection.count_unread(len(chunk))
        if self._changed:
            self._changed.unpark_all()

    def on_end(self) -> None:
        """The peer will send nothing more."""
        self._fin_received = True
        self._gate.close()
        self._changed.unpark_all()
        self._forget_if_finished()

    def on_window(self, increment: int) -> None:
        """The peer takes more."""
        self.send_window_bytes = min(self.send_window_bytes + increment, _SEND_WINDOW_BYTES_MAX)
        self._said_blocked_bytes = max(0, self._said_blocked_bytes - increment)
        self._window_grew.unpark_all()

    def on_blocked(self, byte_count: int) -> None:
        """The peer has so much ready that its window does not allow."""
        # Its window was used up when it said so: what there is here has been granted since.
        self._wanted_bytes = max(0, byte_count - self.receive_window_bytes)
        self._gate.came_unpaid(0)
        self._renew_window()

    def _check_sendable(self) -> None:
        if self.fault is not None:
            raise StreamError(self.fault)
        if self._fin_sent:
            raise StreamError("this end closed the stream")

    async def _wait_window(self, wanted_bytes: int) -> None:
        """Until there may be more window, having said once how much is ready."""
        if self._connection.is_told_of_blocked and not self._said_blocked_bytes:
            self._said_blocked_bytes = wanted_bytes
            self._connection.queue(BLOCKED, 0, self.stream_id, wanted_bytes)
        await self._window_grew.park()

    def _renew_window(self) -> None:
        """Offer new window, if any is due."""
        if self._fin_received or self.fault is not None or self.closed_here_s is not None:
            return
        if self._gate.is_open:
            self._renew_freely()
        elif wish := self._paced_wish():
            self._gate.want(wish)

    def _renew_freely(self) -> None:
        """Offer new window once half of it was read. Doubles as long as the reader empties that half fast:
        256 KiB a round trip are 5 MB/s at 50 ms. For a reader that takes its time (a disk is slow) a larger
        window would only fill memory here, and the link with what nobody asked for yet."""
        missing = self._window_target_bytes - self.receive_window_bytes - self.unread_bytes
        if missing * 2 < self._window_target_bytes:
            return
        now_s = trio.current_time()
        factor = 2 if now_s - self._renewed_s < _FAST_READ_S else 1
        self._renewed_s = now_s
        grown = min(self._window_target_bytes * factor, limits.STREAM_WINDOW_BYTES_MAX)
        missing += grown - self._window_target_bytes
        self._window_target_bytes = grown
        self._offer(missing)

    def _paced_wish(self) -> int:
        """What to ask of the gate: what the peer has ready, and a first window for its next message.
        A peer that does not say what it has ready is taken to have more."""
        held = self.receive_window_bytes + self.unread_bytes
        ahead = _PACED_AHEAD_BYTES
        if self._connection.is_told_of_blocked and not self._wanted_bytes:
            ahead = limits.STREAM_PACED_WINDOW_BYTES
            held = self.receive_window_bytes
        if held * 2 > ahead:
            return 0
        return min(ahead - held, self._wanted_bytes or ahead)

    def _grant(self, byte_count: int) -> None:
        """The gate's answer."""
        self._paid_bytes += byte_count
        self._offer(byte_count)
        self._renew_window()

    def _offer(self, byte_count: int) -> None:
        self.receive_window_bytes += byte_count
        self._wanted_bytes = max(0, self._wanted_bytes - byte_count)
        self._connection.queue(WINDOW_UPDATE, 0, self.stream_id, byte_count)

    def _release(self, byte_count: int) -> None:
        self.unread_bytes -= byte_count
        self._connection.count_unread(-byte_count)

    def _drop_unread(self) -> None:
        self._chunks.clear()
        self._release(self.unread_bytes)

    def _forget_if_finished(self) -> None:
        if self.finished:
            self._connection.forget(self)

    def _wake(self) -> None:
        self._changed.unpark_all()
        self._window_grew.unpark_all()
