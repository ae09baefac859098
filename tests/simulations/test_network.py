"""The internet in memory: what it adds to the port, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.errors import UnreachableError
from node.ports import Stream
from node.units import Contact
from simulations.network import WINDOW_BYTES, Internet, Link, SimulatedNetwork, contacts_of
from tests.dht.support import peer_id_of
from tests.streams import echo

ECHO = "/cairn/echo/1"


@asynccontextmanager
async def two_nodes(internet: Internet) -> AsyncIterator[tuple[SimulatedNetwork, SimulatedNetwork]]:
    async with internet.join(peer_id_of(1)) as one, internet.join(peer_id_of(2)) as other:
        other.serve(ECHO, echo, streams_max=8, streams_max_per_peer=8)
        yield one, other


def contact(network: SimulatedNetwork) -> Contact:
    return contacts_of([network])[0]


async def test_latency_counts_both_ways(autojump_clock: MockClock) -> None:
    async with two_nodes(Internet(Random(0), link=Link(latency_s=0.025))) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        opened_s = trio.current_time()
        assert opened_s == pytest.approx(0.1)  # a round trip to connect, one to agree
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        assert trio.current_time() - opened_s == pytest.approx(0.05)


async def test_directions_differ(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with two_nodes(internet) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        internet.set_link(one.peer_id, other.peer_id, Link(latency_s=3))
        start_s = trio.current_time()
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        assert trio.current_time() - start_s == pytest.approx(3)


async def test_a_rate_spreads_bytes_over_time(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with two_nodes(internet) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        internet.set_link(one.peer_id, other.peer_id, Link(rate_bytes_s=100_000))
        await stream.send_all(bytes(200_000))
        received = 0
        while received < 200_000:
            received += len(await stream.receive_some(65_536))
        assert trio.current_time() == pytest.approx(2, rel=0.05)


async def test_order_within_a_stream_survives_jitter(autojump_clock: MockClock) -> None:
    async with two_nodes(Internet(Random(3), link=Link(latency_s=0.01, jitter_s=0.2))) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        for index in range(50):
            await stream.send_all(bytes([index]))
        received = b""
        while len(received) < 50:
            received += await stream.receive_some(50)
        assert received == bytes(range(50))


async def test_the_same_seed_takes_the_same_time(autojump_clock: MockClock) -> None:
    async def run(seed: int) -> float:
        start_s = trio.current_time()
        async with two_nodes(Internet(Random(seed), link=Link(jitter_s=1.0))) as (one, other):
            stream = await one.open_stream(contact(other), ECHO)
            for _ in range(10):
                await stream.send_all(b"x")
                await stream.receive_some(1)
        return round(trio.current_time() - start_s, 9)

    assert await run(5) == await run(5)
    assert await run(5) != await run(6)


async def test_a_node_behind_nat_dials_and_is_not_dialled(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with (
        internet.join(peer_id_of(1), dialable=False) as hidden,
        internet.join(peer_id_of(2)) as open_node,
    ):
        hidden.serve(ECHO, echo, streams_max=8, streams_max_per_peer=8)
        with pytest.raises(UnreachableError):
            await open_node.connect(contact(hidden))
        await hidden.connect(contact(open_node))
        stream = await open_node.open_stream(Contact(hidden.peer_id), ECHO)
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"


async def test_a_partition_holds_bytes_back_and_then_breaks_connections(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with two_nodes(internet) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        internet.partition([one.peer_id], [other.peer_id])
        await stream.send_all(b"x")
        with trio.move_on_after(limits.CONNECTION_SILENCE_S - 1) as scope:
            await stream.receive_some(1)
        assert scope.cancelled_caught
        assert one.connected() == (other.peer_id,)
        await trio.sleep(2)
        assert one.connected() == other.connected() == ()
        with pytest.raises(UnreachableError):
            await stream.receive_some(1)
        with pytest.raises(UnreachableError):
            await one.connect(contact(other))
        internet.heal()
        await one.connect(contact(other))


async def test_a_short_partition_loses_nothing(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with two_nodes(internet) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        internet.partition([one.peer_id])
        await stream.send_all(b"x")
        await trio.sleep(limits.CONNECTION_SILENCE_S / 2)
        internet.heal()
        assert await stream.receive_some(1) == b"x"
        await trio.sleep(limits.CONNECTION_SILENCE_S)
        assert one.connected() == (other.peer_id,)


async def test_a_cut_connection_fails_its_streams(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with two_nodes(internet) as (one, other):
        stream = await one.open_stream(contact(other), ECHO)
        internet.cut(one.peer_id, other.peer_id)
        with pytest.raises(UnreachableError):
            await stream.receive_some(1)
        assert one.connected() == other.connected() == ()


async def test_a_node_that_leaves_takes_its_connections_along(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with internet.join(peer_id_of(1)) as one:
        async with internet.join(peer_id_of(2)) as other:
            await one.connect(contact(other))
            gone = contact(other)
        assert one.connected() == ()
        with pytest.raises(UnreachableError):
            await one.connect(gone)


async def test_what_is_not_read_is_bounded(autojump_clock: MockClock) -> None:
    async with two_nodes(Internet(Random(0))) as (one, other):

        async def deaf(stream: Stream) -> None:
            await trio.sleep_forever()

        other.serve("/cairn/deaf/1", deaf, streams_max=1, streams_max_per_peer=1)
        stream = await one.open_stream(contact(other), "/cairn/deaf/1")
        sent = 0
        with trio.move_on_after(60):
            while sent < 100 * WINDOW_BYTES:
                await stream.send_all(bytes(1_000))
                sent += 1_000
        assert sent <= WINDOW_BYTES + 1_000


async def test_a_reset_shows_as_either_of_two_things() -> None:
    """The port allows an error and a clean end; code under simulation meets both."""
    seen = set()
    for seed in range(20):
        async with two_nodes(Internet(Random(seed))) as (one, other):

            async def reset(stream: Stream) -> None:
                await stream.reset()

            other.serve("/cairn/reset/1", reset, streams_max=1, streams_max_per_peer=1)
            stream = await one.open_stream(contact(other), "/cairn/reset/1")
            try:
                seen.add(await stream.receive_some(1))
            except UnreachableError:
                seen.add(b"error")
    assert seen == {b"", b"error"}
