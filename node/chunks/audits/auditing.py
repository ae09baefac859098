"""Rounds of audits: what is due is asked, judged, signed for and told. Layer 4.

Invariants: a donor that can't be dialled is offline, which suspends it and costs it nothing else; one that is
connected and leaves the same challenge unanswered three times has failed; what a donor says of its own disk's
trouble says nothing of the bytes. A donor that was silent is looked for once a round by whoever missed it, so
that all who might count it as dead see its return, and nothing is signed for that. Work spreads over the
round by a seed, and between audits nothing wakes but the return of a donor that was given up.
Source: credit.md, "Audits", "Earning".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from node import limits
from node.chunks.audits.conversation import Conversation, PairTask
from node.chunks.audits.duties import place_in_round
from node.chunks.audits.given_up import GivenUp
from node.chunks.audits.journal import OwnAudits
from node.chunks.audits.judging import AuditStatistics, Judge, Judgement
from node.chunks.audits.server import AuditServer
from node.chunks.audits.session import AuditItem
from node.chunks.audits.telling import Teller
from node.chunks.audits.work import PairWork, WorkPlanner
from node.chunks.evidence import Evidence
from node.chunks.reputations import ReputationLog
from node.crypto.hashing import blake3_256
from node.errors import RemoteError, StoreError, UnreachableError
from node.ports import Clock, Entropy, Network, Offload
from node.records.receipt import AUDIT_NONCE_BYTES, AuditReceipt, Outcome
from node.units import LeaseId, PeerId, SegmentId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

AUDITS_AT_ONCE: Final = 4
ATTEMPTS: Final = 3
"""Times that one challenge is put to a donor that is connected."""
DIALS: Final = 2
"""Times that a donor is dialled before it counts as away for this round."""
PLAN_SHARE: Final = 0.05
"""Share of a round over which the nodes' planning spreads."""
WORK_SHARE: Final = 0.6
"""Share of a round over which audits spread; what is left is for second attempts."""
RETRY_SHARE: Final = 0.1
START_SHARE: Final = 0.02
"""Share of a round that a node that has just started leaves itself to join."""
RETURN_SHARE: Final = 0.02
"""Share of a round over which auditors come back to a donor that has returned."""

_logger = logging.getLogger(__name__)


class _Silence(Enum):
    """Why a donor gave no answer."""

    AWAY = auto()
    UNANSWERED = auto()
    TROUBLE = auto()
    """It says that it can't, or what it sent is no answer: nothing is known of the bytes."""


class Auditing:
    """Audits for this node as a holder and as an owner."""

    def __init__(
        self,
        *,
        server: AuditServer,
        planner: WorkPlanner,
        teller: Teller,
        judge: Judge,
        network: Network,
        evidence: Evidence,
        reputations: ReputationLog,
        save_reputations: Callable[[], object],
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        interval_s: int,
        samples: int,
    ) -> None:
        """`samples` a shard when due; `save_reputations` makes what was observed durable."""
        self.server = server
        self._planner = planner
        self._teller = teller
        self._judge = judge
        self._network = network
        self._evidence = evidence
        self._reputations = reputations
        self._save_reputations = save_reputations
        self._clock = clock
        self._entropy = entropy
        self._offload = offload
        self._interval_s = interval_s
        self._me = server.peer_id
        self._limiter = trio.CapacityLimiter(AUDITS_AT_ONCE)
        self._given_up = GivenUp()
        self._suspected: set[tuple[PeerId, int]] = set()
        self.conversation = Conversation(
            me=self._me,
            planner=planner,
            judge=judge,
            evidence=evidence,
            clock=clock,
            offload=offload,
            samples=samples,
        )
        self._nursery: trio.Nursery | None = None

    @property
    def statistics(self) -> AuditStatistics:
        """Counts of this node's audits of others, since the start."""
        return self._judge.statistics

    def own_audits(self) -> OwnAudits:
        """What others' audits of this node showed."""
        return self.server.journal.audits()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and audit until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.server.on_no_answer = self._suspect
            self._network.on_connected(self._on_connected)
            await nursery.start(self.server.run)
            task_status.started()
            nursery.start_soon(self._rounds)

    # --- rounds -------------------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        await trio.sleep(START_SHARE * self._interval_s)
        while True:
            round_number = self._clock.now_s() // self._interval_s
            try:
                await self._run_round(round_number)
            except StoreError as error:
                _logger.warning("the audits of this round are left out: %s", error)
            await self._sleep_until((round_number + 1) * self._interval_s)

    async def _run_round(self, round_number: int) -> None:
        start_s = round_number * self._interval_s
        own_place = int.from_bytes(blake3_256(self._me)[:4], "big") / 2**32
        await self._sleep_until(start_s + own_place * PLAN_SHARE * self._interval_s)
        self._suspected = {pair for pair in self._suspected if pair[1] >= round_number}
        works = await self._offload.run(partial(self._planner.plan, round_number, self._clock.now_s()))
        self.statistics.rounds += 1
        works += self._to_look_for({work.donor for work in works})
        if works:
            places = {work.donor: place_in_round(self._me, work.donor, round_number) for work in works}
            works.sort(key=lambda work: (places[work.donor], work.donor, work.file_hash or b""))
            begin_s = start_s + PLAN_SHARE * self._interval_s
            with trio.move_on_after(max(0.0, start_s + self._interval_s - self._clock.now_s())):
                async with trio.open_nursery() as nursery:
                    for work in works:
                        at_s = begin_s + places[work.donor] * WORK_SHARE * self._interval_s
                        await self._sleep_until(at_s)
                        nursery.start_soon(self._work_off, work, round_number)
        while await self._offload.run(partial(self._evidence.expire, self._clock.now_s())):
            pass

    def _to_look_for(self, planned: Collection[PeerId]) -> list[PairWork]:
        """Donors that are away and that nobody asked this node to look at in this round."""
        there = {*planned, *self._network.connected()}
        return [PairWork(donor, is_return=True) for donor in self._given_up if donor not in there]

    async def _look_for(self, donor: PeerId) -> None:
        """Whether it has returned; forget it where nothing binds it any more. Raises `StoreError`."""
        waiting = self._given_up.of(donor)
        left = []
        for work in waiting:
            if await self._offload.run(
                partial(self._planner.load, work, list(work.all()), self._clock.now_s())
            ):
                left.append(work)
        if not left:
            self._given_up.take(donor)
        elif await self._teller.is_reachable(donor):
            self._came_back(donor)

    async def _work_off(self, work: PairWork, round_number: int) -> None:
        try:
            async with self._limiter:
                if work.is_return:
                    await self._look_for(work.donor)
                else:
                    await self.audit_pair(work, round_number)
        except StoreError as error:
            _logger.warning("an audit is left out: %s", error)

    async def _sleep_until(self, time_s: float) -> None:
        await trio.sleep(max(0.0, time_s - self._clock.now_s()))

    # --- one pair -----------------------------------------------------------------------------------------

    async def audit_pair(self, work: PairWork, round_number: int) -> None:
        """Audit a donor for one auditor, and see to what follows from it. Raises `StoreError`."""
        auditor = await self._offload.run(partial(self._planner.auditor, work))
        if auditor is None:
            return
        task = PairTask(work, auditor, round_number, self._entropy.random_bytes(AUDIT_NONCE_BYTES))
        items = await self._undone(task, work.sample)
        if items:
            await self._sample(task, items)
        elif work.watch:
            if await self._teller.is_reachable(work.donor):
                missed = await self._missed(await self._undone(task, work.watch))
                if missed and not work.is_told:
                    sample = {item.lease.lease_id: work.watch[item.lease.lease_id] for item in missed}
                    self._given_up.add(PairWork(work.donor, work.file_hash, sample=sample))
                self._came_back(work.donor)
            else:
                self._reputations.unreachable(work.donor)
                await self._give_up(task, await self._undone(task, work.watch))
        await self._offload.run(self._save_reputations)

    async def _missed(self, items: Sequence[AuditItem]) -> list[AuditItem]:
        """Those that somebody got no answer for since they were last proved."""

        def read() -> list[AuditItem]:
            segments = {item.lease.segment_id for item in items}
            known = {segment_id: self._evidence.of_segment(segment_id).leases for segment_id in segments}
            return [
                item
                for item in items
                if (lease := known[item.lease.segment_id].get(item.lease.lease_id)) is not None
                and lease.no_answers
            ]

        return await self._offload.run(read)

    async def _undone(self, task: PairTask, wanted: Iterable[LeaseId]) -> list[AuditItem]:
        """Items that this auditor has not proved or judged in this round: a restart repeats nothing."""
        work, start_s, now_s = task.work, task.round_number * self._interval_s, self._clock.now_s()
        lease_ids = list(wanted)[: limits.AUDIT_SAMPLES_MAX]

        def load() -> list[AuditItem]:
            places = work.all()
            segments = {places[lease_id][0] for lease_id in lease_ids}
            known = {segment_id: self._evidence.of_segment(segment_id) for segment_id in segments}
            left = []
            for item in self._planner.load(work, lease_ids, now_s):
                evidence = known[item.lease.segment_id].leases.get(item.lease.lease_id)
                if evidence is not None and (
                    evidence.is_lost
                    or any(
                        finding.auditor == task.auditor.peer_id
                        and finding.time_s >= start_s
                        and finding.outcome in (Outcome.PASSED, Outcome.SLOW, Outcome.FAILED)
                        for finding in evidence.findings
                    )
                ):
                    continue
                left.append(item)
            return left

        return await self._offload.run(load)

    async def _sample(self, task: PairTask, items: list[AuditItem]) -> None:
        donor = task.work.donor
        dials = unanswered = 0
        while True:
            silence = await self._attempt(task, items)
            if silence is _Silence.AWAY:
                dials += 1
                self._reputations.unreachable(donor)
            elif silence is _Silence.UNANSWERED:
                unanswered += 1
                self._reputations.left_unanswered(donor, task.nonce)
            if silence in (None, _Silence.TROUBLE) or dials == DIALS or unanswered == ATTEMPTS:
                break
            await trio.sleep(RETRY_SHARE * self._interval_s)
        if silence is _Silence.TROUBLE:
            self._reputations.erred(donor)
            await self._no_answer(task, items, Outcome.UNKNOWN)
        elif silence is not None:
            await self._give_up(task, [*items, *await self._undone(task, task.work.watch)])

    async def _attempt(self, task: PairTask, items: list[AuditItem]) -> _Silence | None:
        """One conversation with a donor; None if it answered. Raises `StoreError`."""
        donor = task.work.donor
        try:
            session = await self._teller.open(donor)
            self._reputations.reachable(donor)
            try:
                declined = await self.conversation.hold(session, task, items, self._tell_soon)
                if declined:
                    # The donor signed for what it says it does not keep: whoever repairs must hear of it.
                    self._reputations.erred(donor)
                    await self._no_answer(task, declined, Outcome.NO_ANSWER)
            finally:
                await session.aclose()
        except UnreachableError as error:
            _logger.debug("an audit got no answer: %s", error)
            return _Silence.UNANSWERED if donor in self._network.connected() else _Silence.AWAY
        except RemoteError as error:
            _logger.info("an audit brought no answer: %s", error)
            return _Silence.TROUBLE
        self._given_up.take(donor)
        return None

    # --- silence ------------------------------------------------------------------------------------------

    async def _give_up(self, task: PairTask, items: Sequence[AuditItem]) -> None:
        """No answer in this round; the donor is asked again when it comes back.

        A node that has no connection at all is itself the one that is away, and says nothing of others.
        """
        if not any(peer_id != self._me for peer_id in self._network.connected()):
            return
        await self._no_answer(task, items, Outcome.NO_ANSWER)
        self._given_up.add(task.work)

    async def _no_answer(self, task: PairTask, items: Sequence[AuditItem], outcome: Outcome) -> None:
        judgement = await self._judge.not_answered(
            task.work,
            task.auditor,
            items,
            round_number=task.round_number,
            nonce=task.nonce,
            outcome=outcome,
        )
        self._tell_soon(task.work, judgement)

    def _tell_soon(self, work: PairWork, judgement: Judgement) -> None:
        if self._nursery is not None and (judgement.to_tell or judgement.bad):
            self._nursery.start_soon(self._tell, work, judgement)

    async def _tell(self, work: PairWork, judgement: Judgement) -> None:
        try:
            async with self._limiter:
                await self._teller.tell(work, judgement)
        except StoreError as error:
            _logger.warning("others are not told of an audit: %s", error)

    def _on_connected(self, peer_id: PeerId) -> None:
        self._came_back(peer_id)

    def _came_back(self, peer_id: PeerId) -> None:
        """Lift the suspension, and ask again what got no answer."""
        self._reputations.reachable(peer_id)
        works = self._given_up.take(peer_id)
        if works and self._nursery is not None:
            self._nursery.start_soon(self._ask_again, peer_id, works)

    async def _ask_again(self, peer_id: PeerId, works: Sequence[PairWork]) -> None:
        round_number = self._clock.now_s() // self._interval_s
        place = place_in_round(self._me, peer_id, round_number)
        await trio.sleep(place * RETURN_SHARE * self._interval_s)
        for work in works:
            await self._work_off(work, self._clock.now_s() // self._interval_s)

    def _suspect(self, receipt: AuditReceipt, segment_ids: Sequence[SegmentId]) -> None:
        """Somebody got no answer of a donor: see for oneself, once a round."""
        key = (receipt.donor, self._clock.now_s() // self._interval_s)
        full = len(self._suspected) >= limits.AUDIT_GIVEN_UP_MAX
        if self._nursery is None:
            return
        if key in self._suspected or full:
            if receipt.donor in self._given_up:
                self._nursery.start_soon(self._await_told, receipt.donor, tuple(segment_ids))
            return
        self._suspected.add(key)
        self._nursery.start_soon(self._look_after, receipt.donor, tuple(segment_ids), key[1])

    async def _await_told(self, donor: PeerId, segment_ids: Sequence[SegmentId]) -> None:
        """More segments of a donor that is known to be away."""
        now_s = self._clock.now_s()
        work = await self._offload.run(partial(self._planner.watch_for, donor, segment_ids, now_s))
        if work.count and donor in self._given_up:
            self._given_up.add(work)

    async def _look_after(self, donor: PeerId, segment_ids: Sequence[SegmentId], round_number: int) -> None:
        now_s = self._clock.now_s()
        work = await self._offload.run(partial(self._planner.watch_for, donor, segment_ids, now_s))
        work.is_told = True
        if work.count:
            await self._work_off(work, round_number)
