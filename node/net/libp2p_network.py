"""The Network port over TCP, Noise and Yamux, as libp2p specifies them. Layer 3, an adapter.

Of py-libp2p this uses what decides who a peer is, its Noise handshake (node/net/noise.py). Its swarm, host
and muxer are replaced, for what was measured in network.md and found in their source: a stock Yamux whatever
`muxer_opt` says, a quarter of a second of sleep in every dial, a minute in which a peer that was away can't
be dialled, streams reset when a reader is slow, no bound on memory.

Invariants: a peer is who its key says, on both sides; no error of the library leaves this package; one
connection's faults never reach another; whatever a peer makes this node keep has a bound in limits.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from node import limits
from node.crypto.identity import peer_id_text
from node.errors import ConfigError, NodeError, ProtocolError, UnreachableError
from node.net import identify, multistream
from node.net.addresses import Endpoint, endpoint_of_socket, parse_endpoint
from node.net.admission import Service
from node.net.connections import Connection, ConnectionTable
from node.net.dialling import Backoff, dial_staggered
from node.net.interfaces import advertised
from node.net.noise import ChannelError, Handshake, SecureChannel
from node.net.reachability import Reachability, Standing
from node.net.stream import NetworkStream
from node.net.upgrade import upgrade_accepted, upgrade_dialled
from node.net.windows import Unpaced, WindowPacer
from node.net.yamux import UnreadBytes, YamuxConnection
from node.net.yamux_stream import YamuxStream
from node.ports import Stream, StreamHandler
from node.units import Contact, Multiaddr, PeerId

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_network(
    identity_seed: bytes,
    listen: Sequence[Multiaddr],
    *,
    also: Sequence[Multiaddr] = (),
    announce: Sequence[Multiaddr] = (),
) -> AsyncIterator[Libp2pNetwork]:
    """A network of this identity, listening on `listen` (`/ip4/127.0.0.1/tcp/0` picks a free port).

    `identity_seed` is the 32-byte Ed25519 seed. On `also` it listens where this machine can; port 0 there is
    the first port of `listen`. Others are told the addresses of `announce` as well, and first.
    Everything ends with the context. Raises `ConfigError` if an address can't be listened on or announced.
    """
    announced = [_announced_endpoint(address) for address in announce]
    listeners: list[trio.SocketListener] = []
    try:
        for address in listen:
            listeners.extend(await _listeners_at(address))
        for address in also:
            listeners.extend(await _listeners_beside(address, listeners))
        async with trio.open_nursery() as nursery:
            network = Libp2pNetwork(Handshake(identity_seed), listeners, announced, nursery)
            nursery.start_soon(network.accept_all)
            nursery.start_soon(network.close_redundant_forever)
            try:
                yield network
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The tasks of a network raise nothing: what is in the group is the one error of the caller's body.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)


async def open_tcp(endpoint: Endpoint) -> tuple[trio.SocketStream, Endpoint]:
    """A connection, and the address that it got. Raises `OSError`."""
    stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    try:
        return stream, endpoint_of_socket(*stream.socket.getpeername()[:2])
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


@dataclass(slots=True, eq=False)
class _Dial:
    tried: set[Endpoint] = field(default_factory=set)
    reason: str = "no address to dial"
    changed: trio.Event = field(default_factory=trio.Event)

    def wake(self) -> None:
        """The dial ended, or the peer came by itself: whoever waits looks again."""
        self.changed.set()
        self.changed = trio.Event()


class _BusyError(Exception):
    """A stream beyond a service's limits."""


class Libp2pNetwork:
    """The Network port; made by `open_network`."""

    def __init__(
        self,
        handshake: Handshake,
        listeners: Sequence[trio.SocketListener],
        announced: Sequence[Endpoint],
        nursery: trio.Nursery,
        open_tcp: Callable[[Endpoint], Awaitable[tuple[trio.abc.Stream, Endpoint]]] = open_tcp,
    ) -> None:
        """`open_tcp` makes a connection, and says which address it got: tests bring a wire of their own."""
        self._handshake = handshake
        self._listeners = listeners
        self._bound = tuple(endpoint_of_socket(*listener.socket.getsockname()[:2]) for listener in listeners)
        self._announced = tuple(announced)
        self._nursery = nursery
        self._open_tcp = open_tcp
        self._connections = ConnectionTable()
        self._handshakes: dict[trio.CancelScope, None] = {}  # oldest first
        self._dials: dict[PeerId, _Dial] = {}
        self._backoff = Backoff()
        self._services: dict[str, Service] = {}
        self._callbacks: list[Callable[[PeerId], None]] = []
        self._unread = UnreadBytes()
        self._windows: WindowPacer = Unpaced()
        self._reachability = Reachability()
        many = limits.IDENTIFY_STREAMS_MAX
        self.serve(identify.IDENTIFY, self._tell_identity, streams_max=many, streams_max_per_peer=4)
        self.serve(identify.PING, identify.answer_pings, streams_max=many, streams_max_per_peer=4)

    # The port.

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        return self._handshake.peer_id

    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """As the port says; a wildcard is shown as the addresses of this machine."""
        return tuple(endpoint.multiaddr() for endpoint in self._told())

    @property
    def port(self) -> int | None:
        """The port of the first address that is listened on."""
        return self._bound[0].port if self._bound else None

    def connected(self) -> tuple[PeerId, ...]:
        """As the port says."""
        return self._connections.peers()

    def addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """As the port says."""
        known = [c.dialled.multiaddr() for c in self._connections.of(peer_id) if c.dialled]
        return tuple(dict.fromkeys(reversed(known)))

    def observed_address(self, peer_id: PeerId) -> Multiaddr | None:
        """As the port says."""
        connection = self._connections.live(peer_id)
        return connection.remote.multiaddr() if connection else None

    def standing(self) -> Standing:
        """Whether others can reach this node, as far as it knows."""
        return self._reachability.standing(self._told(), is_announced=bool(self._announced))

    async def connect(self, contact: Contact) -> None:
        """As the port says."""
        await self._connection_to(contact)

    async def open_stream(self, contact: Contact, protocol: str) -> Stream:
        """As the port says. A protocol that the peer accepted on this connection before costs no round trip:
        should it be refused all the same, the stream's first read raises `UnreachableError`."""
        for may_be_stale in (True, False):
            connection = await self._connection_to(contact)
            try:
                return await self._negotiated(connection, protocol)
            except UnreachableError:
                # A connection that was open already may be a dead peer's: dial once.
                if not (may_be_stale and connection.yamux.ended):
                    raise
        raise AssertionError("unreachable")

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """As the port says."""
        self._services[protocol] = Service(handler, streams_max, streams_max_per_peer)

    def on_connected(self, callback: Callable[[PeerId], None]) -> None:
        """As the port says."""
        self._callbacks.append(callback)

    def pace_windows(self, windows: WindowPacer) -> None:
        """From now on let peers send what `windows` grants; again when what streams begin with changed."""
        self._windows = windows
        for connection in self._connections.all():
            connection.yamux.announce_first_window()

    async def disconnect(self, peer_id: PeerId) -> None:
        """As the port says."""
        for connection in self._connections.of(peer_id):
            connection.yamux.end("this node disconnected")
        await trio.lowlevel.checkpoint()

    # Outgoing.

    async def _negotiated(self, connection: Connection, protocol: str) -> NetworkStream:
        try:
            muxed = connection.yamux.open_stream()
        except ChannelError as error:
            raise UnreachableError(peer_id_text(connection.peer_id), str(error)) from error
        stream = NetworkStream(muxed, connection.peer_id)
        try:
            with trio.move_on_after(limits.NEGOTIATION_TIMEOUT_S) as scope:
                await stream.propose(protocol)
                if protocol not in connection.spoken:
                    await stream.wait_agreed()
        except BaseException:
            stream.reset_nowait()
            raise
        if scope.cancelled_caught:
            stream.reset_nowait()
            raise UnreachableError(stream.peer, "did not answer a stream")
        if len(connection.spoken) < limits.PROTOCOLS_REMEMBERED_MAX:
            connection.spoken.add(protocol)
        return stream

    async def _connection_to(self, contact: Contact) -> Connection:
        peer_id = contact.peer_id
        name = peer_id_text(peer_id)
        if peer_id == self.peer_id:
            raise UnreachableError(name, "that is this node itself")
        wanted = [endpoint for endpoint in map(parse_endpoint, contact.addresses) if endpoint is not None]
        endpoints = list(dict.fromkeys(wanted))[: limits.DIAL_ADDRESSES_MAX]
        while True:
            connection = self._connections.live(peer_id)
            if connection is not None:
                await trio.lowlevel.checkpoint()
                return connection
            dial = self._dials.get(peer_id)
            if dial is None:
                dial = self._dials[peer_id] = _Dial()
                self._nursery.start_soon(self._dial, dial, peer_id, endpoints)
            await dial.changed.wait()
            if self._connections.live(peer_id) is None and dial.tried.issuperset(endpoints):
                raise UnreachableError(name, dial.reason)

    async def _dial(self, dial: _Dial, peer_id: PeerId, endpoints: Sequence[Endpoint]) -> None:
        """Owned by the network, so that a caller who gives up does not end it for the others."""

        async def attempt(endpoint: Endpoint) -> bool:
            try:
                with trio.fail_after(limits.DIAL_TIMEOUT_S):
                    await self._dial_one(endpoint, peer_id)
            except (OSError, ChannelError, ProtocolError, trio.TooSlowError) as error:
                dial.reason = f"{endpoint.multiaddr()}: {_words(error)}"
                self._backoff.on_failure(endpoint)
                return False
            self._backoff.on_success(endpoint)
            return True

        dial.tried.update(endpoints)
        due = [endpoint for endpoint in endpoints if not self._backoff.is_waiting(endpoint)]
        if endpoints and not due:
            dial.reason = "its addresses failed a moment ago"
        if not self._connections.make_room():
            due, dial.reason = [], "this node has too many connections"
        try:
            await dial_staggered(due, attempt)
        finally:
            del self._dials[peer_id]
            dial.wake()

    async def _dial_one(self, endpoint: Endpoint, peer_id: PeerId) -> None:
        stream, remote = await self._open_tcp(endpoint)
        try:
            channel = await upgrade_dialled(stream, self._handshake, peer_id)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._nursery.start_soon(self._carry, self._add(channel, remote, endpoint))

    # Incoming.

    async def accept_all(self) -> None:
        """Take connections until cancelled."""
        if self._listeners:
            await trio.serve_listeners(self._accept, list(self._listeners), handler_nursery=self._nursery)

    async def _accept(self, stream: trio.SocketStream) -> None:
        try:
            remote = endpoint_of_socket(*stream.socket.getpeername()[:2])
        except OSError:
            return
        await self.take_caller(stream, remote)

    async def take_caller(self, stream: trio.abc.Stream, remote: Endpoint) -> None:
        """One caller, to the end of the connection: `trio.serve_listeners` closes the socket then."""
        if not self._connections.has_room_for(remote):
            return
        if len(self._handshakes) >= limits.HANDSHAKES_MAX:
            # The one that takes longest goes: whoever means it is through within a few round trips, so
            # callers that say nothing can't keep others out.
            next(iter(self._handshakes)).cancel()
        self._connections.count(remote, 1)
        channel = None
        with trio.move_on_after(limits.HANDSHAKE_TIMEOUT_S) as scope:
            self._handshakes[scope] = None
            try:
                channel = await upgrade_accepted(stream, self._handshake)
            except (ChannelError, ProtocolError) as error:
                logger.debug("a caller from %s was turned away: %s", remote.host, error)
            finally:
                del self._handshakes[scope]
                self._connections.count(remote, -1)
        if channel is None or channel.peer_id == self.peer_id:
            return
        self._reachability.on_caller(remote)
        await self._carry(self._add(channel, remote, None))

    async def _on_stream(self, connection: Connection, muxed: YamuxStream) -> None:
        """One incoming stream from its first byte to its handler's end. Raises nothing but cancellation."""
        stream = NetworkStream(muxed, connection.peer_id)
        admitted: list[Service] = []

        def is_served(protocol: str) -> bool:
            service = self._services.get(protocol)
            if service is None:
                return False
            if not service.take(connection.peer_id, connection.remote):
                raise _BusyError
            admitted.append(service)
            return True

        try:
            with trio.move_on_after(limits.NEGOTIATION_TIMEOUT_S) as scope:
                await multistream.choose(muxed, is_served, lambda: tuple(self._services))
            if admitted and not scope.cancelled_caught:
                await admitted[0].handler(stream)
                await stream.aclose()
        except (NodeError, _BusyError) as error:
            logger.debug("a stream of %s ended: %s", stream.peer, error)
        except BaseExceptionGroup as group:
            _, unexpected = group.split((NodeError, trio.Cancelled))
            if unexpected is not None:
                logger.exception("a stream handler failed", exc_info=unexpected)
            cancelled, _ = group.split(trio.Cancelled)
            if cancelled is not None:
                raise cancelled from None
        except Exception:  # a fault in one handler must end one stream, not the node
            logger.exception("a stream handler failed")
        finally:
            if muxed.closed_here_s is None:
                muxed.reset()
            for service in admitted:
                service.release(connection.peer_id, connection.remote)

    async def _tell_identity(self, stream: Stream) -> None:
        connection = self._connections.live(stream.peer_id)
        listen = self._told()
        observed = connection.remote if connection else None
        protocols = tuple(self._services)
        await stream.send_all(identify.describe(self._handshake.public_key, listen, protocols, observed))
        await stream.close_write()

    def _told(self) -> tuple[Endpoint, ...]:
        """What others are told to dial."""
        return tuple(dict.fromkeys((*self._announced, *advertised(self._bound))))

    # The table of connections.

    def _add(self, channel: SecureChannel, remote: Endpoint, dialled: Endpoint | None) -> Connection:
        def on_stream(muxed: YamuxStream) -> None:
            self._nursery.start_soon(self._on_stream, connection, muxed)

        yamux = YamuxConnection(
            channel,
            dialled=dialled is not None,
            unread=self._unread,
            on_stream=on_stream,
            windows=lambda: self._windows,
        )
        peer_id = channel.peer_id
        connection = Connection(peer_id, yamux, remote, dialled)
        is_first = self._connections.live(peer_id) is None
        self._connections.add(connection)
        if peer_id in self._dials:
            self._dials[peer_id].wake()
        if is_first:
            for callback in self._callbacks:
                callback(peer_id)
        if dialled is not None and Reachability.is_telling(remote):
            self._nursery.start_soon(self._ask_observed, peer_id, remote)
        return connection

    async def _carry(self, connection: Connection) -> None:
        try:
            await connection.yamux.run()
        finally:
            self._connections.remove(connection)
            name, reason = peer_id_text(connection.peer_id), connection.yamux.end_reason
            logger.debug("the connection to %s ended: %s", name, reason)

    async def _ask_observed(self, peer_id: PeerId, remote: Endpoint) -> None:
        """Learn at which address a public peer sees this node."""
        try:
            with trio.move_on_after(limits.NEGOTIATION_TIMEOUT_S):
                stream = await self.open_stream(Contact(peer_id), identify.IDENTIFY)
                try:
                    self._reachability.on_observed(remote, await identify.read_observed(stream))
                finally:
                    await stream.reset()
        except NodeError as error:
            logger.debug("no identify from %s: %s", peer_id_text(peer_id), error)

    async def close_redundant_forever(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(limits.CONNECTION_IDLE_S)
            self._connections.end_redundant(self.peer_id)


def _announced_endpoint(address: Multiaddr) -> Endpoint:
    endpoint = parse_endpoint(address)
    if endpoint is None or not endpoint.port or (endpoint.ip is not None and endpoint.ip.is_unspecified):
        raise ConfigError(
            f"{address!r} is not an address to announce: write the one that others dial, like "
            "/ip4/192.0.2.7/tcp/4001 or /dns4/node.example.org/tcp/4001"
        )
    return endpoint


async def _listeners_at(address: Multiaddr) -> list[trio.SocketListener]:
    endpoint = parse_endpoint(address)
    if endpoint is None or endpoint.ip is None:
        raise ConfigError(f"{address!r} is not an address to listen on: write it like /ip4/0.0.0.0/tcp/4001")
    try:
        return list(await trio.open_tcp_listeners(endpoint.port, host=endpoint.host))
    except OSError as error:
        raise ConfigError(f"can't listen on {address}: {_words(error)}") from error


async def _listeners_beside(
    address: Multiaddr, others: Sequence[trio.SocketListener]
) -> list[trio.SocketListener]:
    """Listeners at an address that may not exist here, as IPv6 on a machine without it."""
    endpoint = parse_endpoint(address)
    if endpoint is not None and not endpoint.port and others:
        endpoint = replace(endpoint, port=others[0].socket.getsockname()[1])
        address = endpoint.multiaddr()
    try:
        return await _listeners_at(address)
    except ConfigError as error:
        logger.info("%s", error)
        return []


def _words(error: BaseException) -> str:
    """The reason in an error, for one line of text."""
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
