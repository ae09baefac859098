"""Who said that it is repairing what. Layer 4, in memory.

Invariant: an intent counts for two staggers from when it was heard and no longer, so that a repairer that
died, or lied, holds the others up for that long only, and once a day: another intent of the same holder for
the same segment and day renews nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from node import limits
from node.chunks.repair import intent_life_s
from node.records.repair import RepairIntent
from node.units import PeerId, SegmentId

_Key = tuple[SegmentId, PeerId, int]


class Intents:
    """Intents heard of late."""

    def __init__(self, *, stagger_s: int, clock: Callable[[], float] = trio.current_time) -> None:
        self._life_s = intent_life_s(stagger_s)
        self._clock = clock
        self._heard: dict[_Key, float] = {}

    def heard(self, intent: RepairIntent) -> None:
        """Take note of a verified intent."""
        now = self._clock()
        if len(self._heard) >= limits.REPAIR_INTENTS_MAX:
            self._heard = {key: at for key, at in self._heard.items() if now - at < self._life_s}
        if len(self._heard) < limits.REPAIR_INTENTS_MAX:
            self._heard.setdefault((intent.segment_id, intent.holder, intent.day), now)

    def until(self, segment_id: SegmentId) -> float | None:
        """When the last live intent for a segment lapses; None if there is none."""
        now = self._clock()
        live = [
            at + self._life_s
            for (segment, _, _), at in self._heard.items()
            if segment == segment_id
            and now < at + self._life_s  # as it is answered: rounding must not differ
        ]
        return max(live) if live else None
