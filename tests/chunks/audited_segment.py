"""A segment with a holder for each shard, their keys and leases: what audits and evidence are about."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from node.chunks.audit import Challenge, Sample, Target, answer, answer_digests, auditors, place_of
from node.chunks.bad_answer import BadAnswer
from node.chunks.geometry import Code
from node.chunks.merkle import leaf_of
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.records.lease import Lease
from node.records.receipt import AuditAnswer, AuditReceipt, Outcome, join_lease_ids
from node.units import DAY_S, LeaseId, PeerId, SegmentId
from tests.chunks.sample_segment import TODAY, SampleSegment, sample_segment

NETWORK = "test"
NOW_S = TODAY * DAY_S + 3_600
CODE = Code(2, 5)


@dataclass(frozen=True, slots=True)
class AuditedSegment:
    """Shard i is kept by `holders[i]`."""

    segment: SampleSegment
    holders: tuple[KeyPair, ...]
    leases: tuple[Lease, ...]

    @property
    def segment_id(self) -> SegmentId:
        """Its id."""
        return self.segment.manifest.segment_id

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """The holders' ids."""
        return tuple(peer_id_of(key.public) for key in self.holders)

    def key_of(self, peer_id: PeerId) -> KeyPair:
        """A holder's key."""
        return self.holders[self.peers.index(peer_id)]

    def assigned(self, shard: int, *, now_s: int = NOW_S) -> list[KeyPair]:
        """The holders whose turn it is to audit that of `shard`."""
        names = auditors(self.segment_id, self.peers, self.peers[shard], now_s=now_s)
        return [self.key_of(name) for name in names]

    def receipt(
        self,
        shard: int,
        auditor: KeyPair,
        outcome: Outcome = Outcome.PASSED,
        *,
        time_s: int = NOW_S,
        more: tuple[LeaseId, ...] = (),
        nonce: bytes = b"n" * 32,
    ) -> AuditReceipt:
        """Signed; `more` are further leases of the same donor."""
        passed = int(outcome in (Outcome.PASSED, Outcome.SLOW))
        return AuditReceipt(
            NETWORK,
            join_lease_ids([self.leases[shard].lease_id, *more]),
            time_s // DAY_S,
            nonce,
            1,
            passed,
            int(outcome is Outcome.FAILED),
            time_s,
            outcome,
            peer_id_of(auditor.public),
            self.peers[shard],
        ).sign(auditor)

    def bad_answer(self, shard: int, auditor: KeyPair, *, false: bool) -> BadAnswer:
        """Sample 0 of two, signed by the holder: false, or said to be missing."""
        lease = self.leases[shard]
        challenge = Challenge(b"b" * 32, (Target.of(lease, self.segment.manifest),), 2)
        samples = [
            Sample(b"\0" * len(sample.chunk), sample.path, sample.leaf, sample.leaf_path)
            if false
            else Sample()
            for sample in self.samples(challenge, shard)
        ]
        place = place_of(challenge.first(), challenge.targets, 0)
        signed = AuditAnswer(
            NETWORK,
            challenge.nonce,
            peer_id_of(auditor.public),
            self.peers[shard],
            answer_digests(challenge, samples),
        ).sign(self.holders[shard])
        return BadAnswer(signed, 0, place.block_index, place.chunk_index, samples[0], lease)

    def samples(self, challenge: Challenge, shard: int) -> list[Sample]:
        """What an honest holder of a shard answers."""
        blocks = self.segment.blocks[shard]
        leaves = b"".join(leaf_of(block) for block in blocks)
        return answer(challenge, lambda _, index: blocks[index], lambda _: leaves)


@cache
def audited_segment(size: int = 300_000, *, seed: int = 1) -> AuditedSegment:
    """A reproducible one; its shards have several blocks."""
    segment = sample_segment(size, CODE, seed=seed)
    holders = tuple(
        KeyPair.from_seed(bytes([seed, number]) + bytes(30)) for number in range(CODE.total_shards)
    )
    leases = tuple(
        segment.lease(peer_id_of(holder.public), shard, seed=seed).countersign(holder)
        for shard, holder in enumerate(holders)
    )
    return AuditedSegment(segment, holders, leases)
