"""A donor that lowers its cap makes room: files stay whole, and only what has no other place is dropped."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.control.api import control_handlers
from node.control.server import Events
from node.daemon.memory import Donation
from node.units import MIB, SegmentId
from tests.daemon.healing_swarm import Swarm, comes_true, put, swarm_of
from tests.daemon.worlds import Machine, World

CODE = Code(2, 6)
LOWER = 16 * MIB


async def filled(swarm: Swarm, tmp_path: Path, *, files: int = 12) -> list[SegmentId]:
    """Segments of files of 4 MB each, which all donors keep together."""
    segments = []
    for number in range(files):
        path = tmp_path / f"file {number}"
        path.write_bytes(bytes([number]) * 4_000_000)
        segments += (await put(swarm, path, CODE))[1]
    return segments


async def test_shards_go_to_others_and_every_file_stays_whole(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(7, **{"repair.check_interval_s": 3600}) as (swarm, _):
        segments = await filled(swarm, tmp_path)
        number = max(range(7), key=lambda each: swarm.donors[each].store.statistics().shards)
        donor = swarm.donors[number]
        before = donor.store.statistics()
        assert before.used_bytes > LOWER
        await donor.set_donation(Donation(LOWER))
        progress = await donor.healing.evictor.progress()
        assert progress is not None
        assert progress.left_bytes > 0

        def is_whole() -> bool:
            return all(swarm.shards(segment).keys() == set(range(6)) for segment in segments)

        def is_done() -> bool:
            assert is_whole()
            assert donor.store.statistics().used_bytes <= before.used_bytes + LOWER
            return donor.store.statistics().used_bytes <= LOWER and not donor.store.excess_bytes()

        assert await comes_true(is_done, 900)
        after = donor.store.statistics()
        assert 0 < after.shards < before.shards
        assert not donor.store.losses()
        assert await donor.healing.evictor.progress() is None
        for segment in segments:
            health = [count for count in swarm.shards(segment).values() if count != 1]
            assert health == []


async def test_a_restart_goes_on_making_room(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm_of(7) as (swarm, _):
        segments = await filled(swarm, tmp_path)
        number = max(range(1, 7), key=lambda each: swarm.donors[each].store.statistics().shards)
        await swarm.kill(number)
        machine = swarm.machines[number]
        machine.give(LOWER)  # as `cairn run --donate` does
        async with swarm.node(machine) as donor:
            assert donor.store.statistics().used_bytes > LOWER
        async with swarm.node(machine) as donor:
            assert await comes_true(lambda: donor.store.statistics().used_bytes <= LOWER, 900)
            assert not donor.store.losses()
            for segment in segments:
                kept = set(swarm.shards(segment)) | set(donor.store.shards_of(segment))
                assert kept == set(range(6))


async def test_what_finds_no_place_is_dropped_late_said_and_no_more_than_needed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    settings = {"repair.evict_after_s": 600, "repair.check_interval_s": 86_400}
    async with swarm_of(3, **settings) as (swarm, _):
        segments = await filled(swarm, tmp_path, files=5)
        for donor in swarm.donors[1:]:
            donor.store.set_cap(donor.store.statistics().used_bytes)  # nobody has room
        donor = swarm.donors[0]
        before = donor.store.statistics().shards
        assert before == 10
        await donor.set_donation(Donation(LOWER))
        assert not await comes_true(lambda: donor.store.statistics().shards < before, 300)
        assert await comes_true(lambda: not donor.store.excess_bytes(), 1200)
        after = donor.store.statistics()
        assert after.used_bytes <= LOWER
        dropped = before - after.shards
        assert 0 < dropped < before
        # One of each file went before two of one, and what is left fills the cap but for a shard.
        left = [len(donor.store.shards_of(segment)) for segment in segments]
        assert max(left) - min(left) <= 1
        assert after.free_bytes < 3 * MIB
        lost = [held.lease.lease_id for held in donor.store.losses()]
        assert len(lost) == dropped

        def others_know() -> bool:
            known = {
                lease_id
                for segment in segments
                for lease_id, each in swarm.donors[1].evidence.of_segment(segment).leases.items()
                if each.is_lost
            }
            return known >= set(lost)

        assert await comes_true(others_know, 300)


async def test_a_cap_of_nothing_moves_what_it_can_and_drops_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(3, **{"repair.evict_after_s": 0}) as (swarm, _):
        segments = await filled(swarm, tmp_path, files=2)
        for donor in swarm.donors[1:]:
            donor.store.set_cap(donor.store.statistics().used_bytes)
        leaver = swarm.donors[0]
        shards = leaver.store.statistics().shards
        await leaver.set_donation(Donation(0))
        assert not await comes_true(lambda: leaver.store.statistics().shards < shards, 600)
        for donor in swarm.donors[1:]:
            await donor.set_donation(Donation(64 * MIB))
        assert await comes_true(lambda: leaver.store.statistics().shards == 0, 900)
        assert all(swarm.shards(segment).keys() == set(range(6)) for segment in segments)


async def test_a_lonely_node_with_nothing_to_move_has_drained_at_once(autojump_clock: MockClock) -> None:
    world, machine = World(), Machine("lonely")
    machine.give(64 * MIB)

    async def send(message: object) -> None:
        raise AssertionError(message)

    async with world.node(machine) as node:
        started = trio.current_time()
        result = await control_handlers(node)["drain"]({}, Events(send))
        assert result == {"moved": 0, "remaining": 0}
        assert trio.current_time() == started  # it waits for nobody
        assert node.healing.leaving()
