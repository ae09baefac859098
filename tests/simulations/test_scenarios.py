"""Every scenario holds: one brief seed in the quick run, many with `CAIRN_TEST_FULL=1`."""

from __future__ import annotations

import os

import pytest

from simulations.command import find_scenario, replay_line, scenario_names
from simulations.scenario import run_scenario

SEEDS = range(1, 21) if os.environ.get("CAIRN_TEST_FULL") else range(1, 2)


@pytest.mark.parametrize("name", scenario_names())
@pytest.mark.parametrize("seed", SEEDS)
def test_scenario_holds(name: str, seed: int) -> None:
    result = run_scenario(find_scenario(name), seed, brief=True)
    assert result.ok, f"{result.violations[0]}; replay: {replay_line(result, brief=True)}"
    figures = result.figures
    assert figures["put done"] > 0
    assert figures["get done"] > 0
    assert figures["files got"] > 0
