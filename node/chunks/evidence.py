"""What audits showed: receipts and signed bad answers, by segment and lease. Layer 3, over the KeyValue port.

Invariants: nothing enters that is not signed by whoever it names, is not about a lease of the roster shown
with it, or was not signed by somebody who may audit that lease; news merge by union, the newest receipt of
each auditor, lease and kind counts, so the order of news does not matter; of a lease at most
`EVIDENCE_PER_LEASE_MAX` receipts are kept and of a shard at one donor one bad answer, so what can be said of
a donor is bounded by the leases it signed; receipts go after `EVIDENCE_LIFE_S`, bad answers as long after
their lease has ended. Source: credit.md, "Audits", "Earning", "Repair".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from node import limits
from node.chunks import evidence_rows as rows
from node.chunks.bad_answer import BadAnswer
from node.chunks.findings import Finding, LeaseEvidence, Role, SegmentEvidence, roles_of
from node.chunks.geometry import SegmentGeometry
from node.errors import CryptoError, ProtocolError
from node.ports import KeyValue, ReadTransaction
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.units import LeaseId, PeerId, SegmentId


class Evidence:
    """The tables. Synchronous and short; services call it through `Offload`."""

    def __init__(self, key_values: KeyValue, *, network: str) -> None:
        self._key_values = key_values
        self._network = network
        self.on_receipts: Callable[[Sequence[AuditReceipt]], None] = lambda _: None
        """Called, on whatever thread, with receipts that were accepted and are durable."""

    # --- what enters --------------------------------------------------------------------------------------

    def add_receipts(
        self,
        receipts: Iterable[AuditReceipt],
        roster: Iterable[Lease],
        *,
        now_s: int,
        payers: Collection[PeerId] = (),
    ) -> int:
        """Verify and keep receipts, durably; how many said something new: the count of `take_receipts`."""
        return len(self.take_receipts(receipts, roster, now_s=now_s, payers=payers))

    def take_receipts(
        self,
        receipts: Iterable[AuditReceipt],
        roster: Iterable[Lease],
        *,
        now_s: int,
        payers: Collection[PeerId] = (),
    ) -> tuple[AuditReceipt, ...]:
        """Verify and keep receipts, durably; those that said something new.

        `roster` has the verified leases, of any segments, that they may be about, with all co-holders;
        `payers` may audit as the owner key does. What is false, of nobody's business here, too old or of the
        future is left out, without blame: it may have come through honest hands.
        """
        leases = {lease.lease_id: lease for lease in roster}
        holders: dict[SegmentId, set[PeerId]] = {}
        for lease in leases.values():
            holders.setdefault(lease.segment_id, set()).add(lease.holder)
        accepted: list[tuple[AuditReceipt, list[tuple[Lease, Role]]]] = []
        for receipt in receipts:
            roles = roles_of(receipt, leases, holders, payers) if self._is_timely(receipt, now_s) else []
            if roles and _is_signed(receipt):
                accepted.append((receipt, roles))
        if not accepted:
            return ()
        news = self._key_values.update(
            lambda transaction: tuple(
                receipt for receipt, roles in accepted if rows.add_receipt(transaction, receipt, roles)
            )
        )
        self.on_receipts([receipt for receipt, _ in accepted])
        return news

    def add_bad_answer(self, bad: BadAnswer, segment_id: SegmentId, geometry: SegmentGeometry) -> bool:
        """Verify and keep proof that a shard is lost at its holder, durably; whether it is news.

        The geometry is that of the segment's manifest.

        Raises `ProtocolError`, `CryptoError` where it proves nothing.
        """
        bad.verify_in(segment_id, geometry)
        return self._key_values.update(lambda transaction: rows.add_bad_answer(transaction, bad))

    def expire(self, now_s: int) -> bool:
        """Forget a step's worth of what is too old; whether there may be more."""
        before_s = max(0, now_s - limits.EVIDENCE_LIFE_S)
        with self._key_values.view() as view:
            if not rows.is_due(view, before_s):
                return False  # no commit
        return self._key_values.update(lambda transaction: rows.expire(transaction, before_s))

    def forget(self, segment_id: SegmentId) -> None:
        """Drop all about a segment that this node keeps and owns no longer."""
        self._key_values.update(lambda transaction: rows.forget(transaction, segment_id))

    # --- what it says -------------------------------------------------------------------------------------

    def of_segment(self, segment_id: SegmentId) -> SegmentEvidence:
        """When each shard was last proved, who had no answer since, and what is lost."""
        with self._key_values.view() as view:
            findings = rows.findings(view, segment_id)
            bad = rows.lost(view, segment_id)
        lost = frozenset(bad.values())
        by_lease: dict[LeaseId, list[Finding]] = {}
        for finding in findings:
            by_lease.setdefault(finding.lease_id, []).append(finding)
        leases = {
            lease_id: LeaseEvidence(
                lease_id,
                group[0].shard_index,
                group[0].donor,
                tuple(sorted(group, key=lambda each: (each.time_s, each.auditor, each.outcome))),
                (group[0].shard_index, group[0].donor) in lost,
            )
            for lease_id, group in by_lease.items()
        }
        for lease_id, (shard_index, donor) in bad.items():
            if lease_id not in leases:
                leases[lease_id] = LeaseEvidence(lease_id, shard_index, donor, (), is_lost=True)
        return SegmentEvidence(leases)

    def receipts(self, segment_id: SegmentId) -> tuple[AuditReceipt, ...]:
        """Every receipt that says something of a segment, for exchange; verified before it entered."""
        with self._key_values.view() as view:
            found = {finding.receipt_id: finding.time_s for finding in rows.findings(view, segment_id)}
            ids = sorted(found, key=lambda receipt_id: (found[receipt_id], receipt_id))
            return tuple(self._receipt(view, receipt_id) for receipt_id in ids)

    def no_answers(self, segment_id: SegmentId, lease_id: LeaseId) -> tuple[AuditReceipt, ...]:
        """No-answer receipts on a lease since it was last proved, one an auditor, oldest first: two of
        different auditors are evidence of death."""
        evidence = self.of_segment(segment_id).leases.get(lease_id)
        return () if evidence is None else self._receipts_of(evidence.no_answers)

    def vesting(self, segment_id: SegmentId, lease_id: LeaseId) -> tuple[AuditReceipt, ...]:
        """Passed audits of a lease by its owner or by co-holders whose turn it was, oldest first: what makes
        the owner owe (the ledger asks for two different co-holders between two vestings)."""
        evidence = self.of_segment(segment_id).leases.get(lease_id)
        if evidence is None:
            return ()
        return self._receipts_of(
            finding
            for finding in evidence.findings
            if finding.outcome is Outcome.PASSED and finding.role is not Role.CO_HOLDER
        )

    def vests(self, receipt: AuditReceipt, lease: Lease) -> bool:
        """Whether a receipt is one of those that `vesting` tells of a lease: one look."""
        with self._key_values.view() as view:
            finding = rows.finding_of(view, receipt, lease)
        return (
            finding is not None
            and finding.outcome is Outcome.PASSED
            and finding.role is not Role.CO_HOLDER
            and finding.receipt_id == receipt.record_id()
        )

    def bad_answers(self, segment_id: SegmentId) -> tuple[BadAnswer, ...]:
        """The portable proofs against holders of a segment."""
        with self._key_values.view() as view:
            return tuple(rows.bad_answers(view, segment_id, network=self._network))

    def bad_answer(self, segment_id: SegmentId, shard_index: int, donor: PeerId) -> BadAnswer | None:
        """The proof that a shard is lost at a donor, if there is one."""
        with self._key_values.view() as view:
            found = rows.bad_answers(view, segment_id + bytes([shard_index]) + donor, network=self._network)
            return next(found, None)

    # --- inside -------------------------------------------------------------------------------------------

    def _is_timely(self, receipt: AuditReceipt, now_s: int) -> bool:
        age_s = now_s - receipt.time_s
        return receipt.network == self._network and (
            -limits.EVIDENCE_AHEAD_S <= age_s < limits.EVIDENCE_LIFE_S
        )

    def _receipts_of(self, findings: Iterable[Finding]) -> tuple[AuditReceipt, ...]:
        with self._key_values.view() as view:
            found = (rows.receipt_bytes(view, finding.receipt_id) for finding in findings)
            return tuple(
                AuditReceipt.decode(data, network=self._network) for data in found if data is not None
            )

    def _receipt(self, view: ReadTransaction, receipt_id: bytes) -> AuditReceipt:
        data = rows.receipt_bytes(view, receipt_id)
        assert data is not None  # rows and receipts change in one transaction
        return AuditReceipt.decode(data, network=self._network)


def _is_signed(receipt: AuditReceipt) -> bool:
    try:
        AuditReceipt.decode(receipt.encode(), network=receipt.network).verify()
    except (CryptoError, ProtocolError):
        return False
    return True
