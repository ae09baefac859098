"""A trio run that one number reproduces: virtual clock, ordered scheduling, no collector at random times.

The only file that touches trio's private switches; trio's version is pinned, and tests show that they still
do what is said here. Three things make a run of trio differ from the next one: real time, the order in which
tasks that are ready at once take their turn, and finalizers that run when the garbage collector happens to.
Here the clock jumps to the next deadline whenever nobody can run, ready tasks are sorted by age and then
shuffled by a seeded generator, and the collector runs at set virtual times. Sleeping goes through the clock's
own agenda, and so does waiting for what is on its way: a cancel scope for each, as trio has it, was a good
part of what a simulated day cost.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol, TypeVar
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


class Alarm(Protocol):
    """Wakes one waiting task at a time that may be moved meanwhile."""

    async def wait(self, until_s: float) -> None:
        """Until then, or until the time that it was moved to."""
        ...

    def move(self, until_s: float) -> None:
        """Wake whoever waits at another time; infinity is never, what has passed is at once."""
        ...


class _AgendaAlarm:
    """An `Alarm` in the agenda of a virtual clock: no cancel scope for each wait."""

    __slots__ = ("_clock", "task", "until_s")

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.task: trio.lowlevel.Task | None = None
        self.until_s = math.inf

    async def wait(self, until_s: float) -> None:
        """As `Alarm` says."""
        self.task = trio.lowlevel.current_task()
        self.move(until_s)
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def move(self, until_s: float) -> None:
        """As `Alarm` says."""
        if self.task is not None and until_s != self.until_s:
            self.until_s = until_s
            if until_s != math.inf:
                self._clock.put(self)

    def _abort(self, _: Any) -> trio.lowlevel.Abort:
        self.task = None
        self.until_s = math.inf
        return trio.lowlevel.Abort.SUCCEEDED


class _ScopeAlarm:
    """An `Alarm` under any other clock of trio."""

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None

    async def wait(self, until_s: float) -> None:
        """As `Alarm` says."""
        with trio.CancelScope(deadline=until_s) as self._scope:
            try:
                await trio.sleep_forever()
            finally:
                self._scope = None

    def move(self, until_s: float) -> None:
        """As `Alarm` says."""
        if self._scope is not None:
            self._scope.deadline = until_s


def new_alarm() -> Alarm:
    """One for the clock that this run has."""
    clock = trio.lowlevel.current_clock()
    return _AgendaAlarm(clock) if isinstance(clock, VirtualClock) else _ScopeAlarm()


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
        self._agenda: list[tuple[float, int, _AgendaAlarm]] = []
        self._numbers = 0

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
        while agenda and agenda[0][2].until_s != agenda[0][0]:
            heappop(agenda)
        if agenda and agenda[0][0] < deadline:
            deadline = agenda[0][0]
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
        while agenda and agenda[0][0] <= self.now_s:
            until_s, _, alarm = heappop(agenda)
            if alarm.task is not None and alarm.until_s == until_s:
                task, alarm.task, alarm.until_s = alarm.task, None, math.inf
                trio.lowlevel.reschedule(task)
        return 0.0

    def put(self, alarm: _AgendaAlarm) -> None:
        """Note an alarm's time; what was noted of it before counts no longer."""
        self._numbers += 1
        heappush(self._agenda, (alarm.until_s, self._numbers, alarm))

    async def sleep_until(self, deadline: float) -> None:
        """What `trio.sleep_until` does, without a cancel scope."""
        if deadline <= self.now_s:
            await trio.lowlevel.checkpoint()
            return
        await _AgendaAlarm(self).wait(deadline)

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


class _DeadlineChange:
    """What `CancelScope._might_change_registered_deadline` does, without a generator: there are two or three
    of these for each scope, and scopes are most of what a simulated day costs."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Any) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        scope = self._scope
        old = scope._registered_deadline
        new = math.inf if scope._cancel_status is None or scope._cancel_called else scope._deadline
        if old != new:
            scope._registered_deadline = new
            deadlines = trio_run.GLOBAL_RUN_CONTEXT.runner.deadlines
            if old != math.inf:
                deadlines.remove(old, scope)
            if new != math.inf:
                deadlines.add(new, scope)


def _run_at_once(_: trio.lowlevel.TrioToken, call: Callable[..., Any], *args: Any, **__: Any) -> None:
    """What `TrioToken.run_sync_soon` comes to without threads: trio would wake itself through a socket, and
    nothing is heard from those here."""
    call(*args)


def _deadline_change(scope: trio.CancelScope) -> _DeadlineChange:
    return _DeadlineChange(scope)


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


def run_deterministically(
    main: Callable[[], Awaitable[T]], *, seed: object, instruments: Sequence[trio.abc.Instrument] = ()
) -> T:
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
            patch.object(trio.lowlevel.TrioToken, "run_sync_soon", _run_at_once),
            patch.object(trio.CancelScope, "_might_change_registered_deadline", _deadline_change),
        ):
            return trio.run(main, clock=clock, instruments=instruments, strict_exception_groups=True)
    finally:
        if had_collector:
            gc.enable()
