"""Admission: each rule alone, refusals in numbers, and caps that hold whoever asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.credit.admission import UNLIMITED, Exposure, Ledger, Policy, Rule, Standing, decide, exposure_of
from node.credit.clearing import ClearBook
from node.credit.pair_records import Records
from node.credit.standing import standing_of
from node.errors import CreditError
from node.units import GIB, AccountId
from tests.credit.actors import (
    CREDIT,
    DAY,
    Actor,
    charge_of,
    lease_of,
    pair_of,
    receipt_of,
    served,
    signed_clear,
    unsigned_clear,
)

DONOR, ASKER, OTHER = (Actor(number) for number in range(3))
POLICY = Policy(pledge=1000, known=2000, account_cap=300)
LAST_DAY = DAY + 29
"""All of the pledge is released."""


def account(number: int) -> AccountId:
    return AccountId(number.to_bytes(32, "big"))


def ledger(*standings: Standing, policy: Policy = POLICY) -> Ledger:
    return Ledger(policy, {account(number): standing for number, standing in enumerate(standings)})


def have(asker: Standing, *others: Standing, day: int = LAST_DAY) -> int:
    return ledger(*others).decide(account(99), asker, cost=UNLIMITED, day=day).have


def test_the_caps_of_a_donor() -> None:
    policy = Policy.of(100 * GIB)
    period = 100 * 1024 * 30 * CREDIT
    assert (policy.pledge, policy.known) == (period // 10, period // 5)
    assert policy.account_cap == policy.pledge // 8
    assert Policy.of(1 * GIB).account_cap == 4096 * CREDIT
    assert policy.released(DAY) == policy.pledge // 2
    assert policy.released(LAST_DAY) == policy.pledge
    assert [policy.released(day) for day in range(DAY, DAY + 30)] == sorted(
        policy.released(day) for day in range(DAY, DAY + 30)
    )


@pytest.mark.parametrize(
    ("asker", "cost", "rule"),
    [
        (Standing(owes=-500), 500, Rule.OWED),
        (Standing(owes=-500), 501, Rule.NEWCOMER),
        (Standing(owes=-500, unvested=300, reserved=100), 100, Rule.OWED),
        (Standing(owes=-500, unvested=300, reserved=100), 101, Rule.NEWCOMER),
        (Standing(line=50), 50, Rule.LINE),
        (Standing(line=50), 350, Rule.NEWCOMER),
        (Standing(is_known=True), 300, Rule.KNOWN),
        (Standing(is_local=True), UNLIMITED, Rule.LINE),
    ],
)
def test_which_rule_accepts(asker: Standing, cost: int, rule: Rule) -> None:
    decision = ledger().decide(account(1), asker, cost=cost, day=DAY)
    assert (decision.accepted, decision.rule) == (True, rule)


def test_what_one_account_and_all_together_may_have_open() -> None:
    known, newcomer = Standing(is_known=True), Standing()
    assert have(newcomer) == have(known) == 300
    assert have(Standing(owes=250)) == 50
    assert have(newcomer, *[Standing(unvested=300)] * 3) == 100
    assert have(newcomer, *[Standing(unvested=300)] * 2, day=DAY) == 0  # half of the pledge is released
    assert have(known, *[Standing(unvested=300)] * 3) == 300
    assert have(known, *[replace(known, owes=300)] * 6) == 200
    assert have(newcomer, *[replace(known, owes=300)] * 6) == 300
    assert have(newcomer, *[replace(known, owes=300)] * 10) == 0  # newcomers that became known


def test_newcomers_of_one_subnet_share_one_allowance() -> None:
    here = Standing(subnet="203.0.113.0/24")
    mine = replace(here, unvested=200)
    assert have(here, mine) == 100
    assert have(replace(here, subnet="198.51.100.0/24"), mine) == 300
    assert have(replace(here, subnet=None), mine) == 300
    assert have(replace(here, is_local=True, line=0), mine) > 300
    assert have(replace(here, is_known=True), mine) == 300


def test_to_be_known_costs_what_it_gives() -> None:
    """One served byte, or a clear of one micro-credit, buys no second allowance."""
    assert not POLICY.knows(POLICY.account_cap - 1)
    assert POLICY.knows(POLICY.account_cap)


def test_a_proved_fork_leaves_only_what_is_secured() -> None:
    assert have(Standing(owes=-40, line=2, is_frozen=True)) == 42
    assert have(Standing(is_known=True, is_frozen=True)) == 0


def test_gifts_use_up_the_line_and_are_not_owed() -> None:
    pair = pair_of(DONOR, ASKER, gifts=[lease_of(ASKER, DONOR).lease_id])
    records = Records.of([lease_of(ASKER, DONOR), charge_of(lease_of(ASKER, DONOR), ASKER)])
    for today, left in ((DAY, 12 * CREDIT), (DAY + 30, 42 * CREDIT)):
        stands = standing_of(
            ASKER.account, pair, records, ClearBook(DONOR.account), POLICY, today=today, line=42 * CREDIT
        )
        assert (stands.line, stands.unvested, stands.owes) == (left, 0, 0)


def test_grants_use_the_payer_s_line_first() -> None:
    local_line = replace(POLICY, local_line=500)
    public, neighbour = Standing(), Standing(is_local=True)
    busy = Standing(granted=1900, unvested=1900)
    for payer, line in ((neighbour, 500), (Standing(line=500), 500), (public, 0)):
        crowd = ledger(busy, payer, policy=local_line)
        for cost, accepted in ((line + 100, True), (line + 101, False)):
            decision = crowd.decide_granted(cost=cost, payer=payer)
            assert (decision.accepted, decision.have) == (accepted, line + 100)
    assert ledger(policy=local_line).decide_granted(cost=500, payer=neighbour).rule is Rule.LINE
    assert ledger(policy=local_line).decide_granted(cost=501, payer=neighbour).rule is Rule.GRANT
    # What the line covers burdens nobody else; what is beyond it does, and the line is used up once.
    repaired = Standing(granted=700, unvested=700, is_local=True)
    after = ledger(repaired, policy=local_line)
    assert after.open_known() == 200
    assert after.decide_granted(cost=0, payer=repaired).have == 1800
    assert not after.decide_granted(cost=1801, payer=repaired).accepted
    owing = Standing(owes=400, is_local=True)
    assert ledger(owing, policy=local_line).decide_granted(cost=0, payer=owing).have == 2100


def test_grants_count_with_the_known() -> None:
    decision = ledger(Standing(granted=1500, unvested=1500)).decide_granted(cost=500)
    assert (decision.accepted, decision.rule) == (True, Rule.GRANT)
    assert not ledger(Standing(granted=1500, unvested=1500)).decide_granted(cost=501).accepted
    assert have(Standing(is_known=True), Standing(granted=1900, unvested=1900)) == 100
    assert have(Standing(granted=1900, unvested=1900)) == 300  # a newcomer's own room is its own
    grantee = Standing(granted=1500)
    assert not ledger(grantee).decide_granted(cost=501, payer=grantee).accepted
    full = ledger(*[Standing(is_known=True, owes=300)] * 6, *[Standing(owes=300)] * 3)
    assert full.decide_granted(cost=200).accepted
    assert not full.decide_granted(cost=201).accepted


def test_a_refusal_says_what_would_do() -> None:
    policy = Policy.of(1 * GIB)
    refused = Ledger(policy, {}).decide(
        account(1), Standing(), cost=policy.account_cap + policy.pledge, day=DAY
    )
    with pytest.raises(CreditError, match=r"and 7,168\.0 are needed: give 188 MiB .*cairn credit line"):
        refused.raise_for_refusal()


amounts = st.integers(0, 700)
standings = st.builds(
    Standing,
    owes=st.integers(-400, 400),
    unvested=amounts,
    reserved=st.integers(0, 100),
    line=st.sampled_from([0, 0, 100]),
    is_known=st.booleans(),
    is_frozen=st.booleans(),
    subnet=st.sampled_from([None, "a", "b"]),
)


@given(st.lists(standings, max_size=9), standings, st.integers(DAY, DAY + 29), st.integers(1, 900))
def test_what_is_accepted_fits_every_cap(
    others: list[Standing], asker: Standing, day: int, cost: int
) -> None:
    """The decision against the caps, counted afterwards by hand."""
    book = ledger(*others)
    decision = book.decide(account(99), asker, cost=cost, day=day)
    assert decision.accepted == (cost <= decision.have)
    after = replace(asker, unvested=asker.unvested + cost)
    whole = Ledger(POLICY, {**book.standings, account(99): after})
    unsecured = whole.unsecured(after)
    if not decision.accepted:
        return
    if unsecured:
        assert not asker.is_frozen
        assert unsecured <= POLICY.account_cap
        assert whole.open_known() + whole.open_newcomers() <= POLICY.pledge + POLICY.known
        if asker.is_known:
            assert whole.open_known() <= POLICY.known
        else:
            assert whole.open_newcomers() <= POLICY.released(day)
            assert asker.subnet is None or whole.open_newcomers(asker.subnet) <= POLICY.account_cap


def test_a_standing_out_of_records() -> None:
    pair, policy = pair_of(DONOR, ASKER), Policy(10**12, 10**12, 30 * CREDIT)
    lease = lease_of(ASKER, DONOR)
    back = lease_of(DONOR, ASKER, 1, days=60)
    book = ClearBook(DONOR.account)

    def stands(*records: object, today: int = DAY + 35, granted: int = 0, uploading: int = 0) -> Standing:
        known = Records.of(records)  # type: ignore[arg-type]
        return standing_of(
            ASKER.account, pair, known, book, policy, today=today, granted=granted, uploading=uploading
        )

    assert (
        stands(lease, charge_of(lease, ASKER), today=DAY + 60, uploading=7).unvested == 7
    )  # too late for any pass
    own = [back, charge_of(back, DONOR)]
    owed = stands(*own, receipt_of([back], DONOR.owner, DAY + 9))
    assert (owed.owes, owed.is_known) == (-10 * CREDIT, False)
    assert stands(*own, receipt_of([back], DONOR.owner, DAY + 29)).is_known
    vouched = [receipt_of([back], Actor(number).device, DAY + 29) for number in (7, 8)]
    assert (stands(*own, *vouched).owes, stands(*own, *vouched).is_known) == (0, False)
    assert not stands(served(ASKER, DONOR, DAY + 30, 1)).is_known
    assert stands(signed_clear([ASKER, DONOR, OTHER], 30 * CREDIT)).is_known
    assert stands(signed_clear([ASKER, DONOR, OTHER], 30 * CREDIT)).owes == -30 * CREDIT
    assert not stands(signed_clear([ASKER, DONOR, OTHER], 1)).is_known
    clear = unsigned_clear([OTHER, DONOR, ASKER], 5 * CREDIT)
    book.add(clear.sign(DONOR.key))
    assert stands(granted=3).reserved == 5 * CREDIT
    with pytest.raises(ValueError, match="not of this pair"):
        standing_of(
            ASKER.account, pair, Records(), ClearBook(OTHER.account), policy, today=DAY
        )  # fmt: skip


def test_reading_counts_in_the_pair_and_takes_nothing_of_the_pledge() -> None:
    """Or readers, who are invented as easily as putters, would use up what newcomers may have kept."""
    policy = Policy(pledge=100, known=100, account_cap=50)
    reader = Standing(owes=1_000, served=990)
    assert exposure_of(policy, reader) == Exposure(newcomers=10)
    others = exposure_of(policy, reader)
    assert decide(policy, Standing(), others, cost=40, day=0).accepted
    assert not decide(policy, reader, Exposure(), cost=1, day=0).accepted
    assert exposure_of(policy, Standing(owes=40)) == Exposure(newcomers=40)
