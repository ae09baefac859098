"""A trio run that one number reproduces: virtual clock, ordered scheduling, no collector at random times.

The only file that touches trio's private switches; trio's version is pinned, and tests show that they still
do what is said here. Three things make a run of trio differ from the next one: real time, the order in which
tasks that are ready at once take their turn, and finalizers that run when the garbage collector happens to.
Here the clock jumps to the next deadline whenever nobody can run, ready tasks are sorted by age and then
shuffled by a seeded generator, and the collector runs at set virtual times.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import TypeVar

import trio
from trio._core import _run as trio_run  # its switches have no public door

T = TypeVar("T")

COLLECT_S = 7200.0
"""Virtual seconds between collections of garbage, and at most so much of it piles up."""
_IDLE_TURNS_MAX = 100
_IDLE_TURN_S = 0.01


class StuckError(BaseException):
    """Nobody can run and nobody waits for a time: the simulated world has come to a halt."""


class VirtualClock(trio.abc.Clock):
    """Time that passes only when nobody can run, and then jumps to the next deadline.

    trio asks how long it may sleep exactly when no task is ready, so the jump is made there: one turn of
    its loop a deadline, where `trio.testing.MockClock` needs two.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.jumps = 0
        self._idle_turns = 0
        self._collected_s = 0.0

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        """Virtual seconds since the start of the world."""
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Never sleeps: the deadline is now. Raises `StuckError` if there is none, again and again.

        At the end of a run trio wakes itself through a socket, so a few turns without a deadline are normal.
        """
        if deadline == math.inf:
            self._idle_turns += 1
            if self._idle_turns > _IDLE_TURNS_MAX:
                raise StuckError
            return _IDLE_TURN_S
        self._idle_turns = 0
        if deadline > self.now_s:
            self.now_s = deadline
            self.jumps += 1
            if deadline - self._collected_s >= COLLECT_S:
                self._collected_s = deadline
                gc.collect()
        return 0.0


@contextmanager
def ordered_scheduling(seed: object) -> Iterator[None]:
    """Have trio run ready tasks in an order that depends on `seed` and on nothing else."""
    before, state = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r.setstate(Random(f"scheduling {seed}").getstate())
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]
        trio_run._r.setstate(state)


def run_deterministically(main: Callable[[], Awaitable[T]], *, seed: object) -> T:
    """Run `main` in virtual time; the same `seed` gives the same order of everything.

    `main` must wait for nothing outside of trio: no thread, no socket. Exceptions pass through.
    """
    had_collector = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with ordered_scheduling(seed):
            return trio.run(main, clock=VirtualClock(), strict_exception_groups=True)
    finally:
        if had_collector:
            gc.enable()
