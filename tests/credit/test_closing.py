"""Closing periods: what went comes to what it came to before, whoever dies and whatever is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node import limits
from node.credit.closing import check_fold, fold_of, is_too_old, last_closed, split
from node.credit.fold import FOLD_TAG, Fold, FoldedSide
from node.credit.ledger_store import LedgerView
from node.credit.messages import EntryData
from node.credit.pair_book import PairBook
from node.credit.pair_ledger import Given, balance, unvested
from node.credit.pair_records import PairRecord, Records
from node.credit.pair_set import Gift
from node.credit.units import PERIOD_DAYS, period_of
from node.errors import CreditError, ProtocolError
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt
from node.units import DAY_S, MIB, LeaseId
from tests.conftest import FULL
from tests.credit.actors import (
    CREDIT,
    DAY,
    NETWORK,
    Actor,
    charge_of,
    lease_of,
    pair_of,
    receipt_of,
    release_of,
    served,
    signed_clear,
)
from tests.credit.crashing_ledger import CrashingLedger
from tests.credit.neighbours import Neighbour, Street
from tests.credit.test_exchange import gave, two
from tests.credit.test_pair_book import GIFTS, ONE, OTHER, THIRD, records

LIAR = Actor(7)

# --- the rules ----------------------------------------------------------------------------------------------


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


# --- two ends, with crashes, lost replies and replays -------------------------------------------------------


class End(CrashingLedger):
    """One of two accounts."""

    def __init__(self, me: Actor, other: Actor) -> None:
        super().__init__(me, (me, other), cert_days=900)
        self.other = other

    def take(self, entries: Sequence[EntryData]) -> int:
        return self.pairing.take(self.other.account, entries, day=self.day)

    def ids(self) -> set[bytes]:
        return set(self.pairing.ids(self.other.account, day=self.day))

    def entries(self, ids: set[bytes]) -> list[EntryData]:
        return self.pairing.entries(self.other.account, sorted(ids), day=self.day)

    def given(self) -> tuple[Given, Given]:
        """What the low and the high account gave."""
        book = self.ledger.store.read(lambda view: self.ledger.book(view, self.other.account))
        found = book.balance(today=self.day)
        return found.low, found.high

    def fold(self) -> Fold | None:
        return self.ledger.store.read(lambda view: self.ledger.fold(view, self.other.account))


def exchange(one: End, other: End) -> None:
    """As the protocol does it: what one lacks and the other has, both ways."""
    missing = other.ids() - one.ids()
    surplus = one.ids() - other.ids()
    one.take(other.entries(missing))
    other.take(one.entries(surplus & one.ids()))
    if one.ids() == other.ids():
        one.pairing.note_synced(other.me.account)
        other.pairing.note_synced(one.me.account)


def close(proposer: End, signer: End, *, lost: bool = False) -> bool:
    """Whether a closing was signed; `lost` where the proposer does not hear of it."""
    found = proposer.pairing.propose_close(signer.me.account, day=proposer.day)
    if found is None:
        return False
    state, fold = found
    try:
        signed = signer.pairing.countersign(proposer.me.account, state, fold=fold, day=signer.day)
    except CreditError:
        return False
    if not lost:
        proposer.take([(PairState.TYPE, signed.encode()), (FOLD_TAG, fold.encode())])
    return True


steps = st.lists(
    st.tuples(
        st.sampled_from(["keep", "keep", "audit", "audit", "serve", "clear", "release", "sign", "close",
                         "close", "close and lose", "crash", "replay", "lose the disk"]),
        st.booleans(), st.integers(0, 35), st.integers(1, 2**20),
    ),
    max_size=30,
)  # fmt: skip


@given(steps)
@settings(max_examples=600 if FULL else 60, deadline=None)
def test_whatever_happens_both_ends_say_what_all_records_ever_say(
    happenings: list[tuple[str, bool, int, int]],
) -> None:
    """One end closes and the other does not hear of it, dies, loses its disk, and hears everything again."""
    one, other = End(ONE, OTHER), End(OTHER, ONE)
    exchange(one, other)
    ever: dict[bytes, PairRecord] = {}
    told: list[EntryData] = []
    gifts: set[LeaseId] = set()
    leases = []
    for number, (what, swapped, elapsed, amount) in enumerate(happenings):
        one.day = other.day = one.day + elapsed
        mine, far = (other, one) if swapped else (one, other)
        news: list[PairRecord] = []
        gift: list[Gift] = []
        if what == "keep":
            lease = lease_of(mine.me, far.me, number, day=one.day, days=1 + amount % 50)
            leases.append((lease, mine.me))
            news = [lease, charge_of(lease, mine.me)]
            if amount % 3 == 0:
                gifts.add(lease.lease_id)
                gift = [Gift(lease.record_id())]
        elif what == "audit" and leases:
            chosen = leases[-1 - amount % min(3, len(leases))]
            news = [receipt_of([chosen[0]], chosen[1].owner, one.day, nonce=number)]
        elif what == "serve":
            news = [served(mine.me, far.me, one.day, amount, session=number)]
        elif what == "clear":
            news = [signed_clear([mine.me, far.me, THIRD], amount, number=number)]
        elif what == "release" and leases:
            news = [release_of(leases[-1][0], leases[-1][1])]
        elif what == "crash":
            mine.crash()
        elif what == "lose the disk" and not gifts:  # a holder's word for a gift is on its own disk alone
            exchange(one, other)
            restored = End(mine.me, mine.other)
            restored.day = mine.day
            one, other = (restored, far) if mine is one else (far, restored)
            exchange(one, other)
        elif what == "replay":
            mine.take(told)
        elif what == "sign":
            exchange(one, other)
            for state in mine.pairing.propose(far.me.account, day=mine.day):
                with suppress(CreditError):  # one period at a time
                    signed = far.pairing.countersign(mine.me.account, state, day=far.day)
                    mine.take([(PairState.TYPE, signed.encode())])
                    news.append(signed)
        elif what.startswith("close"):
            exchange(one, other)
            close(mine, far, lost=what == "close and lose")
        accepted = [(record.TYPE, record.encode()) for record in news]
        marks = [("gift", each.lease_record) for each in gift]
        for end in (one, other):
            known = end.ids()
            end.take(accepted)
            for mark in gift:
                end.ledger.update(
                    lambda change, end=end, mark=mark: end.ledger.add(  # type: ignore[misc]
                        change, end.other.account, [mark], day=end.day
                    )
                )
            for record in news:
                if record.record_id() in end.ids() | known or isinstance(record, PairState):
                    ever[record.record_id()] = record
        told += accepted + marks
        pair = pair_of(ONE, OTHER, gifts=gifts)
        whole = Records.of(ever.values())
        for end in (one, other):
            expected = balance(pair, whole, today=end.day)
            assert end.given() == (expected.low, expected.high)
    exchange(one, other)
    exchange(other, one)
    assert one.ids() == other.ids()
    assert one.fold() == other.fold()


def two_ends() -> tuple[End, End]:
    one, other = End(ONE, OTHER), End(OTHER, ONE)
    one.day = other.day = DAY + 20
    for number, (giver, taker) in enumerate([(one, other), (other, one)]):
        for end in (one, other):
            entries = [(r.TYPE, r.encode()) for r in gave_by(giver.me, taker.me, number)]
            end.take(entries)
    exchange(one, other)
    one.day = other.day = DAY + 130
    return one, other


def gave_by(giver: Actor, taker: Actor, number: int) -> list[PairRecord]:
    lease = lease_of(taker, giver, number, days=10)
    return [lease, charge_of(lease, taker), receipt_of([lease], taker.owner, DAY + 9, nonce=number)]


def test_one_end_has_closed_and_the_other_has_not_heard() -> None:
    one, other = two_ends()
    before = one.given()
    assert close(one, other, lost=True)
    assert one.fold() is None
    assert other.fold() is not None
    assert one.given() == other.given() == before
    one.crash()
    exchange(one, other)
    assert one.fold() == other.fold()
    assert one.ids() == other.ids()
    assert one.given() == before
    assert len(one.ids()) == 2  # the fold, and the state that names it


def test_nothing_that_went_comes_back_and_no_fold_counts_by_itself() -> None:
    one, other = two_ends()
    old = one.entries(one.ids())
    before = one.given()
    assert close(one, other)
    fold = one.fold()
    assert fold is not None
    forged = [replace(fold, period=fold.period + 1), Fold(NETWORK, fold.low, fold.high, 900, b"", b"")]
    late = [served(ONE, OTHER, DAY + 12, MIB), *gave_by(ONE, OTHER, 5)]
    for end in (one, other):
        assert end.take(old) == 0
        assert end.take([(FOLD_TAG, each.encode()) for each in forged]) == 0
        assert end.take([(record.TYPE, record.encode()) for record in late]) == 0
        assert end.fold() == fold
        assert end.given() == before


def test_clears_are_folded_once_and_late_ones_count() -> None:
    """One is withheld until both have closed its period, and everything comes again, twice."""
    one, other = two_ends()
    early, late = (signed_clear([ONE, OTHER, THIRD], amount, number=amount) for amount in (3, 5))

    def cleared(end: End) -> int:
        return sum(given.cleared for given in end.given())

    def tell(*clears: Clear) -> None:
        for end in (one, other):
            end.take([(clear.TYPE, clear.encode()) for clear in clears])

    tell(early)
    assert close(one, other)
    fold = one.fold()
    assert fold is not None
    assert fold.clears == (early.record_id(),)
    assert not {early.record_id()} & (one.ids() | other.ids())
    tell(early)
    assert cleared(one) == cleared(other) == 3
    tell(late, early)
    assert cleared(one) == cleared(other) == 8
    one.crash()
    one.day = other.day = one.day + 30
    exchange(one, other)
    assert close(other, one)
    tell(late, early)
    for end in (one, other):
        fold = end.fold()
        assert fold is not None
        assert fold.clears == tuple(sorted((early.record_id(), late.record_id())))
        assert cleared(end) == 8
        assert not {early.record_id(), late.record_id()} & end.ids()


def test_clears_for_which_a_fold_has_no_room_stay_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FOLD_CLEARS_MAX", 3)
    one, other = two_ends()
    clears = [signed_clear([ONE, OTHER, THIRD], 1, number=number) for number in range(5)]
    for end in (one, other):
        end.take([(clear.TYPE, clear.encode()) for clear in clears])
    assert close(one, other)
    fold = one.fold()
    assert fold is not None
    assert set(fold.clears) == set(sorted(clear.record_id() for clear in clears)[:3])
    assert one.ids() == other.ids() >= {clear.record_id() for clear in clears} - set(fold.clears)
    assert sum(given.cleared for given in one.given()) == 5


def test_a_fork_across_a_closing_is_found() -> None:
    """A liar signs a state, closes its period, and signs another of the same number."""
    one, other = two_ends()
    exchange(one, other)
    (state,) = [s for s in one.pairing.propose(OTHER.account, day=DAY + 40) if s.period == period_of(DAY)][:1]
    other.take([(PairState.TYPE, other.pairing.countersign(ONE.account, state, day=one.day).encode())])
    exchange(one, other)
    assert close(one, other)
    assert not other.ledger.store.read(lambda view: list(view.proofs()))
    second = replace(
        state, low_to_high=state.low_to_high + 1, low_signature=b"", high_signature=b""
    ).sign(ONE.key)  # fmt: skip
    other.take([(PairState.TYPE, second.encode())])
    ((_, proof),) = other.ledger.store.read(lambda view: list(view.proofs()))
    assert proof.signer == ONE.account
    assert other.ledger.store.read(
        lambda view: other.ledger.standing(view, ONE.account, day=other.day)
    ).is_frozen


def test_two_folds_at_one_number_are_a_fork() -> None:
    one, other = two_ends()
    found = one.pairing.propose_close(OTHER.account, day=one.day)
    assert found is not None
    state, fold = found
    other.pairing.countersign(ONE.account, state, fold=fold, day=other.day)
    lie = replace(state, previous=b"x" * 32, low_signature=b"", high_signature=b"").sign(ONE.key)
    other.take([(PairState.TYPE, lie.encode())])
    assert len(other.ledger.store.read(lambda view: list(view.proofs()))) == 1


@pytest.mark.parametrize("ahead", [0, 1])
def test_nobody_signs_a_period_that_is_not_over_or_a_fold_of_its_own_favour(ahead: int) -> None:
    one, other = two_ends()
    found = one.pairing.propose_close(OTHER.account, day=one.day)
    assert found is not None
    state, fold = found
    lie = replace(fold, period=fold.period + 1) if ahead else None
    if lie is None:
        side = fold.side(ONE.account)
        more = replace(
            side, kept=side.kept + 1, days=((side.days[0][0], side.days[0][1] + 1), *side.days[1:]),
            evidence=((side.evidence[0][0], side.evidence[0][1] + 1), *side.evidence[1:]),
        )  # fmt: skip
        lie = replace(fold, **{"low_side" if fold.low == ONE.account else "high_side": more})  # type: ignore[arg-type]
    unsigned = replace(
        state, previous=lie.fold_id(), low_signature=b"", high_signature=b"", sequence=state.sequence
    )
    with pytest.raises(CreditError):
        other.pairing.countersign(ONE.account, unsigned.sign(ONE.key), fold=lie, day=other.day)
    assert other.fold() is None


def test_a_pair_that_deals_every_day_stays_small() -> None:
    """Leases of a month, audits of all of them and receipts, every day."""
    one, other = End(ONE, OTHER), End(OTHER, ONE)
    exchange(one, other)
    running: list[tuple[int, PairRecord]] = []
    most = total = 0
    for day in range(DAY, DAY + (730 if FULL else 220)):
        one.day = other.day = day
        lease = lease_of(ONE, OTHER, day, day=day, days=30)
        running = [*((end, each) for end, each in running if end > day), (lease.end_day, lease)]
        leases = [each for _, each in running]
        news = [
            lease, charge_of(lease, ONE), receipt_of(leases, ONE.owner, day, nonce=day),  # type: ignore[arg-type]
            served(OTHER, ONE, day, MIB, session=day), served(ONE, OTHER, day, MIB, session=-day % 2**64),
        ]  # fmt: skip
        total += len(news)
        for end in (one, other):
            end.take([(record.TYPE, record.encode()) for record in news])
        if day % 10 == 0:
            exchange(one, other)
            close(one, other)
        most = max(most, len(one.ids()))
    assert most < 4.5 * 5 * PERIOD_DAYS < total
    fold = one.fold()
    assert fold is not None
    assert len(fold.encode()) < limits.FOLD_BYTES_MAX // 2


# --- over the wire ------------------------------------------------------------------------------------------


def fold_at(end: Neighbour, far: Neighbour) -> Fold | None:
    ledger = end.service.ledger
    return ledger.store.read(lambda view: ledger.fold(view, far.actor.account))


async def test_an_exchange_closes_what_is_over_on_both_sides(autojump_clock: MockClock) -> None:
    street = Street()
    one, other = street.neighbours(2)
    street.clock.time_s += 50 * DAY_S
    async with one.living():
        async with other.living():
            await one.service.sync(other.contact)
            for number in range(20):
                one.add(other, *gave(one, other, number))
            await one.service.sync(other.contact)
            assert len(one.service.pairing.ids(other.actor.account, day=street.day)) > 60
            assert fold_at(one, other) is None
            street.clock.time_s += 50 * DAY_S
            before = one.balance_with(other)
            await one.service.sync(other.contact)
            for end, far in ((one, other), (other, one)):
                assert len(end.service.pairing.ids(far.actor.account, day=street.day)) < 6
                after = end.balance_with(far)
                assert (after.low, after.high) == (before.low, before.high)
        other.__post_init__()  # a new disk, the same keys
        async with other.living():
            await other.service.sync(one.contact)
            owed = before.net(one.actor.account)
            assert other.balance_with(one).net(one.actor.account) == owed
            assert fold_at(one, other) == fold_at(other, one) is not None
            await one.service.served(served(one.actor, other.actor, street.day, MIB))
            await other.service.sync(one.contact)
            assert other.balance_with(one).net(one.actor.account) == owed + 30 * CREDIT


async def test_a_state_of_the_last_number_ends_no_node(autojump_clock: MockClock) -> None:
    """Whoever uses up the numbers of a period has nothing more signed in it, and takes nobody down."""
    async with two() as (street, one, other):
        low, high = sorted((one.actor.account, other.actor.account))
        last = PairState(NETWORK, low, high, period_of(DAY), limits.PAIR_SEQUENCE_MAX, b"", 1, 0)
        entry = (PairState.TYPE, last.sign(other.actor.key).encode())
        one.service.pairing.take(other.actor.account, [entry], day=street.day)
        street.clock.time_s += 12 * DAY_S
        one.add(other, *gave(one, other))
        await one.service.sync(other.contact)
        assert other.balance_with(one).net(one.actor.account) == 10 * CREDIT
        assert one.service.pairing.agreed(other.actor.account) is None


def test_what_the_view_of_a_ledger_reads_is_all_of_it() -> None:
    """A fold is an entry like others: it is told, and whoever asks for it gets it."""
    one, other = two_ends()
    assert close(one, other)

    def look(view: LedgerView) -> list[str]:
        return sorted(entry.tag for entry in view.entries(OTHER.account))

    assert one.ledger.store.read(look) == ["fold", "pair-state"]
    assert len(one.entries(one.ids())) == 2
