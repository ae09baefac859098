"""Packs that vanish from the disk: what stood in them is known as lost, the rest is served."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from node.chunks.store.shard_log import GIVEN_UP, PACK_FOLDER
from node.errors import StoreError
from tests.chunks.store_world import World, begin, blocks, lease, put, segment

COUNT = 40


def filled() -> World:
    """A store of several packs."""
    world = World()
    for number in range(COUNT):
        put(world.store, number, {0: lease(2 * number), 1: lease(2 * number + 1)})
    world.store.close()
    return world


def packs(world: World) -> list[str]:
    return list(world.disk.list(PACK_FOLDER))


def readable(world: World, number: int, index: int) -> bool:
    if not world.store.has_shard(segment(number), index):
        return False
    return all(
        world.store.read_block(segment(number), index, place) == data for place, data in blocks(number, index)
    )


def test_every_lease_is_served_or_known_as_lost_whichever_pack_goes() -> None:
    names = packs(filled())
    assert len(names) > 3
    for name in names:
        world = filled()
        world.disk.delete(PurePath(PACK_FOLDER / name))
        world.reopen()
        lost = {int.from_bytes(held.lease.lease_id, "big") for held in world.store.losses()}
        served = {
            2 * number + index
            for number in range(COUNT)
            for index in (0, 1)
            if readable(world, number, index)
        }
        assert lost | served == set(range(2 * COUNT))
        assert not lost & served
        assert lost
        assert served
        statistics = world.store.statistics()
        assert world.store.has_losses()
        assert statistics.lost + statistics.quarantined > 0
        # It is known for longer than one start, and the store works on.
        put(world.store, COUNT, {0: lease(2 * COUNT)})
        world.store.close()
        world.reopen()
        again = {int.from_bytes(held.lease.lease_id, "big") for held in world.store.losses()}
        assert again == lost
        assert readable(world, COUNT, 0)


def test_a_whole_disk_that_is_gone_leaves_the_leases_as_lost() -> None:
    world = filled()
    for name in packs(world):
        world.disk.delete(PurePath(PACK_FOLDER / name))
    with pytest.raises(StoreError, match="is the disk mounted"):
        world.reopen()
    world.disk.replace(GIVEN_UP, b"")
    world.reopen()
    assert packs(world) == []
    lost = {int.from_bytes(held.lease.lease_id, "big") for held in world.store.losses()}
    assert lost == set(range(2 * COUNT))
    assert world.store.statistics().shards == 0
    world.store.forget_lost([held.lease.lease_id for held in world.store.losses()])
    assert not world.store.has_losses()
    incoming = begin(world.store, 1, [0])
    incoming.abort()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_what_stood_behind_the_end_of_a_cut_pack_is_known_as_lost(kept: float) -> None:
    world = filled()
    path = PurePath(PACK_FOLDER) / packs(world)[-1]
    file = world.disk.open(path)
    file.truncate(int(world.disk.length(path) * kept))
    world.reopen()
    lost = {int.from_bytes(held.lease.lease_id, "big") for held in world.store.losses()}
    served = {
        2 * number + index for number in range(COUNT) for index in (0, 1) if readable(world, number, index)
    }
    assert lost | served == set(range(2 * COUNT))
    assert not lost & served
    assert lost
    assert served


def test_a_lost_index_alone_loses_nothing() -> None:
    world = filled()
    with world.tables.view() as view:
        tables = {key for key, _ in view.scan("store.shards")}
    assert len(tables) == 2 * COUNT
    fresh = World()
    fresh.disk = world.disk
    fresh.tables = type(world.tables)(world.disk)
    fresh.store = fresh._opened()
    assert all(readable(fresh, number, index) for number in range(COUNT) for index in (0, 1))
    assert not fresh.store.has_losses()
