"""The holder's side of the shard protocol, asked by hand: honest requests, and all the others."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks import messages
from node.chunks.client import HolderClient, HolderSession
from node.chunks.merkle import check_leaves, leaf_of
from node.chunks.put.granting import make_grant
from node.chunks.roster import Placement
from node.chunks.store.shard_store import AttachmentKind
from node.crypto.hashing import multihash
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import RefusedError, RemoteError, UnreachableError
from node.framing import FramedStream, Preamble
from node.records.lease import Lease, Release, granted_nonce
from node.records.offer import Offer
from node.units import DAY_S, FileHash, OwnerKey, SegmentId
from node.wire import Value
from tests.chunks.put_swarm import Donor, Swarm, swarm_of
from tests.chunks.sample_segment import TODAY, SampleSegment, altered, sample_segment

PUT_ID = messages.PutId(b"p" * 16)
STRANGER = KeyPair.from_seed(b"s" * 32)


@asynccontextmanager
async def one_donor() -> AsyncIterator[tuple[Swarm, Donor, HolderClient]]:
    async with swarm_of(1) as swarm, swarm.client() as client:
        yield swarm, swarm.donors[0], client


async def refused(code: str, request: Callable[[], Awaitable[object]]) -> None:
    """The request is declined with this code."""
    with pytest.raises(RefusedError) as caught:
        await request()
    assert caught.value.code == code


def assert_untouched(donor: Donor) -> None:
    """Nothing is kept, nothing is reserved."""
    statistics = donor.store.statistics()
    assert (statistics.shards, statistics.leases, statistics.reserved_bytes) == (0, 0, 0)
    assert donor.server.statistics().open_puts == 0


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


async def test_a_reservation_lapses_after_two_minutes_of_silence(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        await session.open_put(sample.open_request(PUT_ID, (0,)))
        await trio.sleep(limits.PUT_SILENCE_S - 10)
        assert donor.store.statistics().reserved_bytes > 0
        await trio.sleep(20)
        assert_untouched(donor)
        await session.reset()


async def test_an_aborted_put_frees_its_reservation(autojump_clock: MockClock) -> None:
    async with one_donor() as (_, donor, client), client.session(donor.contact) as session:
        await session.open_put(sample_segment().open_request(PUT_ID, (0,)))
        await session.abort_put(PUT_ID)
        assert_untouched(donor)


async def test_unfinished_puts_of_one_peer_are_limited(autojump_clock: MockClock) -> None:
    sample = sample_segment(1000)
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
                await session.open_put(sample.open_request(bytes([number]) * 16, (0,)))
            request = sample.open_request(b"x" * 16, (0,))
            await refused("busy", lambda: session.open_put(request))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_PER_PEER_MAX


async def _reserve_until_full(client: HolderClient, donor: Donor, name: bytes) -> int:
    """Open puts of all shards of whole segments at 10/30 until the donor is full; how many it took."""
    block = limits.BLOCK_BYTES
    async with client.session(donor.contact) as session:
        for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
            put_id = messages.PutId(name + bytes([number]) * 8)
            try:
                await session.open_put(
                    messages.PutOpen(put_id, 10, 30, block, block, limits.SEGMENT_STRIPES, tuple(range(30)))
                )
            except RefusedError as error:
                if error.code != messages.REFUSED_FULL:
                    raise
                return number
    raise AssertionError("the donor has room for more")


async def _offered(client: HolderClient, donor: Donor) -> int:
    """The room that a peer is offered."""
    async with client.session(donor.contact) as session:
        return Offer.decode((await session.offer(1000, 3)).record, network="test").free_bytes


async def test_one_peer_alone_may_reserve_all_room_and_gives_way_to_others(autojump_clock: MockClock) -> None:
    """Reservations that are not filled keep nobody out: each who comes has an equal part."""
    sample = sample_segment()
    async with one_donor() as (swarm, donor, greedy), swarm.client("modest") as modest:
        free_bytes = donor.store.statistics().free_bytes
        taken = await _reserve_until_full(greedy, donor, b"greedy..")
        assert donor.store.statistics().free_bytes < free_bytes // 5
        assert await _offered(greedy, donor) < free_bytes // 5
        assert free_bytes // 3 < await _offered(modest, donor) <= free_bytes // 2

        async with modest.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0, 1))
        also = await _reserve_until_full(modest, donor, b"modest..")
        assert also >= taken // 2
        assert taken - 1 <= donor.server.statistics().open_puts <= taken
        # They don't push each other out in turn.
        assert await _reserve_until_full(greedy, donor, b"again...") == 0
        assert await _reserve_until_full(modest, donor, b"again...") == 0
        assert taken - 1 <= donor.server.statistics().open_puts <= taken


async def test_places_go_to_who_has_fewer(autojump_clock: MockClock) -> None:
    sample = sample_segment(1000)
    crowd = limits.PUTS_OPEN_MAX // limits.PUTS_OPEN_PER_PEER_MAX
    async with one_donor() as (swarm, donor, client), AsyncExitStack() as stack:
        for peer in range(crowd):
            one = await stack.enter_async_context(swarm.client(f"crowd {peer}"))
            session = await stack.enter_async_context(one.session(donor.contact))
            for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
                await session.open_put(sample.open_request(bytes([number]) * 16, (0,)))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_MAX
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
        assert donor.server.statistics().open_puts == limits.PUTS_OPEN_MAX - 1


Hostile = Callable[[HolderSession, SampleSegment, Donor], Awaitable[object]]


async def _put_with(
    session: HolderSession, sample: SampleSegment, *leases: bytes, manifest: bytes | None = None
) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    await sample.send(session, (0,))
    return await session.close_put(PUT_ID, manifest or sample.manifest.encoded, leases)


async def _other_block(session: HolderSession, sample: SampleSegment, donor: Donor) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    for stripe, block in enumerate(sample.blocks[0]):
        await session.send_block(0, stripe, bytes(len(block)))
    return await session.close_put(PUT_ID, sample.manifest.encoded, [sample.lease(donor.peer_id, 0).encode()])


async def _after_open(
    session: HolderSession, sample: SampleSegment, *blocks: tuple[int, int, bytes]
) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    for slot, index, block in blocks:
        await session.send_block(slot, index, block)
    await session.abort_put(PUT_ID)
    return None


def _lease(sample: SampleSegment, donor: Donor, **changes: object) -> bytes:
    return altered(sample.lease(donor.peer_id, 0), sample.owner, **changes)


HOSTILE: dict[str, Hostile] = {
    "blocks that do not give the root": _other_block,
    "a lease with another root": lambda s, m, d: _put_with(s, m, _lease(m, d, root=bytes(32))),
    "a lease of another shard": lambda s, m, d: _put_with(s, m, m.lease(d.peer_id, 1).encode()),
    "a lease of another holder": lambda s, m, d: _put_with(
        s, m, _lease(m, d, holder=type(d.peer_id)(d.peer_id[:-1] + b"x"))
    ),
    "a lease of another length": lambda s, m, d: _put_with(s, m, _lease(m, d, byte_count=1)),
    "a lease that is over": lambda s, m, d: _put_with(
        s, m, _lease(m, d, start_day=TODAY - 40, end_day=TODAY - 10)
    ),
    "a lease far ahead": lambda s, m, d: _put_with(
        s, m, _lease(m, d, start_day=TODAY + 10, end_day=TODAY + 40)
    ),
    "a lease by a stranger": lambda s, m, d: _put_with(
        s,
        m,
        altered(m.lease(d.peer_id, 0), STRANGER, owner_key=OwnerKey(STRANGER.public)),
    ),
    "an unsigned lease": lambda s, m, d: _put_with(
        s, m, replace(m.lease(d.peer_id, 0), owner_signature=b"").encode()
    ),
    "no lease": lambda s, m, d: _put_with(s, m),
    "garbage for a lease": lambda s, m, d: _put_with(s, m, b"garbage"),
    "garbage for a manifest": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=b"garbage"
    ),
    "the manifest of another segment": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=sample_segment(seed=2).manifest.encoded
    ),
    "the manifest of another length": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=sample_segment(100).manifest.encoded
    ),
    "a slot out of range": lambda s, m, d: _after_open(s, m, (1, 0, m.blocks[0][0])),
    "a block out of order": lambda s, m, d: _after_open(s, m, (0, 1, m.blocks[0][1])),
    "a block of a wrong size": lambda s, m, d: _after_open(s, m, (0, 0, b"x" * 64)),
    "more blocks than announced": lambda s, m, d: _after_open(
        s,
        m,
        *((0, stripe, block) for stripe, block in enumerate(m.blocks[0])),
        (0, len(m.blocks[0]), m.blocks[0][0]),
    ),
    "a block without a put": lambda s, m, d: _block_alone(s),
    "a close before the last block": lambda s, m, d: _early_close(s, m, d),
    "a shard twice": lambda s, m, d: s.open_put(m.open_request(PUT_ID, (0, 0))),
    "a shard beyond the code": lambda s, m, d: s.open_put(m.open_request(PUT_ID, (4,))),
    "an impossible code": lambda s, m, d: s.open_put(replace(m.open_request(PUT_ID, (0,)), data_shards=9)),
    "odd block lengths": lambda s, m, d: s.open_put(
        replace(m.open_request(PUT_ID, (0,)), last_block_bytes=65)
    ),
    "an attachment without the segment's placement": lambda s, m, d: s.attach(
        messages.ATTACHED_MANIFEST, m.file.file_hash, m.manifest.segment_id, m.file.encoded
    ),
    "a release that is garbage": lambda s, m, d: s.release([b"garbage"]),
}


async def _block_alone(session: HolderSession) -> object:
    await session.send_block(0, 0, b"x" * 64)
    return await session.offer(1, 1)


async def _early_close(session: HolderSession, sample: SampleSegment, donor: Donor) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    lease = sample.lease(donor.peer_id, 0).encode()
    return await session.close_put(PUT_ID, sample.manifest.encoded, [lease])


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_no_honest_putter_sends_is_refused_and_changes_nothing(
    what: str, autojump_clock: MockClock
) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        with pytest.raises((RefusedError, UnreachableError)):
            await HOSTILE[what](session, sample, donor)
        await session.reset()
        await trio.sleep(limits.PUT_SILENCE_S + 10)
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await sample.put(again, donor.contact, (0,), seed=5)


@pytest.mark.parametrize(
    "message",
    [
        ["nonsense"],
        [],
        [1, 2, 3],
        ["put", b"short"],
        ["read", bytes(32), 0, []],
        ["read", bytes(32), 0, list(range(65))],
        ["read", bytes(32), 300, [0]],
        ["attach", "unheard-of", bytes(32), bytes(32), 5],
        ["attach", "manifest", bytes(32), bytes(32), 2**40],
        ["close", bytes(16), b"", 2**40],
        ["announce", [], [bytes(32)] * 65],
        ["release", [b""] * 49],
        ["done", 1],
        ["offer?", -1, 1],
        ["roster+", bytes(32), 2**30],
    ],
)
async def test_messages_out_of_bounds_end_their_stream_alone(
    message: list[Value], autojump_clock: MockClock
) -> None:
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        framed: FramedStream = session._framed
        await framed.send(message)
        with pytest.raises((RefusedError, UnreachableError)):
            await framed.receive(deadline_s=5)
        await session.reset()
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await again.offer(1, 1)


async def test_random_bytes_end_their_stream_alone(autojump_clock: MockClock) -> None:
    source = random.Random(3)
    async with one_donor() as (_, donor, client):
        for _ in range(50):
            stream = await client._network.open_stream(donor.contact, messages.PROTOCOL)
            try:
                await stream.send_all(source.randbytes(source.randrange(1, 3000)))
                await stream.close_write()
                while await stream.receive_some(65536):
                    pass
            except RemoteError:
                pass
            await stream.reset()
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await again.offer(1, 1)


async def test_another_network_is_refused_in_words(autojump_clock: MockClock) -> None:
    async with one_donor() as (_, donor, client):
        foreign = HolderClient(client._network, Preamble("elsewhere", 1))
        async with foreign.session(donor.contact) as session:
            await refused("network", lambda: session.offer(1, 1))


def placement_of(sample: SampleSegment, donor: Donor, *, sequence: int = 1) -> Placement:
    return Placement.make(
        network="test",
        file_hash=sample.file.file_hash,
        owner=sample.owner,
        sequence=sequence,
        total_shards=4,
        contacts={donor.peer_id: ()},
        segments=[{0: donor.peer_id}],
    )


async def test_attachments_are_kept_for_the_owner_and_served(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    name, segment_id = sample.file.file_hash, sample.manifest.segment_id
    async with one_donor() as (swarm, donor, client):
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
            placement = placement_of(sample, donor, sequence=2).encode()
            await session.attach(messages.ATTACHED_PLACEMENT, name, segment_id, placement)
            await session.attach(messages.ATTACHED_MANIFEST, name, segment_id, sample.file.encoded)
            assert await session.attachment(messages.ATTACHED_MANIFEST, name) == sample.file.encoded
            assert await session.announce(file_hashes=[name], segment_ids=[segment_id]) > 0
            assert swarm.board.providers[multihash(name)] == {donor.peer_id}
            older = placement_of(sample, donor, sequence=1).encode()
            await refused(
                "invalid",
                lambda: session.attach(messages.ATTACHED_PLACEMENT, name, segment_id, older),
            )
        async with client.session(donor.contact) as session:
            assert await session.attachment(messages.ATTACHED_PLACEMENT, name) == placement
            await refused("missing", lambda: session.attachment(messages.ATTACHED_BUNDLE, name))


@pytest.mark.parametrize("kind", [messages.ATTACHED_PLACEMENT, messages.ATTACHED_MANIFEST])
async def test_attachments_of_strangers_are_refused(kind: str, autojump_clock: MockClock) -> None:
    sample, other = sample_segment(), sample_segment(seed=2)
    async with one_donor() as (_, donor, client), client.session(donor.contact) as session:
        await sample.put(session, donor.contact, (0,))
        name, segment_id = sample.file.file_hash, sample.manifest.segment_id
        if kind == messages.ATTACHED_PLACEMENT:
            body = placement_of(other, donor).encode()
        else:
            await session.attach(
                messages.ATTACHED_PLACEMENT, name, segment_id, placement_of(sample, donor).encode()
            )
            body = other.file.encoded
        await refused("invalid", lambda: session.attach(kind, name, segment_id, body))
        assert_no_manifest(donor, name)


def assert_no_manifest(donor: Donor, name: FileHash) -> None:
    assert donor.store.attachment(name, AttachmentKind.FILE_MANIFEST) is None


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


async def test_the_owners_grant_is_kept_with_the_segment(autojump_clock: MockClock) -> None:
    sample, account = sample_segment(), KeyPair.from_seed(b"a" * 32)
    segment_id = sample.manifest.segment_id
    async with one_donor() as (_, donor, client):
        leases = [sample.lease(donor.peer_id, 0, days=days) for days in (20, 30, 40)]
        early, grant, late = (make_grant(sample.manifest, [lease], sample.owner, account) for lease in leases)
        async with client.session(donor.contact) as session:
            await refused("missing", lambda: session.give_grant(segment_id, grant.encode()))
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
            await refused("missing", lambda: session.grant(segment_id))
        unsigned = replace(grant, account_signature=b"").encode()
        other = sample_segment(seed=2)
        foreign = make_grant(other.manifest, [other.lease(donor.peer_id, 0)], other.owner, account).encode()
        for bad in (unsigned, foreign, b"grant"):
            async with client.session(donor.contact) as session:
                await refused("invalid", lambda bad=bad: session.give_grant(segment_id, bad))  # type: ignore[misc]
        async with client.session(donor.contact) as session:
            for given in (grant, late, early):
                await session.give_grant(segment_id, given.encode())
            assert await session.grant(segment_id) == late.encode()
        assert donor.store.grant(segment_id) == late.encode()


async def test_a_lease_under_a_grant_is_not_signed_without_evidence(autojump_clock: MockClock) -> None:
    sample, account = sample_segment(), KeyPair.from_seed(b"a" * 32)
    async with one_donor() as (_, donor, client):
        lease = replace(
            sample.lease(donor.peer_id, 0), nonce=granted_nonce(1, bytes(12)), owner_signature=b""
        )
        grant = make_grant(sample.manifest, [lease], sample.owner, account)
        half = lease.under_grant(grant).encode()
        async with client.session(donor.contact) as session:
            await session.open_put(sample.open_request(PUT_ID, (0,)))
            await sample.send(session, (0,))
            await refused("invalid", lambda: session.close_put(PUT_ID, sample.manifest.encoded, [half]))
        assert_untouched(donor)
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
            await refused("invalid", lambda: session.renew(sample.manifest.segment_id, [half]))
        assert donor.store.statistics().leases == 1


async def test_renewal_adds_a_lease_once(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    segment_id = sample.manifest.segment_id
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
            longer = sample.lease(donor.peer_id, 0, seed=4, days=90).encode()
            first = await session.renew(segment_id, [longer])
            assert await session.renew(segment_id, [longer]) == first
            Lease.decode(first[0], network="test").verify()
        assert donor.store.statistics().leases == 2
        async with client.session(donor.contact) as session:
            absent = sample.lease(donor.peer_id, 1, seed=4).encode()
            await refused("missing", lambda: session.renew(segment_id, [absent]))


async def test_only_the_owner_releases_and_then_everything_goes(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with one_donor() as (swarm, donor, client):
        async with client.session(donor.contact) as session:
            leases = await sample.put(session, donor.contact, (0,))
            await session.announce(segment_ids=[sample.manifest.segment_id])
        lease = Lease.decode(leases[0], network="test")
        stranger = Release("test", lease.lease_id, donor.peer_id, OwnerKey(STRANGER.public))
        unsigned = Release("test", lease.lease_id, donor.peer_id, OwnerKey(sample.owner.public))
        for bad in (stranger.sign(STRANGER), unsigned, replace(unsigned, signature=b"x" * 64)):
            async with client.session(donor.contact) as session:
                await refused("invalid", partial(session.release, [bad.encode()]))
        assert donor.store.statistics().leases == 1
        async with client.session(donor.contact) as session:
            good = unsigned.sign(sample.owner).encode()
            assert await session.release([good]) == 1
            assert await session.release([good]) == 0
        assert donor.store.statistics().shards == 0
        assert swarm.board.providers[multihash(sample.manifest.segment_id)] == set()


async def test_a_lease_is_kept_for_its_days_and_a_grace(autojump_clock: MockClock) -> None:
    sample = sample_segment(1000)
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, (0,))
        assert donor.store.expire((TODAY + 43) * DAY_S) == 0
        assert donor.store.expire((TODAY + 45) * DAY_S) == 1
