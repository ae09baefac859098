"""`python -m simulations.models NAME [--seed N] [--json] [--plot FOLDER]`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from simulations.models import attack, availability, durability, lookups, sweep, year
from simulations.models.report import Table


def _lookups(seed: int, lookup_count: int) -> list[Table]:
    return [
        lookups.table([lookups.run(settings, seed=seed) for settings in lookups.suite(lookups=lookup_count)])
    ]


def _sweep(seed: int, _: int) -> list[Table]:
    return [sweep.table([sweep.run(settings, seed=seed) for settings in sweep.suite()])]


def _durability(seed: int, _: int) -> list[Table]:
    return durability.tables(seed=seed)


def _availability(seed: int, _: int) -> list[Table]:
    return availability.tables(seed=seed)


def _attack(seed: int, _: int) -> list[Table]:
    return attack.tables(seed=seed)


def _year(seed: int, _: int) -> list[Table]:
    return year.tables(seed=seed)


MODELS: Final[dict[str, tuple[str, Callable[[int, int], list[Table]]]]] = {
    "lookups": ("hops, requests, seconds and success of lookups, 1,000 to 1,000,000 nodes", _lookups),
    "sweep": ("what it costs a donor to keep its shards announced", _sweep),
    "durability": ("segments lost in a year and what repair costs, independent departures", _durability),
    "availability": ("files that can't be got right now, and failures that strike together", _availability),
    "attack": ("what 300 attackers can take from honest donors, by the rules of admission", _attack),
    "year": ("files through a year of the churn mix, by the policy of placement and repair", _year),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one model and print it; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.models",
        epilog="\n".join(f"{name:13} {purpose}" for name, (purpose, _) in MODELS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lookups", type=int, default=2_000, help="lookups of each size (lookups only)")
    parser.add_argument("--json", action="store_true", help="records instead of a table")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write PNGs there (needs matplotlib)")
    options = parser.parse_args(arguments)
    tables = MODELS[options.name][1](options.seed, options.lookups)
    if options.json:
        records = {
            table.title: [{name: _plain(value) for name, value in record.items()} for record in table.records]
            for table in tables
        }
        print(json.dumps({"model": options.name, "seed": options.seed, "tables": records}, indent=1))
    else:
        print("\n\n".join(table.text() for table in tables))
    if options.plot is not None:
        from simulations.models import plots  # matplotlib is not needed otherwise

        for path in plots.draw(options.name, tables, options.plot):
            print(path, file=sys.stderr)
    return 0


def _plain(value: object) -> object:
    """JSON has no infinity: what never happened is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
