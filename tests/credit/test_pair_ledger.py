"""A pair's balance: a function of a set of records, that vests only what was proved and never more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.credit.pair_ledger import Balance, balance, unvested
from node.credit.pair_records import Pair, PairRecord, Records
from node.credit.units import lease_value
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.units import MIB
from tests.conftest import FULL
from tests.credit.actors import (
    CREDIT,
    DAY,
    Actor,
    agreed,
    charge_of,
    lease_of,
    pair_of,
    receipt_of,
    release_of,
    served,
    signed_clear,
    unsigned_clear,
)

OWNER, DONOR, THIRD, FOURTH = (Actor(number) for number in range(4))
CO_HOLDERS = [Actor(number).device for number in (10, 11, 12)]
PAIR = pair_of(OWNER, DONOR)
LEASE = lease_of(OWNER, DONOR)
CHARGE = charge_of(LEASE, OWNER)


def result(*records: PairRecord, today: int = DAY + 400, pair: Pair = PAIR) -> Balance:
    return balance(pair, Records.of(records), today=today)


def given_by_donor(*records: PairRecord, today: int = DAY + 20) -> int:
    return result(LEASE, CHARGE, *records, today=today).given_by(DONOR.account).kept


def own_pass(day: int) -> AuditReceipt:
    return receipt_of([LEASE], OWNER.owner, day)


def test_an_owners_pass_vests_every_day_up_to_its_own() -> None:
    assert given_by_donor() == 0
    assert given_by_donor(own_pass(DAY)) == CREDIT
    assert given_by_donor(own_pass(DAY + 9)) == 10 * CREDIT
    assert given_by_donor(own_pass(DAY + 9), own_pass(DAY + 4)) == 10 * CREDIT
    assert given_by_donor(receipt_of([LEASE], OWNER.key, DAY + 9)) == 10 * CREDIT  # the paying account
    assert given_by_donor(own_pass(DAY + 29), today=DAY + 40) == 30 * CREDIT
    assert given_by_donor(own_pass(DAY + 35), today=DAY + 40) == lease_value(LEASE, 0) == 30 * CREDIT


def test_two_different_co_holders_vest_what_both_have_seen() -> None:
    one, other, third = CO_HOLDERS
    assert given_by_donor(receipt_of([LEASE], one, DAY + 5)) == 0
    assert given_by_donor(*(receipt_of([LEASE], one, DAY + day) for day in range(9))) == 0
    assert (
        given_by_donor(receipt_of([LEASE], one, DAY + 5), receipt_of([LEASE], other, DAY + 8)) == 6 * CREDIT
    )
    assert (
        given_by_donor(
            receipt_of([LEASE], one, DAY + 5),
            receipt_of([LEASE], other, DAY + 8),
            receipt_of([LEASE], third, DAY + 9),
        )
        == 9 * CREDIT
    )


def test_what_strangers_vouch_for_is_not_spent_before_the_owner_looks() -> None:
    one, other, _ = CO_HOLDERS
    vouched = (receipt_of([LEASE], one, DAY + 5), receipt_of([LEASE], other, DAY + 8))

    def stands(*records: PairRecord) -> tuple[int, int]:
        outcome = result(LEASE, CHARGE, *vouched, *records, today=DAY + 20)
        return outcome.net(DONOR.account) // CREDIT, outcome.confirmed(DONOR.account) // CREDIT

    def fail(day: int) -> AuditReceipt:
        return receipt_of([LEASE], OWNER.owner, day, outcome=Outcome.FAILED)

    assert stands() == (6, 0)
    assert result(LEASE, CHARGE, *vouched, today=DAY + 20).given_by(DONOR.account).by_period == ()
    assert stands(own_pass(DAY + 3)) == (6, 4)
    assert stands(own_pass(DAY + 9)) == (10, 10)
    assert stands(fail(DAY + 9)) == (0, 0)
    assert stands(own_pass(DAY + 3), fail(DAY + 9)) == (4, 4)
    assert stands(own_pass(DAY + 12), fail(DAY + 9)) == (13, 13)
    assert stands(receipt_of([LEASE], one, DAY + 9, outcome=Outcome.FAILED)) == (6, 0)
    totals = (4 * CREDIT, 0) if PAIR.low == DONOR.account else (0, 4 * CREDIT)
    assert stands(agreed(OWNER, DONOR, DAY // 30, 0, totals)) == (6, 4)  # the owner has signed for four
    friends = pair_of(OWNER, DONOR, gifts=[LEASE.lease_id])
    gift = result(LEASE, CHARGE, *vouched, today=DAY + 20, pair=friends)
    assert (gift.net(DONOR.account), gift.confirmed(DONOR.account)) == (0, 0)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.PASSED])
def test_only_a_pass_vests(outcome: Outcome) -> None:
    assert given_by_donor(receipt_of([LEASE], OWNER.owner, DAY + 9, outcome=outcome)) == 0


def test_whose_receipts_do_not_count() -> None:
    """Not assigned; of the donor's own account; of a stranger's lease; from the future or from before."""
    passes = [receipt_of([LEASE], key, DAY + 5) for key in CO_HOLDERS]
    unassigned = pair_of(OWNER, DONOR, assigned=False)
    assert result(LEASE, CHARGE, *passes, pair=unassigned).given_by(DONOR.account).total == 0
    low, high = PAIR.low_peers, PAIR.high_peers
    mine = {receipt.auditor for receipt in passes}
    more = replace(PAIR, low_peers=low | mine) if DONOR.account == PAIR.low else replace(
        PAIR, high_peers=high | mine)  # fmt: skip
    assert result(LEASE, CHARGE, *passes, pair=more).given_by(DONOR.account).total == 0
    assert given_by_donor(receipt_of([lease_of(OWNER, DONOR, 7)], OWNER.owner, DAY + 9)) == 0
    assert given_by_donor(receipt_of([lease_of(OWNER, THIRD)], OWNER.owner, DAY + 9)) == 0
    assert given_by_donor(own_pass(DAY + 21), today=DAY + 20) == 0
    assert given_by_donor(own_pass(DAY - 1)) == 0
    assert given_by_donor(own_pass(DAY + 60), today=DAY + 90) == 0  # long after its end


def test_a_lease_without_its_charge_is_nobodys_debt() -> None:
    assert result(LEASE, own_pass(DAY + 5)).net(DONOR.account) == 0
    assert result(LEASE, charge_of(LEASE, THIRD), own_pass(DAY + 5)).net(DONOR.account) == 0
    twin = lease_of(OWNER, DONOR, rate=100 * CREDIT)  # the same lease id, another price
    assert twin.lease_id == LEASE.lease_id
    assert given_by_donor(twin, own_pass(DAY + 9)) == 10 * CREDIT


def test_serving_is_the_readers_debt_and_cumulative() -> None:
    receipts = [served(DONOR, OWNER, DAY, count * MIB) for count in (3, 1, 2)]
    assert result(*receipts, today=DAY).net(DONOR.account) == 3 * 30 * CREDIT
    two = [*receipts, served(DONOR, OWNER, DAY, MIB, session=1)]
    assert result(*two, today=DAY).net(OWNER.account) == -4 * 30 * CREDIT
    assert result(served(DONOR, THIRD, DAY, MIB)).net(DONOR.account) == 0
    assert result(served(THIRD, OWNER, DAY, MIB)).net(OWNER.account) == 0


def test_what_both_signed_counts_where_it_is_more() -> None:
    period = DAY // 30
    low_is_donor = PAIR.low == DONOR.account
    totals = (7 * CREDIT, 0) if low_is_donor else (0, 7 * CREDIT)
    state = agreed(OWNER, DONOR, period, 0, totals)
    assert result(state, today=DAY).net(DONOR.account) == 7 * CREDIT
    with_five = result(state, LEASE, CHARGE, own_pass(DAY + 4), today=DAY + 4)
    assert with_five.net(DONOR.account) == 7 * CREDIT
    assert with_five.given_by(DONOR.account).agreed == 2 * CREDIT
    assert result(state, LEASE, CHARGE, own_pass(DAY + 9), today=DAY + 9).net(DONOR.account) == 10 * CREDIT
    with pytest.raises(CryptoError):
        result(replace(state, low_signature=b""))
    assert result(agreed(DONOR, THIRD, period, 0, (CREDIT, 0))).net(DONOR.account) == 0


def test_gifts_are_owed_for_by_nobody() -> None:
    friends = pair_of(OWNER, DONOR, gifts=[LEASE.lease_id])
    outcome = result(LEASE, CHARGE, own_pass(DAY + 9), today=DAY + 9, pair=friends)
    assert outcome.given_by(DONOR.account).gifts == 10 * CREDIT
    assert outcome.net(DONOR.account) == 0
    assert unvested(friends, Records.of([LEASE, CHARGE]), OWNER.account, today=DAY) == 0


def test_a_newcomers_debt_is_written_off_30_days_after_it_vested() -> None:
    records = (LEASE, CHARGE, own_pass(DAY + 9))
    assert result(*records, today=DAY + 39).net(DONOR.account) == 10 * CREDIT
    late = result(*records, today=DAY + 40)
    assert late.given_by(DONOR.account).written_off == 10 * CREDIT
    assert late.net(DONOR.account) == 0


def test_a_known_accounts_debt_lapses_after_180_days() -> None:
    knows = served(OWNER, DONOR, DAY, 1)  # a byte that the owner once served
    records = (LEASE, CHARGE, own_pass(DAY + 9), knows)
    open_micros = 10 * CREDIT - 30 * CREDIT // MIB
    assert result(*records, today=DAY + 189).net(DONOR.account) == open_micros
    assert result(*records, today=DAY + 190).net(DONOR.account) == 0


def test_debts_in_both_directions_cancel_before_they_lapse() -> None:
    back = lease_of(DONOR, OWNER, 5)
    records = (
        LEASE, CHARGE, own_pass(DAY + 9),
        back, charge_of(back, DONOR), receipt_of([back], DONOR.owner, DAY + 9),
    )  # fmt: skip
    assert result(*records, today=DAY + 9).net(DONOR.account) == 0
    later = result(*records, today=DAY + 300)
    assert later.net(DONOR.account) == 0
    assert later.low.written_off == later.high.written_off == 0


def test_a_complete_clear_lowers_a_debt_once() -> None:
    clear = signed_clear([OWNER, DONOR, THIRD], 4 * CREDIT)
    records = (LEASE, CHARGE, own_pass(DAY + 9), clear)
    assert result(*records, today=DAY + 9).net(DONOR.account) == 6 * CREDIT
    other_pair = pair_of(DONOR, THIRD)
    assert result(clear, pair=other_pair).net(DONOR.account) == 4 * CREDIT  # the debt it had with the third
    assert result(clear, pair=other_pair, today=DAY + 4000).net(DONOR.account) == 4 * CREDIT
    with pytest.raises(CryptoError):
        Records.of([unsigned_clear([OWNER, DONOR, THIRD], 4 * CREDIT).sign(DONOR.key)])


def test_unvested_is_what_may_still_come() -> None:
    def left(*records: PairRecord, today: int) -> int:
        return unvested(PAIR, Records.of([LEASE, CHARGE, *records]), OWNER.account, today=today)

    assert left(today=DAY) == 30 * CREDIT
    assert left(own_pass(DAY + 9), today=DAY + 9) == 20 * CREDIT
    assert left(today=DAY + 59) == 30 * CREDIT
    assert left(today=DAY + 60) == 0
    assert left(release_of(LEASE, OWNER), today=DAY + 9) == 0
    # Of the file's owner, as the holder has found; nobody else's gets into a pair's set.
    assert left(release_of(LEASE, THIRD), today=DAY + 9) == 0
    assert unvested(PAIR, Records.of([LEASE, CHARGE]), DONOR.account, today=DAY) == 0


def test_a_pair_is_two_accounts_and_their_own_peers() -> None:
    with pytest.raises(ProtocolError):
        replace(PAIR, low=PAIR.high, high=PAIR.low)
    with pytest.raises(ProtocolError):
        replace(PAIR, high_peers=PAIR.low_peers)
    for outsider in (THIRD, FOURTH):
        with pytest.raises(ValueError, match="not an account"):
            result().net(outsider.account)


def test_forged_and_foreign_records_are_refused() -> None:
    for record in (
        replace(LEASE, byte_count=1), replace(CHARGE, account=THIRD.account),
        replace(own_pass(DAY), time_s=(DAY + 9) * 86_400),
        replace(served(DONOR, OWNER, DAY, 1), byte_count=MIB),
        replace(LEASE, network="cairn-main"), replace(LEASE, holder_signature=b""),
    ):  # fmt: skip
        with pytest.raises(CryptoError):
            Records.of([record])


def pool() -> list[PairRecord]:
    """Records of every kind, true and useless ones, between the two and about others."""
    leases = [lease_of(OWNER, DONOR, n, day=DAY + 7 * n, days=9 + n, rate=333_333) for n in range(3)]
    leases += [lease_of(DONOR, OWNER, 3, day=DAY + 2), lease_of(OWNER, THIRD, 4)]
    auditors: list[KeyPair] = [OWNER.owner, DONOR.owner, DONOR.device, *CO_HOLDERS]
    found: list[PairRecord] = [*leases]
    found += [charge_of(lease, payer) for lease in leases for payer in (OWNER, DONOR)]
    for number, lease in enumerate(leases):
        for step, auditor in enumerate(auditors):
            for day in (DAY + 3 * step, DAY + 8 + number, DAY + 40):
                if lease.holder != DONOR.peer_id or auditor is not DONOR.device:
                    found.append(receipt_of([lease], auditor, day))
    found += [receipt_of(leases[:3], OWNER.owner, DAY + n, outcome=Outcome.FAILED) for n in (12, 22)]
    found += [served(DONOR, OWNER, DAY + n, n * MIB // 3, session=n % 2) for n in range(5)]
    found += [served(OWNER, DONOR, DAY + n, n * 1000) for n in range(3)]
    found += [agreed(OWNER, DONOR, DAY // 30, n, (n * CREDIT, 3 * CREDIT)) for n in range(3)]
    found += [
        signed_clear([OWNER, DONOR, THIRD], CREDIT),
        signed_clear([THIRD, OWNER, FOURTH, DONOR], CREDIT),
    ]
    return [*found, release_of(leases[0], OWNER)]


POOL = pool()
VERIFIED = Records.of(POOL)
subsets = st.sets(st.integers(0, len(POOL) - 1)).map(
    lambda chosen: Records(frozenset(POOL[index] for index in chosen))
)
todays = st.integers(DAY - 5, DAY + 250)
law = settings(max_examples=1000 if FULL else 60)


@law
@given(subsets, subsets, subsets, todays)
def test_merging_is_union(one: Records, two: Records, three: Records, today: int) -> None:
    """Invariant 6, of the records and of the balances made of them."""
    assert one.merge(two) == two.merge(one)
    assert one.merge(two).merge(three) == one.merge(two.merge(three))
    assert one.merge(one) == one
    left = balance(PAIR, one.merge(two).merge(three), today=today)
    assert left == balance(PAIR, three.merge(one.merge(two)).merge(one), today=today)


@law
@given(subsets, todays)
def test_what_one_is_owed_the_other_owes(records: Records, today: int) -> None:
    """Invariants 1 and 3 for a pair."""
    outcome = balance(PAIR, records, today=today)
    assert outcome.net(PAIR.low) == -outcome.net(PAIR.high)
    for side in (outcome.low, outcome.high):
        assert side.total == sum(total for _, total in side.by_period) + side.vouched
        assert 0 <= side.vouched <= side.kept
        assert 0 <= side.gifts <= side.total
        assert 0 <= side.written_off <= side.total - side.gifts
    low, high = outcome.low, outcome.high
    assert outcome.net(PAIR.low) == (
        low.total - low.gifts - low.written_off - low.cleared
        - (high.total - high.gifts - high.written_off - high.cleared)
    )  # fmt: skip


@law
@given(subsets, subsets, todays, st.integers(0, 40))
def test_more_records_or_days_never_lower_what_was_given(
    one: Records, two: Records, today: int, later: int
) -> None:
    """Invariant 11: period by period, for either side, failures that an owner found notwithstanding."""
    before = balance(PAIR, one, today=today)
    after = balance(PAIR, one.merge(two), today=today + later)
    for account in (PAIR.low, PAIR.high):
        totals = dict(after.given_by(account).by_period)
        for period, total in before.given_by(account).by_period:
            assert totals.get(period, 0) >= total


@law
@given(subsets, todays)
def test_what_vests_never_exceeds_the_lease(records: Records, today: int) -> None:
    """Invariant 11, of every lease alone and of all together, unvested part included."""
    charged = 0
    for lease in (record for record in records.items if isinstance(record, Lease)):
        alone = Records(frozenset({lease} | {r for r in records.items if not isinstance(r, Lease)}))
        for debtor, creditor in ((OWNER, DONOR), (DONOR, OWNER)):
            kept = balance(PAIR, alone, today=today).given_by(creditor.account).kept
            assert kept <= lease_value(lease, 0)
            assert kept + unvested(PAIR, alone, debtor.account, today=today) <= lease_value(lease, 0)
            charged += kept
    outcome = balance(PAIR, records, today=today)
    assert outcome.low.kept + outcome.high.kept == charged


@law
@given(subsets, todays)
def test_replays_have_no_effect(records: Records, today: int) -> None:
    """Invariant 9: records come again, also encoded and decoded."""
    again = Records(
        frozenset(type(record).decode(record.encode(), network="cairn-test") for record in records.items)
    )
    assert again == records
    assert balance(PAIR, records.merge(again), today=today) == balance(PAIR, records, today=today)


def test_the_pool_is_worth_testing_with() -> None:
    """Both sides vest, serve, agree, clear and write off somewhere in it."""
    outcome = balance(PAIR, VERIFIED, today=DAY + 250)
    assert outcome.low.kept > 0 < outcome.high.kept
    assert outcome.low.written_off + outcome.high.written_off > 0
    assert outcome.low.cleared + outcome.high.cleared > 0
