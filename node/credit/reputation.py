"""What a donor's audits say about it, and how that is forgiven. Layer 2, pure.

Invariants: only own observations and receipts that vested count; forgetting is exponential, so nothing lasts
for ever; being away suspends and never disqualifies, and coming back lifts it at once; a refusal to keep a
shard is no failure, a late answer only lowers the weight. Integers only, in millionths, so that the same
observations give the same reputation everywhere. Source: credit.md, "Audits"; beta reputation with forgetting
after Josang and Ismail, 2002.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, Self

from node import limits, wire
from node.errors import ProtocolError

ONE: Final = 1_000_000
START: Final = 20 * ONE
FORGET: Final = 999_000
"""What a sample leaves of all before it, in millionths."""
UNKNOWN_FORGET: Final = 950_000
DISQUALIFIED_BELOW: Final = 960_000
SUSPENDED_BELOW: Final = 600_000
SAMPLES_TO_JUDGE: Final = 20
UNANSWERED_MAX: Final = 3
"""Times that a connected donor may leave one challenge unanswered; the last one is a failure."""
SLOW_FORGET: Final = 900_000
_COUNT_MAX: Final = 2**53
_FIELDS: Final = 9


class Standing(Enum):
    """What a donor is good for. Placement takes GOOD ones, repair counts on SUSPENDED ones to come back."""

    GOOD = auto()
    SUSPENDED = auto()
    DISQUALIFIED = auto()


@dataclass(frozen=True, slots=True)
class Reputation:
    """One donor, as this node has seen it. Every observation gives a new one."""

    good: int = START
    bad: int = 0
    known: int = START
    """Like `good` and `bad`, for audits that ended in an error which says nothing of the bytes."""
    unknown: int = 0
    samples: int = 0
    slow: int = 0
    """Share of late audits, in millionths, the recent ones weighing most."""
    offline: bool = False
    contradicted: bool = False
    """It has signed an answer that contradicts a root: it gets no new shards from this node."""
    challenge: bytes = b""
    """The challenge last left unanswered while connected, and how often."""
    unanswered: int = 0

    @property
    def score(self) -> int:
        """Expected share of samples passed, in millionths."""
        return _share(self.good, self.bad)

    @property
    def standing(self) -> Standing:
        """Whether to place shards there, wait for it, or neither."""
        if self.samples >= SAMPLES_TO_JUDGE and self.score < DISQUALIFIED_BELOW:
            return Standing.DISQUALIFIED
        if self.offline or _share(self.known, self.unknown) < SUSPENDED_BELOW:
            return Standing.SUSPENDED
        return Standing.GOOD

    @property
    def takes_new_shards(self) -> bool:
        """Whether this node places anything new there."""
        return self.standing is Standing.GOOD and not self.contradicted

    @property
    def weight(self) -> int:
        """For placement, in millionths: the score, and half of it for one that is always late."""
        return self.score * (2 * ONE - self.slow) // (2 * ONE)

    def passed(self, sample_count: int = 1, *, late: bool = False) -> Reputation:
        """`sample_count` samples of one audit were right."""
        good, bad = self.good, self.bad
        for _ in range(min(sample_count, limits.AUDIT_SAMPLES_MAX)):
            good, bad = _forget(good, FORGET) + ONE, _forget(bad, FORGET)
        slow = _forget(self.slow, SLOW_FORGET) + (ONE - SLOW_FORGET if late else 0)
        return self._answered(sample_count, good, bad, slow)

    def failed(self, sample_count: int = 1, *, contradicts: bool = False) -> Reputation:
        """`sample_count` samples were missing or, if `contradicts`, signed and false."""
        good, bad = self.good, self.bad
        for _ in range(min(sample_count, limits.AUDIT_SAMPLES_MAX)):
            good, bad = _forget(good, FORGET), _forget(bad, FORGET) + ONE
        answered = self._answered(sample_count, good, bad, self.slow)
        return replace(answered, contradicted=self.contradicted or contradicts)

    def erred(self) -> Reputation:
        """An audit ended in an error that says nothing of the bytes."""
        known, unknown = _forget(self.known, UNKNOWN_FORGET), _forget(self.unknown, UNKNOWN_FORGET)
        return replace(self, known=known, unknown=unknown + ONE, offline=False)

    def unreachable(self) -> Reputation:
        """It can't be dialled: suspended until it can, and nothing else."""
        return replace(self, offline=True)

    def reachable(self) -> Reputation:
        """It can be dialled again."""
        return replace(self, offline=False)

    def left_unanswered(self, challenge: bytes) -> Reputation:
        """Connected, but no answer to a challenge in time; the third time for the same one is a failure."""
        count = self.unanswered + 1 if challenge == self.challenge else 1
        if count >= UNANSWERED_MAX:
            return self.failed()
        return replace(self, offline=False, challenge=challenge, unanswered=count)

    def refused(self) -> Reputation:
        """It declined to keep a shard: its right."""
        return self

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([
            self.good, self.bad, self.known, self.unknown, self.samples, self.slow,
            self.offline + 2 * self.contradicted, self.challenge, self.unanswered,
        ])  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The reputation in a row of a table. Raises `ProtocolError`."""
        items = wire.expect_list(wire.decode(data, size_max=256), count=_FIELDS)
        good, bad, known, unknown, samples, slow = (
            wire.expect_int(item, low=0, high=_COUNT_MAX) for item in items[:6]
        )
        flags = wire.expect_int(items[6], low=0, high=3)
        if not good + bad or not known + unknown or slow > ONE:
            raise ProtocolError("a reputation out of nothing")
        return cls(
            good, bad, known, unknown, samples, slow, bool(flags & 1), bool(flags & 2),
            wire.expect_bytes(items[7], size_max=64), wire.expect_int(items[8], low=0, high=UNANSWERED_MAX),
        )  # fmt: skip

    def _answered(self, sample_count: int, good: int, bad: int, slow: int) -> Reputation:
        """After an audit that says something of the bytes."""
        return Reputation(
            good=good,
            bad=bad,
            known=_forget(self.known, UNKNOWN_FORGET) + ONE,
            unknown=_forget(self.unknown, UNKNOWN_FORGET),
            samples=min(_COUNT_MAX, self.samples + sample_count),
            slow=slow,
            contradicted=self.contradicted,
        )


def _share(good: int, bad: int) -> int:
    return good * ONE // (good + bad)


def _forget(value: int, kept: int) -> int:
    return value * kept // ONE
