"""From answers and silences to receipts, evidence and reputation. Layer 4.

Invariants: a receipt is durable before anybody is told; leases whose outcomes differ get a receipt each,
under the same round and nonce; no answer at all says nothing against a donor but that it was not there,
unless it was connected and silent three times; what a donor does not keep counts as not answered for, since
its lease says that it would. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node import limits
from node.chunks.audits.duties import allowance_s, is_reporter
from node.chunks.audits.server import current_holders
from node.chunks.audits.session import Answered, AuditItem, Auditor
from node.chunks.audits.work import PairWork, WorkPlanner
from node.chunks.bad_answer import BadAnswer
from node.chunks.evidence import Evidence
from node.chunks.findings import LeaseEvidence
from node.chunks.reputations import ReputationLog
from node.ports import Clock, Offload
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome, join_lease_ids
from node.units import LeaseId, PeerId, SegmentId

WEEK_S: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class News:
    """A receipt, and the segments whose other holders are to hear of it."""

    receipt: AuditReceipt
    segment_ids: tuple[SegmentId, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one audit showed."""

    receipts: tuple[AuditReceipt, ...] = ()
    to_tell: tuple[News, ...] = ()
    bad: tuple[BadAnswer, ...] = ()


@dataclass(slots=True)
class AuditStatistics:
    """Shards by outcome since the start, for `cairn status` and tests."""

    rounds: int = 0
    audits: int = 0
    samples: int = 0
    passed: int = 0
    slow: int = 0
    failed: int = 0
    no_answer: int = 0
    errors: int = 0


class Judge:
    """Signs for what one auditor saw, keeps it, and says what others should hear."""

    def __init__(
        self,
        *,
        planner: WorkPlanner,
        evidence: Evidence,
        reputations: ReputationLog,
        network_id: str,
        clock: Clock,
        offload: Offload,
        samples: int,
    ) -> None:
        self._planner = planner
        self._evidence = evidence
        self._reputations = reputations
        self._network_id = network_id
        self._clock = clock
        self._offload = offload
        self._samples = samples
        self.statistics = AuditStatistics()

    async def answered(
        self,
        work: PairWork,
        auditor: Auditor,
        items: Sequence[AuditItem],
        answered: Answered,
        *,
        round_number: int,
    ) -> Judgement:
        """The donor answered for `items`. Raises `StoreError`."""
        verdict = answered.verdict
        late = answered.took_s > allowance_s(len(verdict.places), answered.round_trip_s)
        passed, failed = verdict.passed_leases(), verdict.failed_leases()
        good = len(verdict.places) - verdict.failed_count
        if good:
            self._reputations.passed(work.donor, good, late=late)
        if verdict.failed_count:
            contradicts = bool(verdict.false)
            self._reputations.failed(work.donor, verdict.failed_count, contradicts=contradicts)
        statistics = self.statistics
        statistics.audits += 1
        statistics.samples += len(verdict.places)
        statistics.passed += 0 if late else len(passed)
        statistics.slow += len(passed) if late else 0
        statistics.failed += len(failed)
        sign = self._signer(work, auditor, round_number, answered.challenge.nonce)
        receipts = []
        if passed:
            count = sum(place.target.lease_id in passed for place in verdict.places)
            receipts.append(sign(passed, (count, count, 0), Outcome.SLOW if late else Outcome.PASSED))
        if failed:
            count = sum(place.target.lease_id in failed for place in verdict.places)
            bad_count = verdict.failed_count
            receipts.append(sign(failed, (count, count - bad_count, bad_count), Outcome.FAILED))
        return await self._keep(work, auditor, items, receipts, answered.bad_answers(items))

    async def not_answered(
        self,
        work: PairWork,
        auditor: Auditor,
        items: Sequence[AuditItem],
        *,
        round_number: int,
        nonce: bytes,
        outcome: Outcome,
    ) -> Judgement:
        """There was no answer for `items`, or (`Outcome.UNKNOWN`) one that says nothing of the bytes.

        Raises `StoreError`.
        """
        if not items:
            return Judgement()
        sign = self._signer(work, auditor, round_number, nonce)
        if outcome is Outcome.NO_ANSWER:
            self.statistics.no_answer += len(items)
        else:
            self.statistics.errors += len(items)
        receipts = [
            sign([item.lease.lease_id for item in part], (max(1, self._samples), 0, 0), outcome)
            for part in _parts(items)
        ]
        return await self._keep(work, auditor, items, receipts, [])

    def _signer(
        self, work: PairWork, auditor: Auditor, round_number: int, nonce: bytes
    ) -> Callable[[Iterable[LeaseId], tuple[int, int, int], Outcome], AuditReceipt]:
        def sign(leases: Iterable[LeaseId], counts: tuple[int, int, int], outcome: Outcome) -> AuditReceipt:
            return AuditReceipt(
                self._network_id, join_lease_ids(leases), round_number, nonce, *counts,
                self._clock.now_s(), outcome, auditor.peer_id, work.donor,
            ).sign(auditor.key)  # fmt: skip

        return sign

    async def _keep(
        self,
        work: PairWork,
        auditor: Auditor,
        items: Sequence[AuditItem],
        receipts: Sequence[AuditReceipt],
        bad: Sequence[BadAnswer],
    ) -> Judgement:
        """Make it durable; of it, what is for others to hear."""
        now_s = self._clock.now_s()

        def keep() -> tuple[News, ...]:
            rosters: dict[SegmentId, tuple[Lease, ...]] = {}
            before: dict[LeaseId, LeaseEvidence] = {}
            for segment_id in sorted({item.lease.segment_id for item in items}):
                rosters[segment_id] = self._planner.roster(work, segment_id)
                before.update(self._evidence.of_segment(segment_id).leases)
            leases = [lease for roster in rosters.values() for lease in roster]
            self._evidence.add_receipts(receipts, leases, now_s=now_s)
            by_lease = {item.lease.lease_id: item for item in items}
            for each in bad:
                item = by_lease[each.lease.lease_id]
                self._evidence.add_bad_answer(each, item.lease.segment_id, item.geometry)
            found = []
            for receipt in receipts:
                segments = {
                    by_lease[lease_id].lease.segment_id
                    for lease_id in receipt.lease_ids()
                    if _is_news(receipt, auditor, by_lease[lease_id].lease, rosters, before.get(lease_id))
                }
                if segments:
                    found.append(News(receipt, tuple(sorted(segments))))
            return tuple(found)

        return Judgement(tuple(receipts), await self._offload.run(keep), tuple(bad))


def _is_news(
    receipt: AuditReceipt,
    auditor: Auditor,
    lease: Lease,
    rosters: dict[SegmentId, tuple[Lease, ...]],
    before: LeaseEvidence | None,
) -> bool:
    """Whether other holders are told at once. What went wrong always is; a pass where it ends a silence, and
    once a week by the first of the week's auditors: telling all of all would cost more than the samples."""
    if receipt.outcome in (Outcome.FAILED, Outcome.NO_ANSWER):
        return True
    if receipt.outcome not in (Outcome.PASSED, Outcome.SLOW):
        return False
    if before is not None and before.no_answers:
        return True
    holders = current_holders(rosters[lease.segment_id], receipt.time_s)
    if auditor.is_owner or not is_reporter(auditor.peer_id, lease, holders, now_s=receipt.time_s):
        return False
    week = receipt.time_s // WEEK_S
    findings = () if before is None else before.findings
    return not any(
        finding.auditor == auditor.peer_id and finding.proves and finding.time_s // WEEK_S == week
        for finding in findings
    )


def _parts(items: Sequence[AuditItem]) -> list[Sequence[AuditItem]]:
    size = limits.AUDIT_SAMPLES_MAX
    return [items[start : start + size] for start in range(0, len(items), size)]


def others_of(leases: Iterable[Lease], now_s: int, *besides: PeerId) -> set[PeerId]:
    """Holders of a segment without some."""
    return current_holders(tuple(leases), now_s) - set(besides)
