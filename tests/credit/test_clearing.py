"""Clearing: found without lists, void until all have signed, and nobody's net position changes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import limits
from node.credit.bloom import BloomFilter
from node.credit.clearing import ClearBook, ClearState, Cycle, four_cycles, three_cycles
from node.credit.pair_ledger import balance
from node.credit.pair_records import Records
from node.errors import CreditError, CryptoError, NodeError, ProtocolError
from node.records.clear import Abort, Clear
from node.units import AccountId
from tests.conftest import FULL
from tests.credit.actors import CREDIT, DAY, NETWORK, Actor, pair_of, signed_clear, unsigned_clear

ACTORS = [Actor(number) for number in range(5)]
ASKER, DONOR, MIDDLE, FOURTH, STRANGER = ACTORS
PERIOD = DAY // 30
SALT = b"s" * 16
CYCLE = [ASKER, DONOR, MIDDLE]
accounts = st.binary(min_size=32, max_size=32).map(AccountId)


@given(st.lists(accounts, max_size=60), st.binary(min_size=16, max_size=16))
def test_a_filter_never_denies_an_account(members: list[AccountId], salt: bytes) -> None:
    found = BloomFilter.decode(BloomFilter.of(members, salt).encode())
    assert all(account in found for account in members)


def test_a_filter_is_small_and_seldom_wrong() -> None:
    def account(number: int) -> AccountId:
        return AccountId(number.to_bytes(32, "big"))

    found = BloomFilter.of([account(number) for number in range(1000)], SALT)
    wrong = sum(account(number) in found for number in range(1000, 6000))
    assert wrong < 5000 // 100
    assert 300 < found.fill_permille < 600
    crowded = BloomFilter.of([account(number) for number in range(30_000)], SALT)
    assert len(crowded.encode()) <= limits.BLOOM_FILTER_BYTES_MAX + 64
    assert all(account(number) in crowded for number in range(0, 30_000, 100))


@pytest.mark.parametrize("bits", [b"", bytes(limits.BLOOM_FILTER_BYTES_MAX + 1)])
def test_filters_out_of_bounds_are_refused(bits: bytes) -> None:
    with pytest.raises(ProtocolError):
        BloomFilter.decode(BloomFilter(SALT, bits).encode())


def test_cycles_of_three_and_four_are_found() -> None:
    owe_asker = BloomFilter.of([MIDDLE.account, FOURTH.account], SALT)
    donor_owes = {MIDDLE.account: 5 * CREDIT, STRANGER.account: 9 * CREDIT, ASKER.account: 3 * CREDIT}
    found = three_cycles(DONOR.account, donor_owes, ASKER.account, owe_asker)
    assert found == [Cycle((ASKER.account, DONOR.account, MIDDLE.account), 5 * CREDIT)]
    second_owes = {FOURTH.account: 20 * CREDIT, DONOR.account: 4 * CREDIT, ASKER.account: CREDIT}
    longer = four_cycles(
        DONOR.account, donor_owes, STRANGER.account, second_owes, ASKER.account, owe_asker
    )  # fmt: skip
    assert longer == [Cycle((ASKER.account, DONOR.account, STRANGER.account, FOURTH.account), 9 * CREDIT)]
    assert not four_cycles(DONOR.account, {}, STRANGER.account, second_owes, ASKER.account, owe_asker)
    many = {AccountId(number.to_bytes(32, "big")): (number + 1) * CREDIT for number in range(100)}
    best = three_cycles(DONOR.account, many, ASKER.account, BloomFilter.of(list(many), SALT))
    most = range(100, 100 - limits.CLEAR_CANDIDATES_MAX, -1)
    assert [cycle.amount for cycle in best] == [credits * CREDIT for credits in most]


def test_less_than_a_credit_is_neither_looked_for_nor_signed() -> None:
    least = limits.CLEAR_MICROS_MIN
    owe_asker = BloomFilter.of([MIDDLE.account, FOURTH.account], SALT)
    debts = {MIDDLE.account: least - 1}
    assert not three_cycles(DONOR.account, debts, ASKER.account, owe_asker)
    assert not four_cycles(
        DONOR.account, debts, MIDDLE.account, {FOURTH.account: CREDIT}, ASKER.account, owe_asker
    )  # fmt: skip
    book = ClearBook(DONOR.account)
    for amount, is_signed in ((least - 1, False), (least, True)):
        clear = unsigned_clear(CYCLE, amount, number=amount)
        book.add(clear)
        with nullcontext() if is_signed else pytest.raises(CreditError, match="at least"):
            book.check_sign(clear, debt=9 * CREDIT, cap=9 * CREDIT, period=PERIOD)


def book_with(me: Actor, clear: Clear) -> ClearBook:
    book = ClearBook(me.account)
    book.add(clear)
    return book


def abort_of(clear: Clear, member: Actor) -> Abort:
    return Abort(NETWORK, clear.record_id(), member.account).sign(member.key)


def test_the_states_of_a_clear() -> None:
    clear = unsigned_clear(CYCLE, 4 * CREDIT)
    record_id = clear.record_id()
    book = book_with(MIDDLE, clear.sign(MIDDLE.key))
    assert book.state(record_id, period=clear.end_period + 1) is ClearState.OPEN
    assert book.reserved(MIDDLE.account, ASKER.account) == 4 * CREDIT
    assert book.reserved(DONOR.account, MIDDLE.account) == 4 * CREDIT
    assert book.reserved(ASKER.account, MIDDLE.account) == 0
    assert book.state(record_id, period=clear.end_period + 2) is ClearState.LAPSED
    assert book.open_total(period=clear.end_period + 2) == 0
    book.add_abort(abort_of(clear, DONOR))
    assert book.state(record_id, period=PERIOD) is ClearState.ABORTED
    assert book.reserved(MIDDLE.account, ASKER.account) == 4 * CREDIT  # the donor may sign all the same
    book.add(signed_clear(CYCLE, 4 * CREDIT))  # late, and after the donor gave it up
    assert book.state(record_id, period=clear.end_period + 9) is ClearState.COMPLETE
    assert book.reserved(MIDDLE.account, ASKER.account) == 0
    assert [each.record_id() for each in book.complete()] == [record_id]


def test_who_signs_what() -> None:
    clear = unsigned_clear(CYCLE, 4 * CREDIT)
    book = ClearBook(DONOR.account)
    with pytest.raises(CreditError, match="seen before"):
        book.check_sign(clear, debt=9 * CREDIT, cap=9 * CREDIT, period=PERIOD)
    book.add(clear)
    book.check_sign(clear, debt=4 * CREDIT, cap=4 * CREDIT, period=PERIOD)
    with pytest.raises(CreditError, match="are owed"):
        book.check_sign(clear, debt=4 * CREDIT - 1, cap=9 * CREDIT, period=PERIOD)
    with pytest.raises(CreditError, match="capped"):
        book.check_sign(clear, debt=9 * CREDIT, cap=4 * CREDIT - 1, period=PERIOD)
    with pytest.raises(CreditError, match="over"):
        book.check_sign(clear, debt=9 * CREDIT, cap=9 * CREDIT, period=clear.end_period + 1)
    signed = book.add(clear.sign(DONOR.key))
    book.check_sign(signed, debt=0, cap=0, period=PERIOD)  # again, the same signature
    with pytest.raises(CreditError, match="can't be given up"):
        book.check_abort(clear.record_id())
    asker = book_with(ASKER, clear)
    asker.check_sign(clear, debt=0, cap=9 * CREDIT, period=PERIOD)  # turns its claim into one on the donor
    asker.check_abort(clear.record_id())
    asker.add_abort(abort_of(clear, ASKER))
    with pytest.raises(CreditError, match="given this clear up"):
        asker.check_sign(clear, debt=0, cap=9 * CREDIT, period=PERIOD)


def test_one_open_clear_a_pair() -> None:
    one, two = (unsigned_clear(CYCLE, CREDIT, number=number) for number in (1, 2))
    apart = unsigned_clear([STRANGER, FOURTH, DONOR, Actor(9)], CREDIT, number=3)
    book = book_with(DONOR, one.sign(DONOR.key))
    book.add(two)
    book.add(apart)
    with pytest.raises(CreditError, match="is open"):
        book.check_sign(two, debt=9 * CREDIT, cap=9 * CREDIT, period=PERIOD)
    book.check_sign(apart, debt=9 * CREDIT, cap=9 * CREDIT, period=PERIOD)
    book.add_abort(abort_of(one, MIDDLE))
    book.check_sign(two, debt=2 * CREDIT, cap=9 * CREDIT, period=PERIOD)
    with pytest.raises(CreditError, match="are owed"):  # the first one may still complete
        book.check_sign(two, debt=2 * CREDIT - 1, cap=9 * CREDIT, period=PERIOD)


def test_what_a_book_does_not_take() -> None:
    clear = unsigned_clear(CYCLE, CREDIT)
    book = ClearBook(STRANGER.account)
    with pytest.raises(ProtocolError, match="of others"):
        book.add(clear)
    book = ClearBook(DONOR.account)
    with pytest.raises(ProtocolError, match="not known"):
        book.add_abort(abort_of(clear, MIDDLE))
    book.add(clear)
    with pytest.raises(ProtocolError, match="not known"):
        book.add_abort(abort_of(clear, STRANGER))
    forged = Abort(NETWORK, clear.record_id(), MIDDLE.account, abort_of(clear, STRANGER).signature)
    with pytest.raises(CryptoError):
        book.add_abort(forged)
    with pytest.raises(CryptoError):
        book.add(replace(clear.sign(MIDDLE.key), amount=clear.amount + 1))
    for number in range(limits.CLEARS_REMEMBERED_PER_PAIR_MAX):
        try:
            book.add(unsigned_clear(CYCLE, CREDIT, number=number))
        except ProtocolError:
            break
    assert len(book.clears) == limits.CLEARS_REMEMBERED_PER_PAIR_MAX
    assert len(book.forget(period=clear.end_period + 2)) == limits.CLEARS_REMEMBERED_PER_PAIR_MAX
    book.add(clear)


def nets(clears: list[Clear]) -> dict[AccountId, int]:
    """Everybody's net position as each pair's ends compute it."""
    total = dict.fromkeys((actor.account for actor in ACTORS), 0)
    for one, other in combinations(ACTORS, 2):
        outcome = balance(pair_of(one, other), Records.of(clears), today=DAY)
        for actor in (one, other):
            total[actor.account] += outcome.net(actor.account)
    return total


@pytest.mark.parametrize("length", [3, 4])
def test_a_complete_clear_changes_no_net_position(length: int) -> None:
    """Invariant 2, the plain case; duplicated, too."""
    clear = signed_clear(ACTORS[:length], 4 * CREDIT)
    assert set(nets([clear, clear]).values()) == {0}
    debtor, creditor = next(iter(clear.debts()))
    one, other = (next(actor for actor in ACTORS if actor.account == each) for each in (debtor, creditor))
    assert balance(pair_of(one, other), Records.of([clear, clear]), today=DAY).net(debtor) == 4 * CREDIT


signatures = st.lists(st.integers(0, 2), max_size=6)


@settings(max_examples=300 if FULL else 40)
@given(signatures, st.permutations(range(8)), st.integers(0, 5))
def test_a_book_depends_on_the_set_alone(signers: list[int], order: list[int], later: int) -> None:
    """Order and repetition of signatures and aborts change nothing."""
    clear = unsigned_clear(CYCLE, CREDIT)
    news: list[Clear | Abort] = [signed_clear(CYCLE, CREDIT)] if 0 in signers else []
    news += [clear.sign(CYCLE[index].key) for index in signers if index]
    news += [abort_of(clear, CYCLE[index]) for index in signers[:1]]
    books = []
    for sequence in (range(len(news)), [index for index in order if index < len(news)] * 2):
        book = book_with(DONOR, clear)
        for index in sequence:
            match news[index]:
                case Clear() as part:
                    book.add(part)
                case Abort() as abort:
                    book.add_abort(abort)
        books.append(book)
    one, two = books
    assert (one.clears, one.aborts) == (two.clears, two.aborts)
    period = PERIOD + later
    assert one.state(clear.record_id(), period=period) is two.state(clear.record_id(), period=period)


class Clearing(RuleBasedStateMachine):
    """Three honest ends and one adversary who signs, withholds, aborts and delivers in any order.

    Honest books are checked against each other's: whatever arrives, each pair's two ends agree once they
    have the same signatures, nobody's net changes, and what an honest end signs is within its debt and cap.
    """

    CAP = 6 * CREDIT
    DEBT = 5 * CREDIT

    def __init__(self) -> None:
        super().__init__()
        self.adversary = ACTORS[0]
        self.honest = ACTORS[1:4]
        self.books = {actor.account: ClearBook(actor.account) for actor in self.honest}
        self.clears: dict[bytes, Clear] = {}
        self.seen: list[Clear | Abort] = []
        self.period = PERIOD

    @rule(data=st.data(), amount=st.integers(1, 7), length=st.sampled_from([3, 4]))
    def invent(self, data: st.DataObject, amount: int, length: int) -> None:
        cycles = [c for c in permutations(ACTORS[:4], length) if self.adversary in c]
        cycle = data.draw(st.sampled_from(cycles))
        clear = unsigned_clear(cycle, amount * CREDIT, number=len(self.clears), end_period=self.period + 1)
        self.clears[clear.record_id()] = clear
        for actor in cycle:
            if actor in self.honest:
                self.books[actor.account].add(clear)

    @rule(data=st.data())
    def honest_member_is_asked_to_sign(self, data: st.DataObject) -> None:
        if not self.clears:
            return
        clear = data.draw(st.sampled_from(list(self.clears.values())))
        members = [actor for actor in self.honest if actor.account in clear.cycle]
        actor = data.draw(st.sampled_from(members))
        book = self.books[actor.account]
        known = book.clears[clear.record_id()]
        debt = self.DEBT - self.cleared(actor, clear.creditor_of(actor.account))
        try:
            book.check_sign(known, debt=debt, cap=self.CAP, period=self.period)
            signed = book.add(known.sign(actor.key))
        except NodeError:
            return
        self.clears[clear.record_id()] = self.clears[clear.record_id()].merge(signed)
        self.seen.append(signed)

    @rule(data=st.data(), gives_up=st.booleans())
    def adversary_signs_or_aborts(self, data: st.DataObject, gives_up: bool) -> None:
        if not self.clears:
            return
        clear = data.draw(st.sampled_from(list(self.clears.values())))
        if gives_up:
            self.seen.append(abort_of(clear, self.adversary))
            return
        own = [b""] * limits.CLEAR_MEMBERS_MAX  # signs whenever it likes, as initiator first as well
        own[clear.cycle.index(self.adversary.account)] = clear.sign_body(self.adversary.key)
        signed = clear.merge(replace(clear, signatures=tuple(own)))
        self.clears[clear.record_id()] = signed
        self.seen.append(signed)

    @rule(data=st.data())
    def deliver_again_or_late(self, data: st.DataObject) -> None:
        if not self.seen:
            return
        news = data.draw(st.sampled_from(self.seen))
        record_id = news.clear_record if isinstance(news, Abort) else news.record_id()
        for account in data.draw(st.sets(st.sampled_from(sorted(self.books)))):
            if account not in self.clears[record_id].cycle:
                continue
            if isinstance(news, Abort):
                self.books[account].add_abort(news)
            else:
                self.books[account].add(news)

    @rule()
    def time_passes(self) -> None:
        self.period += 1

    def cleared(self, debtor: Actor, creditor: AccountId) -> int:
        """What complete clears took off a debt, as the debtor knows."""
        return sum(
            clear.amount
            for clear in self.books[debtor.account].complete()
            if (debtor.account, creditor) in set(clear.debts())
        )

    @invariant()
    def nobody_gains(self) -> None:
        """Invariant 2 over all signatures that exist."""
        complete = [c for c in self.clears.values() if len(c.signers()) == len(c.cycle)]
        assert set(nets(complete).values()) == {0}

    @invariant()
    def reservations_stay_under_the_cap(self) -> None:
        for book in self.books.values():
            assert book.open_total(period=self.period) <= self.CAP

    @invariant()
    def a_unit_of_debt_clears_once(self) -> None:
        """Invariant 7, for all that an honest end has signed and that is complete or may yet be: open, lapsed
        or given up by another member."""
        for actor in self.honest:
            book = self.books[actor.account]
            for other in ACTORS[:4]:
                if other is actor:
                    continue
                mine = [
                    clear
                    for clear in book.clears.values()
                    if actor.account in clear.signers()
                    and clear.initiator != actor.account
                    and (actor.account, other.account) in set(clear.debts())
                ]
                assert sum(clear.amount for clear in mine) <= self.DEBT


TestClearing = Clearing.TestCase
TestClearing.settings = settings(
    max_examples=500 if FULL else 50, stateful_step_count=60 if FULL else 30, deadline=None
)
