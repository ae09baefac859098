"""The checkers find what they are for: each deliberate bug shows at the seed that is kept for it."""

from __future__ import annotations

import pytest

from tests.simulations.mutations import MUTATIONS, SEEDS_MAX, Mutation, kept_seeds


def test_each_mutation_has_its_seed() -> None:
    seeds = kept_seeds()
    assert sorted(seeds) == sorted(mutation.name for mutation in MUTATIONS)
    assert all(1 <= seed <= SEEDS_MAX for seed in seeds.values())


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_kept_seed_shows_the_bug(mutation: Mutation) -> None:
    seed = kept_seeds()[mutation.name]
    result = mutation.run(seed)
    assert result.violations, f"seed {seed} shows it no longer: run `python -m tests.simulations.find_seeds`"
    assert result.violations[0].checker in mutation.checkers
