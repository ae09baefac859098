"""The calendar of the machine. Layer 3, over the standard library."""

from __future__ import annotations

import time


class SystemClock:
    """`Clock` over the system's real-time clock, which may step."""

    def now_s(self) -> int:
        """Seconds since the Unix epoch."""
        return int(time.time())
