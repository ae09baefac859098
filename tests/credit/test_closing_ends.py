"""Two ends close periods, with crashes, lost replies and replays, and say what all records ever say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.credit.fold import FOLD_TAG, Fold
from node.credit.ledger_store import GIFT_TAG, LedgerView
from node.credit.messages import EntryData
from node.credit.pair_ledger import Given, balance
from node.credit.pair_records import PairRecord, Records
from node.credit.pair_set import Gift
from node.credit.units import PERIOD_DAYS, period_of
from node.errors import CreditError
from node.records.clear import Clear
from node.records.lease import Lease
from node.records.pair_state import PairState
from node.units import MIB, LeaseId
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
    signed_clear,
)
from tests.credit.crashing_ledger import CrashingLedger
from tests.credit.test_pair_book import ONE, OTHER, THIRD


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

    def mark(self, gift: Gift) -> None:
        """Note that a lease is a gift."""
        self.ledger.update(lambda change: self.ledger.add(change, self.other.account, [gift], day=self.day))

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


class History:
    """Two ends, all that ever was between them, and a judge that forgets nothing."""

    def __init__(self) -> None:
        self.one, self.other = End(ONE, OTHER), End(OTHER, ONE)
        exchange(self.one, self.other)
        self.ever: dict[bytes, PairRecord] = {}
        self.told: list[EntryData] = []
        self.gifts: set[LeaseId] = set()
        self.leases: list[tuple[Lease, Actor]] = []

    def happen(self, number: int, what: str, swapped: bool, elapsed: int, amount: int) -> None:
        """One thing, after so many days, at one of the ends; then both are told of what came of it."""
        self.one.day = self.other.day = self.one.day + elapsed
        mine, far = (self.other, self.one) if swapped else (self.one, self.other)
        if what == "keep":
            self._keep(mine, far, number, amount)
        elif what == "audit" and self.leases:
            lease, payer = self.leases[-1 - amount % min(3, len(self.leases))]
            self._tell([receipt_of([lease], payer.owner, mine.day, nonce=number)])
        elif what == "serve":
            self._tell([served(mine.me, far.me, mine.day, amount, session=number)])
        elif what == "clear":
            self._tell([signed_clear([mine.me, far.me, THIRD], amount, number=number)])
        elif what == "release" and self.leases:
            self._tell([release_of(*self.leases[-1])])
        elif what == "crash":
            mine.crash()
        elif what == "lose the disk" and not self.gifts:
            self._lose_disk(mine)  # a holder's word for a gift is on its own disk alone
        elif what == "replay":
            mine.take(self.told)
        elif what == "sign":
            self._sign(mine, far)
        elif what.startswith("close"):
            exchange(self.one, self.other)
            close(mine, far, lost=what == "close and lose")

    def judge(self) -> None:
        """Both ends say what all records ever say."""
        pair = pair_of(ONE, OTHER, gifts=self.gifts)
        whole = Records.of(self.ever.values())
        for end in (self.one, self.other):
            expected = balance(pair, whole, today=end.day)
            assert end.given() == (expected.low, expected.high)

    def _keep(self, mine: End, far: End, number: int, amount: int) -> None:
        lease = lease_of(mine.me, far.me, number, day=mine.day, days=1 + amount % 50)
        self.leases.append((lease, mine.me))
        gift = None
        if amount % 3 == 0:
            self.gifts.add(lease.lease_id)
            gift = Gift(lease.record_id())
        self._tell([lease, charge_of(lease, mine.me)], gift)

    def _lose_disk(self, mine: End) -> None:
        exchange(self.one, self.other)
        restored = End(mine.me, mine.other)
        restored.day = mine.day
        if mine is self.one:
            self.one = restored
        else:
            self.other = restored
        exchange(self.one, self.other)

    def _sign(self, mine: End, far: End) -> None:
        exchange(self.one, self.other)
        news: list[PairRecord] = []
        for state in mine.pairing.propose(far.me.account, day=mine.day):
            with suppress(CreditError):  # one period at a time
                signed = far.pairing.countersign(mine.me.account, state, day=far.day)
                mine.take([(PairState.TYPE, signed.encode())])
                news.append(signed)
        self._tell(news)

    def _tell(self, news: Sequence[PairRecord], gift: Gift | None = None) -> None:
        entries = [(record.TYPE, record.encode()) for record in news]
        for end in (self.one, self.other):
            known = end.ids()
            end.take(entries)
            if gift is not None:
                end.mark(gift)
            for record in news:
                if record.record_id() in end.ids() | known or isinstance(record, PairState):
                    self.ever[record.record_id()] = record
        self.told += entries
        if gift is not None:
            self.told.append((GIFT_TAG, gift.lease_record))


@given(steps)
@settings(max_examples=600 if FULL else 60, deadline=None)
def test_whatever_happens_both_ends_say_what_all_records_ever_say(
    happenings: list[tuple[str, bool, int, int]],
) -> None:
    """One end closes and the other does not hear of it, dies, loses its disk, and hears everything again."""
    history = History()
    for number, happening in enumerate(happenings):
        history.happen(number, *happening)
        history.judge()
    one, other = history.one, history.other
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


def test_what_the_view_of_a_ledger_reads_is_all_of_it() -> None:
    """A fold is an entry like others: it is told, and whoever asks for it gets it."""
    one, other = two_ends()
    assert close(one, other)

    def look(view: LedgerView) -> list[str]:
        return sorted(entry.tag for entry in view.entries(OTHER.account))

    assert one.ledger.store.read(look) == ["fold", "pair-state"]
    assert len(one.entries(one.ids())) == 2
