"""A trio run that one number reproduces: virtual clock, ordered scheduling, no collector at random times.

The only file that touches trio's private switches; trio's version is pinned, and tests show that they still
do what is said here. Three things make a run of trio differ from the next one: real time, the order in which
tasks that are ready at once take their turn, and finalizers that run when the garbage collector happens to.
Here the clock jumps to the next deadline whenever nobody can run, ready tasks are sorted by age and then
shuffled by a seeded generator, and the collector runs at set virtual times. Sleeping goes through the clock's
own agenda: a cancel scope for each sleep, as trio has it, was a good part of what a simulated day cost.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar
from unittest.mock import patch

import trio
from trio._core import _run as trio_run  # its switches have no public door

T = TypeVar("T")

COLLECT_S = 7200.0
"""Virtual seconds between collections of garbage, and at most so much of it piles up."""
_IDLE_TURNS_MAX = 100
_IDLE_TURN_S = 0.01


class StuckError(BaseException):
    """Nobody can run and nobody waits for a time: the simulated world has come to a halt."""


@dataclass(order=True, slots=True)
class _Sleeper:
    """A task that wakes at a time, unless it was cancelled."""

    until_s: float
    number: int
    task: trio.lowlevel.Task | None = field(compare=False)


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
        self._agenda: list[_Sleeper] = []
        self._sleeps = 0

    def start_clock(self) -> None:
        """Nothing to start."""

    def current_time(self) -> float:
        """Virtual seconds since the start of the world."""
        return self.now_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Never sleeps: the next deadline or sleeper's time is now. Raises `StuckError` after many turns
        without one.

        At the end of a run trio wakes itself through a socket, so a few turns without a deadline are normal.
        """
        agenda = self._agenda
        while agenda and agenda[0].task is None:
            heappop(agenda)
        if agenda and agenda[0].until_s < deadline:
            deadline = agenda[0].until_s
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
        while agenda and agenda[0].until_s <= self.now_s:
            task = heappop(agenda).task
            if task is not None:
                trio.lowlevel.reschedule(task)
        return 0.0

    async def sleep_until(self, deadline: float) -> None:
        """What `trio.sleep_until` does, without a cancel scope."""
        if deadline <= self.now_s:
            await trio.lowlevel.checkpoint()
            return
        self._sleeps += 1
        sleeper = _Sleeper(deadline, self._sleeps, trio.lowlevel.current_task())
        heappush(self._agenda, sleeper)

        def abort(_: Any) -> trio.lowlevel.Abort:
            sleeper.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def sleep(self, seconds: float) -> None:
        """What `trio.sleep` does, without a cancel scope."""
        if not seconds >= 0:
            raise ValueError("`seconds` must be non-negative")
        await self.sleep_until(self.now_s + seconds)


@contextmanager
def no_outside() -> Iterator[None]:
    """Have trio ask the system for events only where it would wait for them: nothing comes from outside."""
    manager: Any = trio_run.TheIOManager  # type: ignore[attr-defined]
    ask = manager.get_events

    def get_events(self: Any, timeout: float) -> Any:
        return ask(self, timeout) if timeout > 0 else []

    with patch.object(manager, "get_events", get_events):
        yield


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
    clock = VirtualClock()
    gc.collect()
    gc.disable()
    try:
        with (
            ordered_scheduling(seed),
            no_outside(),
            patch.object(trio, "sleep", clock.sleep),
            patch.object(trio, "sleep_until", clock.sleep_until),
        ):
            return trio.run(main, clock=clock, strict_exception_groups=True)
    finally:
        if had_collector:
            gc.enable()
