"""An audit's conversation with a donor: what it keeps, rosters, the challenge, what each missed. Layer 4.

Invariants: of a pair all that is asked goes into one challenge; leases learned on the way hold by themselves;
an answer is judged, and the judgement durable, before the donor is given a receipt for it.
Source: credit.md, "Audits".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from node import limits
from node.chunks.audits import messages
from node.chunks.audits.duties import sample_total
from node.chunks.audits.judging import Judge, Judgement
from node.chunks.audits.session import AuditItem, Auditor, AuditSession
from node.chunks.audits.work import PairWork, WorkPlanner
from node.chunks.evidence import Evidence
from node.errors import CryptoError, ProtocolError
from node.ports import Clock, Offload
from node.records.lease import Lease
from node.records.receipt import AuditReceipt
from node.units import LeaseId, PeerId, SegmentId

_logger = logging.getLogger(__name__)

OnJudged = Callable[[PairWork, Judgement], None]


@dataclass(frozen=True, slots=True)
class PairTask:
    """A pair's work in a round, in somebody's name."""

    work: PairWork
    auditor: Auditor
    round_number: int
    nonce: bytes


class Conversation:
    """Audits of this node, once a donor is there."""

    def __init__(
        self,
        *,
        me: PeerId,
        planner: WorkPlanner,
        judge: Judge,
        evidence: Evidence,
        clock: Clock,
        offload: Offload,
        samples: int,
    ) -> None:
        """`samples` a shard when due."""
        self._me = me
        self._planner = planner
        self._judge = judge
        self._evidence = evidence
        self._clock = clock
        self._offload = offload
        self._samples = samples
        self._collected_s: dict[PeerId, int] = {}
        """When a donor was last asked what co-holders found while this node was away."""
        self.on_heard: Callable[[Collection[LeaseId]], None] = lambda lease_ids: None
        """Called with leases whose donor answered that it holds them, to one that may not sample them."""

    async def hold(
        self, session: AuditSession, task: PairTask, items: list[AuditItem], on_judged: OnJudged
    ) -> list[AuditItem]:
        """Audit these leases; those that the donor says it does not keep.

        `on_judged` is called as soon as there is a judgement. Raises `RemoteError`, `StoreError`.
        """
        work, auditor = task.work, task.auditor
        segments = sorted({item.lease.segment_id for item in items})
        rosters = await self._offload.run(
            lambda: {segment_id: self._planner.roster(work, segment_id) for segment_id in segments}
        )
        digests = {segment_id: messages.roster_digest(leases) for segment_id, leases in rosters.items()}
        ask = partial(
            session.ask,
            auditor,
            self._me,
            items,
            round_number=task.round_number,
            digests=digests.__getitem__,
        )
        states = await ask()
        differ = await self._exchange_rosters(session, work, items, states, rosters)
        if differ and messages.NOT_YOURS in _plain(states):
            states = await ask()  # by the roster that both know now it may be this auditor's turn
        pairs = list(zip(items, _plain(states), strict=True))
        held = [item for item, state in pairs if state == messages.HELD]
        declined = [item for item, state in pairs if state == messages.NOT_HELD]
        self.on_heard([item.lease.lease_id for item, state in pairs if state == messages.NOT_YOURS])
        if held:
            await self._tell_what_it_missed(session, auditor, held)
            count = sample_total(len(held), self._samples)
            answered = await session.challenge(auditor, held, nonce=task.nonce, sample_count=count)
            judgement = await self._judge.answered(
                work, auditor, held, answered, round_number=task.round_number
            )
            for receipt in judgement.receipts:
                await session.give_receipt(receipt, of_all=len(judgement.receipts) == 1)
            on_judged(work, judgement)
            if auditor.is_owner:
                await self._collect(session, work, segments, rosters)
        return declined

    async def _exchange_rosters(
        self,
        session: AuditSession,
        work: PairWork,
        items: Sequence[AuditItem],
        states: bytes,
        rosters: dict[SegmentId, tuple[Lease, ...]],
    ) -> bool:
        """Learn and teach leases where the two rosters differ; whether there were any."""
        differing = {
            item.lease.segment_id: item
            for item, state in zip(items, states, strict=True)
            if state & messages.OTHER_ROSTER
        }
        for segment_id, item in list(differing.items())[: limits.AUDIT_ROSTERS_MAX]:
            theirs = await session.exchange_roster(segment_id, rosters[segment_id])
            known = {lease.lease_id for lease in rosters[segment_id]}
            news = [lease for lease in theirs if lease.lease_id not in known]
            if news:
                await self._offload.run(partial(self._learn, work, item, news))
        return bool(differing)

    def _learn(self, work: PairWork, like: AuditItem, news: Sequence[Lease]) -> None:
        """Take in those leases of a segment that hold. Blocks on the disk."""
        segment_id, shard_bytes = like.lease.segment_id, like.geometry.shard_bytes
        good = []
        for lease in news:
            if (lease.segment_id, lease.byte_count, lease.owner_key) != (
                segment_id,
                shard_bytes,
                like.lease.owner_key,
            ):
                continue
            try:
                lease.verify()
                self._planner.learn(work, segment_id, [lease])
            except (ProtocolError, CryptoError):
                continue  # whoever passed it on may have been fooled as well
            good.append(lease)
        if good:
            _logger.debug("learned %d leases", len(good))

    async def _tell_what_it_missed(
        self, session: AuditSession, auditor: Auditor, items: Sequence[AuditItem]
    ) -> None:
        """A donor that was away hears so, and when, from whoever asked."""

        def find() -> dict[SegmentId, list[AuditReceipt]]:
            found: dict[SegmentId, list[AuditReceipt]] = {}
            for item in items:
                segment_id = item.lease.segment_id
                for receipt in self._evidence.no_answers(segment_id, item.lease.lease_id):
                    if receipt.auditor == auditor.peer_id and receipt not in found.get(segment_id, ()):
                        found.setdefault(segment_id, []).append(receipt)
            return found

        missed = await self._offload.run(find)
        segments = list(missed)[: limits.AUDIT_TELL_SEGMENTS_MAX]
        receipts = {each.record_id(): each for segment in segments for each in missed[segment]}
        if receipts:
            await session.tell(segments, list(receipts.values()))

    async def _collect(
        self,
        session: AuditSession,
        work: PairWork,
        segments: Sequence[SegmentId],
        rosters: dict[SegmentId, tuple[Lease, ...]],
    ) -> None:
        """What co-holders found while the owner was away."""
        since_s = self._collected_s.get(work.donor, 0)
        now_s = self._clock.now_s()
        leases = [lease for roster in rosters.values() for lease in roster]
        for start in range(0, len(segments), limits.AUDIT_TELL_SEGMENTS_MAX):
            part = segments[start : start + limits.AUDIT_TELL_SEGMENTS_MAX]
            receipts = await session.collect(part, since_s=max(0, since_s - limits.EVIDENCE_AHEAD_S))
            await self._offload.run(partial(self._evidence.add_receipts, receipts, leases, now_s=now_s))
        if len(self._collected_s) < limits.AUDIT_GIVEN_UP_MAX or work.donor in self._collected_s:
            self._collected_s[work.donor] = now_s


def _plain(states: bytes) -> list[int]:
    return [state & ~messages.OTHER_ROSTER for state in states]
