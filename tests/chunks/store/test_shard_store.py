"""The shard store on a real disk and on a simulated one: rot, cap, rebuild, quarantine, limits."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.chunks.store.shard_index import IndexReader, shard_key
from node.chunks.store.shard_log import HEADER_BYTES, Location, pack_path
from node.chunks.store.shard_store import AttachmentKind, PutShard, ShardStore
from node.errors import CorruptBlockError, NotFoundError, ProtocolError, StoreError, StoreFullError
from node.system.disk import DiskFiles
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from node.units import LeaseId, SegmentId
from tests.chunks.store_world import (
    CAP_BYTES,
    GEOMETRY,
    CountingEntropy,
    World,
    begin,
    block,
    blocks,
    file_hash,
    lease,
    manifest,
    put,
    segment,
)

CAP_64_MB = 64_000_000


class RealStore:
    """A store in a folder of the real disk."""

    def __init__(self, home: Path, cap_bytes: int = CAP_64_MB) -> None:
        self.home = home
        self.cap_bytes = cap_bytes
        self.files = DiskFiles(home)
        self.open()

    def open(self) -> None:
        self.tables = LmdbStore(self.home / "index")
        self.store = ShardStore(self.files, self.tables, SystemEntropy(), cap_bytes=self.cap_bytes)

    def close(self) -> None:
        self.store.close()
        self.tables.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealStore]:
    store = RealStore(tmp_path / "home")
    yield store
    store.close()


def place_of(world: World, number: int, index: int, block_index: int) -> Location:
    with world.tables.view() as view:
        shard = IndexReader(view).shard(shard_key(segment(number), index))
    assert shard is not None
    return shard.blocks[block_index]


# --- what a put refuses ---------------------------------------------------------------------------------


def test_a_put_refuses_what_is_no_part_of_a_shard() -> None:
    world = World()
    incoming = begin(world.store, 1, [0])
    for wrong in [(64, b"x"), (-1, b"x"), (0, b""), (0, bytes(65_473))]:
        with pytest.raises(ProtocolError):
            incoming.append(0, [wrong])
    with pytest.raises(ProtocolError):
        incoming.append(1, [(0, b"x")])
    incoming.append(0, [(1, b"x")])
    with pytest.raises(ProtocolError, match="sent before"):
        incoming.append(0, [(1, b"y")])
    with pytest.raises(ProtocolError, match="missing"):
        incoming.commit(segment(1), b"", [PutShard(0, 0, lease(1))])
    incoming.append(0, [(0, b"z")])
    incoming.commit(segment(1), b"", [PutShard(0, 0, lease(1))])
    with pytest.raises(ProtocolError, match="over"):
        incoming.append(0, [(2, b"x")])
    assert [world.store.read_block(segment(1), 0, index) for index in (0, 1)] == [b"z", b"x"]


def test_a_put_takes_no_more_than_it_reserved() -> None:
    world = World()
    incoming = world.store.begin_put(world.store.reserve(64, block_count=1), 1)
    with pytest.raises(ProtocolError, match="reserved"):
        incoming.append(0, [(index, bytes(65_472)) for index in range(64)])
    incoming.abort()
    assert world.store.statistics().reserved_bytes == 0


def test_a_lease_id_belongs_to_one_shard() -> None:
    world = World()
    put(world.store, 1, {0: lease(7)})
    with pytest.raises(ProtocolError, match="another shard"):
        put(world.store, 1, {1: lease(7)})
    put(world.store, 1, {0: lease(7)})  # the same one again: a lost reply
    with pytest.raises(ProtocolError):
        put(world.store, 2, {0: lease(8), 1: lease(8)})
    assert len(world.store.leases(segment(1))) == 1
    world.check_accounts()


def test_nothing_is_kept_for_what_is_not_held() -> None:
    store = World().store
    with pytest.raises(NotFoundError):
        store.set_attachment(segment(1), file_hash(1), AttachmentKind.PLACEMENT, b"x")
    with pytest.raises(NotFoundError):
        store.merge_roster(segment(1), lambda old: b"x")
    with pytest.raises(NotFoundError):
        store.set_grant(segment(1), lambda old: b"x")
    with pytest.raises(NotFoundError):
        store.add_lease(segment(1), 0, lease(1))
    with pytest.raises(NotFoundError):
        store.read_block(segment(1), 0, 0)
    assert not store.end_lease(LeaseId(bytes(16)))
    assert store.segment_manifest(segment(1)) is None
    assert store.leaves(segment(1), 0) is None
    assert store.expire(10**9) == 0


def test_attachments_have_limits() -> None:
    world = World()
    put(world.store, 1, {0: lease(1)})
    with pytest.raises(ProtocolError):
        world.store.set_attachment(
            segment(1), file_hash(1), AttachmentKind.SEGMENT_MANIFESTS, bytes(256 * 1024 + 1)
        )
    with pytest.raises(StoreFullError):
        world.store.set_attachment(segment(1), file_hash(1), AttachmentKind.FILE_MANIFEST, bytes(4 << 20))


def test_segments_are_listed_in_order_and_in_pages() -> None:
    world = World()
    for number in range(9):
        put(world.store, number * len(GEOMETRY), {0: lease(2 * number), 3: lease(2 * number + 1)})
    everything = world.store.segments()
    assert everything == sorted(segment(number * len(GEOMETRY)) for number in range(9))
    paged: list[SegmentId] = []
    while page := world.store.segments(paged[-1] + b"\0" if paged else b"", limit=2):
        paged += page
    assert paged == everything


# --- rot ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 8, 30, 60, HEADER_BYTES, HEADER_BYTES + 40_000])
def test_a_flipped_bit_is_never_served_and_costs_the_shard_for_good(offset: int) -> None:
    world = World()
    put(world.store, 2, {0: lease(1), 1: lease(2)})
    place = place_of(world, 2, 0, 3)
    world.disk.flip_bit(pack_path(place.pack_id), place.offset + offset, 5)
    with pytest.raises(CorruptBlockError):
        world.store.read_block(segment(2), 0, 3)
    for _ in range(3):
        assert world.store.shards_of(segment(2)) == (1,)
        assert world.store.quarantined() == [(segment(2), 0)]
        with pytest.raises(NotFoundError):
            world.store.read_block(segment(2), 0, 0)
        assert world.store.read_block(segment(2), 1, 3) == block(2, 1, 3)
        assert len(world.store.leases(segment(2))) == 2
        world.check_accounts()
        while world.store.compact(10**9, urgent=True):
            pass
        world.store.close()
        world.tables.lose_everything()
        world.reopen()


def test_a_quarantined_shard_is_replaced_by_a_new_put_and_keeps_its_leases() -> None:
    world = World()
    put(world.store, 2, {0: lease(1)})
    place = place_of(world, 2, 0, 0)
    world.disk.flip_bit(pack_path(place.pack_id), place.offset + 100)
    assert world.store.scrub(b"", block_limit=1000) is None
    assert world.store.statistics().quarantined == 1
    put(world.store, 2, {0: lease(2)})
    for _ in range(2):
        assert world.store.read_block(segment(2), 0, 0) == block(2, 0, 0)
        assert len(world.store.leases(segment(2))) == 2
        assert world.store.statistics().quarantined == 0
        world.check_accounts()
        world.store.close()
        world.tables.lose_everything()
        world.reopen()


def test_scrub_resumes_at_its_cursor_and_reads_every_block() -> None:
    world = World()
    for number in range(4):
        put(world.store, number, {0: lease(number)})
    for number in range(4):
        place = place_of(world, number, 0, len(GEOMETRY[number]) - 1)
        world.disk.flip_bit(pack_path(place.pack_id), place.offset + HEADER_BYTES)
    cursor: bytes | None = b""
    calls = 0
    while cursor is not None:
        cursor = world.store.scrub(cursor, block_limit=2)
        calls += 1
    assert sorted(world.store.quarantined()) == sorted((segment(number), 0) for number in range(4))
    assert calls >= sum(map(len, GEOMETRY)) // 2


def test_compaction_quarantines_what_has_rotted_and_goes_on() -> None:
    world = World()
    for number in (2, 6, 10, 14):
        put(world.store, number, {0: lease(number)})
    place = place_of(world, 6, 0, 2)
    world.disk.flip_bit(pack_path(place.pack_id), place.offset + HEADER_BYTES + 9)
    world.store.end_lease(lease(2).lease_id)
    while world.store.compact(100_000, urgent=True):
        pass
    assert world.store.quarantined() == [(segment(6), 0)]
    assert [world.store.read_block(segment(n), 0, 5) for n in (10, 14)] == [block(10, 0, 5), block(14, 0, 5)]
    world.check_accounts()


def test_rot_anywhere_is_never_served(real: RealStore) -> None:
    for number in range(8):
        put(real.store, number, {0: lease(number)})
    real.close()
    for path in sorted((real.home / "packs").iterdir()):
        data = bytearray(path.read_bytes())
        for at in range(4096, len(data), 50_021):
            data[at] ^= 0x10
        path.write_bytes(data)
    real.open()
    for _ in range(2):
        for number in range(8):
            for index, data_of_block in blocks(number, 0):
                try:
                    assert real.store.read_block(segment(number), 0, index) == data_of_block
                except (CorruptBlockError, NotFoundError):
                    continue
        assert real.store.statistics().quarantined + real.store.statistics().shards <= 8
        real.close()
        shutil.rmtree(real.home / "index")
        real.open()


# --- cap ------------------------------------------------------------------------------------------------


def test_concurrent_puts_stay_under_64_mb(real: RealStore) -> None:
    """Shards larger than a pack, from many threads, until full; then compaction makes room for more."""
    size, count = 65_472, 64
    data = os.urandom(size)
    refused: list[StoreFullError] = []
    measured: list[int] = []
    kept: list[int] = []

    def fill(name: int) -> None:
        for number in range(100):
            try:
                incoming = real.store.begin_put(real.store.reserve(size * count, block_count=count), 1)
            except StoreFullError as error:
                refused.append(error)
                return
            for index in range(0, count, 8):
                incoming.append(0, [(at, data) for at in range(index, index + 8)])
                measured.append(real.files.allocated_bytes())
            lease_number = name * 1000 + number
            shards = [PutShard(0, 0, lease(lease_number))]
            incoming.commit(SegmentId(lease_number.to_bytes(32, "big")), b"m", shards)
            kept.append(lease_number)

    def run() -> None:
        threads = [threading.Thread(target=fill, args=(name,)) for name in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run()
    assert len(refused) == 4
    assert "64.0 MB" in str(refused[0])
    assert refused[0].exit_code == 10
    assert len(kept) >= 10  # 42 of the 64 MB hold shards
    for lease_number in kept[::2]:
        real.store.end_lease(lease(lease_number).lease_id)
    while real.store.compact(1 << 20):
        measured.append(real.files.allocated_bytes())
    before = len(kept)
    run()
    assert len(kept) > before
    assert max(measured) <= CAP_64_MB
    assert real.store.statistics().reserved_bytes == 0


def test_a_store_full_to_the_brim_still_renews_releases_and_compacts() -> None:
    world = World()
    numbers = iter(range(10_000))
    for remainder in (2, 3, 1, 0):  # large shards, then whatever still fits
        while True:
            number = next(numbers) * len(GEOMETRY) + remainder
            try:
                put(world.store, number, {0: lease(number)})
            except StoreFullError:
                break
    held = world.store.segments(limit=10_000)
    with pytest.raises(StoreFullError):
        world.store.merge_roster(held[0], lambda old: bytes(60_000))
    for position, segment_id in enumerate(held):
        world.store.add_lease(segment_id, 0, lease(1_000_000 + position))
    for segment_id in held[::2]:
        for kept in world.store.leases(segment_id):
            assert world.store.end_lease(kept.lease.lease_id)
    while world.store.compact(500_000):
        pass
    assert world.store.statistics().dead_bytes < world.cap_bytes // 4
    put(world.store, 2, {0: lease(2_000_000)})
    assert len(world.store.segments(limit=10_000)) == len(held) - len(held[::2]) + 1
    world.check_accounts()


@pytest.mark.parametrize("cap_bytes", [0, 16 << 20])
def test_leases_end_and_expire_on_a_store_whose_cap_fell_below_its_use(cap_bytes: int) -> None:
    world = World(cap_bytes=64 << 20)  # what the disk is watched for
    numbers = iter(range(2, 10_000, 4))
    while world.store.statistics().used_bytes < 20 << 20:
        number = next(numbers)
        put(world.store, number, {0: lease(number)})
    world.store.set_cap(cap_bytes)
    held = world.store.segments(limit=1000)
    with pytest.raises(StoreFullError):
        world.store.add_lease(held[0], 0, lease(1_000_000))
    for segment_id in held[1:]:
        for kept in world.store.leases(segment_id):
            assert world.store.end_lease(kept.lease.lease_id)
    assert world.store.segments(limit=1000) == held[:1]
    assert world.store.expire(2**40) == 1
    assert world.store.segments(limit=1000) == []
    world.check_accounts()


def test_an_expiry_without_anything_to_end_writes_nothing() -> None:
    world = World()
    put(world.store, 1, {0: lease(1, expires_s=1_000)})
    assert world.store.expire(500) == 0
    before = world.disk.operations
    assert world.store.expire(600) == 0
    assert world.disk.operations == before
    assert world.store.expire(1_000) == 1
    assert world.store.segments() == []
    world.check_accounts()


@pytest.mark.parametrize("cap_bytes", [0, 1_000_000])
def test_a_cap_too_small_holds_nothing(cap_bytes: int) -> None:
    store = World().store
    store.set_cap(cap_bytes)
    with pytest.raises(StoreFullError, match="holds nothing"):
        store.reserve(64, block_count=1)


def test_the_cap_grows_and_shrinks() -> None:
    world = World(cap_bytes=64 << 20)  # what the disk is watched for
    for number in range(2, 60, 4):
        put(world.store, number, {0: lease(number)})
    world.store.set_cap(17 << 20)
    put(world.store, 0, {0: lease(1000)})
    world.store.set_cap(CAP_64_MB // 6)
    with pytest.raises(StoreFullError):
        put(world.store, 4, {0: lease(1001)})
    assert world.store.read_block(segment(2), 0, 0) == block(2, 0, 0)
    world.store.end_lease(lease(2).lease_id)
    world.store.set_cap(64 << 20)
    put(world.store, 4, {0: lease(1001)})


def test_reservations_are_void_at_restart_and_freed_by_an_abort() -> None:
    world = World()
    free = world.store.statistics().free_bytes
    reservation = world.store.reserve(1_000_000, block_count=16)
    assert world.store.statistics().free_bytes <= free - 1_000_000
    reservation.release()
    reservation.release()
    assert world.store.statistics().free_bytes == free
    world.store.reserve(1_000_000, block_count=16)
    world.reopen()
    assert world.store.statistics().reserved_bytes == 0


def test_what_others_put_under_the_home_counts() -> None:
    world = World()
    free = world.store.statistics().free_bytes
    file = world.disk.open(pack_path(1).with_name("journal"), create=True)
    file.write_at(0, bytes(8 << 20))
    assert world.store.statistics().free_bytes < free - (3 << 20)


# --- faults of the disk ---------------------------------------------------------------------------------


def test_a_full_disk_refuses_and_harms_nothing() -> None:
    world = World()
    put(world.store, 1, {0: lease(1)})
    world.disk.capacity_bytes = world.disk.allocated_bytes() + 20_000
    with pytest.raises(StoreFullError):
        put(world.store, 2, {0: lease(2)})
    world.disk.capacity_bytes = None
    put(world.store, 2, {0: lease(3)})
    assert world.store.read_block(segment(1), 0, 0) == block(1, 0, 0)
    assert world.store.read_block(segment(2), 0, 5) == block(2, 0, 5)


def test_after_a_failed_sync_nothing_is_accepted_until_a_restart() -> None:
    world = World()
    put(world.store, 1, {0: lease(1)})
    world.disk.fail_syncs = True
    with pytest.raises(StoreError):
        put(world.store, 2, {0: lease(2)})
    world.disk.fail_syncs = False
    with pytest.raises(StoreError, match="stopped after a fault"):
        put(world.store, 3, {0: lease(3)})
    with pytest.raises(StoreError, match="stopped after a fault"):
        world.store.examine()
    assert world.store.read_block(segment(1), 0, 0) == block(1, 0, 0)
    world.disk.crash(0)
    world.reopen()
    put(world.store, 3, {0: lease(3)})
    assert world.store.shards_of(segment(1)) == (0,)


def test_a_clean_start_reads_no_record() -> None:
    world = World()
    for number in range(8):
        put(world.store, number, {0: lease(number)})
    world.store.close()
    before = world.disk.read_bytes
    world.reopen()
    assert world.disk.read_bytes == before
    assert world.store.segment_manifest(segment(7)) == manifest(7)
    assert world.disk.read_bytes > before


def test_a_store_opened_again_after_a_fault_has_all_that_was_acknowledged() -> None:
    world = World()
    put(world.store, 1, {0: lease(1)})
    unfinished = begin(world.store, 3, [0])
    unfinished.append(0, blocks(3, 0)[:1])
    world.disk.fail_syncs = True
    with pytest.raises(StoreError):
        put(world.store, 2, {0: lease(2)})
    with pytest.raises(StoreError):
        world.store.reopen()
    world.disk.fail_syncs = False
    world.store.set_cap(20 << 20)
    world.store.reopen()
    world.store.examine()
    with pytest.raises(ProtocolError, match="over"):
        unfinished.append(0, blocks(3, 0)[1:])
    assert world.store.read_block(segment(1), 0, 0) == block(1, 0, 0)
    figures = world.store.statistics()
    assert (figures.cap_bytes, figures.reserved_bytes) == (20 << 20, 0)
    put(world.store, 3, {0: lease(3)})
    world.reopen()
    assert world.store.shards_of(segment(3)) == (0,)


def fill(store: ShardStore) -> None:
    for number in range(42, 400, 4):
        put(store, number, {0: lease(number)})


def test_packs_on_a_disk_that_is_not_mounted_are_waited_for_and_never_written_over(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    files, index = DiskFiles(home), LmdbStore(home / "index")

    def opened() -> ShardStore:
        return ShardStore(files, index, CountingEntropy(), cap_bytes=CAP_BYTES)

    store = opened()
    for number in range(4):
        put(store, number, {0: lease(number)})
    (home / "packs").rename(elsewhere)
    with pytest.raises(StoreError, match="mounted"):
        store.examine()
    with pytest.raises(StoreError, match="mounted"):
        store.reopen()
    with pytest.raises(StoreError, match="mounted"), closing(opened()):  # nor at a start of the node
        pass
    with pytest.raises(StoreError, match=r"stopped|mounted"):
        fill(store)  # until a new pack is due
    assert not (home / "packs").exists()
    elsewhere.rename(home / "packs")
    store.reopen()
    for number in range(4):
        assert store.read_block(segment(number), 0, 0) == block(number, 0, 0)
    put(store, 5, {0: lease(5)})
    store.close()
    store = opened()
    assert store.shards_of(segment(5)) == (0,)
    assert store.shards_of(segment(0)) == (0,)
    store.close()
    index.close()


@pytest.mark.parametrize("cap_bytes", [20 << 20, 40 << 20])
def test_a_lowered_cap_holds_once_enough_has_ended(cap_bytes: int) -> None:
    world = World(cap_bytes=100 << 20)  # what the disk is watched for, all along
    numbers = iter(range(2, 10_000, 4))
    while world.store.statistics().used_bytes < 60 << 20:
        number = next(numbers)
        put(world.store, number, {0: lease(number)})
    world.store.set_cap(cap_bytes)
    assert world.store.excess_bytes()
    held = world.store.segments(limit=1000)
    if cap_bytes == 20 << 20:
        world.reopen()
        world.store.set_cap(cap_bytes)
    world.store.begin_shrinking()
    while world.store.excess_bytes():
        segment_id = held.pop()
        assert world.store.shard_costs(segment_id)[0] > sum(GEOMETRY[2])
        for kept in world.store.leases(segment_id):
            assert world.store.end_lease(kept.lease.lease_id)
        while world.store.compact(500_000):
            assert world.disk.allocated_bytes() <= 100 << 20
    assert world.store.statistics().used_bytes <= cap_bytes
    assert world.disk.allocated_bytes() <= cap_bytes
    assert world.store.segments(limit=1000) == held
    used = world.store.statistics().used_bytes
    assert used > cap_bytes // 2  # no more went than had to
    world.check_accounts()


def test_what_is_given_up_counts_as_lost_and_a_kill_before_the_end_loses_nothing() -> None:
    world = World()
    put(world.store, 2, {0: lease(2), 1: lease(3)})
    world.store._writer.stop(StoreError("the power goes between the two"))
    with pytest.raises(StoreError, match="the power"):
        world.store.give_up(segment(2), 0)
    world.reopen()
    assert world.store.shards_of(segment(2)) == (0, 1)
    assert world.store.losses() == []
    assert world.store.give_up(segment(2), 0) == 1
    assert world.store.shards_of(segment(2)) == (1,)
    assert [held.lease.lease_id for held in world.store.losses()] == [lease(2).lease_id]
    world.reopen()
    assert [held.lease.lease_id for held in world.store.losses()] == [lease(2).lease_id]
    world.check_accounts()
