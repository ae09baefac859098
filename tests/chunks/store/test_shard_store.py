"""The shard store: what it refuses, what it lists, restarts and faults of the disk."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from node.chunks.store.shard_store import AttachmentKind, PutShard, ShardStore
from node.errors import NotFoundError, ProtocolError, StoreError, StoreFullError
from node.system.disk import DiskFiles
from node.system.lmdb_store import LmdbStore
from node.units import LeaseId, SegmentId
from simulations.machine import SeededEntropy
from tests.chunks.store_world import (
    CAP_BYTES,
    GEOMETRY,
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


# --- cap ------------------------------------------------------------------------------------------------


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
        return ShardStore(files, index, SeededEntropy("store"), cap_bytes=CAP_BYTES)

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
