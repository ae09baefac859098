"""An internet in memory: the Network port without sockets. Layer 3, an adapter for tests and simulations.

All delays come from trio's clock, so `trio.testing.MockClock` makes them virtual; all chance comes from the
`random.Random` of the caller. Addresses, partitions, cut connections, latency, rates and peers that can't be
dialled are set on `Internet`; the nodes see only the port. A stream holds at most one window of unread bytes
in each direction, as Yamux does. A reset by the other end shows as an error or, at random, as a clean end:
the port allows both (network.md, trap 3).
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import trio

from node import limits
from node.crypto.identity import peer_id_text
from node.errors import NodeError, RefusedError, UnreachableError
from node.ports import Buffer, StreamHandler
from node.units import Contact, Multiaddr, PeerId
from simulations.determinism import Alarm, new_alarm
from simulations.meter import handler_name

logger = logging.getLogger(__name__)

WINDOW_BYTES = 256 * 1024
RETRANSMIT_S = 0.2  # TCP's least wait before it repeats a packet; it doubles


@dataclass(frozen=True, slots=True)
class Link:
    """How bytes travel from one node to another; each direction has its own."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    rate_bytes_s: int | None = None
    loss: float = 0.0
    """Share of the packets that are lost. Streams are reliable: a loss is a wait for the repetition."""


@dataclass(slots=True)
class _Service:
    handler: StreamHandler
    streams_max: int
    streams_max_per_peer: int
    open_streams: Counter[PeerId] = field(default_factory=Counter)


class Internet:
    """What all simulated nodes share."""

    def __init__(self, rng: Random, *, link: Link = Link()) -> None:
        self.rng = rng
        self.default_link = link
        self._links: dict[tuple[PeerId, PeerId], Link] = {}
        self._islands: dict[PeerId, int] = {}
        self._one_way_cuts: set[tuple[PeerId, PeerId]] = set()
        self.on_sent: Callable[[PeerId, PeerId, bytes], None] = lambda sender, receiver, data: None
        """Told of everything that leaves a node."""
        self.was_cut = False
        """Whether anything ever stood between two nodes."""
        self._nodes: dict[PeerId, SimulatedNetwork] = {}
        self._listeners: dict[Multiaddr, SimulatedNetwork] = {}
        self._joined_count = 0

    @asynccontextmanager
    async def join(
        self, peer_id: PeerId, *, address: Multiaddr | None = None, dialable: bool = True
    ) -> AsyncIterator[SimulatedNetwork]:
        """A node of this internet until the context ends; its connections break then."""
        self._joined_count += 1
        host, port = divmod(self._joined_count, 60_000)
        address = address or Multiaddr(f"/ip4/10.{host % 250}.0.{port % 250 + 1}/tcp/{4000 + port}")
        assert peer_id not in self._nodes
        assert address not in self._listeners
        async with trio.open_nursery() as nursery:
            node = SimulatedNetwork(self, peer_id, address, nursery)
            self._nodes[peer_id] = node
            if dialable:
                self._listeners[address] = node
            try:
                yield node
            finally:
                del self._nodes[peer_id]
                self._listeners.pop(address, None)
                node.is_up = False  # a handler that is still to be unwound dials nobody
                node.drop_all_connections()
                nursery.cancel_scope.cancel()

    def set_link(self, sender: PeerId, receiver: PeerId, link: Link) -> None:
        """Change one direction; `set_link` both for a symmetric change."""
        self.was_cut = True
        self._links[sender, receiver] = link

    def clear_links(self) -> None:
        """Make every link the default one."""
        self._links.clear()

    def partition(self, *islands: Iterable[PeerId]) -> None:
        """Let nothing pass between islands; nodes named in none are one island more. Silence for
        `limits.CONNECTION_SILENCE_S` then breaks the connections that span two."""
        self._islands = {peer: index for index, island in enumerate(islands, start=1) for peer in island}
        self.was_cut |= bool(self._islands)
        for node in list(self._nodes.values()):
            node.on_partition()

    def cut_one_way(self, sender: PeerId, receiver: PeerId) -> None:
        """Let nothing of one node reach another, though the way back is open."""
        self._one_way_cuts.add((sender, receiver))
        self.was_cut = True
        for node in list(self._nodes.values()):
            node.on_partition()

    def heal(self) -> None:
        """End the partition and all one-way cuts."""
        self._one_way_cuts.clear()
        self.partition()

    def unplug(self, peer_id: PeerId) -> None:
        """A node's process is dead: its connections break, and it dials and is dialled no more."""
        node = self._nodes.get(peer_id)
        if node is not None:
            node.is_up = False
            node.drop_all_connections()

    def cut(self, one: PeerId, other: PeerId) -> None:
        """Break the connection of two nodes, if there is one; both notice at once."""
        node = self._nodes.get(one)
        connection = node.connections.get(other) if node else None
        if connection is not None:
            connection.drop()

    def separated(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition, or a cut in either direction, stands between two nodes."""
        return not (self.passes(one, other) and self.passes(other, one))

    def passes(self, sender: PeerId, receiver: PeerId) -> bool:
        """Whether what one node sends reaches the other."""
        if not self._islands and not self._one_way_cuts:
            return True
        same_island = self._islands.get(sender, 0) == self._islands.get(receiver, 0)
        return same_island and (sender, receiver) not in self._one_way_cuts

    def delay_s(self, sender: PeerId, receiver: PeerId) -> float:
        """The time that the next bytes take on their way."""
        link = self.link(sender, receiver)
        delay_s = link.latency_s + (self.rng.random() * link.jitter_s if link.jitter_s else 0.0)
        wait_s = RETRANSMIT_S
        while link.loss and self.rng.random() < link.loss and wait_s < limits.DIAL_TIMEOUT_S:
            delay_s += wait_s
            wait_s *= 2
        return delay_s

    def link(self, sender: PeerId, receiver: PeerId) -> Link:
        """The link of one direction."""
        return self._links.get((sender, receiver), self.default_link)

    def listener(self, address: Multiaddr) -> SimulatedNetwork | None:
        """Who answers at an address."""
        return self._listeners.get(address)


class SimulatedNetwork:
    """One node's Network. Made by `Internet.join`."""

    def __init__(
        self, internet: Internet, peer_id: PeerId, address: Multiaddr, nursery: trio.Nursery
    ) -> None:
        self.connections: dict[PeerId, _Connection] = {}
        self.services: dict[str, _Service] = {}
        self.nursery = nursery
        self.is_up = True
        self._internet = internet
        self._peer_id = peer_id
        self._address = address
        self._callbacks: list[Callable[[PeerId], None]] = []

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        return self._peer_id

    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """The one address, whether it can be dialled or not: a node behind NAT doesn't know."""
        return (self._address,)

    def connected(self) -> tuple[PeerId, ...]:
        """Peers with a connection."""
        return tuple(self.connections)

    def addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """The address that was dialled."""
        connection = self.connections.get(peer_id)
        return (connection.dialled,) if connection and connection.dialler is self else ()

    def observed_address(self, peer_id: PeerId) -> Multiaddr | None:
        """The peer's host; the port is its own only if this node dialled."""
        connection = self.connections.get(peer_id)
        if connection is None:
            return None
        other = connection.other_end(self)
        if connection.dialler is self:
            return other._address
        return Multiaddr(other._address.rpartition("/")[0] + "/50000")

    async def connect(self, contact: Contact) -> None:
        """As the port says."""
        await self._connection_to(contact)

    async def open_stream(self, contact: Contact, protocol: str) -> SimulatedStream:
        """As the port says; negotiating costs one round trip."""
        connection = await self._connection_to(contact)
        other = connection.other_end(self)
        await self._travel(other)
        name = peer_id_text(contact.peer_id)
        service = other.services.get(protocol)
        if connection.dropped:
            raise UnreachableError(name, "the connection broke")
        if service is None:
            raise RefusedError(name, "protocol", f"does not speak {protocol}")
        if (
            service.open_streams.total() >= service.streams_max
            or service.open_streams[self._peer_id] >= service.streams_max_per_peer
        ):
            raise RefusedError(name, "busy", f"has too many streams of {protocol}")
        service.open_streams[self._peer_id] += 1
        ours, theirs = connection.new_stream_pair(self)
        other.nursery.start_soon(other.run_handler, service, theirs, name=handler_name(protocol))
        return ours

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """As the port says."""
        self.services[protocol] = _Service(handler, streams_max, streams_max_per_peer)

    def on_connected(self, callback: Callable[[PeerId], None]) -> None:
        """As the port says."""
        self._callbacks.append(callback)

    async def disconnect(self, peer_id: PeerId) -> None:
        """As the port says."""
        connection = self.connections.get(peer_id)
        if connection is not None:
            connection.drop()
        await trio.lowlevel.checkpoint()

    async def run_handler(self, service: _Service, stream: SimulatedStream) -> None:
        """One incoming stream, from its handler's start to its end."""
        try:
            await service.handler(stream)
        except NodeError as error:
            logger.debug("a stream handler ended: %s", error)
            await stream.reset()
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is not None:
                raise cancelled from None
            # The real adapter logs a fault of the code and goes on; here it ends the run, to be seen.
            if rest is None or rest.split(NodeError)[1] is not None:
                raise
            await stream.reset()
        else:
            await stream.aclose()
        finally:
            service.open_streams[stream.peer_id] -= 1

    def register(self, connection: _Connection, peer_id: PeerId) -> None:
        """A new connection, made by either end."""
        self.connections[peer_id] = connection
        for callback in self._callbacks:
            callback(peer_id)

    def on_partition(self) -> None:
        """The islands changed: whatever waits for bytes looks again."""
        for peer_id, connection in list(self.connections.items()):
            connection.wake()
            if self._internet.separated(self._peer_id, peer_id):
                self.nursery.start_soon(self._drop_after_silence, peer_id, connection)

    def drop_all_connections(self) -> None:
        """This node is gone."""
        for connection in list(self.connections.values()):
            connection.drop()

    async def _drop_after_silence(self, peer_id: PeerId, connection: _Connection) -> None:
        await trio.sleep(limits.CONNECTION_SILENCE_S)
        if self._internet.separated(self._peer_id, peer_id):
            connection.drop()

    async def _travel(self, other: SimulatedNetwork) -> None:
        """One round trip."""
        there = self._internet.delay_s(self._peer_id, other._peer_id)
        back = self._internet.delay_s(other._peer_id, self._peer_id)
        await trio.sleep(there + back)

    async def _connection_to(self, contact: Contact) -> _Connection:
        name = peer_id_text(contact.peer_id)
        if not self.is_up:
            await trio.lowlevel.checkpoint()
            raise UnreachableError(name, "this node is dead")
        if contact.peer_id == self._peer_id:
            raise UnreachableError(name, "that is this node itself")
        connection = self.connections.get(contact.peer_id)
        if connection is not None:
            return connection
        for address in contact.addresses[: limits.DIAL_ADDRESSES_MAX]:
            other = self._internet.listener(Multiaddr(address))
            if other is None or not other.is_up:
                await trio.lowlevel.checkpoint()
                continue
            if self._internet.separated(self._peer_id, other.peer_id):
                await trio.sleep(limits.DIAL_TIMEOUT_S)
                continue
            await self._travel(other)
            if contact.peer_id in self.connections:
                return self.connections[contact.peer_id]
            if other.peer_id != contact.peer_id or self._internet.listener(address) is not other:
                continue
            if not (self.is_up and other.is_up) or self._internet.separated(self._peer_id, other.peer_id):
                continue
            return _Connection(self._internet, self, other, address)
        raise UnreachableError(name, "no address answers as that peer")


class _Connection:
    """A live connection of two nodes with its streams."""

    def __init__(
        self, internet: Internet, dialler: SimulatedNetwork, listener: SimulatedNetwork, dialled: Multiaddr
    ) -> None:
        self.internet = internet
        self.dialler = dialler
        self.dialled = dialled
        self.dropped = False
        self._listener = listener
        self._streams: list[SimulatedStream] = []
        dialler.register(self, listener.peer_id)
        listener.register(self, dialler.peer_id)

    def other_end(self, node: SimulatedNetwork) -> SimulatedNetwork:
        """The peer of `node`."""
        return self._listener if node is self.dialler else self.dialler

    def new_stream_pair(self, opener: SimulatedNetwork) -> tuple[SimulatedStream, SimulatedStream]:
        """(the opener's end, the other end)."""
        other = self.other_end(opener)
        there = _Pipe(self.internet, opener.peer_id, other.peer_id)
        back = _Pipe(self.internet, other.peer_id, opener.peer_id)
        pair = SimulatedStream(other.peer_id, back, there), SimulatedStream(opener.peer_id, there, back)
        self._streams = [stream for stream in self._streams if not stream.finished]
        self._streams.extend(pair)
        return pair

    def wake(self) -> None:
        """The link changed."""
        for stream in self._streams:
            stream.wake()

    def drop(self) -> None:
        """Break the connection for both."""
        self.dropped = True
        for node in (self.dialler, self._listener):
            peer_id = self.other_end(node).peer_id
            if node.connections.get(peer_id) is self:
                del node.connections[peer_id]
        for stream in self._streams:
            stream.break_now()


class _Pipe:
    """One direction of a stream: a bounded queue of chunks with their times of arrival."""

    def __init__(self, internet: Internet, sender: PeerId, receiver: PeerId) -> None:
        self.ended = False  # the sender said so
        self.broken = False  # nothing passes any more, in either direction
        self.disguised = False  # the break shows as an end
        self.abandoned = False  # nobody reads any more: a sender breaks once its window is used up
        self._internet = internet
        self._sender = sender
        self._receiver = receiver
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size_bytes = 0
        self._last_arrival_s = 0.0
        self._room: trio.Event | None = None  # somebody waits to send
        self._reader: Alarm | None = None  # somebody waits to receive

    async def send(self, data: bytes) -> None:
        while not self.broken and self._size_bytes >= WINDOW_BYTES:
            if self.abandoned:
                self.break_now()
            else:
                self._room = self._room or trio.Event()
                await self._room.wait()
        if self.broken:
            raise UnreachableError(peer_id_text(self._receiver), "the stream was reset")
        link = self._internet.link(self._sender, self._receiver)
        start_s = max(trio.current_time(), self._last_arrival_s - link.latency_s - link.jitter_s)
        on_wire_s = len(data) / link.rate_bytes_s if link.rate_bytes_s else 0.0
        arrival_s = start_s + on_wire_s + self._internet.delay_s(self._sender, self._receiver)
        self._last_arrival_s = max(arrival_s, self._last_arrival_s)
        self._chunks.append((self._last_arrival_s, data))
        self._size_bytes += len(data)
        self._internet.on_sent(self._sender, self._receiver, data)
        if self._reader is not None:
            self._reader.move(self._due_s())

    async def receive(self, max_bytes: int) -> bytes:
        due_s = self._due_s()
        if due_s <= trio.current_time():
            await trio.lowlevel.checkpoint()
            due_s = self._due_s()
        while due_s > trio.current_time():
            assert self._reader is None, "a stream has one reader at a time"
            self._reader = new_alarm()
            try:
                await self._reader.wait(due_s)
            finally:
                self._reader = None
            due_s = self._due_s()
        if self.broken:
            if self.disguised:
                return b""
            raise UnreachableError(peer_id_text(self._sender), "the stream was reset")
        if not self._chunks:
            return b""
        arrival_s, chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft((arrival_s, chunk[max_bytes:]))
            chunk = chunk[:max_bytes]
        self._size_bytes -= len(chunk)
        self._wake_senders()
        return chunk

    def _due_s(self) -> float:
        """When there is something to receive, be it bytes or the end, as far as is known now."""
        if self.broken or (self.ended and not self._chunks):
            return -math.inf
        if self._chunks and self._internet.passes(self._sender, self._receiver):
            return self._chunks[0][0]
        return math.inf

    def end(self) -> None:
        self.ended = True
        self.wake()

    def break_now(self, *, disguised: bool = False) -> None:
        if not self.broken:
            self.broken = True
            self.disguised = disguised
            self._chunks.clear()
            self.wake()

    def wake(self) -> None:
        """Something other than bytes changed: whoever waits looks again."""
        self._wake_senders()
        if self._reader is not None:
            self._reader.move(self._due_s())

    def _wake_senders(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None


class SimulatedStream:
    """One end of a stream."""

    def __init__(self, peer_id: PeerId, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._peer_id = peer_id
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end."""
        return self._peer_id

    @property
    def finished(self) -> bool:
        """Whether nothing can pass any more."""
        return self._incoming.broken or (self._closed and self._incoming.ended)

    async def send_all(self, data: Buffer) -> None:
        """As the port says."""
        await trio.lowlevel.checkpoint()
        if self._closed or self._outgoing.ended:
            raise UnreachableError(peer_id_text(self._peer_id), "this end of the stream is closed")
        view = memoryview(data)
        try:
            for start in range(0, len(view), limits.STREAM_WRITE_BYTES_MAX):
                await self._outgoing.send(bytes(view[start : start + limits.STREAM_WRITE_BYTES_MAX]))
        except trio.Cancelled:
            self._break(disguised=False)
            raise

    async def receive_some(self, max_bytes: int) -> bytes:
        """As the port says."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise UnreachableError(peer_id_text(self._peer_id), "this end of the stream is closed")
        return await self._incoming.receive(max_bytes)

    async def close_write(self) -> None:
        """As the port says."""
        self._outgoing.end()

    async def aclose(self) -> None:
        """As the port says."""
        self._closed = True
        self._outgoing.end()
        self._incoming.abandoned = True
        self._incoming.wake()

    async def reset(self) -> None:
        """As the port says; the other end may take it for a clean end."""
        self._closed = True
        self._break(disguised=self._outgoing._internet.rng.random() < 0.5)

    def break_now(self) -> None:
        """The connection is gone."""
        self._break(disguised=False)

    def wake(self) -> None:
        """The link changed."""
        self._incoming.wake()

    def _break(self, *, disguised: bool) -> None:
        self._outgoing.break_now(disguised=disguised)
        self._incoming.break_now()


def contacts_of(networks: Sequence[SimulatedNetwork]) -> list[Contact]:
    """Contacts of several nodes, for tests."""
    return [Contact(network.peer_id, network.listen_addresses()) for network in networks]
