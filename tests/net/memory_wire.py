"""TCP in memory for real networks: a latency, no loss, no limit of its own, and every byte counted.

A send never waits, as if every buffer on the way were endless: what arrives is what the sender was allowed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from node.net.addresses import Endpoint, parse_endpoint
from node.net.libp2p_network import Libp2pNetwork
from node.net.noise import Handshake
from node.units import Contact, Multiaddr, PeerId
from tests.passed import Passed


class Wire:
    """Everybody's cables."""

    def __init__(self) -> None:
        self.arrived: dict[PeerId, Passed] = {}
        self.left: dict[PeerId, Passed] = {}
        self._listening: dict[str, tuple[Libp2pNetwork, trio.Nursery]] = {}
        self._latencies_s: dict[PeerId, float] = {}

    @asynccontextmanager
    async def join(self, seed: bytes, *, latency_s: float = 0.02) -> AsyncIterator[Libp2pNetwork]:
        """A network at the end of a cable of its own."""
        handshake = Handshake(seed.ljust(32))
        me = handshake.peer_id
        self.arrived[me], self.left[me] = Passed(), Passed()
        self._latencies_s[me] = latency_s
        async with trio.open_nursery() as nursery:

            async def open_tcp(endpoint: Endpoint) -> tuple[trio.abc.Stream, Endpoint]:
                server, server_nursery = self._listening[endpoint.host]
                here, there = self._cable(me, server.peer_id)
                await trio.sleep(here.latency_s * 2)
                caller = parse_endpoint(Multiaddr("/ip4/127.0.0.1/tcp/1"))
                assert caller is not None
                server_nursery.start_soon(server.take_caller, there, caller)
                return here, endpoint

            network = Libp2pNetwork(handshake, [], [], nursery, open_tcp)
            self._listening[self.contact(me).addresses[0].split("/")[2]] = network, nursery
            yield network
            nursery.cancel_scope.cancel()

    def contact(self, peer_id: PeerId) -> Contact:
        """Where to dial somebody who joined."""
        number = list(self.arrived).index(peer_id)
        return Contact(peer_id, (Multiaddr(f"/ip4/127.0.1.{number + 1}/tcp/4001"),))

    def _cable(self, one: PeerId, other: PeerId) -> tuple[_End, _End]:
        latency_s = self._latencies_s[one] + self._latencies_s[other]
        here = _End(latency_s, self.left[one], self.arrived[one])
        there = _End(latency_s, self.left[other], self.arrived[other])
        here.other, there.other = there, here
        return here, there


class _End(trio.abc.Stream):
    """One end of a connection."""

    other: _End

    def __init__(self, latency_s: float, left: Passed, arrived: Passed) -> None:
        self.latency_s = latency_s
        self._left, self._arrived = left, arrived
        self._coming: deque[tuple[float, bytes]] = deque()
        self._changed = trio.Event()
        self._is_closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Never waits."""
        await trio.lowlevel.checkpoint()
        if self._is_closed or self.other._is_closed:
            raise trio.BrokenResourceError
        now_s = trio.current_time()
        self._left.add(now_s, len(data))
        self.other._on_sent(now_s + self.latency_s, bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """As trio says."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio says."""
        await trio.lowlevel.checkpoint()
        while not self._coming:
            if self._is_closed:
                raise trio.ClosedResourceError
            if self.other._is_closed:
                return b""
            self._changed = trio.Event()
            await self._changed.wait()
        at_s, data = self._coming[0]
        await trio.sleep_until(at_s)
        size = len(data) if max_bytes is None else max_bytes
        if len(data) > size:
            self._coming[0] = (at_s, data[size:])
        else:
            self._coming.popleft()
        return data[:size]

    async def aclose(self) -> None:
        """As trio says."""
        self._is_closed = True
        self._changed.set()
        self.other._changed.set()
        await trio.lowlevel.checkpoint()

    def _on_sent(self, at_s: float, data: bytes) -> None:
        self._arrived.add(at_s, len(data))
        self._coming.append((at_s, data))
        self._changed.set()
