"""The cap holds whatever comes at once; a store over it, or full to the brim, still lets go."""

from __future__ import annotations

import os
import threading

import pytest

from node.chunks.store.shard_log import pack_path
from node.chunks.store.shard_store import PutShard
from node.errors import StoreFullError
from node.units import SegmentId
from tests.chunks.store.real_store import CAP_64_MB, RealStore
from tests.chunks.store_world import (
    GEOMETRY,
    World,
    block,
    lease,
    put,
    segment,
)


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


def test_what_others_put_under_the_home_counts() -> None:
    world = World()
    free = world.store.statistics().free_bytes
    file = world.disk.open(pack_path(1).with_name("journal"), create=True)
    file.write_at(0, bytes(8 << 20))
    assert world.store.statistics().free_bytes < free - (3 << 20)


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
