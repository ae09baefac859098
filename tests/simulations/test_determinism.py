"""The private switches of trio that simulations rest on still do what they are used for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio._core import _run as trio_run

from simulations.determinism import (
    Alarm,
    StuckError,
    VirtualClock,
    new_alarm,
    ordered_scheduling,
    run_deterministically,
)

ROOT = Path(__file__).parents[2]
SCENARIO = "mass_failure"
"""Crashes, torn writes, puts that are resumed, lookups among the dead: most of what could go astray."""


def order_of_tasks(seed: object) -> list[int]:
    """In which order fifty tasks that are ready at once take their turns, three times over."""
    order: list[int] = []

    async def turn(number: int) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(turn, number)

    run_deterministically(main, seed=seed)
    return order


def test_the_seed_decides_the_order_of_tasks() -> None:
    first, again, other = order_of_tasks(1), order_of_tasks(1), order_of_tasks(2)
    assert first == again
    assert first != other
    assert first != sorted(first), "ready tasks should be shuffled, or bugs of order stay hidden"


def test_the_switches_are_put_back() -> None:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()
    with ordered_scheduling(5):
        assert trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    assert (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r.getstate()) == before


def test_time_passes_only_when_nobody_can_run() -> None:
    seen: list[float] = []

    async def sleep(seconds: float) -> None:
        await trio.sleep(seconds)
        seen.append(trio.current_time())

    async def main() -> int:
        async with trio.open_nursery() as nursery:
            for days in (3.0, 1.0, 2.0):
                nursery.start_soon(sleep, days * 86_400)
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, VirtualClock)
        return clock.jumps

    jumps = run_deterministically(main, seed=0)
    assert seen == [86_400.0, 172_800.0, 259_200.0]
    assert jumps == 3


def wait_for_nothing(clock: VirtualClock) -> None:
    """Ask how long to sleep when there is no deadline, as trio does again and again."""
    for _ in range(1_000):
        clock.deadline_to_sleep_time(math.inf)


def test_a_world_in_which_nothing_can_happen_says_so() -> None:
    clock = VirtualClock()
    assert clock.deadline_to_sleep_time(5.0) == 0.0
    with pytest.raises(StuckError):  # trio turns it into the end of the run
        wait_for_nothing(clock)
    assert clock.current_time() == 5.0


def test_what_is_called_through_the_token_is_called() -> None:
    """trio would wake itself through a socket, and nothing is heard from sockets in virtual time."""
    called: list[float] = []

    async def main() -> None:
        token = trio.lowlevel.current_trio_token()
        token.run_sync_soon(lambda: called.append(trio.current_time()))
        await trio.sleep(5)

    run_deterministically(main, seed=0)
    assert called == [0.0]


def test_an_alarm_rings_when_it_was_moved_to() -> None:
    rung: list[tuple[str, float]] = []

    async def wait(alarm: Alarm, name: str, until_s: float) -> None:
        await alarm.wait(until_s)
        rung.append((name, trio.current_time()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            alarms = {name: new_alarm() for name in ("earlier", "later", "never", "cancelled")}
            for name in ("earlier", "later", "never"):
                nursery.start_soon(wait, alarms[name], name, 10.0)
            with trio.move_on_after(3):
                await wait(alarms["cancelled"], "cancelled", 10.0)
            alarms["earlier"].move(4.0)
            alarms["later"].move(20.0)
            alarms["never"].move(math.inf)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()

    run_deterministically(main, seed=0)
    assert rung == [("earlier", 4.0), ("later", 20.0)]


def test_scopes_keep_their_deadlines_with_the_shorter_bookkeeping() -> None:
    seen: list[float] = []

    async def main() -> None:
        with trio.move_on_after(5) as outer:
            with trio.move_on_after(2):
                await trio.sleep(100)
            seen.append(trio.current_time())
            outer.deadline += 1
            await trio.sleep(100)
        seen.append(trio.current_time())

    run_deterministically(main, seed=0)
    assert seen == [2.0, 6.0]


def test_one_seed_is_one_history() -> None:
    """Twice, in processes with another order of sets; another seed is another history."""
    runs = [("1", 3), ("2", 3), ("1", 4)]
    started = [
        subprocess.Popen(
            [sys.executable, "cli.py", "--json", "simulate", SCENARIO, "--seed", str(seed), "--brief"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
        )
        for hash_seed, seed in runs
    ]
    documents = [json.loads(process.communicate()[0]) for process in started]
    assert all(document["ok"] for document in documents), documents
    first, again, other = (document["digest"] for document in documents)
    assert first == again
    assert first != other
    figures, figures_again = (
        {key: value for key, value in document["figures"].items() if key not in ("wall_s", "cpu_s")}
        for document in documents[:2]
    )
    assert figures == figures_again
