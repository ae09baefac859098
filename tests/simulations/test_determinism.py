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

from simulations.determinism import StuckError, VirtualClock, ordered_scheduling, run_deterministically

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
