"""What passed some point, by time: rates are judged by the worst span of it."""

from __future__ import annotations

SPAN_S = 10.0


class Passed:
    """Bytes by time of passing."""

    def __init__(self) -> None:
        self.events: list[tuple[float, int]] = []

    def add(self, at_s: float, byte_count: int) -> None:
        self.events.append((at_s, byte_count))

    def total(self, *, after_s: float = 0.0) -> int:
        return sum(count for at, count in self.events if at >= after_s)

    def worst_span(self, *, after_s: float = 0.0) -> int:
        """The most that passed in any ten seconds."""
        events = sorted(event for event in self.events if event[0] >= after_s)
        worst = inside = start = 0
        for at, count in events:
            inside += count
            while events[start][0] <= at - SPAN_S:
                inside -= events[start][1]
                start += 1
            worst = max(worst, inside)
        return worst
