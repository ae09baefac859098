"""Rosters merge like sets; placements say what the owner said, and nothing else passes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.chunks.put.granting import make_grant
from node.chunks.roster import (
    Placement,
    announcers,
    begun_leases,
    check_grant_of,
    check_lease,
    live_leases,
    newest_holders,
)
from node.chunks.roster import (
    merge_leases as merge_leases_of,
)
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.lease import Lease, granted_nonce
from node.records.repair import Handover
from node.units import FileHash, Multiaddr, OwnerKey, PeerId, SegmentId
from tests.chunks.sample_segment import TODAY, sample_segment

SAMPLE = sample_segment(1000)
HOLDERS = [KeyPair.from_seed(bytes([n]) * 32) for n in range(4)]
PEERS = [peer_id_of(key.public) for key in HOLDERS]
LEASES = [
    SAMPLE.lease(PEERS[n % 4], n % 3, seed=n, days=10 + n % 5).countersign(HOLDERS[n % 4]) for n in range(12)
]
OWNER = SAMPLE.owner
OWNER_KEY = SAMPLE.manifest.owner_key


def merge_leases(leases: Iterable[Lease]) -> tuple[Lease, ...]:
    """Into the roster of the sample's segment."""
    return merge_leases_of(leases, OWNER_KEY)


@settings(max_examples=50)
@given(st.lists(st.sampled_from(LEASES), max_size=20), st.randoms(use_true_random=False), st.integers(0, 20))
def test_merging_depends_on_the_set_alone(leases: list[Lease], shuffle: random.Random, cut: int) -> None:
    merged = merge_leases(leases)
    mixed = [*leases, *leases[:3]]
    shuffle.shuffle(mixed)
    assert merge_leases(mixed) == merged
    assert merge_leases([*merge_leases(leases[:cut]), *merge_leases(leases[cut:])]) == merged
    for shard in range(4):
        of_shard = [lease for lease in merged if lease.shard_index == shard]
        assert len(of_shard) <= limits.ROSTER_LEASES_PER_SHARD_MAX


ACCOUNT = KeyPair.from_seed(b"a" * 32)
GRANT = make_grant(SAMPLE.manifest, LEASES, OWNER, ACCOUNT)


def granted(number: int, shard: int, *, generation: int = 1, handover: Handover | None = None) -> Lease:
    """A lease of holder `number` under the grant."""
    return (
        replace(
            SAMPLE.lease(PEERS[number], shard, seed=100 + number + 10 * generation, days=10),
            nonce=granted_nonce(generation, bytes([number] * 12)),
        )
        .under_grant(GRANT, handover)
        .countersign(HOLDERS[number])
    )


GRANTED = [granted(n, shard, generation=g) for n in range(4) for shard in (0, 1) for g in (1, 2)]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([*LEASES, *GRANTED]), max_size=24),
    st.randoms(use_true_random=False),
    st.integers(0, 24),
)
def test_leases_under_a_grant_merge_likewise_and_evict_no_signed_ones(
    leases: list[Lease], shuffle: random.Random, cut: int
) -> None:
    merged = merge_leases(leases)
    mixed = [*leases]
    shuffle.shuffle(mixed)
    assert merge_leases(mixed) == merged
    assert merge_leases([*merge_leases(leases[:cut]), *merge_leases(leases[cut:])]) == merged
    signed = [lease for lease in leases if not lease.is_granted]
    assert [lease for lease in merged if not lease.is_granted] == list(merge_leases(signed))


def test_leases_that_any_key_signed_evict_neither_the_owners_nor_those_under_its_grant() -> None:
    stranger = KeyPair.from_seed(b"z" * 32)
    flood = [
        replace(
            SAMPLE.lease(PEERS[n % 4], 0, seed=200 + n, days=60), owner_key=OwnerKey(stranger.public),
            owner_signature=b"",
        ).sign_as_owner(stranger).countersign(HOLDERS[n % 4])
        for n in range(8)
    ]  # fmt: skip
    for lease in flood:
        check_lease(lease, SAMPLE.manifest)
    owners = merge_leases([lease for lease in [*LEASES, *GRANTED] if lease.shard_index == 0])
    assert len(owners) == limits.ROSTER_SIGNED_PER_SHARD_MAX + limits.ROSTER_GRANTED_PER_SHARD_MAX
    merged = merge_leases([*flood, *owners])
    assert [lease for lease in merged if lease.owner_key == OWNER_KEY] == list(owners)
    # What somebody else pays for is known all the same.
    assert len(merged) == len(owners) + limits.ROSTER_FURTHER_PER_SHARD_MAX


def test_a_roster_takes_leases_under_the_owners_grant_only() -> None:
    check_lease(GRANTED[0], SAMPLE.manifest)
    stranger = KeyPair.from_seed(b"z" * 32)
    forged = replace(GRANT, owner_key=OwnerKey(stranger.public)).sign(stranger, ACCOUNT)
    lease = replace(GRANTED[0], owner_key=forged.owner_key, owner_signature=b"")
    with pytest.raises(ProtocolError):
        check_lease(lease.under_grant(forged).countersign(HOLDERS[0]), SAMPLE.manifest)


def test_a_grant_is_accepted_for_its_segment_alone() -> None:
    check_grant_of(GRANT, SAMPLE.manifest)
    with pytest.raises(ProtocolError):
        check_grant_of(GRANT, sample_segment(1000, seed=2).manifest)
    with pytest.raises(ProtocolError):
        check_grant_of(
            replace(GRANT, data_shards=GRANT.data_shards - 1).sign(OWNER, ACCOUNT), SAMPLE.manifest
        )
    with pytest.raises(CryptoError):
        check_grant_of(replace(GRANT, rate=GRANT.rate + 1), SAMPLE.manifest)


def test_a_lease_that_was_given_up_does_not_live() -> None:
    old = LEASES[0]
    handover = Handover(
        old.network, old.lease_id, old.segment_id, old.shard_index, old.holder, PEERS[1], TODAY
    ).sign(HOLDERS[0])
    new = granted(1, old.shard_index, handover=handover)
    assert set(live_leases([old, new, *GRANTED[:1]], today=TODAY)) == {new, GRANTED[0]}
    assert live_leases([old, new], today=TODAY) == (new,)
    assert live_leases([old, new], today=new.end_day) == ()
    # Only its own holder can give a lease up.
    other = replace(handover, holder=PEERS[2]).sign(HOLDERS[2])
    assert old in live_leases([old, granted(1, old.shard_index, handover=other)], today=TODAY)


def test_whoever_gives_a_shard_up_keeps_no_lease_of_it() -> None:
    old = LEASES[0]
    renewed = replace(
        SAMPLE.lease(PEERS[0], old.shard_index, seed=77, days=40), owner_signature=b""
    ).sign_as_owner(OWNER).countersign(HOLDERS[0])  # fmt: skip
    handover = Handover(
        old.network, old.lease_id, old.segment_id, old.shard_index, old.holder, PEERS[1], TODAY
    ).sign(HOLDERS[0])  # fmt: skip
    new = granted(1, old.shard_index, generation=3, handover=handover)
    again = granted(0, old.shard_index, generation=4)
    assert set(live_leases([old, renewed, new], today=TODAY)) == {new}
    # It may take the shard again later, even on the same day.
    assert set(live_leases([old, renewed, new, again], today=TODAY)) == {new, again}


def test_the_fuller_encoding_of_a_lease_stays() -> None:
    plain = granted(1, 0)
    handover = Handover(
        plain.network, LEASES[0].lease_id, plain.segment_id, 0, PEERS[0], PEERS[1], TODAY
    ).sign(HOLDERS[0])  # fmt: skip
    told = plain.with_handover(handover)
    assert merge_leases([plain, told]) == merge_leases([told, plain]) == (told,)
    signed = LEASES[0]
    mirrored = replace(handover, lease_id=plain.lease_id, holder=PEERS[1], successor=PEERS[0]).sign(
        HOLDERS[1]
    )
    told = signed.with_handover(mirrored)
    assert merge_leases([told, signed]) == merge_leases([signed, told]) == (told,)
    assert live_leases([told, plain], today=TODAY) == (told,)


def test_a_copy_too_many_goes_where_its_rival_is_known_by_a_renewal_only() -> None:
    """Of a holder that was renewed twice rosters drop the present lease: a handover stands on another."""
    going = granted(1, 0, generation=1)
    renewal = replace(
        SAMPLE.lease(PEERS[0], 0, seed=78), start_day=TODAY + 30, end_day=TODAY + 60, owner_signature=b""
    ).sign_as_owner(OWNER).countersign(HOLDERS[0])  # fmt: skip
    handover = Handover(
        going.network, going.lease_id, going.segment_id, 0, PEERS[1], PEERS[0], TODAY
    ).sign(HOLDERS[1])  # fmt: skip
    told = renewal.with_handover(handover)
    check_lease(told, SAMPLE.manifest)
    assert begun_leases([going, told], today=TODAY) == (told,)
    with pytest.raises(CryptoError):
        check_lease(
            replace(granted(0, 0), start_day=TODAY + 30, end_day=TODAY + 60).with_handover(handover),
            SAMPLE.manifest,
        )


def test_of_two_handovers_on_one_lease_the_later_counts() -> None:
    lease, first, second = LEASES[0], granted(1, 0, generation=1), granted(1, 0, generation=2)
    told = [
        lease.with_handover(
            Handover(lease.network, gone.lease_id, lease.segment_id, 0, PEERS[1], PEERS[0], day).sign(
                HOLDERS[1]
            )
        )
        for gone, day in ((first, TODAY), (second, TODAY + 1), (first, TODAY + 2), (second, TODAY + 3))
    ]
    for order in (told, told[::-1], told[2:] + told[:2]):
        assert merge_leases(order) == (told[-1],)


def test_whoever_was_replaced_announces_no_more() -> None:
    old = LEASES[0]
    new = granted(1, old.shard_index)
    equal = replace(old, end_day=new.end_day, owner_signature=b"").sign_as_owner(OWNER)
    assert newest_holders([equal, new], today=TODAY) == {PEERS[1]}
    later = replace(old, end_day=new.end_day + 1, owner_signature=b"").sign_as_owner(OWNER)
    assert newest_holders([later, new], today=TODAY) == {old.holder}


def test_what_a_roster_takes() -> None:
    check_lease(LEASES[0], SAMPLE.manifest)
    with pytest.raises(CryptoError):
        check_lease(SAMPLE.lease(PEERS[0], 0), SAMPLE.manifest)
    with pytest.raises(ProtocolError):
        check_lease(LEASES[0], sample_segment(1000, seed=2).manifest)
    with pytest.raises(ProtocolError):
        check_lease(replace(LEASES[0], root=bytes(32)), SAMPLE.manifest)


def test_ended_leases_name_no_holder() -> None:
    assert newest_holders(LEASES[:1], today=TODAY) == {PEERS[0]}
    assert newest_holders(LEASES[:1], today=TODAY + 10) == set()


def test_who_announces_changes_by_the_week() -> None:
    orders = {tuple(announcers(SegmentId(bytes(32)), PEERS, now_s=week * 7 * 86_400)) for week in range(20)}
    assert len(orders) > 1
    assert all(sorted(order) == sorted(PEERS) for order in orders)


def placement(segments: list[dict[int, PeerId]], total: int = 3) -> Placement:
    return Placement.make(
        network="test",
        file_hash=FileHash(b"f" * 32),
        owner=OWNER,
        sequence=5,
        total_shards=total,
        contacts={peer: (Multiaddr(f"/ip4/10.0.0.{n}/tcp/1"),) for n, peer in enumerate(PEERS)},
        segments=segments,
    )


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.integers(0, 2), st.sampled_from(PEERS)), max_size=8))
def test_a_placement_says_who_holds_what(segments: list[dict[int, PeerId]]) -> None:
    made = placement(segments)
    received = Placement.decode(made.encode(), network="test")
    received.verify()
    assert received == made
    assert received.segment_count == len(segments)
    for index, segment in enumerate(segments):
        assert {shard: contact.peer_id for shard, contact in received.holders_of(index)} == segment
    assert list(received.holders_of(len(segments))) == []


def test_a_placement_stops_where_it_no_longer_fits() -> None:
    made = placement([{0: PEERS[0]}] * 60_000)
    assert len(made.encode()) <= limits.PLACEMENT_BYTES_MAX
    assert 40_000 < made.segment_count < 60_000


def test_placements_of_others_are_refused() -> None:
    made = placement([{0: PEERS[0]}])
    made.check_file(made.file_hash, made.owner_key)
    with pytest.raises(CryptoError):
        made.check_file(FileHash(bytes(32)), made.owner_key)
    with pytest.raises(CryptoError):
        replace(made, sequence=6).verify()
    with pytest.raises(ProtocolError):
        Placement.decode(replace(made, table=b"\0\1" * 3).encode(), network="test")
    with pytest.raises(ProtocolError):
        Placement.decode(replace(made, table=b"\0\0\0").encode(), network="test")
