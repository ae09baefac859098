"""The Network port over TCP, Noise and Yamux, as libp2p specifies them. Layer 3, an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from node.ports import Network
from node.units import Multiaddr


@asynccontextmanager
async def open_network(
    identity_seed: bytes, listen: Sequence[Multiaddr], *, announce: Sequence[Multiaddr] = ()
) -> AsyncIterator[Network]:
    """A network of this identity, listening on `listen` (`/ip4/127.0.0.1/tcp/0` picks a free port).

    `identity_seed` is the 32-byte Ed25519 seed. `announce` replaces the addresses that others are told.
    Everything ends with the context. Raises `ConfigError` if an address can't be listened on.
    """
    raise NotImplementedError
    yield
