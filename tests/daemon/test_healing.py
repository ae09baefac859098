"""Whole nodes in virtual time heal what is lost, without the owner and without a key."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.chunks.roster import live_leases
from node.chunks.store.shard_store import AttachmentKind
from node.errors import StoreError, UsageError
from node.units import DAY_S
from tests.clocks import START_S
from tests.daemon.healing_swarm import comes_true, put, swarm_of
from tests.daemon.worlds import Machine, contact_of

if TYPE_CHECKING:
    from trio_typing import TaskStatus


async def test_holders_remake_what_died_with_others(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 2000)
    code = Code(3, 8)
    async with swarm_of(12) as (swarm, _), AsyncExitStack() as stack:
        report, (segment_id,) = await put(swarm, path, code)
        assert swarm.shards(segment_id) == dict.fromkeys(range(8), 1)
        for number in swarm.holders(segment_id)[:4]:
            await swarm.kill(number)
        assert len(swarm.shards(segment_id)) == 4
        assert await comes_true(lambda: len(swarm.shards(segment_id)) == 8, 1800)
        assert swarm.shards(segment_id) == dict.fromkeys(range(8), 1)
        friend = await stack.enter_async_context(
            swarm.world.node(Machine("friend"), listed=[contact_of(swarm.living()[0])], config=swarm.config)
        )
        assert await friend.wait_joined(30)
        got = await friend.downloader.save(report.link, tmp_path / "copy")
        assert got.path.read_bytes() == path.read_bytes()
        health = await friend.health.check(report.file_hash)
        assert [(segment.alive, segment.total) for segment in health.segments] == [(8, 8)]


async def test_a_drain_moves_everything_and_health_stays_full(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    code = Code(2, 6)
    async with swarm_of(8) as (swarm, _):
        paths = []
        for number in range(3):
            path = tmp_path / f"file {number}"
            path.write_bytes(bytes([number]) * 400_000)
            paths.append(await put(swarm, path, code))
        segments = [segment for _, found in paths for segment in found]
        leaver = swarm.holders(segments[0])[0]
        mine = sum(len(swarm.donors[leaver].store.shards_of(segment)) for segment in segments)
        assert mine
        lowest: list[int] = []
        steps: list[tuple[int, int]] = []

        def on_progress(moved: int, remaining: int) -> None:
            steps.append((moved, remaining))
            lowest.extend(len(swarm.shards(segment)) for segment in segments)

        asker = swarm.donors[swarm.holders(segments[0])[1]]

        async def ask(task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            while True:
                for report_of, _ in paths:
                    health = await asker.health.check(report_of.file_hash)
                    lowest.extend(segment.alive for segment in health.segments)
                    asked.append(report_of.name)

        asked: list[str] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(ask)
            report = await swarm.donors[leaver].healing.drain(on_progress)
            nursery.cancel_scope.cancel()
        assert asked
        assert (report.moved, report.remaining) == (mine, 0)
        assert steps[-1] == (mine, 0)
        assert min(lowest) == code.total_shards
        assert swarm.donors[leaver].statistics().store.shards == 0
        await swarm.kill(leaver)
        for report_of, _ in paths:
            health = await swarm.living()[0].health.check(report_of.file_hash)
            assert [segment.alive for segment in health.segments] == [code.total_shards]
            assert leaver not in swarm.holders(segments[0])
        # Several segments moved at a time: whoever took one has what belongs to its file as well.
        for (report_of, found), number in product(paths, range(8)):
            store = swarm.donors[number].store
            if number != leaver and store.shards_of(found[0]):
                assert store.attachment(report_of.file_hash, AttachmentKind.FILE_MANIFEST) is not None


async def test_a_drain_on_a_disk_that_fails_says_so_and_ends_nothing_else(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(400_000))
    async with swarm_of(8) as (swarm, _):
        _, segments = await put(swarm, path, Code(2, 6))
        leaver = swarm.holders(segments[0])[0]
        swarm.machines[leaver].disk.fail_syncs = True
        with pytest.raises(StoreError, match="sync"):
            await swarm.donors[leaver].healing.drain(lambda moved, remaining: None)
        assert len(swarm.shards(segments[0])) == 6


async def test_a_drain_that_is_cut_short_goes_on_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(400_000))
    async with swarm_of(3) as (swarm, _):
        _, (segment_id,) = await put(swarm, path, Code(1, 3))
        leaver = swarm.holders(segment_id)[0]
        node, machine = swarm.donors[leaver], swarm.machines[leaver]
        node.healing.leaving.set(True)  # as by a drain that was killed before its first move
        await swarm.kill(leaver)
        async with swarm.world.node(
            machine, listed=[contact_of(swarm.living()[0])], config=swarm.config
        ) as again:
            assert again.healing.leaving()
            assert await comes_true(lambda: again.statistics().store.shards == 0, 1200)
        assert swarm.shards(segment_id) == dict.fromkeys(range(3), 1)


async def test_nothing_is_asked_of_a_donor_that_left_in_order(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The placement still names it; its own handovers say that it keeps nothing."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    async with swarm_of(6) as (swarm, _), AsyncExitStack() as stack:
        sharer = await stack.enter_async_context(
            swarm.world.node(Machine("sharer"), listed=[contact_of(swarm.donors[0])], config=swarm.config)
        )
        assert await sharer.wait_joined(30)
        report = await sharer.uploader.put(path, PutOptions(code=Code(2, 4)))
        (segment_id,) = [segment.segment_id for segment in sharer.catalogue.segments(report.file_hash)]
        leaver, dead = swarm.holders(segment_id)[:2]
        drained = await swarm.donors[leaver].healing.drain(lambda _moved, _remaining: None)
        assert drained.remaining == 0
        await swarm.kill(leaver)
        renewed = await sharer.renewer.renew(report.file_hash, duration_s=60 * DAY_S)
        assert (renewed.leases, renewed.unreachable_holders) == (4, 0)
        await swarm.kill(dead)  # which is another matter
        released = await sharer.renewer.release(report.file_hash)
        assert released.unreachable_holders == 1
        assert swarm.shards(segment_id) == {}


async def test_few_donors_spread_as_more_appear(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    async with swarm_of(3) as (swarm, nursery):
        report, (segment_id,) = await put(swarm, path, Code(3, 9))
        assert [len(node.store.shards_of(segment_id)) for node in swarm.donors] == [3, 3, 3]
        await swarm.add(nursery, 6)
        for node in swarm.donors[3:]:
            assert await node.wait_joined(30)
        assert await comes_true(
            lambda: [len(node.store.shards_of(segment_id)) for node in swarm.donors] == [1] * 9, 3600
        )
        assert swarm.shards(segment_id) == dict.fromkeys(range(9), 1)
        health = await swarm.donors[0].health.check(report.file_hash)
        assert [segment.alive for segment in health.segments] == [9]


async def test_the_owner_repairs_at_once_and_strangers_do_not(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    quiet = {"repair.check_interval_s": 86_400}
    async with swarm_of(10, **quiet) as (swarm, _), AsyncExitStack() as stack:
        listed = [contact_of(swarm.donors[0])]
        sharer = await stack.enter_async_context(
            swarm.world.node(Machine("sharer"), listed=listed, config=swarm.config)
        )
        assert await sharer.wait_joined(30)
        report = await sharer.uploader.put(path, PutOptions(code=Code(2, 6)))
        (segment_id,) = [segment.segment_id for segment in sharer.catalogue.segments(report.file_hash)]
        stranger = next(node for node in swarm.donors if not node.store.shards_of(segment_id))
        for number in swarm.holders(segment_id)[:2]:
            await swarm.kill(number)
        with pytest.raises(UsageError):
            await stranger.healing.repairer.repair(report.file_hash)
        repaired = await sharer.healing.repairer.repair(report.file_hash)
        assert (repaired.repaired, repaired.segments, repaired.notes) == (2, 1, ())
        assert swarm.shards(segment_id) == dict.fromkeys(range(6), 1)
        again = await sharer.healing.repairer.repair(report.file_hash)
        assert (again.repaired, again.segments) == (0, 1)


async def test_a_holder_that_comes_back_leaves_one_copy(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    patient = {"repair.stagger_s": 600}
    async with swarm_of(10, **patient) as (swarm, _), AsyncExitStack() as stack:
        report, (segment_id,) = await put(swarm, path, Code(2, 6))
        lost = swarm.holders(segment_id)[:3]
        for number in lost:
            await swarm.kill(number)
        assert await comes_true(lambda: len(swarm.shards(segment_id)) == 6, 6000)
        back = [
            await stack.enter_async_context(
                swarm.world.node(
                    swarm.machines[number], listed=[contact_of(swarm.living()[0])], config=swarm.config
                )
            )
            for number in lost
        ]

        def copies() -> dict[int, int]:
            found = swarm.shards(segment_id)
            for node in back:
                for index in node.store.shards_of(segment_id):
                    found[index] = found.get(index, 0) + 1
            return found

        assert sorted(copies().values()) == [1, 1, 1, 2, 2, 2]
        for node in (*swarm.living(), *back):  # as audits would
            view = node.healing.held.view(segment_id)
            if view is not None:
                node.healing.held.note(await node.healing.healer.survey(view))
        assert await comes_true(lambda: copies() == dict.fromkeys(range(6), 1), 3600)
        holders = [node for node in (*swarm.living(), *back) if node.store.shards_of(segment_id)]
        today = START_S // DAY_S
        for node in holders:
            live = live_leases(node.server.rosters.known_leases(segment_id), today=today)
            mine = [lease for lease in live if lease.holder == node.keys.peer_id]
            assert len(mine) == 1
            assert len({lease.shard_index for lease in live}) == 6
        health = await back[0].health.check(report.file_hash)
        assert [segment.alive for segment in health.segments] == [6]
