"""The sweep's cost: every key reaches its keepers, and many keys share lookups and streams."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import cli
from node import limits
from node.errors import UsageError
from node.units import DAY_S
from simulations.models import availability, plots, sweep
from simulations.models.report import Table, percentile
from simulations.models.sweep import Settings


def test_many_keys_cost_less_each_than_few() -> None:
    few = sweep.run(Settings(300, 60), seed=1)
    many = sweep.run(Settings(300, 1_500), seed=1)
    assert few.keys == few.sampled_keys == 10
    assert many.keys == 250
    assert many.streams_a_day / many.keys < few.streams_a_day / few.keys / 3
    assert many.streams_a_day < many.streams_one_by_one / 4


def test_a_key_goes_to_at_least_the_nearest_twenty() -> None:
    figures = sweep.run(Settings(300, 600), seed=2)
    _, record_bytes = sweep.message_bytes()
    request_bytes, _ = sweep.message_bytes()
    rounds = DAY_S / limits.DHT_ANNOUNCE_INTERVAL_S
    records = (figures.bytes_a_day - figures.requests_a_day * request_bytes) / record_bytes
    assert records / figures.keys / rounds >= limits.DHT_BUCKET_CONTACTS - 1e-6
    assert sweep.run(Settings(300, 600), seed=2) == figures


def test_a_key_with_a_region_to_itself_costs_one_lookup() -> None:
    figures = sweep.run(Settings(20_000, 60), seed=3)
    rounds = DAY_S / limits.DHT_ANNOUNCE_INTERVAL_S
    assert figures.lookups_a_day == pytest.approx(figures.keys * rounds)


def test_a_lookup_that_finds_few_because_others_left_does_not_end_the_round() -> None:
    # In this world seventeen answer the first lookup: they are not the whole network of six hundred.
    figures = sweep.run(Settings(1_000, 10_000), seed=1)
    assert figures.lookups_a_day >= 588 / 60


def test_the_command_prints_a_table_or_records(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["simulate", "availability", "--seed", "3"]) == 0
    assert "10/30" in capsys.readouterr().out
    assert cli.run(["--json", "simulate", "availability"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scenario"] == "availability"
    assert all(printed["figures"].values())


def test_a_table_is_aligned_and_percentiles_are_values() -> None:
    text = Table("title", ("a", "bb"), [("x", "1"), ("long", "22")], []).text()
    assert text.splitlines()[2:] == ["a     bb", "----  --", "x      1", "long  22"]
    assert percentile([3, 1, 2], 50) == 2
    assert percentile(range(1, 101), 95) == 95
    assert percentile([], 50) == 0


def test_plots_are_pictures_small_enough_for_a_page(tmp_path: Path) -> None:
    for path in plots.draw("availability", availability.tables(seed=1), tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 150_000


def test_plots_need_matplotlib_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="matplotlib"):
        plots.draw("availability", availability.tables(seed=1), tmp_path)
