"""The checkers find what they are for: each deliberate bug shows at its seed."""

from __future__ import annotations

import pytest

from simulations.command import find_scenario
from simulations.scenario import run_scenario
from tests.simulations.mutations import MUTATIONS, SEEDS_MAX, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_checker_finds_the_bug(mutation: Mutation) -> None:
    assert mutation.seed <= SEEDS_MAX
    with mutation.applied():
        result = run_scenario(find_scenario(mutation.scenario), mutation.seed, brief=True)
    assert result.violations, f"seed {mutation.seed} of {mutation.scenario} no longer shows it: search again"
    assert result.violations[0].checker in mutation.checkers
