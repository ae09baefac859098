"""Caps on bandwidth, over the internet in memory and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import pytest
import trio
from trio.testing import MockClock

from node.errors import UnreachableError
from node.net.rate_limit import RateLimitedNetwork, Rates, with_rate_limits
from node.ports import Stream
from node.units import Contact, PeerId
from simulations.network import Internet, Link, SimulatedNetwork, contacts_of
from tests.passed import Passed
from tests.streams import echo

ME = PeerId(b"\x01" * 38)
KIB, MIB = 1024, 1024 * 1024
BULK, ECHO = "/bulk", "/echo"


class Around:
    """A node under caps, and others around it that have none."""

    def __init__(self, internet: Internet, me: RateLimitedNetwork, others: list[SimulatedNetwork]) -> None:
        self.me, self.others = me, others
        self.sent, self.arriving = Passed(), Passed()
        internet.on_sent = self._note

    def _note(self, sender: PeerId, receiver: PeerId, data: bytes) -> None:
        if sender == ME:
            self.sent.add(trio.current_time(), len(data))
        if receiver == ME:
            self.arriving.add(trio.current_time(), len(data))

    def contact(self) -> Contact:
        return Contact(ME, self.me.listen_addresses())


@asynccontextmanager
async def around(rates: Rates, *, others: int = 6) -> AsyncIterator[Around]:
    internet = Internet(Random(1), link=Link(latency_s=0.02))
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(internet.join(ME))
        them = [
            await stack.enter_async_context(internet.join(PeerId(bytes([number]) * 38)))
            for number in range(2, 2 + others)
        ]
        me = await stack.enter_async_context(with_rate_limits(raw, rates))
        yield Around(internet, me, them)


async def send_forever(stream: Stream) -> None:
    while True:
        await stream.send_all(bytes(65_000))


async def push_to(world: Around, other: SimulatedNetwork) -> None:
    await send_forever(await other.open_stream(world.contact(), BULK))


def serve_sink(network: RateLimitedNetwork | SimulatedNetwork, meter: Passed) -> None:
    async def take(stream: Stream) -> None:
        while data := await stream.receive_some(65_536):
            meter.add(trio.current_time(), len(data))

    network.serve(BULK, take, streams_max=64, streams_max_per_peer=64)


@pytest.mark.parametrize("rate", [4 * KIB, 300 * KIB, 2 * MIB])
async def test_what_leaves_keeps_to_the_upload_rate(autojump_clock: MockClock, rate: int) -> None:
    async with around(Rates(upload=rate)) as world, trio.open_nursery() as nursery:
        for other in world.others:
            serve_sink(other, Passed())
            (contact,) = contacts_of([other])
            nursery.start_soon(send_forever, await world.me.open_stream(contact, BULK))
        await trio.sleep(60)
        assert world.sent.worst_span() <= 1.05 * 10 * rate
        assert world.sent.total() > 0.9 * 60 * rate
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rate", [300 * KIB, 2 * MIB])
async def test_what_six_uploaders_push_at_a_donor_keeps_to_its_rate(
    autojump_clock: MockClock, rate: int
) -> None:
    taken = Passed()
    async with around(Rates(for_others=rate)) as world, trio.open_nursery() as nursery:
        serve_sink(world.me, taken)
        for other in world.others:
            nursery.start_soon(push_to, world, other)
        await trio.sleep(60)
        assert taken.worst_span() <= 1.05 * 10 * rate
        assert taken.total() > 0.95 * 60 * rate
        # On the wire the same, but for the one window that each stream may fill ahead.
        windows = len(world.others) * (256 * KIB + 65_536)
        assert world.arriving.worst_span() <= 1.05 * 10 * rate + windows
        assert world.arriving.total() <= 60 * rate * 1.05 + windows
        nursery.cancel_scope.cancel()


async def test_a_gift_counts_both_directions_together_and_leaves_own_transfers_alone(
    autojump_clock: MockClock,
) -> None:
    rate = 200 * KIB
    async with around(Rates(for_others=rate), others=4) as world, trio.open_nursery() as nursery:
        given, own = Passed(), Passed()
        serve_sink(world.me, given)

        async def give(stream: Stream) -> None:
            while True:
                await stream.send_all(bytes(65_000))
                given.add(trio.current_time(), 65_000)

        world.me.serve("/fetch", give, streams_max=9, streams_max_per_peer=9)
        pusher, fetcher, mine, repaired = world.others
        nursery.start_soon(push_to, world, pusher)

        async def fetch() -> None:
            stream = await fetcher.open_stream(world.contact(), "/fetch")
            while await stream.receive_some(65_536):
                pass

        nursery.start_soon(fetch)
        for other, meter, network in ((mine, own, world.me), (repaired, given, world.me.for_others)):
            serve_sink(other, meter)
            (contact,) = contacts_of([other])
            nursery.start_soon(send_forever, await network.open_stream(contact, BULK))
        await trio.sleep(20)
        assert given.total() < 1.05 * 20 * rate + 3 * 65_000
        assert given.total() > 0.9 * 20 * rate
        assert own.total() > 20 * 5 * MIB
        nursery.cancel_scope.cancel()


async def test_short_requests_are_answered_while_bulk_fills_the_rate(autojump_clock: MockClock) -> None:
    async with around(Rates(upload=100 * KIB, download=100 * KIB)) as world, trio.open_nursery() as nursery:
        serve_sink(world.me, Passed())
        world.me.serve(ECHO, echo, streams_max=9, streams_max_per_peer=9)
        for other in world.others:
            serve_sink(other, Passed())
            (contact,) = contacts_of([other])
            nursery.start_soon(push_to, world, other)
            for _ in range(4):
                nursery.start_soon(send_forever, await world.me.open_stream(contact, BULK))
        await trio.sleep(10)
        asking = await world.others[0].open_stream(world.contact(), ECHO)
        for _ in range(20):
            began = trio.current_time()
            await asking.send_all(bytes(400))
            assert len(await asking.receive_some(4096)) == 400
            assert trio.current_time() - began < 0.6
        nursery.cancel_scope.cancel()


async def test_a_change_holds_at_once_for_open_streams_and_lifting_it_lets_them_run(
    autojump_clock: MockClock,
) -> None:
    async with around(Rates(), others=1) as world, trio.open_nursery() as nursery:
        taken = Passed()
        serve_sink(world.me, taken)
        nursery.start_soon(push_to, world, world.others[0])

        async def took(seconds: float) -> int:
            before = taken.total()
            await trio.sleep(seconds)
            return taken.total() - before

        assert await took(10) > 20 * MIB
        world.me.set_rates(Rates(for_others=50 * KIB))
        assert await took(10) <= 1.05 * 10 * 50 * KIB + 65_536  # what was read a moment before
        world.me.set_rates(Rates(download=200 * KIB))
        assert 9 * 200 * KIB < await took(10) <= 1.05 * 10 * 200 * KIB
        world.me.set_rates(Rates())
        assert await took(10) > 20 * MIB
        nursery.cancel_scope.cancel()


async def test_bytes_arrive_whole_and_in_order_through_every_change(autojump_clock: MockClock) -> None:
    content = Random(2).randbytes(700_001)
    async with around(Rates(upload=100 * KIB, download=80 * KIB), others=1) as world:
        world.me.serve(ECHO, echo, streams_max=1, streams_max_per_peer=1)
        stream = await world.others[0].open_stream(world.contact(), ECHO)
        got = bytearray()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(content)
                await stream.close_write()

            async def change() -> None:
                for rates in (
                    Rates(upload=3 * KIB),
                    Rates(),
                    Rates(download=9 * KIB),
                    Rates(1, 1, 1),
                    Rates(),
                ):
                    await trio.sleep(3)
                    world.me.set_rates(rates)

            nursery.start_soon(send)
            nursery.start_soon(change)
            while part := await stream.receive_some(1000):
                got += part
        assert bytes(got) == content


async def test_a_receiver_that_gives_up_waiting_loses_no_byte(autojump_clock: MockClock) -> None:
    content = bytes(range(256)) * 40
    async with around(Rates(download=1 * KIB), others=1) as world, trio.open_nursery() as nursery:
        served: list[Stream] = []

        async def hand_over(stream: Stream) -> None:
            served.append(stream)
            await trio.sleep_forever()

        world.me.serve(BULK, hand_over, streams_max=1, streams_max_per_peer=1)
        stream = await world.others[0].open_stream(world.contact(), BULK)
        nursery.start_soon(stream.send_all, content)
        await trio.sleep(1)
        got = bytearray()
        while len(got) < len(content):
            with trio.move_on_after(0.07):
                got += await served[0].receive_some(4096)
        assert bytes(got) == content
        nursery.cancel_scope.cancel()


async def test_a_sender_that_is_cancelled_while_it_waits_resets_its_stream_alone(
    autojump_clock: MockClock,
) -> None:
    async with around(Rates(upload=1 * KIB), others=1) as world:
        taken = Passed()
        serve_sink(world.others[0], taken)
        (contact,) = contacts_of(world.others)
        one, two = [await world.me.open_stream(contact, BULK) for _ in range(2)]
        with trio.move_on_after(5):
            await one.send_all(bytes(100_000))
        with pytest.raises(UnreachableError):
            await one.send_all(b"x")
        before = taken.total()
        await two.send_all(bytes(100))
        await trio.sleep(1)
        assert taken.total() == before + 100


async def test_without_a_rate_a_stream_s_own_calls_are_handed_on(autojump_clock: MockClock) -> None:
    async with around(Rates(), others=1) as world:
        serve_sink(world.others[0], Passed())
        (contact,) = contacts_of(world.others)
        stream = await world.me.open_stream(contact, BULK)
        sending = stream.send_all(b"x")
        assert "SimulatedStream" in sending.__qualname__  # type: ignore[attr-defined]
        await sending
        assert world.me.rates == Rates()
