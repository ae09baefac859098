"""Reservations of a holder: they lapse, they are limited, and those who come share the room."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio
from trio.testing import MockClock

from node import limits
from node.chunks import messages
from node.chunks.client import HolderClient
from node.errors import RefusedError
from node.records.offer import Offer
from tests.chunks.put_swarm import Donor
from tests.chunks.sample_segment import sample_segment
from tests.chunks.serve.one_donor import PUT_ID, assert_untouched, one_donor, refused


async def test_a_reservation_lapses_after_two_minutes_of_silence(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        await session.open_put(sample.open_request(PUT_ID, (0,)))
        await trio.sleep(limits.PUT_SILENCE_S - 10)
        assert donor.store.statistics().reserved_bytes > 0
        await trio.sleep(20)
        assert_untouched(donor)
        await session.reset()


async def test_an_aborted_put_frees_its_reservation(autojump_clock: MockClock) -> None:
    async with one_donor() as (_, donor, client), client.session(donor.contact) as session:
        await session.open_put(sample_segment().open_request(PUT_ID, (0,)))
        await session.abort_put(PUT_ID)
        assert_untouched(donor)


async def test_unfinished_puts_of_one_peer_are_limited(autojump_clock: MockClock) -> None:
    sample = sample_segment(1000)
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
                await session.open_put(sample.open_request(bytes([number]) * 16, (0,)))
            request = sample.open_request(b"x" * 16, (0,))
            await refused("busy", lambda: session.open_put(request))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_PER_PEER_MAX


async def _reserve_until_full(client: HolderClient, donor: Donor, name: bytes) -> int:
    """Open puts of all shards of whole segments at 10/30 until the donor is full; how many it took."""
    block = limits.BLOCK_BYTES
    async with client.session(donor.contact) as session:
        for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
            put_id = messages.PutId(name + bytes([number]) * 8)
            try:
                await session.open_put(
                    messages.PutOpen(put_id, 10, 30, block, block, limits.SEGMENT_STRIPES, tuple(range(30)))
                )
            except RefusedError as error:
                if error.code != messages.REFUSED_FULL:
                    raise
                return number
    raise AssertionError("the donor has room for more")


async def _offered(client: HolderClient, donor: Donor) -> int:
    """The room that a peer is offered."""
    async with client.session(donor.contact) as session:
        return Offer.decode((await session.offer(1000, 3)).record, network="test").free_bytes


async def test_one_peer_alone_may_reserve_all_room_and_gives_way_to_others(autojump_clock: MockClock) -> None:
    """Reservations that are not filled keep nobody out: each who comes has an equal part."""
    sample = sample_segment()
    async with one_donor() as (swarm, donor, greedy), swarm.client("modest") as modest:
        free_bytes = donor.store.statistics().free_bytes
        taken = await _reserve_until_full(greedy, donor, b"greedy..")
        assert donor.store.statistics().free_bytes < free_bytes // 5
        assert await _offered(greedy, donor) < free_bytes // 5
        assert free_bytes // 3 < await _offered(modest, donor) <= free_bytes // 2

        async with modest.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0, 1))
        also = await _reserve_until_full(modest, donor, b"modest..")
        assert also >= taken // 2
        assert taken - 1 <= donor.server.statistics().open_puts <= taken
        # They don't push each other out in turn.
        assert await _reserve_until_full(greedy, donor, b"again...") == 0
        assert await _reserve_until_full(modest, donor, b"again...") == 0
        assert taken - 1 <= donor.server.statistics().open_puts <= taken


async def test_places_go_to_who_has_fewer(autojump_clock: MockClock) -> None:
    sample = sample_segment(1000)
    crowd = limits.PUTS_OPEN_MAX // limits.PUTS_OPEN_PER_PEER_MAX
    async with one_donor() as (swarm, donor, client), AsyncExitStack() as stack:
        for peer in range(crowd):
            one = await stack.enter_async_context(swarm.client(f"crowd {peer}"))
            session = await stack.enter_async_context(one.session(donor.contact))
            for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
                await session.open_put(sample.open_request(bytes([number]) * 16, (0,)))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_MAX
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_MAX - 1
