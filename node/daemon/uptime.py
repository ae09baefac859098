"""How much of the last 30 days a node was up, by its own count. Layer 2, pure.

A node that runs looks at the calendar every minute; a longer silence was an outage: the process was stopped,
the machine slept. What is said of it in an offer is a claim; others trust what they see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from node.units import DAY_S, HOUR_S, MINUTE_S

WINDOW_DAYS: Final = 30
GAP_S: Final = 3 * MINUTE_S
"""A silence that is still a node's life: a look that comes late."""
OUTAGE_S: Final = 10 * MINUTE_S
"""A silence worth telling a person about: longer than what is not yet written down after a kill."""
OUTAGES_KEPT: Final = 8
SPAN_MIN_S: Final = HOUR_S
"""With less than an hour of life there is nothing to measure."""


@dataclass(slots=True)
class UptimeLog:
    """Seconds up by day of the calendar, the first and the last look, and the latest outages."""

    first_s: int = 0
    last_s: int = 0
    up_s_by_day: dict[int, int] = field(default_factory=dict)
    outages: tuple[tuple[int, int], ...] = ()
    """(last sign of life, first one after it), oldest first."""

    def look(self, now_s: int) -> int:
        """The node is up at `now_s`; the seconds of an outage that this look ended, else 0."""
        gap_s = now_s - self.last_s
        first_ever = not self.first_s
        if first_ever:
            self.first_s = now_s
        self.last_s = now_s
        if first_ever or gap_s <= 0:
            return 0  # the calendar went back: nothing is known of the time between
        if gap_s <= GAP_S:
            day = now_s // DAY_S
            self.up_s_by_day[day] = self.up_s_by_day.get(day, 0) + gap_s
            self.up_s_by_day = {d: s for d, s in self.up_s_by_day.items() if d > day - WINDOW_DAYS - 1}
            return 0
        if gap_s < OUTAGE_S:
            return 0
        self.outages = (*self.outages, (now_s - gap_s, now_s))[-OUTAGES_KEPT:]
        return gap_s

    def permille(self) -> int:
        """Share of the last 30 days, or of the node's life if that is shorter, that it was up."""
        start_s = max(self.first_s, self.last_s - WINDOW_DAYS * DAY_S)
        span_s = self.last_s - start_s
        if span_s < SPAN_MIN_S:
            return 1000
        up_s = sum(seconds for day, seconds in self.up_s_by_day.items() if (day + 1) * DAY_S > start_s)
        return min(1000, up_s * 1000 // span_s)
