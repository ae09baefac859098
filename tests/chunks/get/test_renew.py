"""Leases are extended and ended by their owner alone, and the holders' disks show it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.roster import begun_leases
from node.crypto.sealing import owner_key
from node.errors import NotFoundError, RemoteError, UsageError
from node.records.lease import Lease, Release
from node.records.placement_hint import hint_key, validate_hint
from node.units import DAY_S, MIB, OwnerKey
from simulations.network import Link as Wire
from tests.chunks.planting import LEASE_DAYS, TODAY, Planted, content_of, plant
from tests.chunks.swarm import ACCOUNT_SEED, NETWORK, NOW_S, Holder, Swarm

CODE = Code(2, 6)


@pytest.fixture
async def swarm(autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    """Three donors, which keep two shards of a segment each."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, wire=Wire(latency_s=0.005), cap_bytes=32 << 20)
        await swarm.add_holders(3)
        yield swarm
        nursery.cancel_scope.cancel()


def leases_at(holder: Holder, planted: Planted) -> list[Lease]:
    return [
        Lease.decode(held.lease.data, network=NETWORK)
        for segment in planted.segments
        for held in holder.store.leases(segment.segment_id)
    ]


async def test_renewing_adds_leases_that_last(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    async with swarm.visitor() as visitor:
        report = await visitor.renewer().renew(planted.link.file_hash, duration_s=60 * DAY_S)
        assert (report.leases, report.unreachable_holders) == (6, 0)
        assert report.expires_s == (TODAY + 60) * DAY_S + (DAY_S if NOW_S % DAY_S else 0)
        for holder in swarm.holders:
            ends = sorted(lease.end_day for lease in leases_at(holder, planted))
            assert ends == sorted(2 * [TODAY + LEASE_DAYS] + 2 * [report.expires_s // DAY_S])
        again = await visitor.renewer().renew(planted.link.file_hash, duration_s=60 * DAY_S)
        assert again.leases == 0
        assert again.expires_s == report.expires_s


async def test_no_day_is_paid_for_twice(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    async with swarm.visitor() as visitor:
        for days in (40, 50, 60):
            await visitor.renewer().renew(planted.link.file_hash, duration_s=days * DAY_S)
            for holder in swarm.holders:
                for shard_index in {lease.shard_index for lease in leases_at(holder, planted)}:
                    paid = [
                        (lease.start_day, lease.end_day)
                        for lease in leases_at(holder, planted)
                        if lease.shard_index == shard_index
                    ]
                    end_day = -(-(NOW_S + days * DAY_S) // DAY_S)
                    middle = TODAY + LEASE_DAYS
                    assert sorted(paid) == [(TODAY, middle), (middle, end_day)]
                    known = holder.server.rosters.known_leases(planted.segments[0].segment_id)
                    begun = begun_leases(known, today=TODAY)
                    assert {lease.end_day for lease in begun} == {middle}


async def test_a_renewal_that_is_late_begins_today(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    swarm.clock.time_s += (LEASE_DAYS + 5) * DAY_S
    today = swarm.clock.now_s() // DAY_S
    async with swarm.visitor() as visitor:
        report = await visitor.renewer().renew(planted.link.file_hash, duration_s=60 * DAY_S)
        assert report.leases == 6
        assert {lease.start_day for lease in report.renewed} == {today}


async def test_a_dead_holder_is_counted_and_the_others_renew(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    swarm.kill(swarm.holders[:1])
    async with swarm.visitor() as visitor:
        report = await visitor.renewer().renew(planted.link.file_hash, duration_s=60 * DAY_S)
        assert (report.leases, report.unreachable_holders) == (4, 1)


async def test_releasing_frees_the_holders_bytes(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(1_500_000), code=CODE)
    used = [holder.store.statistics().used_bytes for holder in swarm.holders]
    async with swarm.visitor() as visitor:
        for days in (40, 50, 60):
            await visitor.renewer().renew(planted.link.file_hash, duration_s=days * DAY_S)
        report = await visitor.renewer().release(planted.link.file_hash)
        assert report.leases == 2 * 6  # the present ones, and one renewal of each
        for holder in swarm.holders:
            while holder.store.compact(MIB):
                pass
        for holder, before in zip(swarm.holders, used, strict=True):
            assert leases_at(holder, planted) == []
            statistics = holder.store.statistics()
            assert statistics.shards == 0
            assert statistics.used_bytes < before / 2
        with pytest.raises(NotFoundError):
            await visitor.read(planted.link)


async def test_only_the_owner_ends_the_owner_s_leases(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    async with swarm.visitor() as visitor:
        stranger = visitor.renewer(bytes(32))
        with pytest.raises(UsageError, match="not yours"):
            await stranger.release(planted.link.file_hash)
    assert sum(len(leases_at(holder, planted)) for holder in swarm.holders) == 6


@pytest.mark.parametrize("forgery", ["unsigned", "foreign"])
async def test_holders_refuse_a_release_that_the_owner_did_not_sign(
    autojump_clock: MockClock, swarm: Swarm, forgery: str
) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    holder = swarm.holders[0]
    lease = leases_at(holder, planted)[0]
    foreign = owner_key(bytes(32), bytes(16))
    if forgery == "unsigned":
        release = Release(NETWORK, lease.lease_id, lease.holder, lease.owner_key)
    else:
        bare = Release(NETWORK, lease.lease_id, lease.holder, OwnerKey(foreign.public))
        release = bare.sign(foreign)
    async with swarm.visitor() as visitor:
        with pytest.raises(RemoteError):
            async with visitor.client.session(holder.contact) as session:
                await session.release([release.encode()])
    assert len(leases_at(holder, planted)) == 2


async def test_a_renewal_stores_a_hint_that_lasts_as_long(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(100), code=CODE)
    async with swarm.visitor() as visitor:
        report = await visitor.renewer().renew(planted.link.file_hash, duration_s=60 * DAY_S)
        key = hint_key(planted.link.file_hash)
        value = await visitor.directory.get_value(key)
        assert value is not None
        hint = validate_hint(key, value, now_s=NOW_S, network=NETWORK)
    assert hint.expires_s == report.expires_s
    assert {contact.peer_id for contact in hint.holders} == {holder.peer_id for holder in swarm.holders}


async def test_a_lease_has_a_length(autojump_clock: MockClock, swarm: Swarm) -> None:
    assert owner_key(ACCOUNT_SEED, bytes(16)).public != owner_key(bytes(32), bytes(16)).public
    planted = await plant(swarm, content_of(100), code=CODE)
    async with swarm.visitor() as visitor:
        for seconds in (-DAY_S, 500 * DAY_S):
            with pytest.raises(UsageError, match="1 to"):
                await visitor.renewer().renew(planted.link.file_hash, duration_s=seconds)
