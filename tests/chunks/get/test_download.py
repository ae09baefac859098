"""Get against real servers and stores: equal bytes or an error, whoever is dead, slow, corrupt or lying."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from node.chunks import messages
from node.chunks.geometry import Code
from node.chunks.get.download import GetSettings, RemoteFile
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import EncodedStripe
from node.crypto.hashing import multihash
from node.crypto.links import Link, WrappedKey, wrap_key
from node.crypto.passwords import PasswordCost
from node.errors import (
    CryptoError,
    NotEnoughShardsError,
    NotFoundError,
    OwnerInconsistentError,
    UsageError,
    WrongPassphraseError,
)
from node.ports import Stream
from node.units import Contact, FileHash, Multiaddr, PeerId
from simulations.network import Link as Wire
from tests.chunks.planting import Tamper, content_of, plant
from tests.chunks.swarm import Swarm, Visitor
from tests.conftest import FULL

SMALL = Code(2, 4)
STRIPE = SMALL.stripe_plaintext_bytes
BLOCK = 65_472


@pytest.fixture
def autojump_clock() -> MockClock:
    """Virtual time that jumps as soon as everybody waits."""
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def swarm(autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    """An empty swarm with round trips of 10 ms."""
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery, wire=Wire(latency_s=0.005))
        nursery.cancel_scope.cancel()


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
        downloader = visitor.downloader(GetSettings(window_bytes=8 * BLOCK))
        remote = await downloader.open_file(planted.link)
        async with remote.stream() as pieces:
            assert b"".join([piece async for piece in pieces]) == content
        assert remote.fetched_bytes == 2 * 64 * BLOCK + 3 * BLOCK + 64  # data shards, and nothing twice


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


def _with_another_block(shard_index: int, stripe_index: int) -> Tamper:
    """An owner who signs the root of another block for a shard, which the stripe hash contradicts."""

    def tamper(stripe: int, encoded: EncodedStripe) -> tuple[list[bytes], bytes, bytes]:
        blocks = [bytes(block) for block in encoded.blocks]
        if stripe == stripe_index:
            blocks[shard_index] = bytes(len(blocks[shard_index]))
        return blocks, b"".join(map(leaf_of, blocks)), encoded.stripe_hash

    return tamper


@pytest.mark.parametrize("stripe_index", [0, 2])
@pytest.mark.parametrize("shard_index", [0, 1, 2, 3])
async def test_roots_that_contradict_each_other_fail_for_every_reader(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, shard_index: int, stripe_index: int
) -> None:
    """One data or parity shard of other content: whichever two of four are read, the file is refused."""
    await swarm.add_holders(4)
    tamper = _with_another_block(shard_index, stripe_index)
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
    planted = await plant(swarm, content, code=code, tamper=_with_another_block(1, 5))
    async with swarm.visitor() as visitor:
        with pytest.raises(OwnerInconsistentError, match="segment 0"):
            await visitor.downloader().save(planted.link, tmp_path / "x")
        assert os.listdir(tmp_path) == []
        rest = await visitor.read(planted.link, code.segment_plaintext_bytes)
        assert rest == content[code.segment_plaintext_bytes :]


async def test_a_range_shows_what_the_stripe_hashes_pin_or_nothing(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """A range has no whole shards to compare; it can't show other content all the same."""
    await swarm.add_holders(4)
    content = content_of(3 * STRIPE)
    planted = await plant(swarm, content, code=SMALL, tamper=_with_another_block(2, 0))
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link, 0, STRIPE) == content[:STRIPE]
        swarm.kill(swarm.holders[:1])
        with pytest.raises(OwnerInconsistentError):
            await visitor.read(planted.link, 0, STRIPE)


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


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (STRIPE - 1, STRIPE + 1),
        (STRIPE, 2 * STRIPE),
        (3 * STRIPE + 5, 3 * STRIPE + 5),
        (64 * STRIPE - 1, 64 * STRIPE + 1),
        (65 * STRIPE, 65 * STRIPE + 100),
    ],
)
async def test_a_range_costs_the_stripes_that_contain_it(
    autojump_clock: MockClock, swarm: Swarm, start: int, stop: int
) -> None:
    content = content_of(65 * STRIPE + 100)
    await swarm.add_holders(4)
    planted = await plant(swarm, content, code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        async with remote.stream(start, stop) as pieces:
            assert b"".join([piece async for piece in pieces]) == content[start:stop]
        stripes = (stop - 1) // STRIPE - start // STRIPE + 1 if start < stop else 0
        small = 64 * 2 if stop > 65 * STRIPE else 0
        assert remote.fetched_bytes == (small or stripes * 2 * BLOCK)


async def test_ranges_beyond_the_file_are_refused(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        with pytest.raises(UsageError):
            remote.stream(0, 11)
        with pytest.raises(UsageError):
            remote.select("", (10, 12))
        assert remote.select("", (8, 12)).length == 2


async def test_a_reader_that_does_not_read_stops_the_fetching(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    code = Code(1, 2)
    content = content_of(200 * code.stripe_plaintext_bytes)
    await swarm.add_holders(2)
    planted = await plant(swarm, content, code=code)
    async with swarm.visitor() as visitor:
        downloader = visitor.downloader(GetSettings(window_bytes=10 * BLOCK))
        remote = await downloader.open_file(planted.link)
        async with remote.stream() as pieces:
            first = await anext(pieces)
            await trio.sleep(300)
            assert remote.fetched_bytes <= 3 * 10 * BLOCK + 64 * 40_000  # window, decoded pieces
            assert first + b"".join([piece async for piece in pieces]) == content


async def test_leaving_a_stream_early_ends_it(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(30 * STRIPE), code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        with pytest.raises(KeyError):  # the reader's own error, as it is
            await _read_one_and_fail(remote)
        async with remote.stream(5, 6) as pieces:
            assert [piece async for piece in pieces] == [content_of(6)[5:]]


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


async def test_without_placement_and_bundle_rosters_and_providers_do(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    code = Code(1, 3)
    content = content_of(code.segment_plaintext_bytes + 100)
    await swarm.add_holders(3)
    planted = await plant(swarm, content, code=code, place=False)
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content


async def test_a_holders_own_shards_count(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(3 * STRIPE), code=SMALL)
    swarm.kill(swarm.holders[2:])
    reader = Visitor(swarm, swarm.holders[1].network)
    assert await reader.read(planted.link) == content_of(3 * STRIPE)
    report = await reader.health_checker().check(planted.link.file_hash)
    assert report.segments[0].alive == 2


async def test_stale_addresses_are_looked_up(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    nowhere = (Multiaddr("/ip4/192.0.2.1/tcp/1"),)
    planted = await plant(swarm, content_of(STRIPE), code=SMALL, addresses=nowhere)
    for known in swarm.directory.providers.values():
        for peer_id in known:
            known[peer_id] = Contact(peer_id, nowhere)
    swarm.directory.values.clear()
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content_of(STRIPE)


async def test_silent_holders_delay_but_do_not_stop_a_get(autojump_clock: MockClock, swarm: Swarm) -> None:
    """Partitioned, not refused: nothing answers a dial."""
    await swarm.add_holders(6)
    planted = await plant(swarm, content_of(STRIPE), code=Code(2, 6))
    async with swarm.visitor() as visitor:
        silent = [holder.peer_id for holder in swarm.holders[:3]]
        others = [holder.peer_id for holder in swarm.holders[3:]]
        swarm.internet.partition(silent, [*others, visitor.network.peer_id])
        started = trio.current_time()
        assert await visitor.read(planted.link) == content_of(STRIPE)
        assert trio.current_time() - started < 5


async def test_peers_that_talk_garbage_stop_nobody(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(STRIPE), code=SMALL)
    key = multihash(planted.link.file_hash)
    liars = []

    async def babble(stream: Stream) -> None:
        await stream.send_all(b"\x00\x00\x00\x05garbage" * 9)

    async with swarm.visitor() as first, swarm.visitor() as second, swarm.visitor() as visitor:
        for liar in (first, second):
            liar.network.serve(messages.PROTOCOL, babble, streams_max=99, streams_max_per_peer=99)
            liars.append(Contact(liar.network.peer_id, liar.network.listen_addresses()))
        known = dict(swarm.directory.providers[key])
        swarm.directory.providers[key] = {liar.peer_id: liar for liar in liars} | known
        swarm.directory.values.clear()  # the hint would name an honest holder first
        assert await visitor.read(planted.link) == content_of(STRIPE)
        blamed = visitor.scores.score(liars[0].peer_id)
        assert blamed is not None
        assert blamed.blame > 1


async def test_what_nobody_has_is_not_found(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(1)
    async with swarm.visitor() as visitor:
        with pytest.raises(NotFoundError) as raised:
            await visitor.read(Link(FileHash(bytes(32)), bytes(32)))
        assert raised.value.exit_code == 22
        swarm.directory.providers[multihash(bytes(32))] = {PeerId(b"x"): swarm.holders[0].contact}
        with pytest.raises(NotFoundError):
            await visitor.read(Link(FileHash(bytes(32)), bytes(32)))


async def test_a_key_of_another_file_is_refused(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    async with swarm.visitor() as visitor:
        with pytest.raises(CryptoError, match="does not belong"):
            await visitor.read(Link(planted.link.file_hash, bytes(32)))
        with pytest.raises(UsageError):
            await visitor.read(planted.link.verify_link())


async def test_a_password_link_opens_with_its_password_only(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    assert planted.link.key is not None
    cost = PasswordCost(memory_kib=8, passes=1)
    wrapped: WrappedKey = wrap_key(planted.link.key, planted.link.file_hash, "correct horse", bytes(16), cost)
    link = Link(planted.link.file_hash, wrapped=wrapped)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(link, password="correct horse")
        assert remote.size_bytes == 10
        with pytest.raises(WrongPassphraseError) as raised:
            await visitor.downloader().open_file(link, password="wrong")
        assert raised.value.exit_code == 12


async def _read_one_and_fail(remote: RemoteFile) -> None:
    async with remote.stream() as pieces:
        await anext(pieces)
        raise KeyError
