"""What audits found, of a leased shard and of a segment, and who may say so. Layer 2, pure.

Invariants: a receipt says something of a lease only where its auditor is the owner (or another that pays for
the lease) or a co-holder; what nobody found is unknown, and neither proved nor lost.
Source: credit.md, "Audits", "Repair".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from node.chunks.audit import is_auditor
from node.crypto.identity import peer_id_of
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.units import LeaseId, PeerId, SegmentId


class Role(IntEnum):
    """What entitled an auditor, by the roster that its receipt came with."""

    OWNER = 1
    """The key that signed the lease, or another that pays for it."""
    ASSIGNED = 2
    """One of the three co-holders whose turn it was that week."""
    CO_HOLDER = 3
    """Another one: its receipts say whether the donor answers, and vest nothing."""


_PROVING: Final = (Outcome.PASSED, Outcome.SLOW)


@dataclass(frozen=True, slots=True)
class Finding:
    """One receipt, as far as it concerns one lease."""

    lease_id: LeaseId
    shard_index: int
    donor: PeerId
    auditor: PeerId
    role: Role
    outcome: Outcome
    time_s: int
    receipt_id: bytes

    @property
    def proves(self) -> bool:
        """Whether the donor had the bytes then, late or not."""
        return self.outcome in _PROVING


@dataclass(frozen=True, slots=True)
class Proof:
    """When a shard was last proved, and by whom."""

    time_s: int
    auditor: PeerId


@dataclass(frozen=True, slots=True)
class LeaseEvidence:
    """All that is known of one leased shard."""

    lease_id: LeaseId
    shard_index: int
    donor: PeerId
    findings: tuple[Finding, ...]
    """Oldest first."""
    is_lost: bool
    """The donor signed a bad answer: the shard counts as lost there."""

    @property
    def proved(self) -> Proof | None:
        """The last proof; None where that is unknown."""
        proofs = [finding for finding in self.findings if finding.proves]
        return Proof(proofs[-1].time_s, proofs[-1].auditor) if proofs else None

    @property
    def no_answers(self) -> tuple[Finding, ...]:
        """No-answer receipts since the last proof, one an auditor, oldest first."""
        since = self.proved
        return tuple(
            finding
            for finding in self.findings
            if finding.outcome is Outcome.NO_ANSWER and (since is None or finding.time_s > since.time_s)
        )


@dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """All that is known of one segment. What it does not mention is unknown."""

    leases: Mapping[LeaseId, LeaseEvidence] = field(default_factory=dict)

    def proved(self, shard_index: int, *, holder: PeerId | None = None) -> Proof | None:
        """The last proof of a shard (at `holder`, if given) that is not lost there since; None: unknown."""
        proofs = [
            lease.proved
            for lease in self.leases.values()
            if lease.shard_index == shard_index
            and not lease.is_lost
            and (holder is None or lease.donor == holder)
            and lease.proved is not None
        ]
        return max(proofs, key=lambda proof: proof.time_s) if proofs else None

    def lost(self) -> frozenset[tuple[int, PeerId]]:
        """(shard index, donor) where the donor's own signature says that the shard is lost."""
        return frozenset((each.shard_index, each.donor) for each in self.leases.values() if each.is_lost)


def roles_of(
    receipt: AuditReceipt,
    leases: Mapping[LeaseId, Lease],
    holders: Mapping[SegmentId, Collection[PeerId]],
    payers: Collection[PeerId],
) -> list[tuple[Lease, Role]]:
    """The known leases that a receipt says something of, and what entitles its auditor to.

    `holders` are those of each lease's segment; `payers` may audit as the owner key does.
    """
    found: list[tuple[Lease, Role]] = []
    for lease_id in receipt.lease_ids():
        lease = leases.get(lease_id)
        if lease is None or lease.holder != receipt.donor or not lease.start_day - 1 <= receipt.day:
            continue
        role = _role(receipt, lease, holders[lease.segment_id], payers)
        if role is not None:
            found.append((lease, role))
    return found


def _role(
    receipt: AuditReceipt, lease: Lease, holders: Collection[PeerId], payers: Collection[PeerId]
) -> Role | None:
    if receipt.auditor == peer_id_of(lease.owner_key) or receipt.auditor in payers:
        return Role.OWNER
    if receipt.auditor not in holders:
        return None
    assigned = is_auditor(receipt.auditor, lease.segment_id, holders, lease.holder, now_s=receipt.time_s)
    return Role.ASSIGNED if assigned else Role.CO_HOLDER
