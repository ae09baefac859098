"""Attackers gain no more than the rules allow, by any attack; and a rule undone shows."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import pytest

from node.credit import admission, pair_ledger
from node.credit.clearing import ClearBook
from simulations.models import attack
from simulations.models.attack import ATTACKS, AttackFigures
from tests.conftest import FULL

ATTACKERS, DONORS = (300, 6) if FULL else (60, 3)
by_attack = pytest.mark.parametrize("run", ATTACKS, ids=lambda run: run.__name__)


@by_attack
def test_nobody_gains_more_than_the_rules_allow(run: Callable[[int, int, int], AttackFigures]) -> None:
    figures = run(ATTACKERS, DONORS, 1)
    assert figures.taken > 0
    assert figures.gain <= figures.bound


def test_fifty_identities_of_one_subnet_gain_what_one_newcomer_does() -> None:
    """And a subnet each gains the pledges, all of them, and no more."""
    one = attack.newcomer(ATTACKERS, DONORS, 1)
    assert one.gain == pytest.approx(one.allowance * DONORS, rel=1e-3)
    for run in (attack.one_subnet, attack.ring, attack.false_receipts, attack.splitting):
        assert run(300, DONORS, 1).gain <= one.allowance * DONORS
    many = attack.many_subnets(ATTACKERS, DONORS, 1)
    assert many.gain == pytest.approx(many.bound, rel=1e-3)


def _free_again(self: ClearBook, debtor: object, creditor: object) -> int:
    return 0


@pytest.mark.parametrize(
    ("run", "owner", "name", "bug"),
    [
        (attack.false_receipts, pair_ledger.Balance, "confirmed", pair_ledger.Balance.net),
        (attack.late_clears, ClearBook, "reserved", _free_again),
        (attack.splitting, admission.Policy, "knows", lambda self, given: given > 0),
    ],
)
def test_a_rule_undone_shows(
    run: Callable[[int, int, int], AttackFigures], owner: type, name: str, bug: object
) -> None:
    with patch.object(owner, name, bug):
        figures = run(120, DONORS, 1)
    assert figures.gain > figures.bound


def test_the_same_seed_gives_the_same_figures() -> None:
    assert attack.everything(20, 2, 1) == attack.everything(20, 2, 1)
