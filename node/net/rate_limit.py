"""Bandwidth caps over all streams of a node. Layer 3, a wrapper around any Network.

Three rates, each of which may be absent: what the node sends, what it receives, and what it carries for
others in both directions together: every stream that another node opened, and those that this node opens on
behalf of others (`for_others`: repairs, audits).

Invariants: any mean over ten seconds is within 2 % of a rate (node/net/fair_queue.py); streams share fairly
and short messages pass first; a change of a rate holds from the next piece on, for open streams too; with no
rate set a call costs one look at a flag. Counted is what streams carry with the framing around it, not TCP/IP
headers. What is received is paid before the peer may send it, where the network has windows to give
(`PacesWindows`); a message that begins a stream, or what was allowed before a rate was set, is paid when it
is there. Elsewhere (simulations) it is paid when it is taken: one window of each stream may be ahead.
Streams to oneself don't pass here. Why so: docs/decisions/0050 and 0085.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast, runtime_checkable

import trio

from node import limits
from node.net.fair_queue import FRAMING_BYTES, OPENING_BYTES, Bucket, FairQueue, Flow, Turn
from node.net.windows import WindowPacer
from node.net.wrapping import WrappedNetwork
from node.ports import Buffer, Network, Stream, StreamHandler
from node.units import Contact, PeerId


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second; None is without a cap."""

    upload: int | None = None
    download: int | None = None
    for_others: int | None = None


@runtime_checkable
class PacesWindows(Protocol):
    """A network whose streams give window as the rates allow."""

    def pace_windows(self, windows: WindowPacer) -> None:
        """From now on; again whenever what streams begin with has changed."""
        ...


@runtime_checkable
class GatedStream(Protocol):
    """A stream of such a network."""

    def pay_from(self, flow: Flow) -> None:
        """Have what arrives paid from these buckets."""
        ...

    async def wait_window(self, wanted_bytes: int) -> int:
        """Wait until the peer takes some of `wanted_bytes`; how many. Raises `UnreachableError`."""
        ...


@asynccontextmanager
async def with_rate_limits(network: Network, rates: Rates = Rates()) -> AsyncIterator[RateLimitedNetwork]:
    """`network` under caps that may change at any time; whoever waits is cancelled with the context."""
    pacer = Pacer(rates)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pacer.run)
        if isinstance(network, PacesWindows):
            network.pace_windows(pacer)
        yield RateLimitedNetwork(network, pacer)
        nursery.cancel_scope.cancel()


class Pacer:
    """The buckets of a node, and everybody who waits for them."""

    def __init__(self, rates: Rates) -> None:
        self.rates = Rates()
        self.is_pacing = False
        """Whether any rate is set: the one thing that a stream looks at when none is."""
        self._upload, self._download, self._gift = Bucket(), Bucket(), Bucket()
        self._queue = FairQueue()
        self._on_granted: dict[int, Callable[[int], None]] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self.set_rates(rates)

    def set_rates(self, rates: Rates) -> None:
        """Hold these from now on."""
        now_s = trio.current_time()
        self._upload.set_rate(rates.upload, now_s=now_s)
        self._download.set_rate(rates.download, now_s=now_s)
        self._gift.set_rate(rates.for_others, now_s=now_s)
        self._queue.regroup()
        self.rates = rates
        self.is_pacing = rates != Rates()
        self._changed.unpark_all()

    @property
    def first_window_bytes(self) -> int:
        """What a stream may begin with before anything was paid."""
        is_free = self.rates.download is None and self.rates.for_others is None
        return limits.STREAM_FIRST_WINDOW_BYTES if is_free else limits.STREAM_PACED_WINDOW_BYTES

    def gate(self, on_granted: Callable[[int], None]) -> Gate:
        """For a new stream, which counts as given until it says otherwise."""
        sends, receives = self.flows(for_others=True)
        for bucket in (self._upload, self._download, self._gift):
            bucket.owe(OPENING_BYTES)
        return Gate(self, sends, receives, on_granted)

    def flows(self, *, for_others: bool) -> tuple[Flow, Flow]:
        """Those of a new stream: sending, receiving."""
        gift = (self._gift,) if for_others else ()
        return Flow((self._upload, *gift)), Flow((self._download, *gift))

    async def wait_turn(self, flow: Flow, wanted_bytes: int) -> int:
        """Wait until some of `wanted_bytes` may pass; how many. A checkpoint."""
        if flow.is_free:
            await trio.lowlevel.checkpoint()
            return wanted_bytes
        granted = trio.Event()
        turn = self.push(flow, wanted_bytes, lambda _: granted.set())
        try:
            await granted.wait()
        finally:
            self.drop(turn)
        return turn.granted_bytes

    def push(self, flow: Flow, wanted_bytes: int, on_granted: Callable[[int], None]) -> Turn:
        """Queue up for some of `wanted_bytes`; `on_granted` is told how many, once. Must be dropped after."""
        turn = self._queue.push(flow, wanted_bytes)
        self._on_granted[turn.number] = on_granted
        self._changed.unpark_all()
        return turn

    def drop(self, turn: Turn) -> None:
        """Done with a turn, granted or not."""
        self._queue.drop(turn)
        self._on_granted.pop(turn.number, None)

    async def run(self) -> None:
        """Grant turns until cancelled; asleep while nobody waits."""
        while True:
            wait_s = self._queue.ready_in_s(trio.current_time())
            if wait_s is None:
                await self._changed.park()
                continue
            if wait_s > 0:
                with trio.move_on_after(wait_s):
                    await self._changed.park()
                continue
            turn = self._queue.pop(trio.current_time())
            if turn is not None:
                self._on_granted[turn.number](turn.granted_bytes)


class Gate:
    """Pays for what a stream's peer may send, before it may."""

    __slots__ = ("_on_granted", "_pacer", "_receives", "_sends", "_turn")

    def __init__(self, pacer: Pacer, sends: Flow, receives: Flow, on_granted: Callable[[int], None]) -> None:
        self._pacer = pacer
        self._sends, self._receives = sends, receives
        self._on_granted = on_granted
        self._turn: Turn | None = None

    @property
    def is_open(self) -> bool:
        """As the port says."""
        return not self._pacer.is_pacing or self._receives.is_free

    def pay_from(self, flow: Flow) -> None:
        """As the port says."""
        self.close()
        self._receives = flow

    def want(self, byte_count: int) -> None:
        """As the port says."""
        if self._turn is None:
            self._turn = self._pacer.push(self._receives, byte_count, self._grant)

    def came_unpaid(self, byte_count: int) -> None:
        """As the port says."""
        for bucket in self._receives.buckets:
            bucket.owe(byte_count + FRAMING_BYTES)

    def close(self) -> None:
        """As the port says."""
        if self._turn is not None:
            self._pacer.drop(self._turn)
            self._turn = None

    def _grant(self, byte_count: int) -> None:
        self.close()
        for bucket in self._sends.buckets:
            bucket.owe(FRAMING_BYTES)  # the frame that says so
        self._on_granted(byte_count)


class RateLimitedNetwork(WrappedNetwork):
    """See `with_rate_limits`."""

    def __init__(self, network: Network, pacer: Pacer, *, for_others: bool = False) -> None:
        super().__init__(network)
        self._pacer = pacer
        self._opens_for_others = for_others

    @property
    def for_others(self) -> RateLimitedNetwork:
        """The same network for work on behalf of others: streams opened here count as given."""
        return RateLimitedNetwork(self._network, self._pacer, for_others=True)

    @property
    def rates(self) -> Rates:
        """What holds now."""
        return self._pacer.rates

    def set_rates(self, rates: Rates) -> None:
        """Hold these from now on, for open streams as well."""
        self._pacer.set_rates(rates)

    async def open_stream(self, contact: Contact, protocol: str) -> Stream:
        """As the port says."""
        stream = await super().open_stream(contact, protocol)
        return PacedStream(stream, self._pacer, for_others=self._opens_for_others)

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """As the port says."""

        async def paced(stream: Stream) -> None:
            await handler(PacedStream(stream, self._pacer, for_others=True))

        super().serve(protocol, paced, streams_max=streams_max, streams_max_per_peer=streams_max_per_peer)


@cache
def _is_gated(kind: type) -> bool:
    """Whether streams of a class are gated; to ask each one takes longer than to open it."""
    return issubclass(kind, GatedStream)


class PacedStream:
    """A stream that waits for its turns while a rate is set."""

    __slots__ = ("_gated", "_pacer", "_receives", "_sends", "_stream", "_taken")

    def __init__(self, stream: Stream, pacer: Pacer, *, for_others: bool) -> None:
        self._stream = stream
        self._pacer = pacer
        self._sends, self._receives = pacer.flows(for_others=for_others)
        self._gated = cast(GatedStream, stream) if _is_gated(type(stream)) else None
        if self._gated is not None:
            self._gated.pay_from(self._receives)
        self._taken = b""  # from a stream without a gate, not paid for yet

    @property
    def peer_id(self) -> PeerId:
        """As the port says."""
        return self._stream.peer_id

    def send_all(self, data: Buffer) -> Coroutine[Any, Any, None]:
        """As the port says."""
        # No coroutine of its own: this is on the way of every block.
        return self._send_paced(data) if self._pacer.is_pacing else self._stream.send_all(data)

    def receive_some(self, max_bytes: int) -> Coroutine[Any, Any, bytes]:
        """As the port says."""
        if (self._pacer.is_pacing and self._gated is None) or self._taken:
            return self._receive_paced(max_bytes)
        return self._stream.receive_some(max_bytes)

    async def close_write(self) -> None:
        """As the port says."""
        await self._stream.close_write()

    async def aclose(self) -> None:
        """As the port says."""
        self._taken = b""
        await self._stream.aclose()

    async def reset(self) -> None:
        """As the port says."""
        self._taken = b""
        await self._stream.reset()

    async def _send_paced(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        if not view:
            await self._stream.send_all(data)
        try:
            while view:
                size = len(view)
                if self._gated is not None and not self._sends.is_free:
                    # Paid for when the peer takes it: what was paid and waits would leave all at once later.
                    size = await self._gated.wait_window(size)
                granted = await self._pacer.wait_turn(self._sends, size)
                await self._stream.send_all(view[:granted])
                view = view[granted:]
        except trio.Cancelled:
            # Half of the data may have left.
            with trio.CancelScope(shield=True):
                await self.reset()
            raise

    async def _receive_paced(self, max_bytes: int) -> bytes:
        if not self._taken:
            # Taken first and paid for after: what will come is known to nobody before it is there.
            some = max_bytes if self._receives.is_free else min(max_bytes, self._receives.piece_bytes)
            self._taken = await self._stream.receive_some(some)
            if not self._taken:
                return b""
        granted = await self._pacer.wait_turn(self._receives, min(max_bytes, len(self._taken)))
        data, self._taken = self._taken[:granted], self._taken[granted:]
        return data
