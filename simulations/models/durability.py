"""Segments lost in a year when donors leave one by one, by a Markov chain and by counting in simulated years.

Counting knows what the chain does not: a repair that takes a fixed time after the threshold is reached, and
that restores what is missing when it ends. Where a loss is too rare to be counted, the chain alone speaks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from node.chunks.geometry import Code
from simulations.models.markov import YEAR_DAYS, Outlook, Upkeep, fixed_delay_loss, outlook
from simulations.models.report import Table

CODES = (Code(4, 12), Code(10, 30), Code(10, 40))
LIVES_DAYS = (30.0, 90.0, 180.0)
REPAIRS_DAYS = (1.0, 3.0, 7.0)
COUNTED_SEGMENTS = 20_000
SPECIFIED = {
    (4, 12, 90): (8e-6, 1e-3, 2.5e-2, 20),
    (10, 30, 30): (1e-4, 7e-2, 0.67, 57),
    (10, 30, 90): (4e-9, 4e-5, 8e-3, 20),
    (10, 30, 180): (2e-12, 8e-8, 6e-5, 10),
}
"""By code and mean life: loss a year at 1, 3 and 7 days to repair, and traffic, as the design has them."""


@dataclass(frozen=True, slots=True)
class DurabilityFigures:
    """One way to keep a segment for a year; losses are probabilities, traffic is multiples of the file."""

    code: str
    life_days: float
    repair_days: float
    chain_loss: float
    chain_traffic: float
    fixed_loss: float
    """If repair takes exactly the given time."""
    counted_segments: int
    counted_loss: float
    """Repair takes an exponential time, as in the chain."""
    counted_loss_fixed: float
    """Repair takes exactly the given time."""
    counted_traffic_fixed: float
    specified_loss: float | None


def count(upkeep: Upkeep, *, segments: int, seed: int, is_fixed: bool, days: float = YEAR_DAYS) -> Outlook:
    """What happens to `segments` segments, each watched from event to event."""
    random = np.random.default_rng([seed, upkeep.code.total_shards, int(upkeep.life_days), int(is_fixed)])
    code = upkeep.code
    live = np.full(segments, code.total_shards)
    now = np.zeros(segments)
    repaired_at = np.full(segments, np.inf)
    running = np.arange(segments)
    repairs = traffic = 0.0
    lost = 0
    while len(running):
        leaves_at = now[running] + random.exponential(upkeep.life_days, len(running)) / live[running]
        is_repair = repaired_at[running] <= leaves_at
        now[running] = np.where(is_repair, repaired_at[running], leaves_at)
        running, is_repair = running[now[running] <= days], is_repair[now[running] <= days]
        whole, fewer = running[is_repair], running[~is_repair]
        repairs += len(whole)
        traffic += float((code.data_shards + code.total_shards - live[whole]).sum()) / code.data_shards
        live[whole] = code.total_shards
        repaired_at[whole] = np.inf
        live[fewer] -= 1
        due = fewer[(live[fewer] <= upkeep.threshold) & np.isinf(repaired_at[fewer])]
        delay = upkeep.repair_days if is_fixed else random.exponential(upkeep.repair_days, len(due))
        repaired_at[due] = now[due] + delay
        is_lost = live[running] < code.data_shards
        lost += int(is_lost.sum())
        running = running[~is_lost]
    return Outlook(lost / segments, repairs / segments, traffic / segments)


def figures(upkeep: Upkeep, *, seed: int, segments: int = COUNTED_SEGMENTS) -> DurabilityFigures:
    """The chain's figures, the counted ones, and those of the specification."""
    chain = outlook(upkeep)
    same = count(upkeep, segments=segments, seed=seed, is_fixed=False)
    fixed = count(upkeep, segments=segments, seed=seed, is_fixed=True)
    code = upkeep.code
    specified = SPECIFIED.get((code.data_shards, code.total_shards, int(upkeep.life_days)))
    return DurabilityFigures(
        code=f"{code.data_shards}/{code.total_shards}",
        life_days=upkeep.life_days,
        repair_days=upkeep.repair_days,
        chain_loss=chain.loss,
        chain_traffic=chain.traffic,
        fixed_loss=fixed_delay_loss(upkeep),
        counted_segments=segments,
        counted_loss=same.loss,
        counted_loss_fixed=fixed.loss,
        counted_traffic_fixed=fixed.traffic,
        specified_loss=specified[REPAIRS_DAYS.index(upkeep.repair_days)] if specified else None,
    )


def tables(*, seed: int, segments: int = COUNTED_SEGMENTS) -> list[Table]:
    """All codes, mean lives and repair times."""
    rows = [
        figures(Upkeep(code, life, repair), seed=seed, segments=segments)
        for code in CODES
        for life in LIVES_DAYS
        for repair in REPAIRS_DAYS
    ]
    headings = (
        "code", "mean life", "repair after", "specified", "loss a year (chain)", "counted",
        "loss, fixed delay", "counted", "traffic a year (chain)", "counted, fixed delay",
    )  # fmt: skip
    lines = [
        (
            row.code,
            f"{row.life_days:.0f} d",
            f"{row.repair_days:.0f} d",
            "" if row.specified_loss is None else f"{row.specified_loss:.1e}",
            f"{row.chain_loss:.1e}",
            _counted(row.counted_loss, row.counted_segments),
            f"{row.fixed_loss:.1e}",
            _counted(row.counted_loss_fixed, row.counted_segments),
            f"{row.chain_traffic:.1f} x file",
            f"{row.counted_traffic_fixed:.1f} x",
        )
        for row in rows
    ]
    title = f"A segment in a year of independent departures; {segments:,} counted each"
    return [Table(title, headings, lines, [asdict(row) for row in rows])]


def _counted(share: float, segments: int) -> str:
    return f"{share:.1e}" if share else f"< {1 / segments:.0e}"
