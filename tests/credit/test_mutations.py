"""The machines find what they are for: each deliberate bug in the rules shows within some histories."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.credit.mutations import MUTATIONS, Mutation

EXAMPLES_MAX = 600
"""The search ends at the first history that shows the bug. The rarest shows in one of fifty, and which
histories are drawn changes with the constants of any module that is loaded."""
_SEARCH = settings(
    max_examples=EXAMPLES_MAX,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    deadline=None,
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_bug_is_found(mutation: Mutation) -> None:
    with mutation.applied(), pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(mutation.machine, settings=_SEARCH)


def test_every_invariant_has_a_bug_that_its_test_finds() -> None:
    assert {number for mutation in MUTATIONS for number in mutation.invariants} == set(range(1, 15))
