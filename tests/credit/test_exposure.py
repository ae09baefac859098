"""Who may store on a donor: sums that run along decide as the rules do, and what a refusal says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.credit.admission import (
    UNLIMITED,
    Exposure,
    Ledger,
    Policy,
    Rule,
    Standing,
    decide,
    exposure_of,
)
from node.errors import CreditError
from node.units import GIB, AccountId

DAY = 20_010  # the first of a period
LAST = DAY + 29
CREDIT = 1_000_000
POLICY = Policy.of(GIB, newcomer_credits=100)
"""1 GiB for 30 days: 30,720 credits; 3,072 for newcomers, 384 an account, 6,144 for known ones."""
X, Y = AccountId(b"x" * 32), AccountId(b"y" * 32)


def have(standing: Standing, others: dict[AccountId, Standing] | None = None, day: int = DAY) -> int:
    return Ledger(POLICY, others or {}).decide(X, standing, cost=0, day=day).have


def test_the_caps_are_shares_of_what_is_given_for_a_period() -> None:
    assert POLICY.pledge == 3072 * CREDIT
    assert POLICY.known == 6144 * CREDIT
    assert POLICY.account_cap == POLICY.pledge // 8
    assert Policy.of(GIB).account_cap == 4096 * CREDIT  # the floor
    assert POLICY.local_line == UNLIMITED


def test_half_of_the_pledge_is_there_at_once_and_all_on_the_last_day() -> None:
    assert POLICY.released(DAY) == POLICY.pledge // 2
    assert POLICY.released(LAST) == POLICY.pledge
    assert POLICY.released(LAST + 1) == POLICY.pledge // 2


def test_who_is_owed_spends_that_first() -> None:
    rich = Standing(owes=-1000 * CREDIT)
    decision = Ledger(POLICY, {}).decide(X, rich, cost=1000 * CREDIT, day=DAY)
    assert decision.accepted
    assert decision.rule is Rule.OWED
    assert have(rich) == 1000 * CREDIT + POLICY.account_cap


def test_a_frozen_account_spends_what_it_is_owed_and_no_more() -> None:
    assert have(Standing(owes=-10, is_frozen=True)) == 10
    assert have(Standing(is_frozen=True)) == 0
    assert have(Standing(is_frozen=True, line=7)) == 7


def test_a_friend_has_its_line_and_a_neighbour_the_local_one() -> None:
    assert have(Standing(line=5000 * CREDIT)) == 5000 * CREDIT + POLICY.account_cap
    assert have(Standing(is_local=True)) >= UNLIMITED


def test_newcomers_share_the_pledge_and_a_subnet_shares_one_allowance() -> None:
    cap = POLICY.account_cap
    taken = {Y: Standing(unvested=cap, subnet="198.51.100.0/24")}
    assert have(Standing(subnet="198.51.100.0/24"), taken) == 0
    assert have(Standing(subnet="203.0.113.0/24"), taken) == cap
    crowd = {AccountId(bytes([n]) * 32): Standing(unvested=cap, subnet=str(n)) for n in range(4)}
    assert have(Standing(), crowd) == 0  # half of the pledge is out
    assert have(Standing(), crowd, LAST) == cap
    assert have(Standing(is_known=True), crowd) == cap


def test_what_becomes_known_takes_its_debt_along_and_the_sum_of_the_caps_holds() -> None:
    known = {
        AccountId(bytes([n]) * 32): Standing(unvested=POLICY.account_cap, is_known=True) for n in range(24)
    }
    assert sum(POLICY.account_cap for _ in known) == POLICY.pledge + POLICY.known
    assert have(Standing(), known) == have(Standing(is_known=True), known) == 0


def test_a_refusal_says_need_have_and_what_would_do() -> None:
    decision = Ledger(POLICY, {}).decide(X, Standing(), cost=1000 * CREDIT, day=DAY)
    assert decision.rule is Rule.CLEAR
    with pytest.raises(
        CreditError, match=r"384\.0 .* 1,000\.0 .* 21 MiB more .*cairn donate.*cairn credit line"
    ):
        decision.raise_for_refusal()
    Ledger(POLICY, {}).decide(X, Standing(), cost=384 * CREDIT, day=DAY).raise_for_refusal()


def test_grants_share_the_part_of_known_accounts() -> None:
    ledger = Ledger(POLICY, {X: Standing(granted=6000 * CREDIT, unvested=6000 * CREDIT)})
    assert ledger.decide_granted(cost=144 * CREDIT).accepted
    assert not ledger.decide_granted(cost=145 * CREDIT).accepted
    assert have(Standing(granted=6000 * CREDIT, unvested=6000 * CREDIT)) == POLICY.account_cap


accounts = st.integers(0, 5).map(lambda number: AccountId(bytes([number]) * 32))
amounts = st.integers(-2000 * CREDIT, 4000 * CREDIT)
standings = st.builds(
    Standing,
    owes=amounts,
    unvested=amounts.map(abs),
    reserved=st.sampled_from([0, 50 * CREDIT]),
    line=st.sampled_from([0, 500 * CREDIT]),
    is_known=st.booleans(),
    is_frozen=st.booleans(),
    is_local=st.booleans(),
    subnet=st.sampled_from([None, "a", "b"]),
    granted=st.sampled_from([0, 100 * CREDIT]),
)


@given(
    st.dictionaries(accounts, standings),
    accounts,
    standings,
    st.integers(0, 3000 * CREDIT),
    st.integers(DAY, LAST),
    st.sampled_from([0, UNLIMITED]),
)
def test_running_sums_decide_as_the_rules_do(
    everyone: dict[AccountId, Standing],
    account: AccountId,
    asker: Standing,
    cost: int,
    day: int,
    local_line: int,
) -> None:
    policy = Policy.of(GIB, newcomer_credits=100, local_line=local_line)
    sums, subnets = Exposure(), {"a": 0, "b": 0}
    for other, standing in everyone.items():
        counted = exposure_of(policy, standing)
        if other != account:
            sums = Exposure(sums.known + counted.known, sums.newcomers + counted.newcomers)
            if standing.subnet is not None:
                subnets[standing.subnet] += counted.subnet
    others = Exposure(sums.known, sums.newcomers, subnets.get(asker.subnet or "", 0))
    assert decide(policy, asker, others, cost=cost, day=day) == Ledger(policy, everyone).decide(
        account, asker, cost=cost, day=day
    )
