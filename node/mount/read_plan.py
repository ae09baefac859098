"""Which stripes of a file to fetch, and how far ahead. Layer 2, pure.

A stripe is the least that the network gives: a read that stands alone costs the stripes that it touches. A
reader that goes on where it stopped gets stripes before it asks, at most as many as it has read in sequence,
so what is fetched in vain is never more than what was read. Several readers of one file each have a sequence.
The rule is that of the Linux page cache (mm/readahead.c), in stripes.

Invariants: the stripes of a run are delivered in order; a run delivers nothing behind `limit` until its
reader comes nearer; no stripe that a live run is about to deliver is asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SEQUENCES_MAX: Final = 16
"""Readers of one file that are told apart; the one that asked longest ago is forgotten first."""
RUN_BYTES_MAX: Final = 256 * 1024 * 1024
"""What one request asks for, of a reader that is surely in sequence."""
SURE_BYTES: Final = 32 * 1024 * 1024
"""Read in sequence, after which a request asks for more than may be ahead: the node has its own window."""


@dataclass(eq=False, slots=True)
class Sequence:
    """One reader: stripes [first, wanted) were asked for, [first, position) came."""

    first: int
    initial: int
    """Stripes of its first read."""
    wanted: int
    position: int
    run_stop: int | None = None
    """Where the request that is being answered ends; None if there is none."""
    waiting: int = 0
    """Reads that wait for it now."""
    failure: Exception | None = field(default=None, repr=False)

    @property
    def is_running(self) -> bool:
        """Whether a request of it is being answered."""
        return self.run_stop is not None


class ReadPlan:
    """The sequences of one file of `stripe_count` stripes. Not thread-safe: its user has a lock."""

    def __init__(self, *, stripe_count: int, stripe_bytes: int) -> None:
        self._count = stripe_count
        self._stripe_bytes = stripe_bytes
        self._sequences: list[Sequence] = []
        """The one that asked last is at the end."""

    @property
    def sequences(self) -> list[Sequence]:
        """All of them."""
        return list(self._sequences)

    def want(self, first: int, stop: int, *, missing: int | None, ahead_bytes: int) -> Sequence | None:
        """A read of stripes [first, stop), of which `missing` is the first that is not at hand.

        The sequence that goes on with this read, or None where nothing is missing and none does.
        """
        fitting = [
            each
            for each in self._sequences
            if each.first <= first <= self._reach(each, ahead_bytes)
            and (missing is None or missing >= each.position)
        ]
        if fitting:
            chosen = max(fitting, key=lambda each: (each.is_running, each.position))
        elif missing is None:
            return None
        else:
            chosen = Sequence(first=missing, initial=stop - missing, wanted=missing, position=missing)
        chosen.wanted = max(chosen.wanted, stop)
        if chosen in self._sequences:
            self._sequences.remove(chosen)
        self._sequences.append(chosen)
        self._forget()
        return chosen

    def limit(self, sequence: Sequence, ahead_bytes: int) -> int:
        """Behind which nothing is delivered yet."""
        read = sequence.wanted - sequence.first - sequence.initial
        ahead = min(max(read, 0), max(1, ahead_bytes // self._stripe_bytes))
        return min(self._count, sequence.wanted + ahead)

    def next_run(self, sequence: Sequence, ahead_bytes: int) -> tuple[int, int] | None:
        """Stripes [start, stop) to ask for now, if it is time."""
        limit = self.limit(sequence, ahead_bytes)
        ahead = sequence.position - sequence.wanted
        if sequence.is_running or sequence.position >= limit or ahead * 4 > limit - sequence.wanted:
            return None
        read = sequence.wanted - sequence.first - sequence.initial
        if read * self._stripe_bytes < SURE_BYTES:
            return sequence.position, limit
        longest = max(1, RUN_BYTES_MAX // self._stripe_bytes)
        return sequence.position, max(limit, min(self._count, sequence.position + longest))

    def drop(self, sequence: Sequence) -> None:
        """It failed: the next read begins anew."""
        if sequence in self._sequences:
            self._sequences.remove(sequence)

    def _reach(self, sequence: Sequence, ahead_bytes: int) -> int:
        if sequence.run_stop is None:
            return sequence.position
        return max(sequence.position, min(sequence.run_stop, self.limit(sequence, ahead_bytes)))

    def _forget(self) -> None:
        spare = [each for each in self._sequences[:-1] if not each.is_running and not each.waiting]
        for each in spare[: max(0, len(self._sequences) - SEQUENCES_MAX)]:
            self._sequences.remove(each)
