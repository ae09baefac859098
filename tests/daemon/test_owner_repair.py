"""An owner's node, while it is online, keeps its files whole by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.chunks.roster import live_leases
from node.daemon.compose import Node
from node.units import DAY_S, MIB, SegmentId
from tests.clocks import START_S
from tests.daemon.healing_swarm import Swarm, comes_true, swarm_of
from tests.daemon.worlds import Machine, contact_of

CODE = Code(2, 6)
ONE_SHARD_EACH = 6 * MIB
"""A file of which a donor of the test keeps one shard of a newcomer's, for want of credit for two."""
STRANGERS = {"credit.local_line": 0}


@asynccontextmanager
async def owner_of(
    swarm: Swarm, path: Path, machine: Machine | None = None
) -> AsyncIterator[tuple[Node, PutReport, SegmentId]]:
    """A node that has put a file and stays."""
    machine = machine or Machine("owner")
    async with swarm.world.node(machine, listed=[contact_of(swarm.donors[0])], config=swarm.config) as owner:
        assert await owner.wait_joined(30)
        report = await owner.uploader.put(path, PutOptions(code=CODE))
        (segment,) = owner.catalogue.segments(report.file_hash)
        yield owner, report, segment.segment_id


def live_in_catalogue(owner: Node, report: PutReport) -> Sequence[int]:
    """Shards that the owner's audits go by."""
    (segment,) = owner.catalogue.segments(report.file_hash)
    return sorted(lease.shard_index for lease in live_leases(segment.leases, today=START_S // DAY_S))


async def test_one_lost_shard_is_remade_long_before_the_holders_would(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    async with swarm_of(9) as (swarm, _), owner_of(swarm, path) as (owner, report, segment_id):
        await swarm.kill(swarm.holders(segment_id)[0])
        assert len(swarm.shards(segment_id)) == 5
        await trio.sleep(240)  # an outage shorter than `dead_after_s` repairs nothing
        assert len(swarm.shards(segment_id)) == 5
        assert await comes_true(lambda: owner.healing.owner_watch.statistics.shards_remade == 1, 600)
        assert swarm.shards(segment_id) == dict.fromkeys(range(6), 1)
        assert all(node.healing.service.statistics.shards_remade == 0 for node in swarm.living())
        (segment,) = owner.catalogue.segments(report.file_hash)
        holders = {lease.holder for lease in segment.leases}
        assert {swarm.donors[number].keys.peer_id for number in swarm.holders(segment_id)} <= holders
        await trio.sleep(300)  # and no more than that
        assert owner.healing.owner_watch.statistics.shards_remade == 1


async def test_holders_alone_wait_for_their_threshold(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    async with swarm_of(9) as (swarm, _):
        async with owner_of(swarm, path) as (_, _, segment_id):
            pass
        await swarm.kill(swarm.holders(segment_id)[0])
        await trio.sleep(1800)
        assert len(swarm.shards(segment_id)) == 5


async def test_what_found_no_holder_is_placed_once_a_donor_appears(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (ONE_SHARD_EACH // 256))
    async with (
        swarm_of(5, **STRANGERS) as (swarm, nursery),
        owner_of(swarm, path) as (owner, report, segment_id),
    ):
        assert report.missing_shards == 1
        assert any("queued for repair" in note for note in report.notes)
        path.unlink()  # it is remade from the other shards
        await trio.sleep(600)
        assert len(swarm.shards(segment_id)) == 5
        await swarm.add(nursery, 1)
        assert await comes_true(lambda: owner.healing.owner_watch.statistics.shards_remade == 1, 600)
        assert swarm.shards(segment_id) == dict.fromkeys(range(6), 1)
        assert len(swarm.donors[5].store.shards_of(segment_id)) == 1
        assert live_in_catalogue(owner, report) == list(range(6))
        (segment,) = owner.catalogue.segments(report.file_hash)
        assert not any(lease.is_granted for lease in segment.leases)
        health = await swarm.donors[0].health.check(report.file_hash)
        assert [segment.alive for segment in health.segments] == [6]
        released = await owner.renewer.release(report.file_hash)
        assert released.leases == 6
        assert await comes_true(lambda: not swarm.shards(segment_id), 600)


async def test_on_demand_places_what_found_no_holder(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (ONE_SHARD_EACH // 256))
    quiet = {"repair.check_interval_s": 86_400, **STRANGERS}
    async with swarm_of(5, **quiet) as (swarm, nursery), owner_of(swarm, path) as (owner, report, segment_id):
        nobody = await owner.healing.repairer.repair(report.file_hash)
        assert (nobody.repaired, nobody.segments) == (0, 1)
        assert nobody.notes
        assert all(node.statistics().store.reserved_bytes == 0 for node in swarm.donors)
        await swarm.add(nursery, 1)
        assert await swarm.donors[5].wait_joined(30)
        await trio.sleep(60)
        repaired = await owner.healing.repairer.repair(report.file_hash)
        assert (repaired.repaired, repaired.notes) == (1, ())
        assert swarm.shards(segment_id) == dict.fromkeys(range(6), 1)
        assert live_in_catalogue(owner, report) == list(range(6))


async def test_a_node_without_files_asks_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm_of(4) as (swarm, _):
        await trio.sleep(600)
        assert all(node.healing.owner_watch.statistics.rounds > 3 for node in swarm.donors)
        assert all(node.healing.owner_watch.statistics.looks == 0 for node in swarm.donors)


async def test_looks_without_a_reason_are_few_and_spread(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.chunks.healing.owner_watch.LOOKS_PER_ROUND", 2)
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    async with swarm_of(7) as (swarm, _), owner_of(swarm, path) as (owner, _, _):
        for number in range(4):
            path.write_bytes(bytes([number + 1]) * 1000)
            await owner.uploader.put(path, PutOptions(code=CODE))
        watch = owner.healing.owner_watch.statistics
        rounds, looks = watch.rounds, watch.looks
        await trio.sleep(600)
        assert watch.rounds - rounds >= 9
        assert rounds <= watch.looks - looks <= 2 * (watch.rounds - rounds + 1)
        assert watch.shards_remade == 0
