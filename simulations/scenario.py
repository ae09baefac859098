"""A scenario: a plan made from a seed, run to its end, judged. Also shrinks the faults of a failure.

Safety first: checkers watch while faults happen. Then liveness: the faults end, the machines come back, and
every file that still has enough shards must be got within a bound.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import trio

from node.chunks.geometry import Code
from node.daemon.config import build_config
from node.errors import UsageError
from node.units import HOUR_S, MINUTE_S
from simulations.afterwards import check_healed, check_liveness, settle_accounts
from simulations.checkers import all_checkers, keep_checking
from simulations.determinism import run_deterministically
from simulations.faults import Fault, heal, inject
from simulations.host import HostSettings
from simulations.meter import Meter
from simulations.network import Link
from simulations.workload import Actions, Workload
from simulations.world import Violation, World, open_world

logging.getLogger("node").addHandler(logging.NullHandler())  # what nodes complain of is their everyday here

JOIN_S = 60.0
"""Before faults and workload begin."""
HOME_LINK = Link(latency_s=0.02, jitter_s=0.02, rate_bytes_s=1_000_000)
BRISK = build_config(
    {
        "audit.interval_s": 30 * MINUTE_S,
        "repair.check_interval_s": 20 * MINUTE_S,
        "repair.dead_after_s": HOUR_S,
        "repair.stagger_s": MINUTE_S,
        "repair.threshold": 0.0,
    }
)
"""Settings with which a holder counts as dead after an hour, and each lost shard is remade."""
DAYS_MAX = 366.0
LEAVE_EARLY_S = 300.0
"""The workload ends so long before the healing, so that what it does is over."""

Extra = Callable[[World, Actions, Random], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scenario does with one seed."""

    hosts: Sequence[HostSettings]
    faults: Sequence[Fault]
    duration_s: float
    workload: Workload = field(default_factory=Workload)
    link: Link = HOME_LINK
    files_first: int = 3
    """Files put before the faults begin."""
    first_codes: Sequence[Code] = ()
    """Codes of those in turn; none for the workload's."""
    first_bytes: int | None = None
    """How long those are; None for lengths by chance."""
    prepare: Callable[[World], None] = lambda world: None
    """Called when the machines are there and none runs yet."""
    extra: Extra | None = None
    """Something of the scenario's own, beside faults and workload."""
    heals_within_s: float | None = None
    """After the faults, every file with enough shards must be whole again within this time."""
    missing_max: int = 0
    """How many shards of a segment may be missing for that: what the settings leave unrepaired."""
    judge: Extra | None = None
    """What else must hold when the world is healed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`plan(random, brief)`: brief ones are for quick tests."""

    name: str
    summary: str
    plan: Callable[[Random, bool], Plan]
    plan_days: Callable[[Random, float], Plan] | None = None
    """The same for so many days; None where a scenario has one length only."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a run went. `figures` depend on the seed alone, `wall_s` on the machine."""

    scenario: str
    seed: int
    digest: str
    figures: dict[str, float]
    series: dict[str, list[tuple[float, float]]]
    violations: tuple[Violation, ...]
    faults: tuple[Fault, ...]
    fault_numbers: tuple[int, ...]
    is_partial: bool
    """Whether faults of the plan were left out."""
    last_lines: tuple[str, ...]
    wall_s: float
    cpu_s: float
    turns: dict[str, int]
    """Turns that tasks took, by part of the node."""
    days: float | None = None
    """The length that was asked for; None for the scenario's own."""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not self.violations


def run_scenario(
    scenario: Scenario,
    seed: int,
    *,
    brief: bool = False,
    days: float | None = None,
    fault_numbers: Sequence[int] | None = None,
) -> Result:
    """Run one seed; with `fault_numbers`, only those faults of its plan happen. Raises `UsageError`."""
    started, started_cpu_s = time.monotonic(), time.process_time()
    plan = _plan_of(scenario, Random(f"{scenario.name} {seed}"), brief, days)
    numbers = tuple(range(len(plan.faults))) if fault_numbers is None else tuple(fault_numbers)
    faults = [plan.faults[number] for number in numbers if number < len(plan.faults)]

    async def main() -> World:
        return await _run(plan, faults, f"{scenario.name} {seed}")

    meter = Meter()
    world = run_deterministically(main, seed=f"{scenario.name} {seed}", instruments=[meter])
    counts = world.figures.counts
    counts["messages"] = world.trace.counts["sent"]
    counts["promises"] = world.promises.made
    counts["promises without the owner"] = world.promises.granted
    counts["promises given up"] = world.promises.given_up.total()
    return Result(
        scenario=scenario.name,
        seed=seed,
        digest=world.trace.digest(),
        figures={name: round(value, 3) for name, value in sorted(counts.items())},
        series=world.figures.series,
        violations=tuple(world.violations),
        faults=tuple(faults),
        fault_numbers=numbers,
        is_partial=len(faults) < len(plan.faults),
        last_lines=tuple(world.trace.lines),
        wall_s=time.monotonic() - started,
        cpu_s=time.process_time() - started_cpu_s,
        turns=meter.by_part(),
        days=days,
    )


def _plan_of(scenario: Scenario, random: Random, brief: bool, days: float | None) -> Plan:
    if days is None:
        return scenario.plan(random, brief)
    if scenario.plan_days is None:
        raise UsageError(f"{scenario.name} has one length only: leave --days out")
    if not 0 < days <= DAYS_MAX:
        raise UsageError(f"--days is a number up to {DAYS_MAX:g}")
    return scenario.plan_days(random, days)


async def _run(plan: Plan, faults: list[Fault], seed: str) -> World:
    async with open_world(seed, link=plan.link) as world:
        for settings in plan.hosts:
            world.add_host(settings)
        plan.prepare(world)
        checkers = all_checkers()
        for checker in checkers:
            checker.begin(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_checking, world, checkers)

            async def play() -> None:
                await _play(plan, faults, world)
                if not world.ended.is_set():
                    for checker in checkers:
                        checker.finish(world)
                world.ended.set()

            nursery.start_soon(play)
            await world.ended.wait()
            nursery.cancel_scope.cancel()
        world.figures.add("virtual days", trio.current_time() / 86_400)
    return world


async def _play(plan: Plan, faults: list[Fault], world: World) -> None:
    actions = Actions(world, plan.workload, Random(f"workload {world.seed}"))
    for host in world.hosts:
        await world.start(host)
    await trio.sleep_until(JOIN_S)
    random = Random(f"files {world.seed}")
    putters = [
        host for host in world.up() if plan.workload.putters is None or host.index in plan.workload.putters
    ]
    for number in range(plan.files_first):
        code = plan.first_codes[number % len(plan.first_codes)] if plan.first_codes else None
        await actions.put(random.choice(putters), random, size_bytes=plan.first_bytes, code=code)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inject, world, faults)
        nursery.start_soon(actions.run, plan.duration_s - LEAVE_EARLY_S)
        if plan.extra is not None:
            nursery.start_soon(plan.extra, world, actions, random)
        await trio.sleep_until(plan.duration_s)
        nursery.cancel_scope.cancel()
    await heal(world)
    if plan.heals_within_s is not None:
        await check_healed(world, actions, random, within_s=plan.heals_within_s, missing_max=plan.missing_max)
    await check_liveness(world, actions, random)
    if plan.judge is not None and not world.ended.is_set():
        await plan.judge(world, actions, random)
    if not world.ended.is_set():
        await settle_accounts(world)


def shrink(scenario: Scenario, failed: Result, *, brief: bool = False, runs_max: int = 40) -> Result:
    """A smallest list of faults that still fails, found by leaving parts out: halves first, then single ones.

    Any violation by the same checker counts. Source: Zeller and Hildebrandt, Simplifying and Isolating
    Failure-Inducing Input (2002).
    """
    checker = failed.violations[0].checker
    best, runs, part = failed, 0, max(1, len(failed.fault_numbers) // 2)
    while runs < runs_max:
        numbers = best.fault_numbers
        for start in range(0, len(numbers), part):
            rest = numbers[:start] + numbers[start + part :]
            runs += 1
            result = run_scenario(scenario, failed.seed, brief=brief, days=failed.days, fault_numbers=rest)
            if result.violations and result.violations[0].checker == checker:
                best = result
                break
            if runs >= runs_max:
                return best
        else:
            if part == 1:
                return best
            part = max(1, part // 2)
        part = max(1, min(part, len(best.fault_numbers) // 2))
    return best
