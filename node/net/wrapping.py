"""What a wrapper around a Network leaves as it is. Layer 3.

A wrapper changes how streams are opened and served; who is connected, and where, is the business of the
network within. Invariant: nothing here opens, serves or changes anything of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from node.ports import Network, Stream, StreamHandler
from node.units import Contact, Multiaddr, PeerId


class WrappedNetwork:
    """All of a network, passed through; what a subclass does not say is as the port says."""

    def __init__(self, network: Network) -> None:
        self._network = network

    @property
    def peer_id(self) -> PeerId:
        """As the port says."""
        return self._network.peer_id

    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """As the port says."""
        return self._network.listen_addresses()

    def connected(self) -> tuple[PeerId, ...]:
        """As the port says."""
        return self._network.connected()

    def addresses_of(self, peer_id: PeerId) -> tuple[Multiaddr, ...]:
        """As the port says."""
        return self._network.addresses_of(peer_id)

    def observed_address(self, peer_id: PeerId) -> Multiaddr | None:
        """As the port says."""
        return self._network.observed_address(peer_id)

    async def connect(self, contact: Contact) -> None:
        """As the port says."""
        await self._network.connect(contact)

    async def open_stream(self, contact: Contact, protocol: str) -> Stream:
        """As the port says."""
        return await self._network.open_stream(contact, protocol)

    def serve(
        self, protocol: str, handler: StreamHandler, *, streams_max: int, streams_max_per_peer: int
    ) -> None:
        """As the port says."""
        self._network.serve(
            protocol, handler, streams_max=streams_max, streams_max_per_peer=streams_max_per_peer
        )

    def on_connected(self, callback: Callable[[PeerId], None]) -> None:
        """As the port says."""
        self._network.on_connected(callback)

    async def disconnect(self, peer_id: PeerId) -> None:
        """As the port says."""
        await self._network.disconnect(peer_id)
