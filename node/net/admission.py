"""Who may open how many streams of one protocol. Layer 2, pure.

Identities are free and networks are not: a peer has its share, and so has a /24 (IPv6: /48) for all its peers
together; local networks are exempt, as with connections.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from node import limits
from node.net.addresses import Endpoint
from node.ports import StreamHandler
from node.subnets import subnet
from node.units import PeerId


@dataclass(slots=True)
class Service:
    """A protocol that is served, and the streams of it that are open."""

    handler: StreamHandler
    streams_max: int
    streams_max_per_peer: int
    _peers: Counter[PeerId] = field(default_factory=Counter)
    _subnets: Counter[str] = field(default_factory=Counter)

    def take(self, peer_id: PeerId, remote: Endpoint) -> bool:
        """Count one more stream, unless the peer, its subnet or the protocol has as many as it may."""
        network = _subnet(remote)
        if self._peers.total() >= self.streams_max or self._peers[peer_id] >= self.streams_max_per_peer:
            return False
        if network is not None:
            if self._subnets[network] >= self.streams_max_per_subnet:
                return False
            self._subnets[network] += 1
        self._peers[peer_id] += 1
        return True

    def release(self, peer_id: PeerId, remote: Endpoint) -> None:
        """A stream that was taken has ended."""
        network = _subnet(remote)
        self._peers[peer_id] -= 1
        if not self._peers[peer_id]:
            del self._peers[peer_id]
        if network is not None:
            self._subnets[network] -= 1
            if not self._subnets[network]:
                del self._subnets[network]

    @property
    def streams_max_per_subnet(self) -> int:
        """What the peers of one subnet may have together: one of them its share, whatever that is."""
        return max(self.streams_max_per_peer, self.streams_max // limits.STREAMS_SUBNET_PART)


def _subnet(remote: Endpoint) -> str | None:
    return subnet(remote.ip) if remote.ip else None
