"""Opening streams to those who are audited, and telling those who should know. Layer 4.

What is told goes to the first three live holders in that day's order of repair, who would have to act on
it, several receipts on one stream. Nobody is told twice, and whoever can't be reached is passed over: a
receipt is kept by its auditor, and goes to its donor, anyway. Source: credit.md, "Earning", "Repair".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from node import limits
from node.chunks import repair
from node.chunks.audits.judging import Judgement, others_of
from node.chunks.audits.session import AuditSession
from node.chunks.audits.work import PairWork, WorkPlanner
from node.chunks.bad_answer import BadAnswer
from node.errors import RemoteError, UnreachableError
from node.framing import Preamble
from node.ports import Clock, Network, Offload
from node.records.receipt import AuditReceipt
from node.units import DAY_S, Contact, PeerId, SegmentId

TOLD: Final = 3
"""Live holders that are told."""
TRIED: Final = 8
"""Holders tried to reach them."""


class Teller:
    """Streams of `/cairn/audits/1` to peers whose addresses may have to be looked up."""

    def __init__(
        self,
        *,
        network: Network,
        preamble: Preamble,
        look_up: Callable[[Contact], Awaitable[Contact | None]],
        planner: WorkPlanner,
        clock: Clock,
        offload: Offload,
        is_away: Callable[[PeerId], bool] = lambda peer_id: False,
    ) -> None:
        """`look_up` finds addresses that a contact lacks; `is_away` says who need not be tried."""
        self._network = network
        self._preamble = preamble
        self._look_up = look_up
        self._planner = planner
        self._clock = clock
        self._offload = offload
        self._is_away = is_away

    async def open(self, peer_id: PeerId) -> AuditSession:
        """A session. Raises `UnreachableError`, `RefusedError`."""
        known = self._known(peer_id)
        try:
            return await AuditSession.open(self._network, self._preamble, self._offload, known)
        except UnreachableError:
            fresh = await self._look_up(known)
            if fresh is None:
                raise
            return await AuditSession.open(self._network, self._preamble, self._offload, fresh)

    async def is_reachable(self, peer_id: PeerId) -> bool:
        """Whether the peer is connected, or can be."""
        if peer_id in self._network.connected():
            return True
        fresh = await self._look_up(Contact(peer_id))
        if fresh is not None:
            with suppress(RemoteError):
                await self._network.connect(fresh)
                return True
        return False

    async def tell(self, work: PairWork, judgement: Judgement) -> None:
        """Tell holders of what an audit showed. Never raises for a peer's fault."""
        receipts: dict[SegmentId, list[AuditReceipt]] = {}
        for news in judgement.to_tell:
            for segment_id in news.segment_ids:
                receipts.setdefault(segment_id, []).append(news.receipt)
        bad: dict[SegmentId, list[BadAnswer]] = {}
        for each in judgement.bad:
            bad.setdefault(each.segment_id, []).append(each)
        segments = sorted({*receipts, *bad})
        if not segments:
            return
        orders = await self._orders(work, segments)
        told: dict[SegmentId, int] = dict.fromkeys(segments, 0)
        tried: dict[SegmentId, int] = dict.fromkeys(segments, 0)
        for peer_id in dict.fromkeys(peer for order in orders.values() for peer in order):
            wanted = [
                segment_id
                for segment_id in segments
                if peer_id in orders[segment_id] and told[segment_id] < TOLD and tried[segment_id] < TRIED
            ]
            if not wanted:
                continue
            for segment_id in wanted:
                tried[segment_id] += 1
            if await self._tell_one(peer_id, wanted, receipts, bad):
                for segment_id in wanted:
                    told[segment_id] += 1

    async def _orders(self, work: PairWork, segments: Sequence[SegmentId]) -> dict[SegmentId, list[PeerId]]:
        """For each segment its other holders that are not known to be away, who repairs first first."""
        now_s = self._clock.now_s()

        def read() -> dict[SegmentId, list[PeerId]]:
            orders = {}
            for segment_id in segments:
                roster = self._planner.roster(work, segment_id)
                others = others_of(roster, now_s, self._network.peer_id, work.donor)
                orders[segment_id] = repair.order(segment_id, others, day=now_s // DAY_S)
            return orders

        orders = await self._offload.run(read)
        return {
            segment_id: [peer for peer in order if not self._is_away(peer)]
            for segment_id, order in orders.items()
        }

    async def _tell_one(
        self,
        peer_id: PeerId,
        segments: Sequence[SegmentId],
        receipts: dict[SegmentId, list[AuditReceipt]],
        bad: dict[SegmentId, list[BadAnswer]],
    ) -> bool:
        """Whether the peer heard it."""
        news = _unique(receipt for segment in segments for receipt in receipts.get(segment, ()))
        try:
            session = await self.open(peer_id)
        except RemoteError:
            return False
        try:
            for start in range(0, len(segments), limits.AUDIT_TELL_SEGMENTS_MAX):
                part = segments[start : start + limits.AUDIT_TELL_SEGMENTS_MAX]
                if news:
                    await session.tell(part, news)
            for segment_id in segments:
                for each in bad.get(segment_id, ()):
                    await session.tell_bad(each)
        except RemoteError:
            return False
        finally:
            await session.aclose()
        return True

    def _known(self, peer_id: PeerId) -> Contact:
        return Contact(peer_id, self._network.addresses_of(peer_id))


def _unique(receipts: Iterable[AuditReceipt]) -> list[AuditReceipt]:
    return list({receipt.record_id(): receipt for receipt in receipts}.values())
