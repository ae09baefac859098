"""Put while things fail: holders that refuse, fill up, die, hang; a putter that is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks.geometry import Code
from node.chunks.placement import quorum
from node.chunks.put.put_file import PutSettings
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.errors import FileChangedError, NotEnoughPeersError, UsageError
from simulations.network import Link
from tests.chunks.put.test_upload import read_back
from tests.chunks.put_swarm import Donor, Putter, Swarm, swarm_of, until, write_file

SMALL = Code(2, 5)
HOME_LINE = Link(latency_s=0.01, rate_bytes_s=2_000_000)
SMALL_CAP = 16 * 1024 * 1024
"""The least that a donor may give: room for two shards of a full segment."""
SEGMENT = SMALL.segment_plaintext_bytes
SHARD = limits.SEGMENT_STRIPES * limits.BLOCK_BYTES


async def put_with_trouble(
    swarm: Swarm, path: Path, trouble: Callable[[], bool], act: Callable[[], object], code: Code = SMALL
) -> PutReport:
    """Put, and do something bad as soon as a condition holds."""
    async with Putter(swarm).running() as uploader, trio.open_nursery() as nursery:

        async def watch() -> None:
            await until(trouble)
            result = act()
            if hasattr(result, "__await__"):
                await result

        nursery.start_soon(watch)
        report = await uploader.put(path, PutOptions(code=code))
        nursery.cancel_scope.cancel()
    return report


def held_once(swarm: Swarm, code: Code) -> bool:
    """Whether every shard of the one segment is on exactly one live donor."""
    shards = [
        shard
        for donor in swarm.donors
        if donor.alive
        for segment_id in donor.store.segments()
        for shard in donor.store.shards_of(segment_id)
    ]
    return sorted(shards) == list(range(code.total_shards))


async def test_donors_that_give_nothing_or_are_full_are_passed_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 500_000)
    async with swarm_of(5) as swarm:
        await swarm.add_donors(3, cap_bytes=0)
        await swarm.add_donors(3, cap_bytes=64 * 1024)
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert report.holders == 5
        assert {d.store.statistics().leases for d in swarm.donors[:5]} == {1}
        assert read_back(swarm, report) == path.read_bytes()


async def test_a_donor_that_fills_up_between_offer_and_put_is_replaced(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 500_000)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        shrunk: list[Donor] = []

        def shrink(phase: str) -> None:
            if phase == "send" and not shrunk:
                shrunk.extend(swarm.donors[:1])
                swarm.donors[0].store.set_cap(64 * 1024)

        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL), lambda p: shrink(p.phase))
        assert shrunk
        assert swarm.donors[0].store.statistics().shards == 0
        assert report.missing_shards == 0
        assert held_once(swarm, SMALL)
        assert swarm.reserved_bytes() == 0


@pytest.mark.parametrize("spare", [1, 0])
async def test_a_holder_that_dies_in_the_middle_is_replaced(
    spare: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 3_000_000)
    async with swarm_of(5 + spare, link=HOME_LINE) as swarm:
        victims = swarm.donors

        def some_received() -> bool:
            return any(donor.server.traffic.bytes_received > 500_000 for donor in victims)

        async def kill() -> None:
            victim = max(victims, key=lambda donor: donor.server.traffic.bytes_received)
            await victim.die()

        report = await put_with_trouble(swarm, path, some_received, kill)
        assert sum(not donor.alive for donor in swarm.donors) == 1
        assert report.missing_shards == 0
        # With a spare donor it takes the whole shard; else the others hold two of some.
        assert report.holders == 5 if spare else 4
        assert held_once(swarm, SMALL)
        assert read_back(swarm, report) == path.read_bytes()
        assert swarm.reserved_bytes() == 0


async def test_a_holder_that_hangs_is_replaced_by_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 3_000_000)
    async with swarm_of(6, link=HOME_LINE) as swarm:

        def hang() -> None:
            victim = max(swarm.donors, key=lambda donor: donor.server.traffic.bytes_received)
            swarm.internet.partition([victim.peer_id])

        started_s = trio.current_time()
        report = await put_with_trouble(
            swarm, path, lambda: any(d.server.traffic.bytes_received > 500_000 for d in swarm.donors), hang
        )
        assert report.missing_shards == 0
        assert trio.current_time() - started_s < 120
        assert read_back(swarm, report) == path.read_bytes()
        await trio.sleep(limits.PUT_SILENCE_S + 10)
        assert swarm.reserved_bytes() == 0


async def test_one_slow_holder_does_not_hold_up_the_put(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 3_000_000)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        slow = swarm.donors[0].peer_id
        putter = Putter(swarm, settings=PutSettings(stall_s=1000.0, straggler_s=10.0))
        swarm.internet.set_link(putter.keys.peer_id, slow, Link(latency_s=0.01, rate_bytes_s=2_000))
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert report.missing_shards == 0
        assert report.seconds < 60  # at 2 kB/s its shard alone would take 750 s
        assert swarm.donors[0].store.statistics().shards == 0
        assert read_back(swarm, report) == path.read_bytes()


async def test_settles_for_the_quorum_only_when_a_holder_failed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    code = Code(2, 12)
    path = write_file(tmp_path, 1_000_000)
    shard_bytes = 550_000
    async with swarm_of(12, cap_bytes=SMALL_CAP, link=HOME_LINE) as swarm:
        # Each donor has room for one shard and no more.
        for donor in swarm.donors:
            while donor.store.statistics().free_bytes > 2 * shard_bytes + 100_000:
                donor.store.reserve(100_000, block_count=2)

        async def kill() -> None:
            await swarm.donors[3].die()

        report = await put_with_trouble(
            swarm, path, lambda: swarm.donors[3].server.traffic.bytes_received > 100_000, kill, code
        )
        assert report.missing_shards == 1
        assert quorum(code) <= 11
        assert any("repair" in note for note in report.notes)
        assert read_back(swarm, report) == path.read_bytes()


@pytest.mark.parametrize("survivors", [0, 2])
async def test_when_too_many_die_the_put_fails_clearly_and_nothing_stays_reserved(
    survivors: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, SEGMENT)
    async with swarm_of(6, cap_bytes=SMALL_CAP, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader, trio.open_nursery() as nursery:

            async def kill() -> None:
                await until(lambda: swarm.bytes_received() > 1_000_000)
                for donor in swarm.donors[survivors:]:
                    await donor.die()

            nursery.start_soon(kill)
            with pytest.raises(NotEnoughPeersError) as caught:
                await uploader.put(path, PutOptions(code=SMALL))
        assert "\n" not in str(caught.value)
        assert str(quorum(SMALL)) in str(caught.value)
        assert putter.home.list(Path("puts")) == []
        assert swarm.reserved_bytes() == 0
        assert swarm.leases() == 0
        for donor in swarm.donors[survivors:]:
            await swarm.nursery.start(donor.run)
        assert swarm.reserved_bytes() == 0
        assert swarm.leases() == 0


async def test_segments_that_were_placed_before_a_failure_are_kept_for_the_next_try(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 3 * SEGMENT)
    async with swarm_of(5, link=HOME_LINE) as swarm:
        putter = Putter(swarm, settings=PutSettings(segments_in_flight=1))
        async with putter.running() as uploader, trio.open_nursery() as nursery:

            async def kill() -> None:
                await until(lambda: swarm.bytes_received() > 6 * SHARD)
                for donor in swarm.donors:
                    await donor.die()

            nursery.start_soon(kill)
            with pytest.raises(NotEnoughPeersError):
                await uploader.put(path, PutOptions(code=SMALL))
        assert len(putter.home.list(Path("puts"))) == 1
        for donor in swarm.donors:
            await swarm.nursery.start(donor.run)
        assert swarm.leases() == 5  # the first segment's
        before = swarm.bytes_received()
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert swarm.bytes_received() - before <= 10 * SHARD
        assert read_back(swarm, report) == path.read_bytes()
        assert swarm.leases() == 15


async def test_without_donors_it_fails_before_anything_is_sent(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 1000)
    async with swarm_of(2, cap_bytes=0) as swarm:
        async with Putter(swarm).running() as uploader:
            with pytest.raises(NotEnoughPeersError) as caught:
                await uploader.put(path, PutOptions())
        assert caught.value.exit_code == 21
        assert "24" in str(caught.value)


async def killed_put(swarm: Swarm, putter: Putter, path: Path, dies: Callable[[], bool]) -> None:
    """A put whose process is killed."""
    async with trio.open_nursery() as nursery:

        async def life() -> None:
            async with putter.running() as uploader:
                await uploader.put(path, PutOptions(code=SMALL))

        nursery.start_soon(life)
        await until(dies)
        nursery.cancel_scope.cancel()


def half_sent(swarm: Swarm, path: Path) -> bool:
    """Whether holders have half of all blocks."""
    return 2 * swarm.bytes_received() >= path.stat().st_size * SMALL.total_shards // SMALL.data_shards


@pytest.mark.parametrize("size", [6_000_000, 2 * SEGMENT + 6_000_000])
@pytest.mark.parametrize("crash", [False, True])
async def test_a_put_killed_half_way_sends_the_rest_only(
    size: int, crash: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, size)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        await killed_put(swarm, putter, path, lambda: half_sent(swarm, path))
        if crash:
            putter.crash()
        first = swarm.bytes_received()
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert read_back(swarm, report) == path.read_bytes()
        assert report.missing_shards == 0
        second = swarm.bytes_received() - first
        # What was on its way when the putter died is sent again; nothing else is.
        in_flight = SMALL.total_shards * (256 * 1024 + limits.BLOCK_BYTES)
        assert second <= report.stored_bytes - first + 2 * in_flight
        assert swarm.leases() == 5 * report.segments
        assert swarm.reserved_bytes() == 0
        assert putter.home.list(Path("puts")) == []


async def test_resumed_after_the_reservations_lapsed(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 6_000_000)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        await killed_put(swarm, putter, path, lambda: half_sent(swarm, path))
        assert swarm.reserved_bytes() > 0
        await trio.sleep(limits.PUT_SILENCE_S + 10)
        assert swarm.reserved_bytes() == 0
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert read_back(swarm, report) == path.read_bytes()
        assert swarm.leases() == 5


@pytest.mark.parametrize("same_stat", [False, True])
async def test_a_source_that_changed_in_between_is_refused_and_its_leases_are_released(
    same_stat: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 2 * SEGMENT + 1_000_000)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        two_segments = 2 * SHARD * SMALL.total_shards
        await killed_put(swarm, putter, path, lambda: swarm.bytes_received() > two_segments)
        assert swarm.leases() == 10
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(-500_000, os.SEEK_END)
            file.write(b"changed")
        if same_stat:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        async with putter.running() as uploader:
            with pytest.raises(FileChangedError):
                await uploader.put(path, PutOptions(code=SMALL))
            assert swarm.leases() == 0
            assert swarm.reserved_bytes() == 0
            assert putter.home.list(Path("puts")) == []
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert read_back(swarm, report) == path.read_bytes()


async def test_one_put_of_a_source_at_a_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 100_000)
    async with (
        swarm_of(6, link=HOME_LINE) as swarm,
        Putter(swarm).running() as uploader,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(uploader.put, path, PutOptions(code=SMALL))
        await until(lambda: swarm.bytes_received() > 0)
        with pytest.raises(UsageError):
            await uploader.put(path, PutOptions(code=SMALL))


@pytest.mark.parametrize("checkpoints", range(6))
async def test_a_put_goes_on_while_somebody_looks_for_stale_ones(
    tmp_path: Path, autojump_clock: MockClock, checkpoints: int
) -> None:
    path = write_file(tmp_path, 2 * SEGMENT)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        await killed_put(swarm, putter, path, lambda: swarm.leases() > 0)
        async with putter.running() as uploader, trio.open_nursery() as nursery:
            nursery.start_soon(uploader.drop_stale)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert read_back(swarm, report) == path.read_bytes()


async def test_stale_puts_are_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 2 * SEGMENT)
    async with swarm_of(6, link=HOME_LINE) as swarm:
        putter = Putter(swarm)
        await killed_put(swarm, putter, path, lambda: swarm.leases() > 0)
        async with putter.running() as uploader:
            assert await uploader.drop_stale() == 0
            await trio.sleep(8 * 86_400)
            assert await uploader.drop_stale() == 1
        assert swarm.leases() == 0
        assert swarm.reserved_bytes() == 0
