"""How many bytes repair may still move today. Layer 4, without I/O. Source: credit.md, "Repair"."""

from __future__ import annotations

from node.ports import Clock
from node.units import DAY_S


class RepairBudget:
    """One node's, for what it repairs as a holder and as an owner."""

    def __init__(self, bytes_per_day: int, clock: Clock) -> None:
        self._bytes_per_day = bytes_per_day
        self._clock = clock
        self._day = -1
        self._spent = 0

    def left(self) -> int:
        """As of now."""
        day = self._clock.now_s() // DAY_S
        if day != self._day:
            self._day, self._spent = day, 0
        return self._bytes_per_day - self._spent

    def spend(self, byte_count: int) -> None:
        """Moved."""
        self.left()
        self._spent += byte_count
