"""How many bytes repair may still move today. Layer 4.

Invariant: a restart gives nothing back. Source: credit.md, "Repair".
"""

from __future__ import annotations

from node.chunks.healing.journal import HealingJournal
from node.ports import Clock
from node.units import DAY_S


class RepairBudget:
    """One node's, for what it repairs as a holder and as an owner."""

    def __init__(self, bytes_per_day: int, clock: Clock, journal: HealingJournal) -> None:
        """Reads a row of the state."""
        self._bytes_per_day = bytes_per_day
        self._clock = clock
        self._journal = journal
        self._day, self._spent = journal.moved()

    def left(self) -> int:
        """As of now."""
        day = self._clock.now_s() // DAY_S
        if day != self._day:
            self._day, self._spent = day, 0
        return self._bytes_per_day - self._spent

    def spend(self, byte_count: int) -> None:
        """Moved. Blocks on the disk."""
        self.left()
        self._spent += byte_count
        if byte_count:
            self._journal.set_moved(self._day, self._spent)
