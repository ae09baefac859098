"""What a holder keeps beside blocks: attachments, grants, leases, and for how long."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from trio.testing import MockClock

from node.chunks import messages
from node.chunks.put.granting import make_grant
from node.chunks.roster import Placement
from node.chunks.store.shard_store import AttachmentKind
from node.crypto.hashing import multihash
from node.crypto.signing import KeyPair
from node.records.lease import Lease, Release, granted_nonce
from node.units import DAY_S, FileHash, OwnerKey
from tests.chunks.put_swarm import Donor
from tests.chunks.sample_segment import TODAY, SampleSegment, sample_segment
from tests.chunks.serve.one_donor import PUT_ID, STRANGER, assert_untouched, one_donor, refused


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
