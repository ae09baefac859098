"""Who is connected, how many may be, and which connection goes first. Layer 3."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

from node import limits
from node.net.addresses import Endpoint
from node.net.yamux import YamuxConnection
from node.subnets import subnet
from node.units import PeerId


@dataclass(slots=True, eq=False)
class Connection:
    """One connection to a peer; `dialled` is None where the peer dialled."""

    peer_id: PeerId
    yamux: YamuxConnection
    remote: Endpoint
    dialled: Endpoint | None
    spoken: set[str] = field(default_factory=set)  # protocols that the peer accepted here


class ConnectionTable:
    """All connections of a node, by peer, oldest first."""

    def __init__(self) -> None:
        self._by_peer: dict[PeerId, list[Connection]] = {}
        self._subnets: Counter[str] = Counter()

    def peers(self) -> tuple[PeerId, ...]:
        """Peers with a connection that has not ended."""
        return tuple(peer_id for peer_id in self._by_peer if self.live(peer_id) is not None)

    def of(self, peer_id: PeerId) -> tuple[Connection, ...]:
        """All connections of a peer, oldest first."""
        return tuple(self._by_peer.get(peer_id, ()))

    def all(self) -> tuple[Connection, ...]:
        """Every connection."""
        return tuple(connection for siblings in self._by_peer.values() for connection in siblings)

    def live(self, peer_id: PeerId) -> Connection | None:
        """The newest connection that has not ended: an older one may be of a life before a restart."""
        for connection in reversed(self._by_peer.get(peer_id, ())):
            if not connection.yamux.ended:
                return connection
        return None

    def add(self, connection: Connection) -> None:
        """Enter a connection; a peer's oldest one ends where it has too many."""
        siblings = self._by_peer.setdefault(connection.peer_id, [])
        if len(siblings) >= limits.CONNECTIONS_MAX_PER_PEER:
            siblings[0].yamux.end("the peer has too many connections")
        siblings.append(connection)
        self.count(connection.remote, 1)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.count(connection.remote, -1)
        siblings = self._by_peer[connection.peer_id]
        siblings.remove(connection)
        if not siblings:
            del self._by_peer[connection.peer_id]

    def count(self, remote: Endpoint, change: int) -> None:
        """Count a connection, or one in the making, towards its subnet."""
        network = subnet(remote.ip) if remote.ip else None
        if network is not None:
            self._subnets[network] += change
            if not self._subnets[network]:
                del self._subnets[network]

    def has_room_for(self, remote: Endpoint) -> bool:
        """Whether a caller from there may come in."""
        network = subnet(remote.ip) if remote.ip else None
        if network is not None and self._subnets[network] >= limits.CONNECTIONS_MAX_PER_SUBNET:
            return False
        return self.make_room()

    def make_room(self) -> bool:
        """Whether one more connection fits, after ending the one that was idle longest if need be."""
        everyone = [c for siblings in self._by_peer.values() for c in siblings if not c.yamux.ended]
        if len(everyone) < limits.CONNECTIONS_MAX:
            return True
        oldest = min(everyone, key=lambda connection: connection.yamux.idle_since_s)
        if trio.current_time() - oldest.yamux.idle_since_s < limits.CONNECTION_IDLE_S:
            return False
        oldest.yamux.end("it was idle, and others wait")
        return True

    def end_redundant(self, me: PeerId) -> None:
        """Of several connections with one peer, end those that this node dialled and that serve nothing.

        Both ends choose alike: a connection that the peer with the smaller id dialled stays, then the newest.
        """
        for peer_id, siblings in list(self._by_peer.items()):
            live = [connection for connection in siblings if not connection.yamux.ended]
            by_peer = any(connection.dialled is None for connection in live)
            ours = [connection for connection in live if connection.dialled is not None]
            for connection in ours if by_peer and peer_id < me else ours[:-1]:
                if trio.current_time() - connection.yamux.idle_since_s > limits.CONNECTION_IDLE_S:
                    connection.yamux.end("another connection to the peer serves")
