"""Makes room under a lowered cap: shards go to other donors, what finds no place is dropped. Layer 4.

Invariants: what goes first says `node/chunks/eviction.py`, by the evidence of this node; a shard that
somebody is owed is handed over like in a drain, so that its file stays whole; it is dropped only after
`evict_after_s`, one by one until the cap holds, and co-holders are told as of any loss; under a cap of 0,
which is leaving, nothing is dropped. That the cap was lowered, and when, is durable, so a kill is survived;
what is left to do follows from the store. At rest nothing wakes. Source: design.md, section 4 (donate).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import trio

from node import wire
from node.chunks.eviction import Candidate, Claim, order
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.moving import Mover
from node.errors import AvailabilityError, StoreError
from node.ports import Clock, KeyValue, Offload, WriteTransaction
from node.records.lease import Lease
from node.units import HOUR_S, MIB, SegmentId, format_size

TABLE: Final = "shrinking"
"""`cap` -> the cap of before; `since` -> [when it was lowered, shards moved, dropped], until it holds."""
_CAP: Final = b"cap"
_SINCE: Final = b"since"
_ROW_BYTES_MAX: Final = 64
PAGE_SEGMENTS: Final = 64
PLAN_SHARDS_MAX: Final = 20_000
"""Shards considered at once: the first to go of all that are kept. 5 MB."""
SHARDS_AT_ONCE: Final = 256
"""Shards handed over, or dropped, between two looks at how much is still to go."""
IDLE_SHARDS_MAX: Final = 1_024
"""Shards in a row that nobody takes, then a round is over: donors are full, or away."""
RETRY_S: Final = 60.0
START_S: Final = HOUR_S
"""For so long after its start a node drops nothing: it may not have met those who would take it."""
COMPACT_STEP_BYTES: Final = 8 * MIB
COMPACT_PAUSE_S: Final = 0.05

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shrinking:
    """How far a node with a lowered cap is."""

    since_s: int
    moved: int
    """Shards that other donors have taken."""
    dropped: int
    """Shards that somebody was owed and nobody took."""
    left_bytes: int
    """What is still to go."""


class Evictor:
    """Runs beside the healing of a donor."""

    def __init__(
        self,
        *,
        held: HeldSegments,
        mover: Mover,
        state: KeyValue,
        clock: Clock,
        offload: Offload,
        evict_after_s: int,
        is_leaving: Callable[[], bool],
    ) -> None:
        """`state` remembers; `is_leaving`: a drain moves everything anyway. Reads a row of the state."""
        self._held = held
        self._store = held.store
        self._mover = mover
        self._state = state
        self._clock = clock
        self._offload = offload
        self._evict_after_s = evict_after_s
        self._is_leaving = is_leaving
        self._started_s = clock.now_s()
        self._wake = trio.Event()
        self._since: tuple[int, int, int] | None = self._read()
        self.on_freed: Callable[[], None] = lambda: None
        """Called when shards were dropped: there is something to tell."""

    # --- what is known ------------------------------------------------------------------------------------

    def cap_is(self, cap_bytes: int) -> None:
        """What is given from now on; durable. Blocks on the disk."""

        def note(transaction: WriteTransaction) -> bool:
            known = transaction.get(TABLE, _CAP)
            transaction.put(TABLE, _CAP, wire.encode([cap_bytes]))
            if known is None or cap_bytes >= _ints(known, 1)[0]:
                return False
            transaction.put(TABLE, _SINCE, wire.encode([self._clock.now_s(), 0, 0]))
            return True

        if self._state.update(note):
            self._since = self._read()

    def look(self) -> None:
        """Go on at once, where there is something to do."""
        self._wake.set()

    async def progress(self) -> Shrinking | None:
        """How far it is; None where the cap holds."""
        since = self._since
        if since is None:
            return None
        left = await self._offload.run(self._store.excess_bytes)
        return Shrinking(*since, left_bytes=left) if left else None

    def _read(self) -> tuple[int, int, int] | None:
        with self._state.view() as view:
            row = view.get(TABLE, _SINCE)
        if row is None:
            return None
        since_s, moved, dropped = _ints(row, 3)
        return since_s, moved, dropped

    def _write(self, since: tuple[int, int, int] | None) -> None:
        def change(transaction: WriteTransaction) -> None:
            if since is None:
                transaction.delete(TABLE, _SINCE)
            else:
                transaction.put(TABLE, _SINCE, wire.encode(list(since)))

        self._state.update(change)
        self._since = since

    # --- what is done -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._since is None:
                await self._wake.wait()
            self._wake = trio.Event()
            if self._since is None:
                continue
            try:
                is_done = await self._shrink()
            except (StoreError, AvailabilityError) as error:
                _logger.warning("the cap is not reached yet, again in %d s: %s", RETRY_S, error)
                is_done = False
            if is_done and not self._wake.is_set():  # else the cap may be another one by now
                await self._offload.run(partial(self._write, None))
            else:
                with trio.move_on_after(RETRY_S):
                    await self._wake.wait()

    async def _shrink(self) -> bool:
        """Until the cap holds, or nothing goes any more; whether it holds."""
        await self._offload.run(self._store.begin_shrinking)
        while True:
            await self._offload.run(partial(self._store.expire, self._clock.now_s()))
            await self._compact()
            now = await self._offload.run(self._store.statistics)
            excess = await self._offload.run(self._store.excess_bytes)
            if not excess or not now.shards:
                return True
            if self._is_leaving():
                return False
            plan = await self._plan()
            if not await self._let_go(plan, excess) and not await self._drop(plan, excess):
                return False

    async def _compact(self) -> None:
        more = True
        while more:
            more = await self._offload.run(partial(self._store.compact, COMPACT_STEP_BYTES, urgent=True))
            await trio.sleep(COMPACT_PAUSE_S)  # puts and gets get between

    async def _plan(self) -> list[Candidate]:
        """The first shards to go, in order."""
        found: list[Candidate] = []
        cursor = b""
        while page := await self._offload.run(partial(self._store.segments, cursor, limit=PAGE_SEGMENTS)):
            found += await self._offload.run(partial(self._candidates, page))
            if len(found) > 2 * PLAN_SHARDS_MAX:
                found = list(islice(order(found), PLAN_SHARDS_MAX))
            cursor = page[-1] + b"\0"
        return list(islice(order(found), PLAN_SHARDS_MAX))

    def _candidates(self, page: Sequence[SegmentId]) -> list[Candidate]:
        """What is kept of some segments. Blocks on the disk."""
        now_s, found = self._clock.now_s(), []
        for segment_id in page:
            costs = self._store.shard_costs(segment_id)
            kept_until_s: dict[int, int] = {}
            start_day: dict[int, int] = {}
            for each in self._store.leases(segment_id):
                lease = Lease.decode(each.lease.data, network=self._held.network)
                index = each.shard_index
                kept_until_s[index] = max(each.lease.expires_s, kept_until_s.get(index, 0))
                start_day[index] = max(lease.start_day, start_day.get(index, 0))
            standing = self._held.redundancy(segment_id)
            for index, cost in costs.items():
                if index not in kept_until_s:
                    continue
                if kept_until_s[index] <= now_s:
                    claim = Claim.NOTHING
                elif index in standing.surplus:
                    claim = Claim.TWICE
                else:
                    claim = Claim.LEASE if index in standing.own else Claim.GRACE
                found.append(Candidate(segment_id, index, claim, standing.spare, start_day[index], cost))
        return found

    async def _let_go(self, plan: Sequence[Candidate], excess: int) -> int:
        """Let shards go that nobody misses, and give others away; how many bytes went with them."""
        freed = idle = 0
        for start in range(0, len(plan), SHARDS_AT_ONCE):
            part: list[Candidate] = []
            for candidate in plan[start : start + SHARDS_AT_ONCE]:
                if freed + sum(each.byte_count for each in part) < excess:
                    part.append(candidate)
            if not part or idle >= IDLE_SHARDS_MAX:
                break
            by_segment: dict[SegmentId, list[int]] = {}
            for candidate in part:
                if candidate.claim is Claim.TWICE:
                    await self._mover.give_surplus(candidate.segment_id)
                elif candidate.claim is Claim.LEASE:
                    by_segment.setdefault(candidate.segment_id, []).append(candidate.shard_index)
                else:
                    await self._end(candidate)
            moved = await self._mover.hand_over(by_segment)
            gone = await self._offload.run(partial(self._gone, part))
            freed += gone
            idle = 0 if gone else idle + len(part)
            if moved:
                await self._count(moved=moved)
        return freed

    async def _end(self, candidate: Candidate) -> None:
        """A shard whose leases are over. Co-holders know their days."""
        gone = await self._offload.run(
            partial(self._held.keeper.let_go, candidate.segment_id, candidate.shard_index)
        )
        await self._held.keeper.stop_announcing(gone)

    async def _drop(self, plan: Sequence[Candidate], excess: int) -> int:
        """Drop what found no place for too long; how many bytes went with it."""
        since = self._since
        if since is None or not (await self._offload.run(self._store.statistics)).cap_bytes:
            return 0
        # After an outage others have to be met first.
        waits_until_s = max(
            since[0] + self._evict_after_s, self._started_s + min(self._evict_after_s, START_S)
        )
        if self._clock.now_s() < waits_until_s:
            return 0
        freed = count = 0
        for candidate in plan[:SHARDS_AT_ONCE]:
            if freed >= excess:
                break
            gone = await self._offload.run(
                partial(self._held.keeper.give_up, candidate.segment_id, candidate.shard_index)
            )
            await self._held.keeper.stop_announcing(gone)
            freed, count = freed + candidate.byte_count, count + 1
        if count:
            _logger.warning(
                "%d shards found no other place, and were dropped to keep to the cap: %s", count,
                format_size(freed),
            )  # fmt: skip
            await self._count(dropped=count)
            self.on_freed()
        return freed

    def _gone(self, part: Sequence[Candidate]) -> int:
        return sum(
            each.byte_count for each in part if not self._store.has_shard(each.segment_id, each.shard_index)
        )

    async def _count(self, *, moved: int = 0, dropped: int = 0) -> None:
        if self._since is not None:
            since_s, all_moved, all_dropped = self._since
            since = (since_s, all_moved + moved, all_dropped + dropped)
            await self._offload.run(partial(self._write, since))


def _ints(row: bytes, count: int) -> list[int]:
    """Raises `ProtocolError` for what this module did not write."""
    values = wire.expect_list(wire.decode(row, size_max=_ROW_BYTES_MAX), count=count)
    return [wire.expect_int(value, low=0, high=2**62) for value in values]
