"""The book of a pair: what records bring one by one is what the set of them comes to."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.credit.pair_book import PairBook
from node.credit.pair_ledger import balance, unvested
from node.credit.pair_records import PairRecord, Records
from node.records.receipt import Outcome
from tests.conftest import FULL
from tests.credit.actors import (
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
)

ONE, OTHER, THIRD = (Actor(number) for number in range(3))
CO_HOLDERS = [Actor(number).device for number in (10, 11, 12)]
LEASES = [
    lease_of(owner, holder, number, day=DAY + number, days=3 + 9 * number, mib=1 + number)
    for number, (owner, holder) in enumerate([(ONE, OTHER), (OTHER, ONE), (ONE, OTHER), (ONE, OTHER)])
]
PAYERS = [ONE, OTHER, ONE, OTHER]  # the last is charged to its own holder: nobody owes anything for it
GIFTS = [LEASES[2].lease_id]

days = st.integers(DAY - 1, DAY + 250)
of_leases = st.integers(0, len(LEASES) - 1)
records: st.SearchStrategy[PairRecord] = st.one_of(
    of_leases.map(lambda n: LEASES[n]),
    of_leases.map(lambda n: charge_of(LEASES[n], PAYERS[n])),
    of_leases.map(lambda n: release_of(LEASES[n], ONE if LEASES[n].holder == OTHER.peer_id else OTHER)),
    st.builds(
        lambda n, day, auditor, outcome: receipt_of(
            [LEASES[n]], [ONE.owner, OTHER.owner, *CO_HOLDERS][auditor], day, outcome=outcome
        ),
        of_leases, days, st.integers(0, 4), st.sampled_from([Outcome.PASSED, Outcome.PASSED, Outcome.FAILED]),
    ),
    st.builds(
        lambda pair, day, count, session: served(pair[0], pair[1], day, count, session),
        st.sampled_from([(ONE, OTHER), (OTHER, ONE)]), days, st.integers(0, 2**24), st.integers(0, 2),
    ),
    st.builds(
        lambda period, sequence, totals: agreed(ONE, OTHER, DAY // 30 + period, sequence, totals),
        st.integers(0, 5), st.integers(0, 2), st.tuples(st.integers(0, 10**8), st.integers(0, 10**8)),
    ),
    st.integers(1, 10**7).map(lambda amount: signed_clear([ONE, OTHER, THIRD], amount)),
)  # fmt: skip


@given(st.lists(st.tuples(records, st.integers(0, 40)), max_size=25), st.booleans())
@settings(max_examples=1000 if FULL else 120, deadline=None)
def test_a_book_says_what_the_set_of_its_records_says(
    steps: list[tuple[PairRecord, int]], assigned: bool
) -> None:
    """Records come in any order, days pass in between, and balances are asked for all the while."""
    pair = pair_of(ONE, OTHER, assigned=assigned, gifts=GIFTS)
    book, seen, today = PairBook(pair), [], DAY
    for record, elapsed in steps:
        today += elapsed
        book.add(record)
        seen.append(record)
        book.add(record)  # repetition is without effect
        whole = Records.of(seen)
        assert book.balance(today=today) == balance(pair, whole, today=today)
        for account in (pair.low, pair.high):
            assert book.unvested(account, today=today) == unvested(pair, whole, account, today=today)


@given(st.lists(records, max_size=20), st.integers(DAY, DAY + 100))
@settings(max_examples=300 if FULL else 60, deadline=None)
def test_nothing_changes_before_the_day_that_a_book_names(seen: list[PairRecord], today: int) -> None:
    pair = pair_of(ONE, OTHER, gifts=GIFTS)
    book = PairBook(pair)
    for record in seen:
        book.add(record)
    now = book.balance(today=today)
    unvested_now = [book.unvested(account, today=today) for account in (pair.low, pair.high)]
    change = book.next_change(today=today)
    later = today + 400 if change is None else change - 1
    whole = Records.of(seen)
    assert balance(pair, whole, today=later) == now
    assert [unvested(pair, whole, a, today=later) for a in (pair.low, pair.high)] == unvested_now


def test_gifts_count_against_a_line_while_they_run() -> None:
    pair = pair_of(ONE, OTHER, gifts=GIFTS)
    book = PairBook(pair)
    lease = LEASES[2]
    book.add(lease)
    book.add(charge_of(lease, ONE))
    assert book.gifts_open(ONE.account, today=DAY) == 3 * 21 * 1_000_000
    assert book.unvested(ONE.account, today=DAY) == 0
    assert book.next_change(today=DAY) == lease.end_day
    assert book.gifts_open(ONE.account, today=lease.end_day) == 0
