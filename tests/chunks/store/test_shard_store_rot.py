"""Bits that rot: found by reads and by the scrub, never served, and replaced."""

from __future__ import annotations

import shutil

import pytest

from node.chunks.store.shard_index import IndexReader, shard_key
from node.chunks.store.shard_log import HEADER_BYTES, Location, pack_path
from node.errors import CorruptBlockError, NotFoundError
from tests.chunks.store.real_store import RealStore
from tests.chunks.store_world import (
    GEOMETRY,
    World,
    block,
    blocks,
    lease,
    put,
    segment,
)


def place_of(world: World, number: int, index: int, block_index: int) -> Location:
    with world.tables.view() as view:
        shard = IndexReader(view).shard(shard_key(segment(number), index))
    assert shard is not None
    return shard.blocks[block_index]


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
