"""Audits: who has the bytes passes, who lacks some fails, and a false answer proves itself."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.chunks.audit import (
    AUDITORS,
    WEEK_S,
    Challenge,
    Sample,
    Target,
    answer,
    answer_digests,
    auditors,
    due_days,
    is_auditor,
    is_due,
    next_link,
    place_of,
    prove_bad,
    sample_bytes,
    verify_answer,
)
from node.chunks.geometry import BLOCK_BYTES, Code, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of, shard_root
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.lease import Lease
from node.records.receipt import AuditAnswer
from node.units import KIB, MIB, LeaseId, OwnerKey, PeerId, SegmentId
from tests.conftest import FULL

OWNER, HOLDER, OTHER = (KeyPair.from_seed(letter * 32) for letter in (b"o", b"h", b"x"))
HOLDER_ID, AUDITOR_ID = peer_id_of(HOLDER.public), peer_id_of(OTHER.public)
NONCE = b"n" * 32
CODE = Code(2, 3)


class Shard:
    """A shard with its manifest and lease, every block of random bytes."""

    def __init__(self, number: int, geometry: SegmentGeometry) -> None:
        source = random.Random(number)
        self.blocks: list[bytes | None] = [
            source.randbytes(geometry.block_bytes(index)) for index in range(geometry.stripe_count)
        ]
        self.leaves = b"".join(leaf_of(block) for block in self.blocks if block is not None)
        root = shard_root(self.leaves)
        self.manifest = SegmentManifest(
            OwnerKey(OWNER.public),
            bytes(16),
            geometry,
            root * geometry.code.total_shards,
            bytes(32 * geometry.stripe_count),
        )
        self.lease = (
            Lease(
                network="cairn-test",
                lease_id=LeaseId(number.to_bytes(16, "big")),
                segment_id=self.manifest.segment_id,
                shard_index=1,
                root=root,
                byte_count=geometry.shard_bytes,
                owner_key=OwnerKey(OWNER.public),
                holder=HOLDER_ID,
                start_day=20_000,
                end_day=20_030,
                rate=1_000_000,
                egress_cap_bytes=0,
                nonce=bytes(16),
            )
            .sign_as_owner(OWNER)
            .countersign(HOLDER)
        )
        self.geometry = geometry
        self.target = Target.of(self.lease, self.manifest)


def geometry_of(stripes: int, last_plaintext: int) -> SegmentGeometry:
    return SegmentGeometry(CODE, (stripes - 1) * CODE.stripe_plaintext_bytes + last_plaintext)


SHARDS = [
    Shard(1, geometry_of(3, 5_000)),
    Shard(2, geometry_of(1, 0)),
    Shard(3, geometry_of(1, CODE.stripe_plaintext_bytes)),
    Shard(4, geometry_of(5, 2_500)),
]
TARGETS = tuple(shard.target for shard in SHARDS)


class Donor:
    """Answers from its shards' bytes; `lost` are (lease id, block index)."""

    def __init__(self, shards: list[Shard], lost: set[tuple[LeaseId, int]] = frozenset()) -> None:  # type: ignore[assignment]
        self.shards = {shard.lease.lease_id: shard for shard in shards}
        self.lost = lost

    def read_block(self, lease_id: LeaseId, block_index: int) -> bytes | None:
        return None if (lease_id, block_index) in self.lost else self.shards[lease_id].blocks[block_index]

    def read_leaves(self, lease_id: LeaseId) -> bytes | None:
        return self.shards[lease_id].leaves

    def answer(self, challenge: Challenge) -> list[Sample]:
        return answer(challenge, self.read_block, self.read_leaves)


HONEST = Donor(SHARDS)
challenges = st.builds(Challenge, st.binary(min_size=32, max_size=32), st.just(TARGETS), st.integers(1, 12))


@settings(max_examples=40 if FULL else 12)
@given(challenges)
def test_whoever_has_the_bytes_passes(challenge: Challenge) -> None:
    samples = [Sample.decode(sample.encode()) for sample in HONEST.answer(challenge)]
    verdict = verify_answer(challenge, samples)
    assert verdict.failed_count == 0
    assert verdict.passed_leases() == {place.target.lease_id for place in verdict.places}
    assert not verdict.failed_leases()


def test_every_chunk_of_every_block_can_be_proved() -> None:
    """The last chunk of full, short and single-chunk blocks included."""
    links = [next_link(b"start", bytes([a, b])) for a in range(60) for b in range(60)]
    places = [place_of(link, TARGETS[1:3], index) for index, link in enumerate(links)]
    seen = {(place.target.lease_id, place.block_index, place.chunk_index) for place in places}
    assert len(seen) == sum(target.chunk_total for target in TARGETS[1:3]) == 1 + 64
    assert TARGETS[0].chunk_total == 2 * 64 + 3


@settings(max_examples=40 if FULL else 10)
@given(challenges, st.data())
def test_a_lost_block_fails_its_samples_and_no_others(challenge: Challenge, data: st.DataObject) -> None:
    blocks = [(s.lease.lease_id, index) for s in SHARDS for index in range(len(s.blocks))]
    lost = data.draw(st.sets(st.sampled_from(blocks), max_size=6))
    verdict = verify_answer(challenge, Donor(SHARDS, lost).answer(challenge))
    hit = {i for i, p in enumerate(verdict.places) if (p.target.lease_id, p.block_index) in lost}
    assert set(verdict.missing) == hit
    assert not verdict.false
    assert verdict.failed_leases() == {verdict.places[index].target.lease_id for index in hit}


def test_a_rotten_block_is_said_to_be_missing() -> None:
    shard = Shard(9, geometry_of(1, 3_000))
    block = shard.blocks[0]
    assert block is not None
    shard.blocks[0] = block[:-1] + bytes([block[-1] ^ 1])
    challenge = Challenge(NONCE, (shard.target,), 2)
    assert verify_answer(challenge, Donor([shard]).answer(challenge)).missing == (0, 1)


@settings(max_examples=60 if FULL else 25)
@given(st.data())
def test_no_changed_sample_is_taken_for_a_true_one(data: st.DataObject) -> None:
    challenge = Challenge(NONCE, TARGETS, 2)
    samples = HONEST.answer(challenge)
    name = data.draw(st.sampled_from(["chunk", "path", "leaf", "leaf_path"]))
    value: bytes = getattr(samples[1], name)
    changed = data.draw(st.binary(max_size=1500).filter(lambda other: other != value)) if data.draw(
        st.booleans()
    ) or not value else bytes([value[0] ^ 1]) + value[1:]  # fmt: skip
    other = replace(samples[1], **{name: changed})
    verdict = verify_answer(challenge, [samples[0], other])
    assert verdict.false == (1,)


def test_a_chain_can_not_be_entered_in_the_middle() -> None:
    """Answers to another nonce, or in another order, fail although each sample is true somewhere."""
    one, two = Challenge(NONCE, TARGETS, 6), Challenge(b"m" * 32, TARGETS, 6)
    samples = HONEST.answer(one)
    assert verify_answer(two, samples).failed_count > 0
    assert verify_answer(one, samples[::-1]).failed_count > 0
    with pytest.raises(ProtocolError):
        verify_answer(one, samples[:5])


def test_a_donor_that_keeps_hashes_only_fails() -> None:
    challenge = Challenge(NONCE, TARGETS, 4)
    real = HONEST.answer(challenge)
    invented = [replace(sample, chunk=bytes(len(sample.chunk))) for sample in real]
    verdict = verify_answer(challenge, invented)
    assert 0 in verdict.false
    assert verdict.failed_count == 4


def test_each_lease_gets_its_samples() -> None:
    challenge = Challenge(NONCE, TARGETS, 3 * len(TARGETS))
    verdict = verify_answer(challenge, HONEST.answer(challenge))
    picked = [place.target.lease_id for place in verdict.places]
    assert picked == [target.lease_id for target in TARGETS] * 3
    assert verdict.passed_leases() == {target.lease_id for target in TARGETS}


def test_limits_of_a_challenge() -> None:
    for nonce, targets, count in (
        (NONCE, TARGETS, 0), (NONCE, TARGETS, limits.AUDIT_SAMPLES_MAX + 1), (NONCE, (), 1),
        (NONCE, TARGETS[::-1], 1), (NONCE, TARGETS[:1] * 2, 1), (b"short", TARGETS, 1),
    ):  # fmt: skip
        with pytest.raises(ProtocolError):
            Challenge(nonce, targets, count)
    with pytest.raises(ProtocolError):
        Sample.decode(Sample(bytes(1025)).encode())
    with pytest.raises(ProtocolError):
        Target.of(SHARDS[0].lease, SHARDS[1].manifest)


def signed_answer(challenge: Challenge, samples: list[Sample]) -> AuditAnswer:
    digests = answer_digests(challenge, samples)
    return AuditAnswer("cairn-test", challenge.nonce, AUDITOR_ID, HOLDER_ID, digests).sign(HOLDER)


@pytest.mark.parametrize("lie", [Sample(), Sample(b"z" * 1024, bytes(192), bytes(32), b"")])
def test_a_signed_bad_answer_convinces_anybody(lie: Sample) -> None:
    shard = SHARDS[3]
    challenge = Challenge(NONCE, (shard.target,), 3)
    samples = [lie] * 3
    signed = signed_answer(challenge, samples)
    verdict = verify_answer(challenge, samples)
    assert verdict.failed_count == 3
    for index, place in enumerate(verdict.places):
        prove_bad(signed, index, (place.block_index, place.chunk_index), lie, shard.lease, shard.geometry)


def test_nothing_is_proved_against_a_true_answer() -> None:
    shard, other = SHARDS[3], SHARDS[0]
    challenge = Challenge(NONCE, (shard.target,), 2)
    samples = HONEST.answer(challenge)
    signed = signed_answer(challenge, samples)
    place = verify_answer(challenge, samples).places[0]
    at = (place.block_index, place.chunk_index)
    attempts = [
        (signed, 0, at, samples[0], shard.lease, shard.geometry),  # it is true
        (signed, 0, at, Sample(), shard.lease, shard.geometry),  # never signed
        (signed, 0, (at[0], at[1] + 64), samples[0], shard.lease, shard.geometry),
        (signed, 0, (99, at[1]), samples[0], shard.lease, shard.geometry),
        (signed, 2, at, samples[0], shard.lease, shard.geometry),
        (signed, 0, at, samples[0], other.lease, other.geometry),
        (replace(signed, donor=AUDITOR_ID).sign(OTHER), 0, at, samples[0], shard.lease, shard.geometry),
    ]
    for attempt in attempts:
        with pytest.raises(ProtocolError):
            prove_bad(*attempt)
    with pytest.raises(CryptoError):
        prove_bad(replace(signed, nonce=b"m" * 32), 0, at, samples[0], shard.lease, shard.geometry)


FULL_20 = geometry_of(20, CODE.stripe_plaintext_bytes)


def test_dropping_a_tenth_of_the_blocks_fails_one_of_60_samples() -> None:
    """Computed, and simulated with the places that chained challenges really pick."""
    assert 1 - (1 - 0.1) ** 60 >= 0.99
    shards = [Target(LeaseId(n.to_bytes(16, "big")), b"r" * 32, FULL_20) for n in range(5)]
    source = random.Random(1)
    blocks = [(target.lease_id, index) for target in shards for index in range(20)]
    runs = 20_000 if FULL else 2_000
    seen = 0
    for run in range(runs):
        lost = set(source.sample(blocks, len(blocks) // 10))
        link = Challenge(run.to_bytes(32, "big"), tuple(shards), 60).first()
        for index in range(60):
            place = place_of(link, shards, index)
            if (place.target.lease_id, place.block_index) in lost:
                seen += 1
                break
            link = next_link(link, b"")
    assert seen / runs >= 0.99


def test_picks_are_even_over_chunks() -> None:
    target = TARGETS[0]
    counts: dict[tuple[int, int], int] = {}
    for run in range(target.chunk_total * 60):
        place = place_of(next_link(NONCE, run.to_bytes(4, "big")), (target,), 0)
        counts[place.block_index, place.chunk_index] = (
            counts.get((place.block_index, place.chunk_index), 0) + 1
        )
    assert len(counts) == target.chunk_total
    assert max(counts.values()) < 120
    assert min(counts.values()) > 20


@pytest.mark.parametrize(
    ("shard_bytes", "days"),
    [(64 * BLOCK_BYTES, 1), (4 * MIB, 1), (100 * MIB, 1), (2 * MIB, 2), (MIB, 4), (64, 30), (0, 30),
     (140 * KIB, 29)],
)  # fmt: skip
def test_small_shards_are_due_less_often(shard_bytes: int, days: int) -> None:
    assert due_days(shard_bytes) == days
    segment = SegmentId(b"s" * 32)
    due = [day for day in range(1000, 1000 + 10 * days) if is_due(segment, 3, shard_bytes, round_number=day)]
    assert len(due) == 10
    assert all(later - earlier == days for earlier, later in pairwise(due))


def test_a_months_audits_cost_about_a_hundredth_of_the_bytes_kept() -> None:
    geometry = SegmentGeometry(Code(10, 30), Code(10, 30).segment_plaintext_bytes)
    month = 30 // due_days(geometry.shard_bytes) * sample_bytes(geometry)
    assert 0.009 < month / geometry.shard_bytes < 0.015
    largest = max(len(sample.encode()) for sample in HONEST.answer(Challenge(NONCE, TARGETS, 8)))
    assert largest <= sample_bytes(geometry)


PEERS = [peer_id_of(KeyPair.from_seed(bytes([number]) * 32).public) for number in range(30)]


@given(st.binary(min_size=32, max_size=32).map(SegmentId), st.integers(0, 4_000), st.data())
def test_nobody_audits_itself_and_three_may(segment: SegmentId, week: int, data: st.DataObject) -> None:
    roster = data.draw(st.lists(st.sampled_from(PEERS), min_size=1, unique=True))
    target = data.draw(st.sampled_from(PEERS))
    now_s = week * WEEK_S + data.draw(st.integers(0, WEEK_S - 1))
    chosen = auditors(segment, roster, target, now_s=now_s)
    assert chosen == auditors(segment, reversed(roster), target, now_s=week * WEEK_S)
    assert target not in chosen
    assert len(chosen) == min(AUDITORS, len(set(roster) - {target}))
    for peer in PEERS:
        assert is_auditor(peer, segment, roster, target, now_s=now_s) == (peer in chosen)


def test_over_the_weeks_all_take_turns() -> None:
    segment, target = SegmentId(b"s" * 32), PEERS[0]
    turns: dict[PeerId, int] = {}
    for week in range(500):
        for peer in auditors(segment, PEERS, target, now_s=week * WEEK_S):
            turns[peer] = turns.get(peer, 0) + 1
    assert len(turns) == 29
    assert max(turns.values()) < 3 * min(turns.values())


def test_rosters_that_differ_a_little_still_agree() -> None:
    """Without one of 30 co-holders at most one of the three auditors changes."""
    segment, target = SegmentId(b"s" * 32), PEERS[0]
    for week in range(50):
        full = auditors(segment, PEERS, target, now_s=week * WEEK_S)
        less = auditors(segment, PEERS[:-1], target, now_s=week * WEEK_S)
        assert len(set(full) & set(less)) >= AUDITORS - 1
