"""Health is what was proved during the call, whatever records say."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks.geometry import Code
from node.chunks.get.health import HealthReport, SegmentHealth
from node.errors import NotFoundError
from node.units import FileHash
from simulations.network import Link as Wire
from tests.chunks.planting import content_of, plant
from tests.chunks.swarm import Swarm

CODE = Code(2, 6)
STRIPE = CODE.stripe_plaintext_bytes


@pytest.fixture
async def swarm(swarm: Swarm) -> Swarm:
    """Six donors."""
    await swarm.add_holders(6)
    return swarm


def states(segment: SegmentHealth) -> dict[int, str]:
    return {holder.shard: holder.state for holder in segment.holders}


async def test_a_fresh_file_is_whole(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(2 * STRIPE), code=CODE)
    steps: list[tuple[int, int]] = []
    async with swarm.visitor() as visitor:
        report = await visitor.health_checker().check(
            planted.link.file_hash, on_progress=lambda done, total: steps.append((done, total))
        )
    (segment,) = report.segments
    assert (segment.index, segment.alive, segment.needed, segment.total) == (0, 6, 2, 6)
    assert states(segment) == dict.fromkeys(range(6), "proved")
    assert [holder.peer_id for holder in segment.holders] == [holder.peer_id for holder in swarm.holders]
    assert report.healthy
    assert steps == [(1, 1)]


async def test_every_state_is_told_apart(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(2 * STRIPE), code=CODE)
    dead, rotten, empty, slow = swarm.holders[:4]
    swarm.kill([dead])
    rotten.rot()
    for held in empty.store.leases(planted.segments[0].segment_id):
        empty.store.end_lease(held.lease.lease_id)
    async with swarm.visitor() as visitor:
        swarm.internet.set_link(slow.peer_id, visitor.network.peer_id, Wire(latency_s=7))
        report = await visitor.health_checker().check(planted.link.file_hash)
        (segment,) = report.segments
        assert states(segment) == {
            0: "unreachable", 1: "corrupt", 2: "missing", 3: "slow", 4: "proved", 5: "proved"
        }  # fmt: skip
        assert segment.alive == 3
        assert not report.healthy
        assert report.retrievable


async def test_a_holder_of_several_shards_is_asked_for_each(autojump_clock: MockClock, swarm: Swarm) -> None:
    planted = await plant(swarm, content_of(10), code=CODE, holders=swarm.holders[:2])
    two = swarm.holders[1]
    gone = [held for held in two.store.leases(planted.segments[0].segment_id) if held.shard_index in (1, 3)]
    for held in gone:
        two.store.end_lease(held.lease.lease_id)
    async with swarm.visitor() as visitor:
        report = await visitor.health_checker().check(planted.link.file_hash)
    found = states(report.segments[0])
    assert Counter(found.values()) == {"proved": 4, "missing": 2}
    assert {shard for shard, state in found.items() if state == "missing"} == {1, 3}


async def test_only_verify_finds_every_bad_block(autojump_clock: MockClock, swarm: Swarm) -> None:
    """One flipped bit in one of 40 blocks: a sample may miss it, reading everything can't."""
    planted = await plant(swarm, content_of(40 * STRIPE), code=CODE)
    victim = swarm.holders[1]
    victim.rot_once(planted.segments[0].segment_id, 1, 17)
    async with swarm.visitor() as visitor:
        checker = visitor.health_checker()
        verified = await checker.check(planted.link.file_hash, verify=True)
        assert states(verified.segments[0])[1] == "corrupt"
        assert verified.segments[0].alive == 5
        again = await checker.check(planted.link.file_hash)
        assert states(again.segments[0])[1] in ("corrupt", "missing")  # quarantined: never served again


async def test_repaired_shards_are_found_through_rosters(autojump_clock: MockClock, swarm: Swarm) -> None:
    """The placement is old: shards were placed elsewhere since, which only their holders know."""
    planted = await plant(swarm, content_of(10), code=CODE, holders=swarm.holders[:3])
    moved = await plant(swarm, content_of(10), code=CODE, holders=swarm.holders[3:], attach=False)
    assert moved.segments == planted.segments
    async with swarm.visitor() as repairer, repairer.client.session(swarm.holders[3].contact) as session:
        await session.announce(segment_ids=[moved.segments[0].segment_id])
    swarm.kill(swarm.holders[:2])
    async with swarm.visitor() as visitor:
        report = await visitor.health_checker().check(planted.link.file_hash)
        assert report.segments[0].alive == 6
        assert report.healthy
        assert await visitor.read(planted.link) == content_of(10)


async def test_health_is_told_for_dead_files_too(autojump_clock: MockClock, swarm: Swarm) -> None:
    code = Code(1, 2)
    content = content_of(code.segment_plaintext_bytes + 1)
    planted = await plant(swarm, content, code=code, holders=swarm.holders[:2])
    async with swarm.visitor() as visitor:
        swarm.kill(swarm.holders[1:2])
        report: HealthReport = await visitor.health_checker().check(planted.link.file_hash)
        assert [segment.alive for segment in report.segments] == [1, 1]
        assert [segment.index for segment in report.segments] == [0, 1]
        swarm.kill(swarm.holders[:1])
        started = trio.current_time()
        with pytest.raises(NotFoundError):
            await visitor.health_checker().check(planted.link.file_hash)
        assert trio.current_time() - started <= limits.LOCATE_TIMEOUT_S
        with pytest.raises(NotFoundError):
            await visitor.health_checker().check(FileHash(bytes(32)))
