"""The checkers find what they are for: each deliberate bug shows at its seed."""

from __future__ import annotations

import pytest

from simulations.command import find_scenario
from simulations.scenario import run_scenario
from tests.simulations.mutations import MUTATIONS, SEEDS_MAX, Mutation

SEEDS_TRIED = 8
"""The kept seed first. A change of the code moves every history a little, and with it the seed that shows a
bug; a bug that none of these shows has lost its checker."""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_checker_finds_the_bug(mutation: Mutation) -> None:
    assert mutation.seed <= SEEDS_MAX
    seeds = [mutation.seed, *(seed for seed in range(1, SEEDS_TRIED + 1) if seed != mutation.seed)]
    for seed in seeds:
        with mutation.applied():
            result = run_scenario(find_scenario(mutation.scenario), seed, brief=True)
        if result.violations:
            assert result.violations[0].checker in mutation.checkers
            return
    pytest.fail(f"none of the seeds {seeds} of {mutation.scenario} shows it")
