"""What the closed periods of a pair came to, in the place of their records. Layer 2, pure.

A fold is no signed record: it counts where a pair state that both accounts signed names it as `previous`.
Invariants: what a pair's records and its fold come to together is what all records came to before; a fold
names the one before it and the last agreed state, so the pair's chain has no gap; a fold's own numbers add
up. Amounts stay by the day on which they vested, so that debts cancel and lapse as they would have. What
clears collected has no day, and a fold names the clears: one that was folded has no effect when it comes
again, one that completes late is another and counts. Source: credit.md, "Records".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from node import limits, wire
from node.errors import ProtocolError
from node.records.pair_state import RECORD_ID_BYTES
from node.units import AccountId
from node.wire import Value

FOLD_TAG = "fold"
VERSION = 2

Amounts = tuple[tuple[int, int], ...]
"""(day or period, micro-credits), in order, none of them zero."""


@dataclass(frozen=True, slots=True)
class FoldedSide:
    """What one account gave, as far as it is folded, in micro-credits."""

    kept: int = 0
    served: int = 0
    gifts: int = 0
    """The part given under a friend line."""
    cleared: int = 0
    """The part that complete clears collected, of those that the fold names."""
    days: Amounts = ()
    """What is owed for, by the day on which it vested."""
    evidence: Amounts = ()
    """Everything, by period."""
    vouched: Amounts = ()
    """The part of it, by period, that rests on co-holders alone."""
    agreed: Amounts = ()
    """The most that both signed, by period."""

    def as_value(self) -> Value:
        """The array that is stored: days and periods as steps from the one before."""
        lists = (self.days, self.evidence, self.vouched, self.agreed)
        return [self.kept, self.served, self.gifts, self.cleared, *(_packed(amounts) for amounts in lists)]

    @classmethod
    def of_value(cls, value: Value) -> FoldedSide:
        """Raises `ProtocolError`, also for numbers that do not add up."""
        *sums, days, evidence, vouched, agreed = wire.expect_list(value, count=8)
        kept, served, gifts, cleared = (_micros(micros) for micros in sums)
        lists = (_unpacked(amounts) for amounts in (days, evidence, vouched, agreed))
        side = cls(kept, served, gifts, cleared, *lists)
        total = side.kept + side.served
        owed, whole = (sum(micros for _, micros in amounts) for amounts in (side.days, side.evidence))
        of_period = dict(side.evidence)
        if owed != total - side.gifts or whole != total:
            raise ProtocolError("a fold whose parts are not its whole")
        if any(micros > of_period.get(period, 0) for period, micros in side.vouched):
            raise ProtocolError("a fold with more vouched for than there is")
        return side


@dataclass(frozen=True, slots=True)
class Fold:
    """Everything of one pair that ended in `period` or before."""

    network: str
    low: AccountId
    high: AccountId
    period: int
    previous: bytes
    """The id of the fold that is part of this one; b"" for the first."""
    last_state: bytes
    """The id of the last state that both had signed; b"" if none."""
    low_side: FoldedSide = FoldedSide()
    high_side: FoldedSide = FoldedSide()
    clears: tuple[bytes, ...] = ()
    """The ids of the complete clears that are part of it, in order: none of them counts again, ever."""

    def side(self, account: AccountId) -> FoldedSide:
        """That account's part. Raises `ValueError` for a stranger."""
        if account not in (self.low, self.high):
            raise ValueError("not an account of this pair")
        return self.low_side if account == self.low else self.high_side

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([
            FOLD_TAG, VERSION, self.network, self.low, self.high, self.period, self.previous,
            self.last_state, self.low_side.as_value(), self.high_side.as_value(), list(self.clears),
        ])  # fmt: skip

    def fold_id(self) -> bytes:
        """SHA-256 of the encoding: what a state names."""
        return hashlib.sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes, *, network: str) -> Fold:
        """Raises `ProtocolError`."""
        items = wire.decode(data, size_max=limits.FOLD_BYTES_MAX)
        tag, version, of_network, *fields = wire.expect_list(items, count=11)
        if (tag, version, of_network) != (FOLD_TAG, VERSION, network):
            raise ProtocolError("no fold of this version and network")
        low, high = (AccountId(wire.expect_bytes(field, size=32)) for field in fields[:2])
        if not low < high:
            raise ProtocolError("a pair is two accounts in byte order")
        named = wire.expect_list(fields[7], count_max=limits.FOLD_CLEARS_MAX)
        clears = tuple(wire.expect_bytes(name, size=RECORD_ID_BYTES) for name in named)
        if any(not one < other for one, other in pairwise(clears)):
            raise ProtocolError("the clears of a fold stand in order, each once")
        previous, last_state = (wire.expect_bytes(field) for field in fields[3:5])
        return cls(
            network=network,
            low=low,
            high=high,
            period=wire.expect_int(fields[2], low=0, high=limits.CREDIT_PERIOD_MAX),
            previous=previous and wire.expect_bytes(previous, size=RECORD_ID_BYTES),
            last_state=last_state and wire.expect_bytes(last_state, size=RECORD_ID_BYTES),
            low_side=FoldedSide.of_value(fields[5]),
            high_side=FoldedSide.of_value(fields[6]),
            clears=clears,
        )


def amounts_of(counted: dict[int, int]) -> Amounts:
    """In order, without zeros."""
    return tuple(sorted((place, micros) for place, micros in counted.items() if micros))


def _packed(amounts: Amounts) -> list[Value]:
    places = [0, *(place for place, _ in amounts)]
    steps = (after - before for before, after in pairwise(places))
    return [part for step, (_, micros) in zip(steps, amounts, strict=True) for part in (step, micros)]


def _unpacked(value: Value) -> Amounts:
    parts: Sequence[Value] = wire.expect_list(value, count_max=2 * limits.FOLD_AMOUNTS_MAX)
    if len(parts) % 2:
        raise ProtocolError("an amount for each day")
    steps = [
        wire.expect_int(step, low=int(index > 0), high=limits.RECORD_DAY_MAX)
        for index, step in enumerate(parts[::2])
    ]
    micros = [wire.expect_int(part, low=1, high=limits.CREDIT_MICRO_MAX) for part in parts[1::2]]
    return tuple(zip(accumulate(steps), micros, strict=True))


def _micros(value: Value) -> int:
    return wire.expect_int(value, low=0, high=limits.CREDIT_MICRO_MAX)
