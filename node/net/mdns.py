"""Peers on the same network, found by multicast DNS (libp2p's mDNS discovery specification). Layer 3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from node.units import Contact, Multiaddr, PeerId


@asynccontextmanager
async def discovering(
    peer_id: PeerId, addresses: Sequence[Multiaddr], on_found: Callable[[Contact], None]
) -> AsyncIterator[None]:
    """Announce this node and call `on_found` for others, until the context ends.

    `on_found` runs in trio. Where multicast does not work this does nothing, without an error.
    """
    yield
