"""A year under the program's policy: nothing is lost where nothing should be, and what is lost is said."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import patch

from node.chunks import repair
from node.chunks.geometry import Code
from node.units import DAY_S, HOUR_S
from simulations.models import year
from simulations.models.year import DISASTER, OFFICES, Settings
from tests.conftest import FULL

SEEDS = range(1, 101) if FULL else range(1, 4)
QUIET = Settings(life_days=180.0)


def test_a_year_loses_nothing() -> None:
    """Where under a hundredth of a file is expected to be lost, over all seeds, none is."""
    figures = year.run(QUIET, seeds=SEEDS)
    assert figures.expected_chain < 0.01
    assert figures.lost == figures.reported_lost == 0
    assert figures.left_min >= QUIET.code.data_shards + 1
    assert figures.repairs > 0
    # The chain knows no open segments, and no holder that was away for two days.
    assert figures.chain_traffic < figures.repair_traffic < 1.4 * figures.chain_traffic
    assert figures.audit_month_percent < 1.5


def test_half_of_the_machines_leave_in_one_hour() -> None:
    """Who still has data_shards shards is whole within a day by the default settings; the rest is said."""
    settings = replace(DISASTER, files=200 if FULL else 100, code=Code(10, 24))
    figures = year.run(settings, seeds=SEEDS[:3])
    assert figures.lost > 0
    assert figures.reported_lost == figures.lost
    assert 0 < figures.whole_after_hours <= DAY_S / HOUR_S
    assert figures.urgent > 0
    for missing in (figures.missing_a_day_after, figures.missing_after):
        assert missing < repair.trigger_count(settings.code, settings.threshold)


def test_without_haste_half_gone_takes_days() -> None:
    settings = replace(DISASTER, files=40, urgent_after_s=DISASTER.dead_after_s)
    figures = year.run(settings, seeds=[1])
    assert figures.urgent == 0
    assert figures.whole_after_hours > settings.dead_after_s / HOUR_S


def test_nights_are_no_disaster() -> None:
    """Half of the machines are off for 14 hours of 24: nobody hurries, and hardly more is repaired for it."""
    nights = replace(OFFICES, days=60 if FULL else 30)
    hasty = year.run(nights, seeds=[1])
    patient = year.run(replace(nights, urgent_after_s=nights.dead_after_s), seeds=[1])
    assert hasty.urgent == 0
    assert hasty.repair_traffic <= 1.05 * patient.repair_traffic


def test_without_repair_files_die() -> None:
    with patch.object(repair, "is_due", lambda *_, **__: False):
        figures = year.run(replace(QUIET, life_days=60.0, files=8, days=110), seeds=[1])
    assert figures.lost > 0


def test_a_late_threshold_loses_more() -> None:
    hurried = Settings(life_days=10.0, files=60, days=60)
    late = year.run(replace(hurried, threshold=1.0), seeds=[1])
    early = year.run(replace(hurried, threshold=0.25), seeds=[1])
    assert early.lost < late.lost


def test_the_same_seed_gives_the_same_year() -> None:
    short = Settings(files=10, days=20, machines=100)
    assert year.run(short, seeds=[1]) == year.run(short, seeds=[1])
    assert not math.isnan(year.run(short, seeds=[2]).repair_traffic)
