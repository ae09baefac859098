"""Rates hold for the bytes that pass a node's cable: real Noise and Yamux, a virtual clock.

Counted is everything that a TCP connection carries: handshakes, pings and window updates too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from node.net.libp2p_network import Libp2pNetwork
from node.net.rate_limit import RateLimitedNetwork, Rates, with_rate_limits
from node.net.upgrade import YAMUX
from node.ports import Network, Stream
from node.units import Contact
from tests.net.memory_wire import Wire
from tests.passed import SPAN_S, Passed

KIB, MIB = 1024, 1024 * 1024
PUSH, PULL, ECHO = "/push", "/pull", "/echo"
OVER = 1.05
LATENCIES_S = (0.005, 0.02, 0.02, 0.05, 0.1, 0.15)
STREAMS_EACH = 8


@dataclass
class Around:
    """A node under caps, and others around it that have none."""

    wire: Wire
    me: RateLimitedNetwork
    others: list[Libp2pNetwork]

    @property
    def arrived(self) -> Passed:
        return self.wire.arrived[self.me.peer_id]

    @property
    def left(self) -> Passed:
        return self.wire.left[self.me.peer_id]

    @property
    def contact(self) -> Contact:
        return self.wire.contact(self.me.peer_id)


@asynccontextmanager
async def around(rates: Rates, *, others: int = 6) -> AsyncIterator[Around]:
    wire = Wire()
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(wire.join(b"me"))
        me = await stack.enter_async_context(with_rate_limits(raw, rates))
        serve_all(me)
        them = []
        for number in range(others):
            latency_s = LATENCIES_S[number % len(LATENCIES_S)]
            other = await stack.enter_async_context(wire.join(b"other %d" % number, latency_s=latency_s))
            serve_all(other)
            them.append(other)
        yield Around(wire, me, them)


def serve_all(network: Network) -> None:
    async def echo(stream: Stream) -> None:
        while data := await stream.receive_some(4096):
            await stream.send_all(data)

    for protocol, handler in ((PUSH, take), (PULL, give), (ECHO, echo)):
        network.serve(protocol, handler, streams_max=512, streams_max_per_peer=64)


async def give(stream: Stream) -> None:
    while True:
        await stream.send_all(bytes(65_000))


async def take(stream: Stream) -> None:
    while await stream.receive_some(65_536):
        pass


async def use(network: Network, contact: Contact, protocol: str) -> None:
    """One stream in full use: this end sends, or it reads."""
    stream = await network.open_stream(contact, protocol)
    await (give if protocol == PUSH else take)(stream)


def fill(nursery: trio.Nursery, world: Around, *, incoming: bool, dialled_by_me: bool) -> None:
    """Many streams with everybody, all in one direction."""
    for other in world.others:
        for _ in range(STREAMS_EACH):
            if dialled_by_me:
                contact = world.wire.contact(other.peer_id)
                nursery.start_soon(use, world.me, contact, PULL if incoming else PUSH)
            else:
                nursery.start_soon(use, other, world.contact, PUSH if incoming else PULL)


@pytest.mark.parametrize("incoming", [True, False])
@pytest.mark.parametrize("dialled_by_me", [False, True])
@pytest.mark.parametrize("rate", [16 * KIB, 64 * KIB, 1 * MIB])
async def test_each_direction_keeps_to_its_rate_from_the_first_byte(
    autojump_clock: MockClock, rate: int, *, dialled_by_me: bool, incoming: bool
) -> None:
    rates = Rates(download=rate) if incoming else Rates(upload=rate)
    async with around(rates) as world, trio.open_nursery() as nursery:
        fill(nursery, world, incoming=incoming, dialled_by_me=dialled_by_me)
        await trio.sleep(40)
        passed = world.arrived if incoming else world.left
        assert passed.worst_span() <= OVER * SPAN_S * rate
        assert passed.total() > 0.9 * 40 * rate
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rate", [64 * KIB, 1 * MIB])
async def test_what_is_carried_for_others_keeps_to_its_rate_both_ways_together(
    autojump_clock: MockClock, rate: int
) -> None:
    async with around(Rates(for_others=rate)) as world, trio.open_nursery() as nursery:
        for incoming in (True, False):
            fill(nursery, world, incoming=incoming, dialled_by_me=False)
        await trio.sleep(40)
        both = Passed()
        both.events = world.arrived.events + world.left.events
        assert both.worst_span() <= OVER * SPAN_S * rate
        assert both.total() > 0.9 * 40 * rate
        nursery.cancel_scope.cancel()


async def test_both_ways_at_full_rates_hold_with_all_their_window_updates(autojump_clock: MockClock) -> None:
    rates = Rates(upload=24 * KIB, download=64 * KIB)
    async with around(rates) as world, trio.open_nursery() as nursery:
        for incoming in (True, False):
            fill(nursery, world, incoming=incoming, dialled_by_me=incoming)
        await trio.sleep(40)
        for passed, rate in ((world.arrived, 64 * KIB), (world.left, 24 * KIB)):
            assert passed.worst_span() <= OVER * SPAN_S * rate
            assert passed.total() > 0.9 * 40 * rate
        nursery.cancel_scope.cancel()


async def test_streams_that_come_and_go_hold_the_rate_too(autojump_clock: MockClock) -> None:
    """What is read ahead by a new stream is no more than one message."""
    rate = 64 * KIB
    async with around(Rates(download=rate)) as world, trio.open_nursery() as nursery:

        async def push_pieces(other: Libp2pNetwork) -> None:
            while True:
                stream = await other.open_stream(world.contact, PUSH)
                await stream.send_all(bytes(20_000))
                await stream.aclose()

        for other in world.others:
            for _ in range(4):
                nursery.start_soon(push_pieces, other)
        await trio.sleep(60)
        assert world.arrived.worst_span() <= OVER * SPAN_S * rate
        assert world.arrived.total() > 0.9 * 60 * rate
        nursery.cancel_scope.cancel()


async def test_streams_that_were_quiet_do_not_burst_together(autojump_clock: MockClock) -> None:
    """Half of the streams rest until the others have used ten seconds to the full, and then all send."""
    rate = 64 * KIB
    async with around(Rates(download=rate)) as world, trio.open_nursery() as nursery:
        quiet = [
            await other.open_stream(world.contact, PUSH)
            for other in world.others
            for _ in range(STREAMS_EACH // 2)
        ]
        for stream in quiet:
            await stream.send_all(bytes(30_000))
        for other in world.others:
            for _ in range(STREAMS_EACH // 2):
                nursery.start_soon(use, other, world.contact, PUSH)
        await trio.sleep(45)
        for stream in quiet:
            nursery.start_soon(give, stream)
        await trio.sleep(30)
        assert world.arrived.worst_span() <= OVER * SPAN_S * rate
        nursery.cancel_scope.cancel()


async def test_a_rate_that_comes_late_is_held_once_the_old_windows_are_used(
    autojump_clock: MockClock,
) -> None:
    rate = 64 * KIB
    async with around(Rates()) as world, trio.open_nursery() as nursery:
        fill(nursery, world, incoming=True, dialled_by_me=False)
        await trio.sleep(1)
        world.me.set_rates(Rates(download=rate))
        at_s = trio.current_time() + 1  # what was on its way
        await trio.sleep(60)
        assert world.arrived.worst_span(after_s=at_s) <= OVER * SPAN_S * rate
        assert world.arrived.total(after_s=at_s) > 0.6 * 60 * rate
        before = world.arrived.total()
        world.me.set_rates(Rates())
        await trio.sleep(1)
        assert world.arrived.total() - before > 20 * MIB
        nursery.cancel_scope.cancel()


async def test_streams_opened_while_rates_change_never_stand_still(autojump_clock: MockClock) -> None:
    """The two ends always agree on what a new stream may begin with, whatever is on its way."""
    async with around(Rates()) as world, trio.open_nursery() as nursery:

        async def change_rates() -> None:
            while True:
                for rates in (Rates(download=MIB), Rates(for_others=MIB), Rates(), Rates(upload=MIB)):
                    await trio.sleep(0.037)
                    world.me.set_rates(rates)

        async def echo_much(network: Network, contact: Contact) -> None:
            for number in range(40):
                stream = await network.open_stream(contact, ECHO)
                content = bytes([number]) * 30_000
                async with trio.open_nursery() as both:
                    both.start_soon(stream.send_all, content)
                    got = bytearray()
                    while len(got) < len(content):
                        got += await stream.receive_some(65_536)
                assert got == content
                await stream.aclose()

        nursery.start_soon(change_rates)
        with trio.fail_after(3600):
            async with trio.open_nursery() as transfers:
                for other in world.others:
                    transfers.start_soon(echo_much, other, world.contact)
                    transfers.start_soon(echo_much, world.me, world.wire.contact(other.peer_id))
        nursery.cancel_scope.cancel()


async def transfer_s(world: Around, byte_count: int) -> float:
    began_s = trio.current_time()
    stream = await world.others[3].open_stream(world.contact, ECHO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, bytes(byte_count))
        left = byte_count
        while left:
            left -= len(await stream.receive_some(65_536))
    return trio.current_time() - began_s


async def test_without_a_rate_a_transfer_takes_no_longer_than_by_plain_yamux(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with around(Rates()) as world:
        ours_s = await transfer_s(world, 8 * MIB)
    monkeypatch.setattr("node.net.upgrade._MUXERS", (YAMUX,))
    monkeypatch.setattr("node.net.libp2p_network.upgrade_dialled.__kwdefaults__", {"muxers": (YAMUX,)})
    async with around(Rates()) as world:
        plain_s = await transfer_s(world, 8 * MIB)
    assert ours_s <= plain_s + 1e-9


async def test_from_a_peer_that_speaks_plain_yamux_only_first_windows_are_ahead(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 64 * KIB
    monkeypatch.setattr("node.net.libp2p_network.upgrade_dialled.__kwdefaults__", {"muxers": (YAMUX,)})
    async with around(Rates(download=rate)) as world, trio.open_nursery() as nursery:
        for other in world.others:
            nursery.start_soon(use, other, world.contact, PUSH)
        await trio.sleep(80)
        first = len(world.others) * 256 * KIB
        assert first < world.arrived.worst_span() <= first + OVER * SPAN_S * rate
        assert world.arrived.worst_span(after_s=15) <= OVER * SPAN_S * rate
        assert world.arrived.total(after_s=30) > 0.9 * 50 * rate
        nursery.cancel_scope.cancel()
