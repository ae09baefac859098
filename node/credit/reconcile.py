"""What of two sets of ids each side lacks, in a few small messages. Layer 2, pure.

One side asks with fingerprints of ranges; the other answers, range by range, that its own is the same, with
fingerprints of parts, or, where few are left, with the ids themselves. The asker alone decides what follows.
Invariants: equal sets cost one message; the answers depend on the other's set alone, so they may be asked
again; nothing is remembered between two exchanges, so a restored backup on either side does no harm. A
fingerprint is a sum modulo 2**128 of ids that are themselves hashes: whoever makes ids that collide deceives
only its own exchange. Source: Meyer, Range-Based Set Reconciliation, 2022.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from node import limits, wire
from node.errors import ProtocolError
from node.wire import Value

ID_BYTES: Final = 32
PARTS: Final = 16
FEW: Final = 48
"""So many ids are told outright."""
_MODULUS: Final = 2**128
_END: Final = b"\xff" * ID_BYTES + b"\xff"
"""Behind every id."""


@dataclass(frozen=True, slots=True)
class Range:
    """The ids from `low` up to, not including, `high`: how many, and their fingerprint."""

    low: bytes
    high: bytes
    count: int
    fingerprint: bytes

    def as_value(self) -> Value:
        """The array that is sent."""
        return [self.low, self.high, self.count, self.fingerprint]

    @classmethod
    def of_value(cls, value: Value) -> Range:
        """Raises `ProtocolError`."""
        low, high, count, fingerprint = wire.expect_list(value, count=4)
        found = cls(
            wire.expect_bytes(low, size_max=ID_BYTES),
            wire.expect_bytes(high, size_max=ID_BYTES + 1),
            wire.expect_int(count, low=0, high=2**32),
            wire.expect_bytes(fingerprint, size=16),
        )
        if not found.low < found.high:
            raise ProtocolError("a range without room")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What one side has in a range: ids, or parts with fingerprints; neither if it is the same."""

    is_same: bool
    ids: tuple[bytes, ...] = ()
    parts: tuple[Range, ...] = ()

    def as_value(self) -> Value:
        """The array that is sent."""
        return [self.is_same, list(self.ids), [part.as_value() for part in self.parts]]

    @classmethod
    def of_value(cls, value: Value) -> Answer:
        """Raises `ProtocolError`."""
        is_same, ids, parts = wire.expect_list(value, count=3)
        if not isinstance(is_same, bool):
            raise ProtocolError("expected a truth value")
        return cls(
            is_same,
            tuple(wire.expect_bytes(i, size=ID_BYTES) for i in wire.expect_list(ids, count_max=FEW)),
            tuple(Range.of_value(part) for part in wire.expect_list(parts, count_max=PARTS)),
        )


class IdSet:
    """A set of ids, as one exchange sees it."""

    def __init__(self, ids: Iterable[bytes]) -> None:
        self._ids = sorted(set(ids))

    def __len__(self) -> int:
        return len(self._ids)

    def whole(self) -> Range:
        """All of it."""
        return self.range(b"", _END)

    def range(self, low: bytes, high: bytes) -> Range:
        """A part of it."""
        ids = self.ids(low, high)
        total = sum(int.from_bytes(each[:16], "big") for each in ids) % _MODULUS
        return Range(low, high, len(ids), total.to_bytes(16, "big"))

    def ids(self, low: bytes, high: bytes) -> Sequence[bytes]:
        """The ids of a part."""
        return self._ids[bisect_left(self._ids, low) : bisect_left(self._ids, high)]

    def answer(self, asked: Range) -> Answer:
        """What to say to a range of the other side's."""
        own = self.range(asked.low, asked.high)
        if own == asked:
            return Answer(True)
        ids = self.ids(asked.low, asked.high)
        if len(ids) <= FEW:
            return Answer(False, tuple(ids))
        step = -(-len(ids) // PARTS)
        bounds = [asked.low, *ids[step::step], asked.high]
        return Answer(False, parts=tuple(self.range(low, high) for low, high in pairwise(bounds)))


class Difference:
    """The asker's side of one exchange: ask `next_ranges` until there are none, `take` each answer."""

    def __init__(self, own: IdSet) -> None:
        self._own = own
        self._open: list[Range] = [own.whole()]
        self._rounds = 0
        self.theirs_only: list[bytes] = []
        self.ours_only: list[bytes] = []

    def next_ranges(self) -> tuple[Range, ...]:
        """What to ask now; the answers are due in the same order."""
        asked, self._open = self._open[: limits.CREDIT_RANGES_MAX], self._open[limits.CREDIT_RANGES_MAX :]
        self._rounds += bool(asked)
        if self._rounds > limits.CREDIT_ROUNDS_MAX:
            raise ProtocolError("an exchange that does not come to an end")
        return tuple(asked)

    def take(self, asked: Range, answer: Answer) -> None:
        """Take in an answer. Raises `ProtocolError` for one that does not answer the question."""
        if answer.is_same:
            return
        if answer.parts:
            bounds = [part.low for part in answer.parts] + [answer.parts[-1].high]
            if bounds[0] != asked.low or bounds[-1] != asked.high or bounds != sorted(set(bounds)):
                raise ProtocolError("parts that are not those of the range")
            if any(part.high != after.low for part, after in pairwise(answer.parts)):
                raise ProtocolError("parts with gaps")
            for part in answer.parts:
                own = self._own.range(part.low, part.high)
                if own == part:
                    continue
                if not part.count:
                    self.ours_only.extend(self._own.ids(part.low, part.high))
                else:
                    self._open.append(own)
            return
        theirs, ours = set(answer.ids), set(self._own.ids(asked.low, asked.high))
        if any(not asked.low <= each < asked.high for each in theirs):
            raise ProtocolError("ids outside of the range")
        self.theirs_only.extend(sorted(theirs - ours))
        self.ours_only.extend(sorted(ours - theirs))
