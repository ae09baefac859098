"""`cairn simulate`: run scenarios by seed, replay and shrink what fails, draw what happened; or a model.

The result of one run is a JSON document with `scenario, seed, ok, digest, figures`; everything in it but
`wall_s` and `cpu_s` depends on the seed alone. A failure prints the line that replays it.
"""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from node.control.arguments import Options
from node.errors import UsageError
from simulations import scenarios
from simulations.models.command import MODELS, run_model
from simulations.scenario import Result, Scenario, run_scenario, shrink

Json = dict[str, Any]
ALL = "all"
FAILED = 1
PARTS_SHOWN = 6


def scenario_names() -> list[str]:
    """All scenarios, by module."""
    return sorted(module.name for module in pkgutil.iter_modules(scenarios.__path__))


def find_scenario(name: str) -> Scenario:
    """The scenario of a module. Raises `UsageError`."""
    if name not in scenario_names():
        worlds, models = ", ".join(scenario_names()), ", ".join(MODELS)
        raise UsageError(f"there is no scenario {name!r}: known are {worlds}, {ALL}; and the models {models}")
    scenario: Scenario = importlib.import_module(f"simulations.scenarios.{name}").SCENARIO
    return scenario


def simulate(options: Options) -> tuple[Json | None, int]:
    """The command: what to print as JSON (None: all is said), and the exit code. Raises `UsageError`."""
    if options.scenario == ALL:
        document, exit_code = _simulate_all(options)
    elif options.scenario in MODELS:
        document, is_ok = run_model(options)
        exit_code = 0 if is_ok else FAILED
    else:
        document, exit_code = _simulate_one(options)
    return (document if options.json else None), exit_code


def _simulate_one(options: Options) -> tuple[Json, int]:
    scenario = find_scenario(options.scenario)
    numbers = parse_numbers(options.faults) if options.faults is not None else None
    result = run_scenario(
        scenario, options.seed, brief=options.brief, days=options.days, fault_numbers=numbers
    )
    if options.shrink and not result.ok:
        result = shrink(scenario, result, brief=options.brief)
    if options.plot:
        from simulations.plot import draw  # matplotlib is an extra

        for path in draw(result, Path(options.plot)):
            print(f"drew {path}", file=sys.stderr)
    if not options.json:
        print(describe(result, brief=options.brief, verbose=options.verbose > 0))
    return as_json(result), 0 if result.ok else FAILED


def _simulate_all(options: Options) -> tuple[Json, int]:
    seeds = parse_numbers(options.seeds)
    names = scenario_names()
    runs = [(name, seed, options.brief) for seed in seeds for name in names]
    failures: list[Json] = []
    digests = hashlib.sha256()
    wall_s = 0.0
    for result in _run_many(runs, options.jobs or os.cpu_count() or 1):
        digests.update(result.digest.encode())
        wall_s += result.wall_s
        state = "ok" if result.ok else "FAILED"
        print(
            f"{result.scenario:16} seed {result.seed:4} {state:6} {result.wall_s:5.1f} s",
            file=sys.stderr,
            flush=True,
        )
        if not result.ok:
            failures.append(
                {
                    "scenario": result.scenario,
                    "seed": result.seed,
                    "violation": str(result.violations[0]),
                    "replay": replay_line(result, brief=options.brief),
                }
            )
    if not options.json:
        print(f"{len(runs)} runs of {len(names)} scenarios, {len(failures)} failed")
        for failure in failures:
            print(f"{failure['scenario']} seed {failure['seed']}: {failure['violation']}")
            print(f"  replay: {failure['replay']}")
    figures = {"runs": len(runs), "failed": len(failures), "wall_s": round(wall_s, 1)}
    document = {
        "scenario": ALL,
        "seed": options.seeds,
        "ok": not failures,
        "digest": digests.hexdigest(),
        "figures": figures,
        "failures": failures,
    }
    return document, FAILED if failures else 0


def _run_many(runs: Sequence[tuple[str, int, bool]], jobs: int) -> Iterator[Result]:
    """Results in the order of `runs`; one process a core, since a run has one thread."""
    if jobs == 1:
        yield from map(_run_one, runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_run_one, runs)


def _run_one(run: tuple[str, int, bool]) -> Result:
    name, seed, brief = run
    return run_scenario(find_scenario(name), seed, brief=brief)


def parse_numbers(text: str) -> list[int]:
    """`1-3,7` as [1, 2, 3, 7]; empty text is the empty list. Raises `UsageError`."""
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise UsageError(f"{text!r} are no numbers: write them like 1-100 or 3,5,8")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def replay_line(result: Result, *, brief: bool) -> str:
    """The command that does the same again."""
    words = ["cairn simulate", result.scenario, f"--seed {result.seed}"]
    if brief:
        words.append("--brief")
    if result.days is not None:
        words.append(f"--days {result.days:g}")
    if result.is_partial:
        words.append(f"--faults '{','.join(map(str, result.fault_numbers))}'")
    return " ".join(words)


def as_json(result: Result) -> Json:
    """The document of one run."""
    document: Json = {
        "scenario": result.scenario,
        "seed": result.seed,
        "ok": result.ok,
        "digest": result.digest,
        "figures": result.figures | {"wall_s": round(result.wall_s, 2), "cpu_s": round(result.cpu_s, 2)},
    }
    if not result.ok:
        document["violations"] = [str(violation) for violation in result.violations]
    return document


def _speed(result: Result) -> list[str]:
    """How fast virtual time passes, and what bounds it. Seeds run one a core: two cores do twice as much."""
    node_days = result.figures.get("online node-days", 0.0)
    turns = sum(result.turns.values())
    if not (result.cpu_s and node_days and turns):
        return []
    most = [f"{name} {count / turns:.0%}" for name, count in list(result.turns.items())[:PARTS_SHOWN]]
    return [
        f"  {'node-days in 10 min of two cores':32} {node_days * 2 * 600 / result.cpu_s:12,.0f}"
        " (machines online; one seed a core)",
        f"  bounded by {turns:,} turns of tasks at {1e6 * result.cpu_s / turns:.0f} us each,"
        f" {turns / node_days:,.0f} a node-day",
        f"  most of them: {', '.join(most)}",
    ]


def describe(result: Result, *, brief: bool, verbose: bool) -> str:
    """A run for people; `verbose` adds the faults and the last events."""
    lines = [
        f"{result.scenario}, seed {result.seed}: {'everything held' if result.ok else 'FAILED'}",
        f"  digest {result.digest}",
        f"  {result.wall_s:.1f} s of real time, {result.cpu_s:.1f} s of processor time",
    ]
    lines += [f"  {name:32} {value:12,.10g}" for name, value in result.figures.items()]
    lines += _speed(result)
    for violation in result.violations:
        lines.append(f"  violation: {violation}")
    if verbose or not result.ok:
        lines += [
            f"  fault {number}: {fault}"
            for number, fault in zip(result.fault_numbers, result.faults, strict=False)
        ]
    if verbose:
        lines += ["  last events:", *(f"    {line}" for line in result.last_lines)]
    if not result.ok:
        lines.append(f"  replay: {replay_line(result, brief=brief)}")
    return "\n".join(lines)
