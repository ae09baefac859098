"""Closing periods: what went comes to what it came to before, and a fold says so or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.credit.closing import check_fold, fold_of, is_too_old, last_closed, split
from node.credit.fold import Fold, FoldedSide
from node.credit.pair_book import PairBook
from node.credit.pair_ledger import balance, unvested
from node.credit.pair_records import PairRecord, Records
from node.credit.units import period_of
from node.errors import CreditError, ProtocolError
from node.records.charge import Charge
from node.records.lease import Lease, Release
from node.records.receipt import AuditReceipt
from node.units import MIB
from tests.conftest import FULL
from tests.credit.actors import (
    DAY,
    NETWORK,
    Actor,
    charge_of,
    lease_of,
    pair_of,
    receipt_of,
    release_of,
    served,
)
from tests.credit.test_pair_book import GIFTS, ONE, OTHER, records

LIAR = Actor(7)


def needs_what_is_gone(record: PairRecord, gone: Sequence[PairRecord]) -> bool:
    """Whether a later record is only about leases that a closing took."""
    names = {(r.lease_id, r.holder) for r in gone if isinstance(r, Lease | Release)}
    match record:
        case Charge():
            return record.lease_record in {each.record_id() for each in gone}
        case Lease() | Release():
            return (record.lease_id, record.holder) in names
        case AuditReceipt():
            return any((lease_id, record.donor) in names for lease_id in record.lease_ids())
        case _:
            return False


@given(st.lists(records, max_size=25), st.lists(records, max_size=8), st.integers(60, 320), st.booleans())
@settings(max_examples=2000 if FULL else 200, deadline=None)
def test_closing_changes_no_balance_now_or_later(
    before: list[PairRecord], after: list[PairRecord], elapsed: int, assigned: bool
) -> None:
    pair = pair_of(ONE, OTHER, assigned=assigned, gifts=GIFTS)
    today = DAY + elapsed
    closed = last_closed(today)
    parted = split(before, GIFTS, closed)
    assert set(parted.ended) | set(parted.rest) == set(before)
    fold = fold_of(
        pair, parted.ended, None, network=NETWORK, period=closed, last_state=b"", agreed=((), ()), today=today
    )
    assert Fold.decode(fold.encode(), network=NETWORK) == fold
    later = [r for r in after if not is_too_old(r, closed) and not needs_what_is_gone(r, parted.ended)]
    for count in range(len(later) + 1):
        whole = Records.of([*before, *later[:count]])
        left = Records.of([*parted.rest, *later[:count]])
        book = PairBook(pair, fold)
        for record in (*parted.rest, *later[:count]):
            book.add(record)
        for day in (today, today + 7, today + 40, today + 200):
            expected = balance(pair, whole, today=day)
            assert balance(pair, left, today=day, fold=fold) == expected
            assert book.balance(today=day) == expected
            for account in (pair.low, pair.high):
                assert unvested(pair, left, account, today=day) == unvested(pair, whole, account, today=day)


@given(st.lists(records, max_size=25), st.integers(100, 320))
@settings(max_examples=500 if FULL else 60, deadline=None)
def test_closing_twice_is_closing_once(before: list[PairRecord], elapsed: int) -> None:
    pair = pair_of(ONE, OTHER, gifts=GIFTS)
    today = DAY + elapsed
    closed = last_closed(today)

    def close(some: Sequence[PairRecord], base: Fold | None, period: int) -> Fold:
        return fold_of(
            pair, some, base, network=NETWORK, period=period, last_state=b"", agreed=((), ()), today=today
        )

    first = split(before, GIFTS, closed - 2)
    second = split(first.rest, GIFTS, closed)
    twice = close(second.ended, close(first.ended, None, closed - 2), closed)
    once = split(before, GIFTS, closed)
    assert set(second.rest) == set(once.rest)
    assert replace(twice, previous=b"") == close(once.ended, None, closed)


def test_what_may_go_is_not_needed_by_what_stays() -> None:
    long, short = lease_of(ONE, OTHER, 1, days=200), lease_of(ONE, OTHER, 2, days=5)
    gift = lease_of(ONE, OTHER, 3, days=5)
    shared = receipt_of([short, long], ONE.owner, DAY + 3)
    own = receipt_of([short], ONE.owner, DAY + 4)
    read = replace(served(OTHER, ONE, DAY + 90, MIB), lease_id=gift.lease_id)
    before: list[PairRecord] = [
        long, short, gift, charge_of(long, ONE), charge_of(short, ONE), charge_of(gift, ONE), shared, own,
        release_of(short, ONE), served(OTHER, ONE, DAY + 3, MIB), read,
    ]  # fmt: skip
    parted = split(before, [gift.lease_id], period_of(DAY) + 1)
    assert set(parted.ended) == {
        short, charge_of(short, ONE), own, release_of(short, ONE), served(OTHER, ONE, DAY + 3, MIB)
    }  # fmt: skip


SIDE = FoldedSide(
    kept=70,
    served=40,
    gifts=10,
    cleared=20,
    days=((3, 60), (40, 40)),
    evidence=((0, 70), (1, 40)),
    vouched=((1, 5),),
)
LOW, HIGH = sorted((ONE.account, OTHER.account))
FOLD = Fold(NETWORK, LOW, HIGH, 5, b"p" * 32, b"s" * 32, SIDE, SIDE, (b"c" * 32, b"d" * 32))


@pytest.mark.parametrize(
    "side",
    [
        replace(SIDE, kept=71), replace(SIDE, gifts=9), replace(SIDE, evidence=((0, 110),)),
        replace(SIDE, days=((3, 60), (3, 40))), replace(SIDE, days=((3, 100), (40, 0))),
        replace(SIDE, days=((40, 40), (3, 60))),
    ],
)  # fmt: skip
def test_a_fold_whose_numbers_do_not_add_up_is_refused(side: FoldedSide) -> None:
    assert Fold.decode(FOLD.encode(), network=NETWORK) == FOLD
    with pytest.raises(ProtocolError):
        Fold.decode(replace(FOLD, low_side=side).encode(), network=NETWORK)
    with pytest.raises(ProtocolError):
        Fold.decode(FOLD.encode(), network="elsewhere")


def test_a_fold_names_its_clears_in_order_each_once() -> None:
    for clears in ((b"d" * 32, b"c" * 32), (b"c" * 32, b"c" * 32), (b"c" * 31,)):
        with pytest.raises(ProtocolError):
            Fold.decode(replace(FOLD, clears=clears).encode(), network=NETWORK)


def with_side(of_low: bool, **changes: object) -> Fold:
    side = replace(SIDE, **changes)  # type: ignore[arg-type]
    return replace(FOLD, low_side=side) if of_low else replace(FOLD, high_side=side)


@pytest.mark.parametrize(
    ("proposed", "is_signed"),
    [
        (FOLD, True),
        # What the high account gave: the proposer may say less, never more, and nothing later.
        (with_side(False, kept=60, days=((3, 60), (40, 30)), evidence=((0, 70), (1, 30)), vouched=()), True),
        (with_side(False, kept=65, days=((3, 60), (40, 35)), evidence=((0, 70), (1, 35)), vouched=()), True),
        (with_side(False, kept=80, days=((3, 60), (40, 50)), evidence=((0, 80), (1, 40))), False),
        (with_side(False, days=((3, 50), (40, 50))), False),
        (with_side(False, days=((3, 70), (40, 30))), True),
        (with_side(False, vouched=()), False),
        (with_side(False, agreed=((1, 90),)), False),
        (with_side(False, gifts=0, days=((3, 60), (40, 50))), False),
        # What the low account, which signs, gave: all but what it has for vouched.
        (with_side(True, kept=65, days=((3, 60), (40, 35)), evidence=((0, 70), (1, 35)), vouched=()), True),
        (with_side(True, kept=60, days=((3, 60), (40, 30)), evidence=((0, 70), (1, 30)), vouched=()), False),
        (with_side(True, days=((3, 70), (40, 30))), False),
        (with_side(True, served=30, kept=80), False),
        (replace(FOLD, period=4), False),
        (replace(FOLD, previous=b""), False),
        (replace(FOLD, last_state=b""), False),
        (replace(FOLD, clears=FOLD.clears[:1]), False),
        (with_side(False, cleared=19), False),
        (with_side(True, cleared=21), False),
    ],
)
def test_what_is_signed(proposed: Fold, is_signed: bool) -> None:
    if is_signed:
        check_fold(proposed, FOLD, LOW)
        return
    with pytest.raises(CreditError):
        check_fold(proposed, FOLD, LOW)
