"""Which block to ask of which holder next, while a segment is being read. Layer 2, pure.

A *column* is one shard at one holder. Every stripe in the window needs `data_shards` blocks of distinct
shards; the fastest columns are asked, data shards first when speeds are alike. A holder whose oldest
answer is overdue by the measure of the others is *late*: what it owes is asked of other columns as well,
and it gets nothing new until it has caught up. Its late blocks still count when they come. When nothing comes
from anybody any more, everybody is asked who may have what is lacking.

Invariants: no column is asked twice for a stripe unless its answer was lost; no more columns are asked than
a stripe needs, lateness aside; a stripe is complete with exactly `data_shards` distinct shards; time is an
argument. Source: design.md, section 4 (get); J. Dean, L. Barroso, "The Tail at Scale", CACM 2013 (hedged
requests).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

PARITY_COST = 1.5
"""A parity shard must promise to be this much faster before it is asked instead of a data shard."""
FIRST_PATIENCE_S = 1.0
"""How long a holder may take for its first block while nothing is known: it has to be dialled."""
PATIENCE_MIN_S = 0.3
"""No answer is late before this: busy processors make waits of this size."""
PATIENCE_FACTOR = 3.0
"""An answer is late at this multiple of what answers take elsewhere."""
PATIENCE_MAX_S = 5.0
"""And always at this."""
STALL_S = PATIENCE_MAX_S
"""Nothing has come for so long: those who are late are no longer asked one after another."""
LATENCY_WEIGHT = 0.2
"""Weight of the newest answer in a holder's running mean."""


@dataclass(frozen=True, slots=True)
class Column:
    """One shard at one holder. `holder` is the caller's number for it."""

    holder: int
    shard: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this column for its block of this stripe."""

    column: Column
    stripe: int


@dataclass(slots=True)
class _Stripe:
    """Blocks of one stripe: the shards that arrived and the columns asked without an answer yet."""

    arrived: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Holder:
    """What one holder owes, oldest first, and how long its answers take."""

    expected_s: float
    owed: dict[tuple[int, int], float] = field(default_factory=dict)
    latency_s: float | None = None
    columns: int = 0
    late: bool = False


class SegmentSchedule:
    """The asks that fill one segment's stripes, in the window that its reader opens."""

    def __init__(self, *, data_shards: int, first_stripe: int, end_stripe: int) -> None:
        """Reads stripes [first_stripe, end_stripe); columns come with `add_columns`."""
        self._data_shards = data_shards
        self._end_stripe = end_stripe
        self._window_end = first_stripe
        self._open: dict[int, _Stripe] = {}
        self._columns: list[Column] = []
        self._numbers: dict[Column, int] = {}
        self._alive: list[bool] = []
        self._holders: dict[int, _Holder] = {}
        self._order: list[int] = []
        self._news_s = 0.0  # when a block last came, or somebody was asked when nobody owed anything

    @property
    def window_end(self) -> int:
        """The first stripe not asked for yet."""
        return self._window_end

    @property
    def done(self) -> bool:
        """Whether every stripe is complete."""
        return self._window_end == self._end_stripe and not self._open

    def add_columns(self, columns: Sequence[Column], expected_s: float, now: float) -> list[Ask]:
        """Add columns of one holder, which answers in `expected_s` seconds by the caller's guess.

        Known ones are passed over, failed ones included.
        """
        for column in columns:
            if column in self._numbers:
                continue
            self._numbers[column] = len(self._columns)
            holder = self._holders.setdefault(column.holder, _Holder(expected_s))
            holder.columns += 1
            self._columns.append(column)
            self._alive.append(True)
        self._sort()
        return self._fill(self._open, now)

    def extend(self, window_end: int, now: float) -> list[Ask]:
        """Open the window up to stripe `window_end`."""
        opened = range(self._window_end, min(window_end, self._end_stripe))
        for stripe in opened:
            self._open[stripe] = _Stripe()
        self._window_end = max(self._window_end, opened.stop)
        return self._fill(opened, now)

    def arrived(self, column: Column, stripe: int, now: float) -> bool:
        """A verified block arrived. Whether it is new and wanted: the caller keeps it only then."""
        self._news_s = now
        number = self._numbers[column]
        holder = self._holders[column.holder]
        asked_at = holder.owed.pop((number, stripe), None)
        if asked_at is not None:
            taken = now - asked_at
            holder.latency_s = (
                taken
                if holder.latency_s is None
                else holder.latency_s + LATENCY_WEIGHT * (taken - holder.latency_s)
            )
        if holder.late and not holder.owed:
            holder.late = False
            self._sort()
        state = self._open.get(stripe)
        if state is None:
            return False
        state.asked.discard(number)
        if column.shard in state.arrived:
            return False
        state.arrived.add(column.shard)
        if len(state.arrived) == self._data_shards:
            del self._open[stripe]
        return True

    def is_complete(self, stripe: int) -> bool:
        """Whether `data_shards` blocks of the stripe have arrived."""
        return stripe < self._window_end and stripe not in self._open

    def fail_column(self, column: Column, now: float) -> list[Ask]:
        """The holder has this shard no longer, or in a bad state: never ask it for that again."""
        self._drop(self._numbers[column])
        return self._fill(self._open, now)

    def fail_holder(self, holder: int, now: float) -> list[Ask]:
        """The holder is gone for good."""
        for number, column in enumerate(self._columns):
            if column.holder == holder:
                self._drop(number)
        return self._fill(self._open, now)

    def interrupt_holder(self, holder: int, now: float) -> list[Ask]:
        """The holder's stream broke: what it owed is lost; it is asked again only if nobody else can be."""
        state = self._holders[holder]
        for column, stripe in state.owed:
            if stripe in self._open:
                self._open[stripe].asked.discard(column)
        state.owed.clear()
        state.late = True
        self._sort()
        return self._fill(self._open, now)

    def tick(self, now: float) -> list[Ask]:
        """Mark holders late that are, and ask others for what they owe; ask everybody in a stall."""
        late = [
            holder
            for holder in self._holders.values()
            if not holder.late and holder.owed and now >= self._due(holder)
        ]
        for holder in late:
            holder.late = True
        if late:
            self._sort()
        if now >= self._news_s + STALL_S:
            self._news_s = now
            return self._fill(self._open, now, ask_everybody=True)
        return self._fill(self._open, now) if late else []

    def next_tick(self) -> float | None:
        """When `tick` has something to do unless blocks arrive; None while nobody owes anything."""
        owing = [holder for holder in self._holders.values() if holder.owed]
        if not owing:
            return None
        return min([self._news_s + STALL_S, *(self._due(holder) for holder in owing if not holder.late)])

    def is_late(self, holder: int) -> bool:
        """Whether the holder is behind by the measure of the others."""
        return self._holders[holder].late

    def missing_shards(self) -> int:
        """How many shards are lacking for some stripe to become complete; 0 while all can."""
        alive = {column.shard for column, alive in zip(self._columns, self._alive, strict=True) if alive}
        worst = min(
            (len(alive | stripe.arrived) for stripe in self._open.values()), default=self._data_shards
        )
        if self._window_end < self._end_stripe:
            worst = min(worst, len(alive))
        return max(0, self._data_shards - worst)

    def _due(self, holder: _Holder) -> float:
        """When the oldest block that the holder owes is late."""
        oldest = next(iter(holder.owed.values()))
        known = [other.latency_s for other in self._holders.values() if other.latency_s is not None]
        if not known:
            patience = max(FIRST_PATIENCE_S, PATIENCE_FACTOR * holder.expected_s)
        else:
            patience = max(PATIENCE_MIN_S, PATIENCE_FACTOR * median(known))
            if holder.latency_s is None:
                patience = max(patience, FIRST_PATIENCE_S / 2)
        return oldest + min(patience, PATIENCE_MAX_S)

    def _drop(self, column: int) -> None:
        if not self._alive[column]:
            return
        self._alive[column] = False
        holder = self._holders[self._columns[column].holder]
        for key in [key for key in holder.owed if key[0] == column]:
            del holder.owed[key]
            if key[1] in self._open:
                self._open[key[1]].asked.discard(column)
        self._sort()

    def _sort(self) -> None:
        """Rank the living columns: those in time before late ones, then by cost.

        A holder's second shard costs twice as much as its first, and so on: it sends one after the other.
        """
        ranks: dict[int, int] = {}
        ranked: list[tuple[bool, float, int, int]] = []
        by_shard = sorted(range(len(self._columns)), key=lambda number: self._columns[number].shard)
        for number in by_shard:
            if not self._alive[number]:
                continue
            column = self._columns[number]
            holder = self._holders[column.holder]
            ranks[column.holder] = ranks.get(column.holder, 0) + 1
            cost = (holder.latency_s or holder.expected_s) * ranks[column.holder]
            if column.shard >= self._data_shards:
                cost *= PARITY_COST
            ranked.append((holder.late, cost, column.shard, number))
        self._order = [number for *_, number in sorted(ranked)]

    def _fill(self, stripes: Iterable[int], now: float, *, ask_everybody: bool = False) -> list[Ask]:
        """Asks that bring the given open stripes to as many distinct shards in time as they need.

        With `ask_everybody`, those who are late don't count as in time because they are asked again.
        """
        asks: list[Ask] = []
        was_idle = not any(holder.owed for holder in self._holders.values())
        for stripe in stripes:
            state = self._open[stripe]
            coming = set(state.arrived)
            owed_late: set[int] = set()
            for number in state.asked:
                column = self._columns[number]
                (owed_late if self._holders[column.holder].late else coming).add(column.shard)
            for number in self._order:
                column = self._columns[number]
                holder = self._holders[column.holder]
                # A late holder is asked anew only where all that is owed to us would not do.
                is_patient = holder.late and not ask_everybody
                have = len(coming | owed_late) if is_patient else len(coming)
                if have >= self._data_shards:
                    break
                if number in state.asked or column.shard in coming:
                    continue
                if is_patient and column.shard in owed_late:
                    continue
                state.asked.add(number)
                holder.owed[number, stripe] = now
                if not (holder.late and ask_everybody):
                    coming.add(column.shard)
                asks.append(Ask(column, stripe))
        if was_idle:
            self._news_s = now
        return asks
