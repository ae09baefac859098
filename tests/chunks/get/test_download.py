"""Get against real servers and stores: equal bytes or an error, whoever is dead, slow, corrupt or lying."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks.geometry import Code
from node.chunks.get.download import GetSettings
from node.chunks.manifest import SegmentManifest
from node.chunks.pipeline import EncodedStripe
from node.errors import (
    NotEnoughShardsError,
    OwnerInconsistentError,
)
from simulations.network import Link as Wire
from tests.chunks.planting import SMALL, STRIPE, content_of, plant, with_another_block
from tests.chunks.swarm import Swarm
from tests.conftest import FULL


@pytest.mark.parametrize("size", [0, 1, 47, STRIPE - 1, STRIPE, STRIPE + 1, 5 * STRIPE + 17])
async def test_all_sizes_come_back_equal(autojump_clock: MockClock, swarm: Swarm, size: int) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(size), code=SMALL)
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content_of(size)


async def test_several_segments_come_back_in_order_through_a_small_window(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    code = Code(1, 2)
    content = content_of(2 * code.segment_plaintext_bytes + 3 * code.stripe_plaintext_bytes + 5)
    await swarm.add_holders(2)
    planted = await plant(swarm, content, code=code)
    async with swarm.visitor() as visitor:
        downloader = visitor.downloader(GetSettings(window_bytes=8 * limits.BLOCK_BYTES))
        remote = await downloader.open_file(planted.link)
        async with remote.stream() as pieces:
            assert b"".join([piece async for piece in pieces]) == content
        assert (
            remote.fetched_bytes == 2 * 64 * limits.BLOCK_BYTES + 3 * limits.BLOCK_BYTES + 64
        )  # data shards, and nothing twice


@pytest.mark.parametrize("seed", range(30 if FULL else 3))
async def test_any_20_of_30_holders_may_be_dead(autojump_clock: MockClock, swarm: Swarm, seed: int) -> None:
    await swarm.add_holders(30)
    content = content_of(20_000)
    planted = await plant(swarm, content)
    swarm.kill(Random(seed).sample(swarm.holders, 20))
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content


async def test_one_more_dead_is_said_with_segment_and_number(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(30)
    planted = await plant(swarm, content_of(20_000))
    swarm.kill(swarm.holders[9:])
    async with swarm.visitor() as visitor:
        with pytest.raises(NotEnoughShardsError, match=r"segment 0: 1 shard is missing of the 10") as raised:
            await visitor.read(planted.link)
        assert raised.value.exit_code == 20
        assert "\n" not in str(raised.value)
        swarm.kill(swarm.holders[8:9])
        began = trio.current_time()
        with pytest.raises(NotEnoughShardsError, match=r"segment 0: 2 shards are missing .* last seen"):
            await visitor.read(planted.link)
        assert trio.current_time() - began < 5.0, "the dead are asked one after another"


async def test_look_ups_of_the_dead_keep_nobody_waiting_for_the_living(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    await swarm.add_holders(30)
    content = content_of(1000)
    planted = await plant(swarm, content, code=Code(10, 30))
    swarm.kill(swarm.holders[:20])  # those that are named first
    swarm.directory.lookup_s = 60.0
    async with swarm.visitor() as visitor:
        began = trio.current_time()
        assert await visitor.read(planted.link) == content
        assert trio.current_time() - began < 10.0


async def test_machines_that_are_switched_off_keep_nobody_waiting(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """They don't even refuse a dial."""
    await swarm.add_holders(30)
    content = content_of(1000)
    planted = await plant(swarm, content, code=Code(10, 30))
    swarm.internet.partition([holder.peer_id for holder in swarm.holders[:20]])  # those that are named first
    async with swarm.visitor() as visitor:
        began = trio.current_time()
        assert await visitor.read(planted.link) == content
        assert trio.current_time() - began < 10.0


async def test_too_few_shards_are_said_soon_where_the_dead_are_silent(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    await swarm.add_holders(30)
    planted = await plant(swarm, content_of(1000), code=Code(10, 30))
    swarm.internet.partition([holder.peer_id for holder in swarm.holders[9:]])
    async with swarm.visitor() as visitor:
        began = trio.current_time()
        with pytest.raises(NotEnoughShardsError, match=r"segment 0: 1 shard is missing of the 10"):
            await visitor.read(planted.link)
        assert trio.current_time() - began < 40.0


async def test_few_donors_with_several_shards_each_serve_too(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(3)
    content = content_of(700_000)
    planted = await plant(swarm, content)
    swarm.kill(swarm.holders[:2])
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content


async def test_a_straggler_is_hedged(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    content = content_of(6 * STRIPE)
    planted = await plant(swarm, content, code=SMALL)
    async with swarm.visitor() as visitor:
        swarm.internet.set_link(swarm.holders[0].peer_id, visitor.network.peer_id, Wire(latency_s=60))
        remote = await visitor.downloader().open_file(planted.link)
        started = trio.current_time()
        async with remote.stream() as pieces:
            assert b"".join([piece async for piece in pieces]) == content
        assert trio.current_time() - started < 3


async def test_a_slow_holder_is_left_for_faster_ones(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    content = content_of(40 * STRIPE)
    planted = await plant(swarm, content, code=SMALL)
    async with swarm.visitor() as visitor:
        slow = Wire(latency_s=0.005, rate_bytes_s=20_000)  # 40 blocks would take 130 s
        swarm.internet.set_link(swarm.holders[1].peer_id, visitor.network.peer_id, slow)
        started = trio.current_time()
        assert await visitor.read(planted.link) == content
        assert trio.current_time() - started < 10


@pytest.mark.parametrize("rotten", [1, 2])
async def test_bit_rot_never_reaches_the_reader(autojump_clock: MockClock, swarm: Swarm, rotten: int) -> None:
    await swarm.add_holders(4)
    content = content_of(3 * STRIPE)
    planted = await plant(swarm, content, code=SMALL)
    for holder in swarm.holders[:rotten]:
        holder.rot()
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content


async def test_too_much_rot_is_too_few_shards(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(3 * STRIPE), code=SMALL)
    for holder in swarm.holders[:3]:
        holder.rot()
    async with swarm.visitor() as visitor:
        with pytest.raises(NotEnoughShardsError, match="segment 0"):
            await visitor.read(planted.link)


@pytest.mark.parametrize("stripe_index", [0, 2])
@pytest.mark.parametrize("shard_index", [0, 1, 2, 3])
async def test_roots_that_contradict_each_other_fail_for_every_reader(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, shard_index: int, stripe_index: int
) -> None:
    """One data or parity shard of other content: whichever two of four are read, the file is refused."""
    await swarm.add_holders(4)
    tamper = with_another_block(shard_index, stripe_index)
    planted = await plant(swarm, content_of(3 * STRIPE), code=SMALL, tamper=tamper)
    for read in itertools.combinations(swarm.holders, 2):
        async with swarm.visitor() as visitor:
            others = [holder.peer_id for holder in swarm.holders if holder not in read]
            swarm.internet.partition(others)
            with pytest.raises(OwnerInconsistentError) as raised:
                await visitor.read(planted.link)
            assert raised.value.exit_code == 40
            with pytest.raises(OwnerInconsistentError):
                await visitor.downloader().save(planted.link, tmp_path / "x")
            assert os.listdir(tmp_path) == []
            for holder in swarm.holders:
                score = visitor.scores.score(holder.peer_id)
                assert holder not in read or score is None or score.blame == 0


async def test_every_segment_of_a_file_is_compared_with_its_roots(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    code = Code(1, 2)
    content = content_of(code.segment_plaintext_bytes + 2 * code.stripe_plaintext_bytes)
    await swarm.add_holders(2)
    # Stripe 5 is in the first segment only.
    planted = await plant(swarm, content, code=code, tamper=with_another_block(1, 5))
    async with swarm.visitor() as visitor:
        with pytest.raises(OwnerInconsistentError, match="segment 0"):
            await visitor.downloader().save(planted.link, tmp_path / "x")
        assert os.listdir(tmp_path) == []
        rest = await visitor.read(planted.link, code.segment_plaintext_bytes)
        assert rest == content[code.segment_plaintext_bytes :]


async def test_stripe_hashes_that_fit_no_shards_fail_for_every_reader(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    def lie(_: int, stripe: EncodedStripe) -> tuple[list[bytes], bytes, bytes]:
        return [bytes(block) for block in stripe.blocks], stripe.leaves, bytes(32)

    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(STRIPE), code=SMALL, tamper=lie)
    for victims in (swarm.holders[:1], swarm.holders[1:2]):
        async with swarm.visitor() as visitor:
            with pytest.raises(OwnerInconsistentError):
                await visitor.read(planted.link)
        swarm.kill(victims)


async def test_a_segment_that_contradicts_its_file_fails_for_every_reader(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """The file manifest names a segment of another length: nobody gets anything but an error."""
    await swarm.add_holders(4)
    other = await plant(swarm, content_of(2 * STRIPE, b"other"), code=SMALL)

    def swap(_: list[SegmentManifest]) -> list[SegmentManifest]:
        return list(other.segments)

    for place in (True, False):
        planted = await plant(
            swarm, content_of(STRIPE), code=SMALL, name=str(place), change_segments=swap, place=place
        )
        async with swarm.visitor() as visitor:
            with pytest.raises(OwnerInconsistentError):
                await visitor.read(planted.link)


async def test_broken_connections_to_the_last_holders_are_made_again(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    await swarm.add_holders(4)
    content = content_of(60 * STRIPE)
    planted = await plant(swarm, content, code=SMALL)
    swarm.kill(swarm.holders[2:])
    async with swarm.visitor() as visitor:
        for holder in swarm.holders[:2]:
            fast = Wire(latency_s=0.005, rate_bytes_s=2_000_000)
            swarm.internet.set_link(holder.peer_id, visitor.network.peer_id, fast)
        remote = await visitor.downloader().open_file(planted.link)
        got = b""
        async with remote.stream() as pieces:
            async for piece in pieces:
                if len(got) < 5 * STRIPE <= len(got) + len(piece):
                    for holder in swarm.holders[:2]:
                        await visitor.network.disconnect(holder.peer_id)
                got += piece
        assert got == content
