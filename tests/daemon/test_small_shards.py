"""Whole nodes whose shards are small and seldom audited: the dead are missed in time, others left alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.chunks import repair
from node.chunks.audit import due_days
from node.chunks.geometry import Code
from node.chunks.healing.prober import Prober, Seen
from node.chunks.manifest import SegmentManifest
from node.records.lease import Lease
from node.units import KIB
from tests.daemon.healing_swarm import Swarm, comes_true, put, swarm_of

CODE = Code(3, 8)
ROUND_S, DEAD_S, STAGGER_S = 600, 1_200, 20
SETTINGS = {
    "audit.interval_s": ROUND_S,
    "repair.check_interval_s": 60,
    "repair.dead_after_s": DEAD_S,
    "repair.stagger_s": STAGGER_S,
}


def small_file(tmp_path: Path) -> Path:
    """A file of shards of 64 KiB, which are sampled in every thirtieth round."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (3 * 60 * 4))
    assert due_days(60 * KIB) == 30
    return path


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many leases each probe of any node asked for, as they are made."""
    asked: list[int] = []
    real = Prober.probe

    async def probe(
        self: Prober, segment: SegmentManifest, leases: Iterable[Lease], *, patience_s: float = 0.0
    ) -> dict[Lease, Seen]:
        wanted = list(leases)
        asked.append(len(wanted))
        return await real(self, segment, wanted, patience_s=patience_s)

    monkeypatch.setattr(Prober, "probe", probe)
    return asked


def standings(swarm: Swarm) -> set[repair.Standing]:
    """What copies count as, at any living holder."""
    found = set()
    for node in swarm.living():
        for segment_id in node.store.segments():
            view = node.healing.held.view(segment_id, whole=False)
            assert view is not None
            found |= {
                repair.standing(copy, now_s=node.ports.clock.now_s(), dead_after_s=DEAD_S)
                for copy in node.healing.held.copies(view).values()
            }
    return found


async def test_where_nobody_dies_no_block_is_asked_for(
    autojump_clock: MockClock, tmp_path: Path, probes: list[int]
) -> None:
    """Twenty rounds, ten times `dead_after_s`, without a proof of most shards."""
    async with swarm_of(10, **SETTINGS) as (swarm, _):
        await put(swarm, small_file(tmp_path), CODE)
        probes.clear()
        await trio.sleep(20 * ROUND_S)
        assert probes == []
        assert standings(swarm) == {repair.Standing.ALIVE}
        samples = sum(node.auditing.statistics.samples for node in swarm.donors)
        assert samples <= CODE.total_shards


async def test_the_dead_are_replaced_in_time_and_later_deaths_as_well(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(14, **SETTINGS) as (swarm, _):
        _, (segment_id,) = await put(swarm, small_file(tmp_path), CODE)
        trigger = repair.trigger_count(CODE, 0.5)
        holders = swarm.holders(segment_id)
        died_s = trio.current_time()
        for number in holders[:trigger]:
            await swarm.kill(number)
        assert await comes_true(lambda: len(swarm.shards(segment_id)) == 8, DEAD_S + 3 * ROUND_S)
        took_s = trio.current_time() - died_s
        assert DEAD_S <= took_s <= DEAD_S + 2 * ROUND_S + 8 * STAGGER_S
        # One more, far under the trigger: the segment was repaired today and is whole again all the same.
        died_s = trio.current_time()
        await swarm.kill(holders[trigger])
        assert await comes_true(lambda: len(swarm.shards(segment_id)) == 8, DEAD_S + 3 * ROUND_S)
        assert trio.current_time() - died_s >= DEAD_S, "an outage repairs nothing here either"
        assert swarm.shards(segment_id) == dict.fromkeys(range(8), 1)


async def test_one_death_in_a_segment_that_was_never_repaired_moves_nothing(
    autojump_clock: MockClock, tmp_path: Path, probes: list[int]
) -> None:
    async with swarm_of(12, **SETTINGS) as (swarm, _):
        _, (segment_id,) = await put(swarm, small_file(tmp_path), CODE)
        await swarm.kill(swarm.holders(segment_id)[0])
        probes.clear()
        await trio.sleep(8 * ROUND_S)
        assert probes == []
        assert len(swarm.shards(segment_id)) == 7
        assert repair.Standing.LOST in standings(swarm), "known, and under the trigger"


async def test_whoever_was_away_and_returned_counts_as_dead_with_nobody(
    autojump_clock: MockClock, tmp_path: Path, probes: list[int]
) -> None:
    async with swarm_of(10, **SETTINGS) as (swarm, nursery):
        _, (segment_id,) = await put(swarm, small_file(tmp_path), CODE)
        number = swarm.holders(segment_id)[1]
        await swarm.kill(number)
        assert await comes_true(lambda: repair.Standing.SUSPENDED in standings(swarm), 2 * ROUND_S)
        assert repair.Standing.LOST not in standings(swarm)
        stop, over = swarm.stops[number], swarm.gone[number] = trio.Event(), trio.Event()
        swarm.stops[number] = stop
        swarm.donors[number] = await nursery.start(swarm._run, swarm.machines[number], stop, over)
        probes.clear()
        await trio.sleep(3 * ROUND_S)
        for _ in range(6):
            await trio.sleep(ROUND_S)
            assert standings(swarm) == {repair.Standing.ALIVE}
        assert probes == []
