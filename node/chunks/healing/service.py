"""Every holder's watch over the segments it keeps: looks, waits its turn, repairs. Layer 4.

Invariants: a segment is repaired when a share of its parity is lost by the evidence *and* by this node's own
look just before; of all live holders the first in the day's order goes first, the others stand back while its
intent lives; what repair moves a day is capped; one segment at a time, so memory is one window of stripes; a
node that keeps nothing does nothing. Source: credit.md, "Repair".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from node import limits
from node.chunks import repair
from node.chunks.healing.budget import RepairBudget
from node.chunks.healing.client import RepairClient
from node.chunks.healing.doubles import Doubles, doubled
from node.chunks.healing.healer import Healer, RepairOutcome, SegmentView, Survey
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.intents import Intents
from node.chunks.healing.moving import Mover
from node.chunks.healing.prober import Prober
from node.chunks.healing.pulse import Pulse
from node.crypto.signing import KeyPair
from node.errors import AvailabilityError, RemoteError, StoreError
from node.ports import Clock, Offload
from node.records.lease import Lease
from node.records.repair import RepairIntent
from node.units import DAY_S, HOUR_S, PeerId, SegmentId

PAGE_SEGMENTS: Final = 64
"""Segments looked at in one go off the loop: some 100 ms."""
SEGMENTS_PER_CHECK: Final = 20_000
"""Segments looked at in one interval: a minute of processor an hour; the rest is for the next ones."""
SURPLUS_PER_CHECK: Final = 64
"""Segments whose surplus copies go in one interval."""
INTENT_DEADLINE_S: Final = 15.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HealingSettings:
    """The settings `repair.*`."""

    check_interval_s: float = 3600
    stagger_s: int = 900
    threshold: float = 0.5
    bytes_per_day: int = limits.REPAIR_BYTES_PER_DAY


@dataclass(slots=True)
class HealingStatistics:
    """Counts since the start, for status and tests."""

    checks: int = 0
    repairs: int = 0
    shards_remade: int = 0
    bytes_moved: int = 0
    surplus_released: int = 0


class HealingService:
    """Runs beside the server of a holder."""

    def __init__(
        self,
        *,
        held: HeldSegments,
        healer: Healer,
        prober: Prober,
        intents: Intents,
        client: RepairClient,
        identity: KeyPair,
        settings: HealingSettings,
        clock: Clock,
        offload: Offload,
        mover: Mover,
        budget: RepairBudget,
        pulse: Pulse,
        doubles: Doubles,
    ) -> None:
        self._mover = mover
        self._surplus: set[SegmentId] = set()
        self._held = held
        self._healer = healer
        self._prober = prober
        self._intents = intents
        self._client = client
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._offload = offload
        self._budget = budget
        self._pulse = pulse
        self._doubles = doubles
        self._pending: dict[SegmentId, float] = {}
        self._cursor = b""
        self._lock = trio.Lock()
        self.statistics = HealingStatistics()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            next_check = trio.current_time() + self._settings.check_interval_s
            try:
                await self.check()
                await self._attempt_due(next_check)
                await self._tidy()
            except (StoreError, AvailabilityError) as error:
                _logger.warning("healing failed, again at the next interval: %s", error)
            await trio.sleep_until(next_check)

    async def check(self) -> int:
        """Look at the evidence on what is held; how many segments are due for repair. Raises `StoreError`."""
        self.statistics.checks += 1
        looked = 0
        while looked < SEGMENTS_PER_CHECK:
            page = await self._offload.run(
                partial(self._held.store.segments, self._cursor, limit=PAGE_SEGMENTS)
            )
            ranks = await self._offload.run(partial(self._due, page, trio.current_time()))
            await self._offload.run(self._held.save)
            for segment_id in page:
                if segment_id not in ranks:
                    self._pending.pop(segment_id, None)
                elif segment_id not in self._pending:
                    wait_s = ranks[segment_id] * self._settings.stagger_s
                    self._pending[segment_id] = trio.current_time() + wait_s
            looked += len(page)
            if len(page) < PAGE_SEGMENTS:
                self._cursor = b""
                break
            self._cursor = page[-1] + b"\0"
        await self._pulse.beat()
        return len(self._pending)

    def _due(self, page: list[SegmentId], now: float) -> dict[SegmentId, int]:
        """Segments of a page that are due, each with this node's rank. Blocks on the disk."""
        ranks: dict[SegmentId, int] = {}
        for segment_id in page:
            if segment_id in self._healer.inconsistent:
                continue
            view = self._held.view(segment_id, whole=False)
            if view is None:
                continue
            by_lease = self._held.copies(view)
            copies = list(by_lease.values())
            for copy in copies:
                self._pulse.know(copy.holder, is_silent=copy.silent_since_s is not None)
            if (rank := self._rank(view, copies)) is not None:
                ranks[segment_id] = rank
            twice = doubled(by_lease, self._healer.me)
            wait_s = self._order(view, copies) * self._settings.stagger_s if twice else 0
            self._doubles.note(segment_id, twice, due_at=now + wait_s)
            if len(self._surplus) < SURPLUS_PER_CHECK and (
                self._held.surplus(view) or self._held.left_behind(view)
            ):
                self._surplus.add(segment_id)
        return ranks

    async def _tidy(self) -> None:
        """Let go of copies that others have as well, and spread what is crowded, a little each time."""
        surplus, self._surplus = self._surplus, set()
        for segment_id in sorted(surplus):
            count = await self._mover.give_surplus(segment_id)
            self.statistics.surplus_released += count
        await self._doubles.tell_due(trio.current_time())
        await self._mover.spread()

    def _rank_now(self, view: SegmentView) -> int | None:
        return self._rank(view, list(self._held.copies(view).values()))

    def _rank(self, view: SegmentView, copies: Sequence[repair.Copy]) -> int | None:
        """This node's place in the order, if the segment is due by the evidence."""
        now_s, code = self._clock.now_s(), view.manifest.code
        patience_s = self._held.patience_s(code, copies)
        lost = repair.lost_shards(code, copies, now_s=now_s, dead_after_s=patience_s)
        # Evidence of everybody's death says that this node was cut off: its own look decides then, too.
        if not lost or len(lost) < self._trigger(view):
            return None
        return self._order(view, copies)

    def _order(self, view: SegmentView, copies: Sequence[repair.Copy]) -> int:
        """This node's place among the segment's live holders today."""
        me, live = self._healer.me, repair.eligible(copies)
        order = repair.order(view.manifest.segment_id, {*live, me}, day=self._clock.now_s() // DAY_S)
        return order.index(me)

    def _is_open(self, view: SegmentView) -> bool:
        """Whether the segment was repaired lately: every holder sees it by the roster."""
        return repair.is_open(
            view.manifest.code,
            self._settings.threshold,
            repair.remade_days(view.leases),
            today=self._clock.now_s() // DAY_S,
        )

    def _trigger(self, view: SegmentView) -> int:
        """How many shards must be lost."""
        is_open = self._is_open(view)
        return repair.trigger_count(view.manifest.code, self._settings.threshold, is_open=is_open)

    async def _attempt_due(self, until: float) -> None:
        """Repair what is due, each at its time, until then."""
        while self._pending:
            segment_id = min(self._pending, key=self._pending.__getitem__)
            if self._pending[segment_id] >= until:
                return
            await trio.sleep_until(self._pending[segment_id])
            lapses = self._intents.until(segment_id)
            if lapses is not None:
                self._pending[segment_id] = lapses
                continue
            del self._pending[segment_id]
            async with self._lock:
                await self._attempt(segment_id)

    async def _attempt(self, segment_id: SegmentId) -> None:
        view = await self._offload.run(partial(self._held.view, segment_id))
        if view is None or await self._offload.run(partial(self._rank_now, view)) is None:
            return
        geometry = view.manifest.geometry
        if self._budget.left() < 2 * geometry.code.data_shards * geometry.shard_bytes:
            _logger.info("repair has moved what it may today")
            self._pending[segment_id] = trio.current_time() + HOUR_S
            return
        survey, lost, gone = await self._look(view)
        is_open = self._is_open(view)
        if not lost or not repair.is_due(geometry.code, gone, self._settings.threshold, is_open=is_open):
            return
        await self._announce(view, survey, lost)
        await self._repair(view, survey, lost)

    async def repair_now(self, segment_id: SegmentId) -> RepairOutcome | None:
        """Repair a held segment without waiting for a threshold or a turn; None if it is not held.

        Raises `NotEnoughShardsError`, `StoreError`.
        """
        async with self._lock:
            view = await self._offload.run(partial(self._held.view, segment_id))
            if view is None:
                return None
            survey, lost, _ = await self._look(view, patiently=False)
            return await self._repair(view, survey, lost) if lost else RepairOutcome()

    async def _look(
        self, view: SegmentView, *, patiently: bool = True
    ) -> tuple[Survey, dict[int, Lease], int]:
        """What this node sees itself: the survey, what is to be remade, and how many shards are gone."""
        survey = await self._healer.survey(view)
        self._held.note(survey)
        copies = await self._offload.run(partial(self._held.copies, view))
        lost, gone = await self._offload.run(
            partial(self._held.lost_after, copies, survey, view.manifest.code, patiently=patiently)
        )
        return survey, lost, gone

    async def _repair(self, view: SegmentView, survey: Survey, lost: Mapping[int, Lease]) -> RepairOutcome:
        outcome = await self._healer.repair(view, survey, lost)
        moved = outcome.traffic.total_bytes
        await self._offload.run(partial(self._budget.spend, moved))
        self.statistics.bytes_moved += moved
        self.statistics.repairs += bool(outcome.leases)
        self.statistics.shards_remade += len(outcome.leases)
        if outcome.leases or outcome.why_not:
            _logger.info(
                "repair of a segment: %d of %d lost shards remade%s",
                len(outcome.leases),
                outcome.lost,
                f"; {outcome.why_not}" if outcome.why_not else "",
            )
        return outcome

    async def _announce(self, view: SegmentView, survey: Survey, lost: Mapping[int, Lease]) -> None:
        """Let the live holders know, so that they stand back."""
        generation = 1 + max(
            (lease.generation for lease in view.leases if lease.shard_index in lost), default=0
        )
        intent = RepairIntent(
            network=view.grant.network,
            segment_id=view.manifest.segment_id,
            indexes=bytes(sorted(lost)),
            generation=generation,
            day=self._clock.now_s() // DAY_S,
            holder=self._healer.me,
        ).sign(self._identity)

        async def tell(peer_id: PeerId) -> None:
            with trio.move_on_after(INTENT_DEADLINE_S):
                try:
                    async with self._client.session(self._prober.contact(peer_id)) as session:
                        await session.announce(intent)
                except RemoteError:
                    return  # whoever does not hear does harmless work twice

        async with trio.open_nursery() as nursery:
            for peer_id in sorted({lease.holder for lease in survey.proved} - {self._healer.me}):
                nursery.start_soon(tell, peer_id)
