"""The year that people read: at three mean lives, through a disaster, through nights in offices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from simulations.models.report import Table
from simulations.models.year import DISASTER, OFFICES, Settings, YearFigures, run

PATIENCE_NAMES = ("the program's", "two days for everybody")
LIVES_DAYS = (180.0, 90.0, 30.0)


def tables(*, seed: int, seeds: int = 3) -> list[Table]:
    """A year at three mean lives, an hour in which half of all machines go, nights with half of them off."""
    chosen = range(seed, seed + seeds)
    years = [run(Settings(life_days=life), seeds=chosen) for life in LIVES_DAYS]
    disasters, nights = (
        [
            run(each, seeds=chosen)
            for each in (settings, replace(settings, urgent_after_s=settings.dead_after_s))
        ]
        for settings in (DISASTER, OFFICES)
    )
    return [year_table(years), disaster_table(disasters), nights_table(nights)]


def year_table(figures: Sequence[YearFigures]) -> Table:
    """The figures as people read them."""
    rows = [
        (
            f"{row.life_days:.0f} d",
            f"{row.seeds * row.files:,}",
            f"{row.lost}",
            f"{row.expected_fixed:.1g}",
            f"{row.expected_chain:.1g}",
            f"{row.left_min}",
            f"{row.unavailable_share:.1e}",
            f"{row.delay_hours:.0f} / {row.delay_hours_max:.0f} h",
            f"{row.repair_traffic:.1f} x",
            f"{row.chain_traffic:.1f} x",
            f"{row.false_deaths}",
            f"{row.audit_month_percent:.2f} %",
        )
        for row in figures
    ]
    headings = (
        "mean life", "files", "lost", "expected, 3 d fixed", "expected, chain of 3 d", "fewest shards left",
        "out of reach", "repaired after, mean / worst", "repair traffic a year", "chain",
        "shards that came back", "audits a month",
    )  # fmt: skip
    title = "Files at 10/30 through a year of the Freenet mix, placed and repaired by the program's policy"
    return Table(title, headings, rows, [asdict(row) for row in figures])


def disaster_table(figures: Sequence[YearFigures]) -> Table:
    """What half of all machines leaving within an hour does, by the program's rule and without haste."""
    rows = [
        (
            name,
            f"{row.seeds * row.files:,}",
            f"{row.lost}",
            f"{row.reported_lost}",
            f"{row.whole_after_hours:.0f} h",
            f"{row.missing_a_day_after:.2f}",
            f"{row.missing_after:.2f}",
        )
        for name, row in zip(PATIENCE_NAMES, figures, strict=True)
    ]
    headings = (
        "patience", "files", "left with fewer than 10 shards", "reported lost", "all others repaired after",
        "shards a file lacks a day later", "ten days later",
    )  # fmt: skip
    return Table(
        "Half of all machines leave within an hour", headings, rows, [asdict(row) for row in figures]
    )  # fmt: skip


def nights_table(figures: Sequence[YearFigures]) -> Table:
    """What offices that are dark for 14 hours a day do to repair."""
    rows = [
        (
            name,
            f"{row.seeds * row.files:,}",
            f"{row.lost}",
            f"{row.urgent} of {row.repairs}",
            f"{row.false_deaths}",
            f"{row.repair_traffic:.2f} x",
        )
        for name, row in zip(PATIENCE_NAMES, figures, strict=True)
    ]
    headings = ("patience", "files", "lost", "urgent repairs", "shards that came back", "repair traffic")
    title = "Half of all machines are off from 18:00 to 08:00, for 90 days"
    return Table(title, headings, rows, [asdict(row) for row in figures])
