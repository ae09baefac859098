"""Periods close while others lie, die, come back from nothing and complete clears late.

Invariants 1, 2, 6 to 9 and 11 of the specification over real ledgers on disks that crash: what a pair says
after its records have gone is what they said, to the unit, at every honest end and after every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.credit.fold import FOLD_TAG, Fold
from node.credit.messages import EntryData
from node.credit.pair_chain import Chain
from node.credit.pair_ledger import Balance, balance
from node.credit.pair_records import PairRecord, Records
from node.errors import CreditError, ProtocolError
from node.records.clear import Clear
from node.records.lease import Lease
from node.records.pair_state import PairState
from tests.conftest import FULL
from tests.credit.actors import (
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

ACTORS = tuple(Actor(number) for number in range(1, 5))
LIAR = ACTORS[3]
STRANGERS = [Actor(number).device for number in (20, 21)]
PAIRS = tuple(combinations(range(4), 2))


class Account(CrashingLedger):
    """One of four accounts."""

    def __init__(self, me: Actor) -> None:
        super().__init__(me, ACTORS, cert_days=9_000)

    def take(self, other: Actor, entries: Sequence[EntryData]) -> None:
        self.pairing.take(other.account, entries, day=self.day)

    def tell(self, other: Actor, records: Iterable[PairRecord]) -> None:
        self.take(other, [(record.TYPE, record.encode()) for record in records])

    def ids(self, other: Actor) -> set[bytes]:
        return set(self.pairing.ids(other.account, day=self.day))

    def kept(self, other: Actor) -> set[bytes]:
        """The pair's set itself, without the proofs of forks that are told with it."""
        return self.ledger.store.read(lambda view: set(self.ledger.ids(view, other.account)))

    def balance(self, other: Actor) -> Balance:
        return self.ledger.store.read(
            lambda view: self.ledger.book(view, other.account).balance(today=self.day)
        )

    def fold(self, other: Actor) -> Fold | None:
        return self.ledger.store.read(lambda view: self.ledger.fold(view, other.account))


class ClosingPeriods(RuleBasedStateMachine):
    """Three honest accounts and one that lies, all of whom deal with all others."""

    def __init__(self) -> None:
        super().__init__()
        self.accounts = [Account(actor) for actor in ACTORS]
        self.number = 0
        self.shared: dict[tuple[int, int], set[PairRecord]] = {pair: set() for pair in PAIRS}
        """Of each pair: everything but clears that was ever accepted."""
        self.counted: list[set[Clear]] = [set() for _ in ACTORS]
        """The complete clears that each one has been told of."""
        self.withheld: list[Clear] = []
        self.leases: list[tuple[tuple[int, int], Lease]] = []
        self.told: list[tuple[int, int, EntryData]] = []
        self.states: set[PairState] = set()
        """Every signature of an honest account that ever left it."""
        self.totals: dict[tuple[int, int, bytes], dict[int, int]] = {}
        for pair in PAIRS:
            self.exchange(pair)
            self.deal(pair)
        for cycle in (ACTORS[:3], ACTORS[1:], ACTORS):
            self.withheld.append(signed_clear(cycle, self.sequence(), number=self.sequence()))

    def deal(self, pair: tuple[int, int]) -> None:
        """Each keeps something for the other, and is seen to."""
        for owner, holder in (pair, pair[::-1]):
            lease = lease_of(ACTORS[owner], ACTORS[holder], self.sequence(), day=self.day, days=5)
            receipt = receipt_of([lease], ACTORS[owner].owner, self.day, nonce=self.sequence())
            self.news(pair, lease, charge_of(lease, ACTORS[owner]), receipt)

    @property
    def day(self) -> int:
        return self.accounts[0].day

    def sequence(self) -> int:
        self.number += 1
        return self.number

    # What happens.

    def news(self, pair: tuple[int, int], *records: PairRecord) -> None:
        """Both ends are told; what either takes in counts."""
        for here, there in (pair, pair[::-1]):
            account, other = self.accounts[here], ACTORS[there]
            account.tell(other, records)
            self.told += [(here, there, (record.TYPE, record.encode())) for record in records]
            known = account.ids(other)
            self.shared[pair] |= {record for record in records if record.record_id() in known}

    def exchange(self, pair: tuple[int, int]) -> None:
        """As the protocol does it: what one lacks and the other has, both ways."""
        one, other = (self.accounts[place] for place in pair)
        missing, surplus = (mine.ids(far.me) - far.ids(mine.me) for mine, far in ((other, one), (one, other)))
        for giver, taker, ids in ((other, one, missing), (one, other, surplus)):
            entries = giver.pairing.entries(taker.me.account, sorted(ids), day=giver.day)
            taker.take(giver.me, entries)
        one.pairing.note_synced(other.me.account)
        other.pairing.note_synced(one.me.account)
        edge = {one.me.account, other.me.account}
        both = {
            clear
            for clear in self.counted[pair[0]] | self.counted[pair[1]]
            if any({debtor, creditor} == edge for debtor, creditor in clear.debts())
        }
        for place in pair:
            self.counted[place] |= both

    def see(self, state: PairState) -> PairState:
        self.states.add(state)
        return state

    pairs = st.sampled_from(PAIRS)

    @rule(pair=pairs, swapped=st.booleans(), days=st.integers(1, 45))
    def keeps(self, pair: tuple[int, int], swapped: bool, days: int) -> None:
        owner, holder = (ACTORS[place] for place in (pair[::-1] if swapped else pair))
        lease = lease_of(owner, holder, self.sequence(), day=self.day, days=days)
        self.leases.append((pair, lease))
        self.news(pair, lease, charge_of(lease, owner))

    def owner_of(self, lease: Lease) -> Actor:
        return next(actor for actor in ACTORS if actor.owner.public == lease.owner_key)

    @precondition(lambda self: self.leases)
    @rule(pick=st.integers(1, 4), releases=st.booleans(), vouch=st.booleans())
    def is_audited(self, pick: int, releases: bool, vouch: bool) -> None:
        pair, lease = self.leases[-min(pick, len(self.leases))]
        owner, day = self.owner_of(lease), self.day
        auditors = STRANGERS if vouch else [owner.owner]
        receipts = [receipt_of([lease], auditor, day, nonce=self.sequence()) for auditor in auditors]
        self.news(pair, *receipts, *([release_of(lease, owner)] if releases else []))

    @rule(pair=pairs, swapped=st.booleans(), byte_count=st.integers(1, 2**22))
    def serves(self, pair: tuple[int, int], swapped: bool, byte_count: int) -> None:
        donor, reader = (ACTORS[place] for place in (pair[::-1] if swapped else pair))
        day = self.day
        self.news(pair, served(donor, reader, day, byte_count, session=self.sequence()))

    @rule(pair=pairs)
    def pair_deals(self, pair: tuple[int, int]) -> None:
        self.deal(pair)

    @rule(days=st.sampled_from([1, 10, 31, 95]))
    def time_passes(self, days: int) -> None:
        self.time_passes_by(days)

    def time_passes_by(self, days: int) -> None:
        for account in self.accounts:
            account.day += days

    @rule(members=st.permutations(range(4)), length=st.sampled_from([3, 4]), amount=st.integers(1, 2**20))
    def clear_completes(self, members: list[int], length: int, amount: int) -> None:
        """Whoever signs last may keep it for years."""
        cycle = [ACTORS[member] for member in members[:length]]
        self.withheld.append(signed_clear(cycle, amount, number=self.sequence()))

    @precondition(lambda self: self.withheld)
    @rule(data=st.data())
    def clear_arrives(self, data: st.DataObject) -> None:
        """At some of its members, in this period or in a later one, once more or for the first time."""
        clear = data.draw(st.sampled_from(self.withheld))
        for place, account in enumerate(self.accounts):
            if account.me.account in clear.cycle and data.draw(st.booleans()):
                creditor = clear.creditor_of(account.me.account)
                account.tell(next(a for a in ACTORS if a.account == creditor), [clear])
                self.counted[place].add(clear)

    @rule(pair=pairs)
    def pair_meets(self, pair: tuple[int, int]) -> None:
        self.exchange(pair)

    @rule(pair=pairs, swapped=st.booleans())
    def pair_signs(self, pair: tuple[int, int], swapped: bool) -> None:
        self.exchange(pair)
        mine, far = (self.accounts[place] for place in (pair[::-1] if swapped else pair))
        for state in mine.pairing.propose(far.me.account, day=mine.day):
            self.see(state)
            with suppress(CreditError):  # one period at a time
                signed = far.pairing.countersign(mine.me.account, state, day=far.day)
                self.see(signed)
                mine.tell(far.me, [signed])
                self.shared[pair].add(signed)

    waits = st.sampled_from([0, 1, 35, 95])

    @rule(
        pair=pairs, swapped=st.booleans(), is_lost=st.booleans(), dies=st.booleans(), late=st.booleans(),
        days=waits,
    )  # fmt: skip
    def pair_closes(
        self, pair: tuple[int, int], swapped: bool, is_lost: bool, dies: bool, late: bool, days: int
    ) -> None:
        """The proposer may not hear of it, and whoever signed may die as soon as that is durable."""
        self.time_passes_by(days)
        self.exchange(pair)
        mine, far = (self.accounts[place] for place in (pair[::-1] if swapped else pair))
        try:
            found = mine.pairing.propose_close(far.me.account, day=mine.day)
        except CreditError:
            return
        if found is None:
            return
        state, fold = found
        self.see(state)
        try:
            signed = far.pairing.countersign(mine.me.account, state, fold=fold, day=far.day)
        except CreditError:
            return
        self.see(signed)
        self.told += [
            (place, other, entry)
            for place, other in (pair, pair[::-1])
            for entry in ((PairState.TYPE, signed.encode()), (FOLD_TAG, fold.encode()))
        ]
        if dies:
            far.crash()
        if is_lost and late:
            # Before it hears of it, it is told of a clear that the fold does not name.
            cycle = [mine.me, far.me, next(a for a in ACTORS[:3] if a not in (mine.me, far.me))]
            clear = signed_clear(cycle, self.sequence(), number=self.sequence())
            self.withheld.append(clear)
            mine.tell(far.me, [clear])
            self.counted[ACTORS.index(mine.me)].add(clear)
            self.exchange(pair)
        if not is_lost:
            mine.take(far.me, [(PairState.TYPE, signed.encode()), (FOLD_TAG, fold.encode())])
        for place in pair if late and not is_lost else ():
            for clear in self.counted[place]:  # what was folded comes again
                creditor = clear.creditor_of(ACTORS[place].account)
                self.accounts[place].tell(next(a for a in ACTORS if a.account == creditor), [clear])

    # What adversaries and accidents add.

    @rule(
        victim=st.integers(0, 2),
        lie=st.sampled_from(["more", "less owed", "later", "without a clear", "another clear", "again"]),
    )
    def liar_closes_in_its_favour(self, victim: int, lie: str) -> None:
        """Once there is something to close."""
        pair = (victim, 3)
        self.deal(pair)
        self.time_passes_by(95)
        self.exchange(pair)
        liar, honest = self.accounts[3], self.accounts[victim]
        try:
            found = liar.pairing.propose_close(honest.me.account, day=liar.day)
        except CreditError:
            return
        if found is None:
            return
        state, fold = found
        false = self.false_fold(fold, honest.me, lie)
        unsigned = replace(state, previous=false.fold_id(), low_signature=b"", high_signature=b"")
        try:
            honest.pairing.countersign(LIAR.account, unsigned.sign(LIAR.key), fold=false, day=honest.day)
        except (CreditError, ProtocolError):
            return
        raise AssertionError(f"an honest node signed a fold with {lie}")

    @staticmethod
    def false_fold(fold: Fold, victim: Actor, lie: str) -> Fold:
        def change(account: Actor, **changes: int) -> Fold:
            name = "low_side" if fold.low == account.account else "high_side"
            return replace(fold, **{name: replace(fold.side(account.account), **changes)})  # type: ignore[arg-type]

        match lie:
            case "more":
                side = fold.side(LIAR.account)
                return change(LIAR, served=side.served + 1)
            case "less owed":
                side = fold.side(victim.account)
                return change(victim, served=side.served + 1, gifts=side.gifts + 1)
            case "later":
                return replace(fold, period=fold.period + 1)
            case "without a clear":
                return replace(fold, clears=fold.clears[1:]) if fold.clears else replace(fold, previous=b"x")
            case "another clear":
                return replace(fold, clears=tuple(sorted({*fold.clears, b"c" * 32})))
            case _:
                return replace(fold, last_state=b"x" * 32)

    @rule(victim=st.integers(0, 2), total=st.integers(0, 2**30))
    def liar_forks_its_chain(self, victim: int, total: int) -> None:
        """Two states of one number, and a fold that nobody signed."""
        honest = self.accounts[victim]
        fold = honest.fold(LIAR)
        low, high = sorted((honest.me.account, LIAR.account))
        period = honest.day // 30
        for number in (0, 1):
            state = PairState(NETWORK, low, high, period, 901, b"", total, total + number).sign(LIAR.key)
            entries: list[EntryData] = [(PairState.TYPE, state.encode())]
            if fold is not None:
                entries.append((FOLD_TAG, replace(fold, period=fold.period + 1).encode()))
            honest.take(LIAR, entries)

    @rule(place=st.integers(0, 3))
    def account_crashes(self, place: int) -> None:
        self.accounts[place].crash()

    @rule(place=st.integers(0, 3))
    def account_comes_back_from_nothing(self, place: int) -> None:
        """All that left it is with the others; nothing else counts yet."""
        pairs = [pair for pair in PAIRS if place in pair]
        for pair in pairs:
            self.exchange(pair)
        for pair in pairs:  # a clear that one of them brought goes to the next
            self.exchange(pair)
        old = self.accounts[place]
        new = self.accounts[place] = Account(old.me)
        new.day = old.day
        for other in ACTORS:
            if other is not old.me:
                try:
                    proposed = new.pairing.propose(other.account, day=new.day)
                except CreditError:
                    continue
                assert not proposed
        for _ in range(2):
            for pair in pairs:
                self.exchange(pair)

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def everything_comes_again(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, 3))
        mine = [(other, entry) for to, other, entry in self.told if to == place]
        for other, entry in data.draw(st.permutations(mine))[:40]:
            self.accounts[place].take(ACTORS[other], [entry])

    # What must hold.

    @invariant()
    def every_end_says_what_all_records_ever_said(self) -> None:
        """Invariants 2, 6, 7 and 9, and through them 1: one set of records gives opposite nets."""
        for pair in PAIRS:
            for here, there in (pair, pair[::-1]):
                edge = {ACTORS[here].account, ACTORS[there].account}
                clears = {
                    clear
                    for clear in self.counted[here]
                    if any({debtor, creditor} == edge for debtor, creditor in clear.debts())
                }
                whole = Records(frozenset((*self.shared[pair], *clears)))  # verified when they came
                account = self.accounts[here]
                expected = balance(pair_of(ACTORS[pair[0]], ACTORS[pair[1]]), whole, today=account.day)
                found = account.balance(ACTORS[there])
                assert (found.low, found.high) == (expected.low, expected.high)

    @invariant()
    def clears_move_nobody(self) -> None:
        """Invariants 2 and 7: at each node what clears took from its claims they took from its debts."""
        for account in self.accounts:
            claims = debts = 0
            for other in ACTORS:
                if other is not account.me:
                    found = account.balance(other)
                    claims += found.given_by(account.me.account).cleared
                    debts += found.given_by(other.account).cleared
            assert claims == debts

    @invariant()
    def no_honest_account_has_forked(self) -> None:
        """Invariant 8."""
        for one, other in combinations(ACTORS, 2):
            accounts = {one.account, other.account}
            states = frozenset(state for state in self.states if {state.low, state.high} == accounts)
            forks = Chain(one.account, other.account, states, True).forks()
            assert all(fork.signer == LIAR.account for fork in forks)
        for account in self.accounts:
            proofs = account.ledger.store.read(lambda view: list(view.proofs()))
            assert all(proof.signer == LIAR.account for _, proof in proofs)

    @invariant()
    def totals_only_grow(self) -> None:
        """Invariant 11, over closings and losses too."""
        for here, account in enumerate(self.accounts):
            for there, other in enumerate(ACTORS):
                if here != there:
                    found = account.balance(other)
                    for giver in (account.me.account, other.account):
                        before = self.totals.get((here, there, giver), {})
                        now = dict(found.given_by(giver).by_period)
                        assert all(now.get(period, 0) >= total for period, total in before.items())
                        self.totals[here, there, giver] = now

    def teardown(self) -> None:
        """In the end all who meet agree, and both have closed the same."""
        for _ in range(3):
            for pair in PAIRS:
                self.exchange(pair)
        for pair in PAIRS:
            one, other = (self.accounts[place] for place in pair)
            assert one.kept(other.me) == other.kept(one.me)
            assert one.fold(other.me) == other.fold(one.me)


TestClosingPeriods = ClosingPeriods.TestCase
TestClosingPeriods.settings = settings(
    max_examples=300 if FULL else 30, stateful_step_count=60 if FULL else 30, deadline=None
)
