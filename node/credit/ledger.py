"""The ledger of one account: pairs as sets of records, and how each account stands. Layer 3, over its store.

Synchronous and used by one thread at a time. Records of closed periods are dropped in the transaction that
keeps what they came to. Invariants: a row is what its pair's book says on the day it was
last looked at, and is looked at again when a record comes in or when time may have changed it; books are a
cache of the store, dropped when a transaction fails. Source: credit.md, "Records", "Spending".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, TypeVar

from node import limits
from node.credit.admission import Policy, Standing
from node.credit.closing import fold_of, is_over, last_closed, split, stood_for
from node.credit.fold import FOLD_TAG, Amounts, Fold, amounts_of
from node.credit.ledger_store import (
    GIFT_TAG,
    AccountRow,
    Entry,
    LedgerChange,
    LedgerStore,
    LedgerView,
    entry_of,
)
from node.credit.pair_book import PairBook
from node.credit.pair_records import Pair, PairRecord
from node.credit.pair_set import Gift, Terms, add_gift, in_order, lease_of, load, note
from node.credit.units import SERVE_MICROS_PER_MIB, period_of, served_micros
from node.credit.vesting import LATE_PASS_DAYS
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId, SegmentId

T = TypeVar("T")

IsAssigned = Callable[[AuditReceipt, Lease], bool]
NO_LAPSE: Final = limits.CREDIT_PERIOD_MAX
"""The period of an entry that closes with none."""


class Ledger:
    """All pairs of `me`."""

    def __init__(
        self,
        store: LedgerStore,
        *,
        me: AccountId,
        peer_id: PeerId,
        is_assigned: IsAssigned = lambda receipt, lease: False,
        serve_micros_per_mib: int = SERVE_MICROS_PER_MIB,
        books_max: int = limits.PAIR_BOOKS_MAX,
    ) -> None:
        """`is_assigned` says whether a receipt's auditor was due to audit that lease on that day."""
        self.store = store
        self.me = me
        self._peer_id = peer_id
        self._is_assigned = is_assigned
        self._serve_micros_per_mib = serve_micros_per_mib
        self._books: OrderedDict[AccountId, tuple[PairBook, Terms]] = OrderedDict()
        self._books_max = books_max
        self._policy = Policy(0, 0, 0, 0)
        self._today = 0

    @property
    def policy(self) -> Policy:
        """The donor's caps."""
        return self._policy

    def set_policy(self, policy: Policy) -> None:
        """Give under these caps from now on; the sums are made anew where they were made under others."""
        self._policy = policy
        key = repr(policy).encode()

        def change(ledger: LedgerChange) -> None:
            if ledger.policy_key() != key:
                ledger.recount(policy, key)

        self.store.update(change)

    def today(self, day: int) -> int:
        """The day, as far as this ledger has come: a calendar that steps back does not undo anything."""
        self._today = max(self._today, day)
        return self._today

    def update(self, change: Callable[[LedgerChange], T]) -> T:
        """Run and commit a change. Books that it may have touched in vain are dropped: those of a change that
        fails, and of one that runs again because the store had to grow."""
        runs = 0

        def run(ledger: LedgerChange) -> T:
            nonlocal runs
            runs += 1
            if runs > 1:
                self._books.clear()
            return change(ledger)

        try:
            return self.store.update(run)
        except BaseException:
            self._books.clear()
            raise

    # --- one pair -----------------------------------------------------------------------------------------

    def book(self, view: LedgerView, other: AccountId) -> PairBook:
        """The book of the pair with `other`; from the store if it is not at hand."""
        known = self._books.get(other)
        if known is None:
            terms = self._terms(view, other)
            known = load(view, other, terms), terms
            self._books[other] = known
            if len(self._books) > self._books_max:
                self._books.popitem(last=False)
        self._books.move_to_end(other)
        return known[0]

    def is_assigned(self, receipt: AuditReceipt, lease: Lease) -> bool:
        """Whether the receipt's auditor was due to audit that lease on that day."""
        return self._is_assigned(receipt, lease)

    def peers(self, view: LedgerView, other: AccountId) -> tuple[frozenset[PeerId], frozenset[PeerId]]:
        """Peers that give on behalf of this account, and of the other one."""
        pair = self.book(view, other).terms
        return (pair.low_peers, pair.high_peers) if pair.low == self.me else (pair.high_peers, pair.low_peers)

    def reserve(self, change: LedgerChange, account: AccountId, micros: int) -> None:
        """What clears that are not complete may still take off the debt to an account."""
        row = change.account(account)
        standing = replace(row.standing, reserved=micros)
        change.set_account(account, replace(row, standing=standing), self._policy)

    def freeze(self, change: LedgerChange, account: AccountId, *, until: int) -> None:
        """Give an account no unsecured credit before that day."""
        change.unlist_reader(account)
        row = change.account(account)
        change.set_account(account, replace(row, frozen_until=max(until, row.frozen_until)), self._policy)

    def ids(self, view: LedgerView, other: AccountId) -> set[bytes]:
        """The ids of all entries of the pair's set."""
        self.book(view, other)
        return self._books[other][1].ids

    def states(self, view: LedgerView, other: AccountId) -> frozenset[PairState]:
        """The pair's states, half-signed ones included."""
        self.book(view, other)
        return frozenset(self._books[other][1].states.values())

    def forget_book(self, other: AccountId) -> None:
        """Read the pair's set again when it is needed: its terms have changed."""
        self._books.pop(other, None)

    def add(
        self, change: LedgerChange, other: AccountId, records: Iterable[PairRecord | Gift], *, day: int
    ) -> int:
        """Put verified records into the pair's set and bring the account's row up to it; how many are new."""
        book = self.book(change, other)
        terms = self._books[other][1]
        new, before = 0, len(terms.ids)
        records = list(records)
        for record in in_order(records):
            if isinstance(record, Gift):
                new += add_gift(change, other, record, terms)
                continue
            if is_over(record, terms.fold):
                continue
            entry = entry_of(record, self.period_of(change, other, record))
            if entry.entry_id in terms.ids or not note(change, other, record, entry, terms):
                continue
            change.add_entry(other, entry)
            terms.ids.add(entry.entry_id)
            new += 1
            if not isinstance(record, PairState) or (record.low_signature and record.high_signature):
                book.add(record)
        if new:
            row = self.refresh(change, other, day=day)
            is_new = not before and not row.line and not row.frozen_until
            only_reads = all(self._is_reading(record, other) for record in records)
            most = served_micros(limits.READER_BYTES_MAX, self._serve_micros_per_mib)
            if only_reads and row.received < most and (is_new or change.is_reader(other)):
                change.list_reader(other, more_rows=len(terms.ids) - before)
                self._bound_readers(change, keep=other)
            else:
                change.unlist_reader(other)
        return new

    def _is_reading(self, record: PairRecord | Gift, other: AccountId) -> bool:
        """Whether a record is a receipt for what the other one read here, or a state that it alone signed."""
        if isinstance(record, PairState):
            return not record.is_signed_by(self.me)
        return isinstance(record, ServeReceipt) and record.reader == other

    def _bound_readers(self, change: LedgerChange, *, keep: AccountId) -> None:
        """Forget the oldest accounts that did nothing but read, where there are too many of them."""
        while change.reader_rows() > limits.READER_ROWS_MAX:
            oldest = change.oldest_reader()
            if oldest is None or oldest == keep:
                return
            change.forget_account(oldest, self._policy)
            self.forget_book(oldest)

    # --- closed periods -----------------------------------------------------------------------------------

    def fold(self, view: LedgerView, other: AccountId) -> Fold | None:
        """What the closed periods of a pair came to; None before the first is closed."""
        self.book(view, other)
        return self._books[other][1].fold

    def fold_due(
        self, view: LedgerView, other: AccountId, *, period: int, last_state: bytes, day: int
    ) -> Fold | None:
        """What the pair's records up to a period come to; None where none of them may go."""
        today = self.today(day)
        self.book(view, other)
        terms = self._books[other][1]
        if not terms.closed < period <= last_closed(today):
            return None
        ended = split(self._evidence(view, other), terms.gifts, period, before=terms.fold).ended
        if not ended:
            return None
        agreed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        for state in terms.states.values():
            if state.low_signature and state.high_signature:
                for totals, total in zip(agreed, (state.low_to_high, state.high_to_low), strict=True):
                    totals[state.period] = max(totals.get(state.period, 0), total)
        found = fold_of(
            terms.pair, ended, terms.fold, network=self.store.network, period=period,
            last_state=last_state, agreed=_amounts(agreed), today=today,
        )  # fmt: skip
        return found if len(found.encode()) <= limits.FOLD_BYTES_MAX else None

    def close(self, change: LedgerChange, other: AccountId, fold: Fold, *, day: int) -> bool:
        """Keep a fold that both have signed and drop the records that it stands for; whether it is news."""
        self.book(change, other)
        terms = self._books[other][1]
        if fold.period <= terms.closed:
            return False
        gone = stood_for(self._evidence(change, other), terms.gifts, fold)
        leases = {record.record_id() for record in gone if isinstance(record, Lease)}
        for record in gone:
            change.drop_entry(other, record.record_id())
            if isinstance(record, Lease):
                change.forget_lease(record)
        for entry in list(change.entries(other)):
            if entry.tag == FOLD_TAG or (entry.tag == GIFT_TAG and entry.data in leases):
                change.drop_entry(other, entry.entry_id)
        change.add_entry(other, Entry(FOLD_TAG, fold.fold_id(), fold.encode(), NO_LAPSE))
        self.forget_book(other)
        self.refresh(change, other, day=day)
        return True

    def _evidence(self, view: LedgerView, other: AccountId) -> list[PairRecord]:
        entries = (entry for entry in view.entries(other) if entry.tag not in (GIFT_TAG, FOLD_TAG))
        return [entry.record(self.store.network) for entry in entries]

    def withdraw(self, change: LedgerChange, other: AccountId, lease_record: bytes, *, day: int) -> None:
        """Take a lease that was never kept out of the pair's set, with its charge and gift."""
        for entry in list(change.entries(other)):
            is_charge = entry.tag == Charge.TYPE and lease_record == _charged(entry, self.store.network)
            is_gift = entry.tag == GIFT_TAG and entry.data == lease_record
            if is_charge or is_gift or entry.entry_id == lease_record:
                change.drop_entry(other, entry.entry_id)
                if entry.entry_id == lease_record:
                    lease = entry.record(self.store.network)
                    assert isinstance(lease, Lease)
                    change.forget_lease(lease)
        self.forget_book(other)
        row = self.refresh(change, other, day=day)
        if not self.ids(change, other) and not row.line and not row.frozen_until:
            change.list_reader(other)

    def refresh(self, change: LedgerChange, other: AccountId, *, day: int) -> AccountRow:
        """Bring the account's row up to its book."""
        book, today = self.book(change, other), self.today(day)
        balance = book.balance(today=today)
        old = change.account(other)
        ours, theirs = balance.given_by(self.me), balance.given_by(other)
        standing = replace(
            old.standing,
            owes=-balance.confirmed(other),
            served=min(ours.served, max(0, -balance.confirmed(other))),
            unvested=book.unvested(other, today=today),
            line=max(0, old.line - book.gifts_open(other, today=today)),
            granted=book.granted_open(other, today=today),
            is_known=self._policy.knows(theirs.total - theirs.vouched + ours.cleared),
        )
        row = replace(
            old,
            standing=standing,
            due=book.next_change(today=today) or 0,
            given=theirs.total,
            received=ours.total,
            gifts=ours.gifts,
        )
        return change.set_account(other, row, self._policy)

    def refresh_due(self, change: LedgerChange, *, day: int) -> None:
        """Look again at every account whose row time has changed."""
        for account in change.due(self.today(day)):
            self.refresh(change, account, day=day)

    def place(self, change: LedgerChange, other: AccountId, *, is_local: bool, subnet: str | None) -> None:
        """Remember where an account asks from; one with open claims stays in the subnet of the oldest."""
        row = change.account(other)
        if row.standing.position > 0:
            subnet = row.standing.subnet
        standing = replace(row.standing, is_local=is_local, subnet=subnet)
        change.set_account(other, replace(row, standing=standing), self._policy)

    def set_line(self, other: AccountId, micros: int, *, day: int) -> AccountRow:
        """Set a friend's line on this disk."""

        def change(ledger: LedgerChange) -> AccountRow:
            ledger.unlist_reader(other)
            ledger.set_account(other, replace(ledger.account(other), line=micros), self._policy)
            return self.refresh(ledger, other, day=day)

        return self.update(change)

    def standing(self, view: LedgerView, account: AccountId, *, day: int) -> Standing:
        """How an account stands on that day, running uploads aside."""
        row = view.account(account)
        return replace(row.standing, is_frozen=self.today(day) < row.frozen_until)

    def learn(self, cert: DeviceCert) -> bool:
        """Remember a certificate that its own peer has shown, verified; whether it is news.

        The newest epochs are kept; older machines of an account may have given on its behalf.
        """

        def change(ledger: LedgerChange) -> bool:
            known = ledger.certs(cert.account)
            if any((c.peer_id, c.epoch) == (cert.peer_id, cert.epoch) and c.expires_s >= cert.expires_s
                   for c in known):  # fmt: skip
                return False
            ledger.set_account_of(cert.peer_id, cert.account)
            others = [c for c in known if (c.peer_id, c.epoch) != (cert.peer_id, cert.epoch)]
            newest = sorted([*others, cert], key=lambda c: -c.epoch)
            ledger.set_certs(cert.account, tuple(newest[: limits.DEVICE_CERTS_PER_ACCOUNT_MAX]))
            if cert.account != self.me and not known and ledger.account(cert.account) == AccountRow():
                ledger.list_reader(cert.account)
                self._bound_readers(ledger, keep=cert.account)
            return True

        is_news = self.store.update(change)
        if is_news:
            self.forget_book(cert.account)
        return is_news

    def period_of(self, view: LedgerView, other: AccountId, record: PairRecord) -> int:
        """The period with whose closing a record may go."""
        match record:
            case Lease():
                return period_of(record.end_day + LATE_PASS_DAYS)
            case Charge() | Release():
                lease = lease_of(view, other, record)
                return NO_LAPSE if lease is None else period_of(lease.end_day + LATE_PASS_DAYS)
            case PairState():
                return record.period
            case Clear():
                return NO_LAPSE
            case _:
                return period_of(record.day)

    # --- books --------------------------------------------------------------------------------------------

    def _terms(self, view: LedgerView, other: AccountId) -> Terms:
        mine = {self._peer_id, *(cert.peer_id for cert in view.certs(self.me))}
        theirs = {cert.peer_id for cert in view.certs(other)} - mine
        low, high = sorted((self.me, other))
        manifest_bytes: dict[SegmentId, int] = {}
        gifts: set[LeaseId] = set()
        pair = Pair(
            low, high,
            frozenset(mine if low == self.me else theirs),
            frozenset(theirs if low == self.me else mine),
            manifest_bytes, self._is_assigned, gifts, self._serve_micros_per_mib,
        )  # fmt: skip
        return Terms(pair, manifest_bytes, gifts, {}, {}, set())


def _amounts(totals: tuple[dict[int, int], dict[int, int]]) -> tuple[Amounts, Amounts]:
    return amounts_of(totals[0]), amounts_of(totals[1])


def _charged(entry: Entry, network: str) -> bytes | None:
    record = entry.record(network)
    return record.lease_record if isinstance(record, Charge) else None
