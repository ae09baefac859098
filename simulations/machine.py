"""What one simulated machine gives its node beside disk and network: calendar, chance, work off the loop.

All time comes from trio's clock, all chance from generators seeded by name, so that what one machine draws
does not depend on what another one does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TypeVar

import trio

T = TypeVar("T")

EPOCH_S = 1_893_456_000
"""The calendar at the start of every world: 2030-01-01. Never the day on which the simulation runs."""


class SimulatedCalendar:
    """`Clock` of one machine: virtual time since `EPOCH_S`, with an error that drifts and steps."""

    def __init__(self, *, offset_s: float = 0.0, drift_ppm: float = 0.0) -> None:
        self.offset_s = offset_s
        self.drift_ppm = drift_ppm

    def now_s(self) -> int:
        """Seconds since the Unix epoch as this machine believes."""
        passed_s = trio.current_time()
        return int(EPOCH_S + passed_s * (1 + self.drift_ppm / 1e6) + self.offset_s)

    def step(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.offset_s += seconds


class SeededEntropy:
    """`Entropy` that a seed and a name determine."""

    def __init__(self, seed: object) -> None:
        self._random = Random(f"entropy {seed}")

    def random_bytes(self, count: int) -> bytes:
        """`count` bytes."""
        return self._random.randbytes(count)


class InlineOffload:
    """`Offload` without threads: a virtual clock would jump while one runs.

    `delay_s` is what the disk and the processor take for a call, in virtual time; it may change.
    """

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s

    async def run(self, function: Callable[[], T]) -> T:
        """The result of `function()`, after a checkpoint. Not cancelled once started, as with a thread."""
        await trio.lowlevel.checkpoint()
        if self.delay_s:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.delay_s)
        return function()
