"""`cairn simulate MODEL`: what can't be run as real nodes, computed and printed as tables.

Everything that is printed depends on the seed alone. A model that finds a bound broken fails.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from node.control.arguments import Options
from node.errors import UsageError
from simulations.models import attack, availability, durability, lookups, sweep, year_tables
from simulations.models.report import Table

Json = dict[str, Any]
_LOOKUPS: Final = 2_000
"""Of each size of network."""


def _lookups(seed: int) -> list[Table]:
    return [lookups.table([lookups.run(settings, seed=seed) for settings in lookups.suite(lookups=_LOOKUPS)])]


def _sweep(seed: int) -> list[Table]:
    return [sweep.table([sweep.run(settings, seed=seed) for settings in sweep.suite()])]


MODELS: Final[dict[str, Callable[[int], list[Table]]]] = {
    "attack": lambda seed: attack.tables(seed=seed),
    "availability": lambda seed: availability.tables(seed=seed),
    "durability": lambda seed: durability.tables(seed=seed),
    "lookups": _lookups,
    "sweep": _sweep,
    "year": lambda seed: year_tables.tables(seed=seed),
}
_OF_WORLDS_ONLY: Final = ("brief", "days", "faults", "shrink", "jobs")


def run_model(options: Options) -> tuple[Json, bool]:
    """Run the model that `options.scenario` names, and print it unless JSON is asked for; whether all held.

    Raises `UsageError` for options that a model does not have.
    """
    name = options.scenario
    for option in _OF_WORLDS_ONLY:
        if getattr(options, option) not in (None, False):
            raise UsageError(f"{name} is a model: it takes --seed and --plot, and no --{option}")
    tables = MODELS[name](options.seed)
    violations = [violation for table in tables for violation in table.violations]
    if not options.json:
        print("\n\n".join(table.text() for table in tables))
        for violation in violations:
            print(f"violation: {violation}")
    if options.plot:
        from simulations.models import plots  # matplotlib is an extra

        for path in plots.draw(name, tables, Path(options.plot)):
            print(f"drew {path}", file=sys.stderr)
    return as_json(name, options.seed, tables, violations), not violations


def as_json(name: str, seed: int, tables: Sequence[Table], violations: Sequence[str]) -> Json:
    """The document of one run: as of a scenario, with a list of records for each table as its figures."""
    figures = {
        table.title: [{name: _plain(value) for name, value in record.items()} for record in table.records]
        for table in tables
    }
    document: Json = {
        "scenario": name,
        "seed": seed,
        "ok": not violations,
        "digest": hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest(),
        "figures": figures,
    }
    if violations:
        document["violations"] = list(violations)
    return document


def _plain(value: object) -> object:
    """JSON has no infinity: what never happened is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
