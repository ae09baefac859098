"""Calendars for tests."""

from __future__ import annotations

from dataclasses import dataclass

import trio

START_S = 1_800_000_000
"""When tests begin that don't say when."""


@dataclass(eq=False)
class HandClock:
    """A calendar that a test moves."""

    time_s: int = START_S

    def now_s(self) -> int:
        """As the port says."""
        return self.time_s


@dataclass(eq=False)
class VirtualClock:
    """A calendar that goes on with trio's clock, and that a test may set forward."""

    ahead_s: int = 0

    def now_s(self) -> int:
        """As the port says."""
        return START_S + self.ahead_s + int(trio.current_time())
