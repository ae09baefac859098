"""A donor that loses shards says so: co-holders know at once, and heal."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path, PurePath

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.losses import own_word
from node.chunks.manifest import SegmentManifest
from node.chunks.put.upload import PutOptions
from node.chunks.store.shard_log import GIVEN_UP, PACK_FOLDER, PACK_SUFFIX
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.daemon.compose import Node
from node.daemon.config import build_config
from node.errors import CryptoError
from node.records.lease import Lease
from node.units import MIB, MINUTE_S, SegmentId
from tests.chunks.sample_segment import sample_segment
from tests.daemon.worlds import Machine, World, contact_of

CONFIG = build_config(
    {
        "repair.check_interval_s": 60,
        "repair.dead_after_s": 600,
        "repair.stagger_s": 5,
        "repair.threshold": 0.0,
    }
)


@given(st.binary(min_size=32, max_size=32))
def test_a_holder_s_own_word_proves_its_loss_and_nobody_else_s(nonce: bytes) -> None:

    sample = sample_segment(1000)
    holder = sample.owner
    lease = sample.lease(peer_id_of(holder.public), 0).countersign(holder)
    word = own_word(lease, holder, peer_id_of(holder.public), nonce)
    word.verify(sample.manifest)
    assert not word.is_false
    assert (word.segment_id, word.shard_index) == (sample.manifest.segment_id, 0)

    with pytest.raises(CryptoError):
        own_word(lease, KeyPair.from_seed(bytes(32)), peer_id_of(holder.public), nonce)


async def start(stack: AsyncExitStack, world: World, machines: list[Machine]) -> list[Node]:
    nodes: list[Node] = []
    for machine in machines:
        listed = [contact_of(nodes[0])] if nodes else []
        nodes.append(await stack.enter_async_context(world.node(machine, listed=listed, config=CONFIG)))
    for node in nodes:
        assert await node.wait_joined(30)
    return nodes


def live_shards(nodes: list[Node], segment_id: SegmentId) -> set[int]:
    return {index for node in nodes for index in node.store.shards_of(segment_id)}


async def test_rot_found_by_the_scrub_is_told_and_healed(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 400)
    world = World()
    machines = [Machine(f"donor {number}") for number in range(5)]
    for machine in machines:
        machine.give(64 * MIB)
    async with AsyncExitStack() as stack:
        *donors, sharer = await start(stack, world, [*machines, Machine("sharer")])
        await sharer.uploader.put(source, PutOptions(code=Code(2, 4)))
        loser = next(donor for donor in donors if donor.store.segments())
        (segment_id,) = loser.store.segments()
        (index,) = loser.store.shards_of(segment_id)
        loser.store._quarantine(segment_id + bytes([index]))
        assert loser.statistics().store.quarantined == 1
        others = [donor for donor in donors if donor.store.shards_of(segment_id)]
        assert len(others) == 3
        await trio.sleep(MINUTE_S + 30)
        for other in others:
            assert (index, loser.keys.peer_id) in other.evidence.of_segment(segment_id).lost()
        await trio.sleep(10 * MINUTE_S)
        assert live_shards(donors, segment_id) == set(range(4))
        assert await loser.housekeeping._losses.tell() == 0  # once is enough


async def test_a_lost_disk_is_noticed_and_told_at_the_next_start(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 400)
    world = World()
    machines = [Machine(f"donor {number}") for number in range(5)]
    for machine in machines:
        machine.give(64 * MIB)
    async with AsyncExitStack() as stack:
        sharer, *donors = await start(stack, world, [Machine("sharer"), *machines[1:]])
        async with AsyncExitStack() as life:
            loser = await life.enter_async_context(
                world.node(machines[0], listed=[contact_of(sharer)], config=CONFIG)
            )
            assert await loser.wait_joined(30)
            await sharer.uploader.put(source, PutOptions(code=Code(2, 5)))
            (segment_id,) = loser.store.segments()
            (index,) = loser.store.shards_of(segment_id)
            leases = [
                Lease.decode(held.lease.data, network="cairn") for held in loser.store.leases(segment_id)
            ]
            assert SegmentManifest.decode(loser.store.segment_manifest(segment_id) or b"")
        for name in machines[0].disk.list(PACK_FOLDER):
            machines[0].disk.delete(PurePath(PACK_FOLDER / name))
        machines[0].disk.replace(GIVEN_UP, b"")
        async with world.node(machines[0], listed=[contact_of(sharer)], config=CONFIG) as loser:
            assert loser.statistics().store.lost == len(leases) == 1
            assert await loser.wait_joined(30)
            await trio.sleep(2 * MINUTE_S)
            for donor in donors:
                assert (index, loser.keys.peer_id) in donor.evidence.of_segment(segment_id).lost()
            await trio.sleep(15 * MINUTE_S)
            assert live_shards([loser, *donors], segment_id) == set(range(5))


@pytest.mark.parametrize("everything", [False, True], ids=["one pack", "all packs"])
async def test_packs_that_go_under_a_running_node_are_told_and_healed(
    autojump_clock: MockClock, tmp_path: Path, everything: bool
) -> None:
    world = World()
    machines = [Machine(f"donor {number}") for number in range(6)]
    for machine in machines:
        machine.give(17 * MIB)  # packs of some 1 MiB
    async with AsyncExitStack() as stack:
        *donors, sharer = await start(stack, world, [*machines, Machine("sharer")])
        puts = []
        for number in range(4):
            source = tmp_path / f"file {number}"
            source.write_bytes(bytes([number]) * 1_000_000)
            puts.append(await sharer.uploader.put(source, PutOptions(code=Code(2, 4))))
        loser = max(donors, key=lambda donor: donor.statistics().store.packs)
        disk = machines[donors.index(loser)].disk
        names = sorted(disk.list(PACK_FOLDER))
        packs = [name for name in names if name.endswith(PACK_SUFFIX)]
        assert len(packs) > 1
        had = {segment: loser.store.shards_of(segment) for segment in loser.store.segments()}
        for name in packs if everything else packs[:1]:
            disk.delete(PurePath(PACK_FOLDER / name))
        await trio.sleep(3 * MINUTE_S)
        if everything:
            # That may be another disk's mount point: nothing is given up before somebody says so.
            assert loser.server.care.suspended is not None
            assert not loser.store.losses()
            disk.replace(GIVEN_UP, b"")
            await trio.sleep(3 * MINUTE_S)
        assert loser.server.care.suspended is None
        lost = {(held.segment_id, held.shard_index) for held in loser.store.losses()}
        assert lost
        kept = {(segment, index) for segment in had for index in loser.store.shards_of(segment)}
        assert {(segment, index) for segment, indexes in had.items() for index in indexes} <= lost | kept
        for segment_id, index in lost:
            others = [each for each in donors if each is not loser and each.store.shards_of(segment_id)]
            known = [
                (index, loser.keys.peer_id) in each.evidence.of_segment(segment_id).lost() for each in others
            ]
            assert any(known)
        await trio.sleep(20 * MINUTE_S)
        for put in puts:
            for segment in sharer.catalogue.segments(put.file_hash):
                assert live_shards(donors, segment.segment_id) == set(range(4))
        again = await loser.server.care.on_fault()
        assert not again
