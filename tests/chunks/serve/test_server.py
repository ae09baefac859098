"""The holder's side of the shard protocol, asked by hand: puts, reads, and what breaks on the way."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from node.chunks import messages
from node.chunks.merkle import check_leaves, leaf_of
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.records.lease import Lease
from node.records.offer import Offer
from node.units import SegmentId
from tests.chunks.sample_segment import sample_segment
from tests.chunks.serve.one_donor import PUT_ID, one_donor, refused


async def test_an_offer_is_signed_and_says_what_is_free(autojump_clock: MockClock) -> None:
    async with one_donor() as (_, donor, client), client.session(donor.contact) as session:
        offer = Offer.decode((await session.offer(1000, 3)).record, network="test")
        offer.verify()
        assert offer.donor == donor.peer_id
        assert offer.free_bytes == donor.store.statistics().free_bytes


async def test_a_put_ends_with_countersigned_leases_and_can_be_read(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            leases = await sample.put(session, donor.contact, (3, 1))
        for data, shard in zip(leases, (3, 1), strict=True):
            lease = Lease.decode(data, network="test")
            lease.verify()
            assert lease.shard_index == shard
        async with client.session(donor.contact) as session:
            encoded, shards = await session.manifest(sample.manifest.segment_id)
            assert encoded == sample.manifest.encoded
            assert shards == (1, 3)
            leaves = await session.leaves(sample.manifest.segment_id, 3)
            count = sample.manifest.geometry.stripe_count
            check_leaves(leaves, leaf_count=count, root=sample.manifest.root(3))
            wanted = [count - 1, 0]
            await session.request_blocks(sample.manifest.segment_id, 3, wanted)
            for index in wanted:
                block = await session.receive_block(3, index)
                assert not isinstance(block, messages.BlockMissing)
                assert bytes(block) == sample.blocks[3][index]
            proof = await session.prove(sample.manifest.segment_id, 1, 0)
            assert not isinstance(proof, messages.BlockMissing)
            assert leaf_of(proof) == leaf_of(sample.blocks[1][0])
            missing = await session.prove(sample.manifest.segment_id, 2, 0)
            assert isinstance(missing, messages.BlockMissing)
            await refused("missing", lambda: session.leaves(sample.manifest.segment_id, 2))


async def test_flipped_bits_are_never_served(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
            pack = next(path for path in donor.disk._files if "pack" in str(path))
            for offset in range(1000, donor.disk.length(pack), 40_000):
                donor.disk.flip_bit(pack, offset)
            answer = await session.prove(sample.manifest.segment_id, 0, 0)
            assert isinstance(answer, messages.BlockMissing)
            assert answer.code == messages.REFUSED_CORRUPT
        assert not donor.store.has_shard(sample.manifest.segment_id, 0)


async def test_a_close_whose_reply_was_lost_is_answered_again(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            leases = await sample.put(session, donor.contact, (0, 1))
        asked = [sample.lease(donor.peer_id, shard).encode() for shard in (0, 1)]
        put_id = messages.PutId(random.Random(0).randbytes(16))
        async with client.session(donor.contact) as session:
            assert await session.close_put(put_id, sample.manifest.encoded, asked) == leases
            ids = [Lease.decode(data, network="test").lease_id for data in asked]
            assert await session.query_leases(sample.manifest.segment_id, ids) == leases
            assert await session.query_leases(SegmentId(bytes(32)), ids) == ()
        assert donor.store.statistics().leases == 2
        other = [sample.lease(donor.peer_id, shard, seed=9).encode() for shard in (0, 1)]
        async with client.session(donor.contact) as session:
            await refused("unknown", lambda: session.close_put(put_id, sample.manifest.encoded, other))


async def test_a_broken_connection_is_resumed_where_it_broke(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    request = sample.open_request(PUT_ID, (0, 2))
    async with one_donor() as (_, donor, client):
        first = await client.open(donor.contact)
        assert await first.open_put(request) == (0, 0)
        await first.send_block(0, 0, sample.blocks[0][0])
        await first.send_block(0, 1, sample.blocks[0][1])
        await first.aclose()
        await trio.sleep(1)
        async with client.session(donor.contact) as session:
            assert await session.resume_put(request) == (2, 0)
            await session.send_block(0, 2, sample.blocks[0][2])
            await session.send_block(0, 3, sample.blocks[0][3])
            for stripe, block in enumerate(sample.blocks[2]):
                await session.send_block(1, stripe, block)
            leases = [sample.lease(donor.peer_id, shard).encode() for shard in (0, 2)]
            assert len(await session.close_put(PUT_ID, sample.manifest.encoded, leases)) == 2
        assert donor.store.shards_of(sample.manifest.segment_id) == (0, 2)


async def test_a_put_is_its_openers_alone(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    request = sample.open_request(PUT_ID, (0,))
    async with one_donor() as (swarm, donor, client), swarm.client("other") as other:
        async with client.session(donor.contact) as session, other.session(donor.contact) as thief:
            await session.open_put(request)
            await refused("unknown", lambda: thief.resume_put(request))
        async with other.session(donor.contact) as thief:
            await thief.abort_put(PUT_ID)
        assert donor.server.statistics().open_puts == 1


async def test_the_older_connection_of_a_resumed_put_is_shut_out(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    request = sample.open_request(PUT_ID, (0,))
    async with one_donor() as (_, donor, client):
        old = await client.open(donor.contact)
        await old.open_put(request)
        async with client.session(donor.contact) as session:
            await session.resume_put(request)
            await old.send_block(0, 0, sample.blocks[0][0])
            await refused(
                "unknown",
                lambda: old.close_put(
                    PUT_ID, sample.manifest.encoded, [sample.lease(donor.peer_id, 0).encode()]
                ),
            )
        await old.aclose()


async def test_announces_only_what_it_holds(autojump_clock: MockClock) -> None:
    async with one_donor() as (swarm, donor, client), client.session(donor.contact) as session:
        await refused("missing", lambda: session.announce(segment_ids=[SegmentId(bytes(32))]))
        assert swarm.board.providers == {}


async def test_rosters_merge_valid_leases_only(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    segment_id = sample.manifest.segment_id
    elsewhere = KeyPair.from_seed(b"e" * 32)
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            own = await sample.put(session, donor.contact, (0,))
            half = sample.lease(peer_id_of(elsewhere.public), 1)
            other = half.countersign(elsewhere).encode()
            assert await session.merge_roster(segment_id, [other]) == 1
            assert sorted(await session.roster(segment_id)) == sorted([*own, other])
            await refused("invalid", lambda: session.merge_roster(segment_id, [half.encode()]))
        async with client.session(donor.contact) as session:
            assert len(await session.roster(segment_id)) == 2
