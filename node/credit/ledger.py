"""The ledger of one account: pairs as sets of records, and how each account stands. Layer 3, over its store.

Synchronous and used by one thread at a time. Records of closed periods are dropped in the transaction that
keeps what they came to. Invariants: a row is what its pair's book says on the day it was
last looked at, and is looked at again when a record comes in or when time may have changed it; books are a
cache of the store, dropped when a transaction fails. Source: credit.md, "Records", "Spending".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
    PairRecord,
    entry_of,
)
from node.credit.pair_book import PairBook
from node.credit.pair_ledger import LATE_PASS_DAYS, Pair
from node.credit.units import SERVE_MICROS_PER_MIB, granted_manifest_bytes, period_of, served_micros
from node.crypto.hashing import blake3_256
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


@dataclass(frozen=True, slots=True)
class Gift:
    """The holder's word that nothing is owed for a lease: it only ever lowers what the holder claims."""

    lease_record: bytes

    def entry(self, period: int) -> Entry:
        """As it stands in the pair's set."""
        return Entry(GIFT_TAG, blake3_256(b"gift" + self.lease_record), self.lease_record, period)


_Session = tuple[bytes, PeerId, AccountId, LeaseId]


@dataclass(slots=True)
class _Terms:
    """What a pair's book reads, growing with the records."""

    pair: Pair
    manifest_bytes: dict[SegmentId, int]
    gifts: set[LeaseId]
    states: dict[bytes, PairState]
    """Pair states, half-signed ones included, by the id of their entry."""
    served: dict[_Session, tuple[bytes, int]]
    """The entry of the largest receipt of each session, and its bytes."""
    ids: set[bytes]
    """Of all entries."""
    fold: Fold | None = None
    """What closed periods came to."""

    @property
    def closed(self) -> int:
        """The last closed period, -1 for none."""
        return -1 if self.fold is None else self.fold.period


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
        self._books: OrderedDict[AccountId, tuple[PairBook, _Terms]] = OrderedDict()
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
            known = self._load(view, other)
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
        for record in _in_order(records):
            if isinstance(record, Gift):
                new += self._add_gift(change, other, record, terms)
                continue
            if is_over(record, terms.fold):
                continue
            entry = entry_of(record, self.period_of(change, other, record))
            if entry.entry_id in terms.ids or not self._note(change, other, record, entry, terms):
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
                lease = self._lease_of(view, other, record)
                return NO_LAPSE if lease is None else period_of(lease.end_day + LATE_PASS_DAYS)
            case PairState():
                return record.period
            case Clear():
                return NO_LAPSE
            case _:
                return period_of(record.day)

    def _lease_of(self, view: LedgerView, other: AccountId, record: Charge | Release) -> Lease | None:
        if isinstance(record, Charge):
            entry = view.entry(other, record.lease_record)
        else:
            place = view.lease_place(record.lease_id, record.holder)
            entry = None if place is None or place[0] != other else view.entry(other, place[1])
        found = None if entry is None else entry.record(self.store.network)
        return found if isinstance(found, Lease) else None

    # --- books --------------------------------------------------------------------------------------------

    def _load(self, view: LedgerView, other: AccountId) -> tuple[PairBook, _Terms]:
        terms = self._terms(view, other)
        records: list[PairRecord | Gift] = []
        gifts: list[bytes] = []
        for entry in view.entries(other):
            terms.ids.add(entry.entry_id)
            if entry.tag == GIFT_TAG:
                gifts.append(entry.data)
                continue
            if entry.tag == FOLD_TAG:
                terms.fold = Fold.decode(entry.data, network=self.store.network)
                continue
            record = entry.record(self.store.network)
            records.append(record)
            if isinstance(record, PairState):
                terms.states[entry.entry_id] = record
            elif isinstance(record, ServeReceipt):
                terms.served[_session(record)] = (entry.entry_id, record.byte_count)
        leases = {record.record_id(): record for record in records if isinstance(record, Lease)}
        terms.gifts.update(leases[gift].lease_id for gift in gifts if gift in leases)
        for lease in leases.values():
            if lease.is_granted:
                terms.manifest_bytes[lease.segment_id] = granted_manifest_bytes(lease)
        for each in records:
            if isinstance(each, Charge) and each.lease_record in leases:
                terms.manifest_bytes[leases[each.lease_record].segment_id] = each.manifest_bytes
        book = PairBook(terms.pair, terms.fold)
        for each in _in_order(records):
            if isinstance(each, Gift):
                continue
            if not isinstance(each, PairState) or (each.low_signature and each.high_signature):
                book.add(each)
        return book, terms

    def _terms(self, view: LedgerView, other: AccountId) -> _Terms:
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
        return _Terms(pair, manifest_bytes, gifts, {}, {}, set())

    def _note(
        self, change: LedgerChange, other: AccountId, record: PairRecord, entry: Entry, terms: _Terms
    ) -> bool:
        """Take in what a record says beside its amounts; whether it is worth keeping."""
        match record:
            case Lease():
                change.place_lease(record, other)
                if record.is_granted:
                    terms.manifest_bytes.setdefault(record.segment_id, granted_manifest_bytes(record))
            case Charge():
                lease = self._lease_of(change, other, record)
                if lease is not None:
                    terms.manifest_bytes[lease.segment_id] = record.manifest_bytes
            case ServeReceipt():
                session = _session(record)
                old, byte_count = terms.served.get(session, (b"", -1))
                if record.byte_count <= byte_count:
                    return False
                if old:
                    self._forget_entry(change, other, old, terms)
                terms.served[session] = (entry.entry_id, record.byte_count)
            case PairState():
                return self._note_state(change, other, record, entry, terms)
            case _:
                pass
        return True

    def _note_state(
        self, change: LedgerChange, other: AccountId, state: PairState, entry: Entry, terms: _Terms
    ) -> bool:
        """Keep a state in the place of what it supersedes, and the newest ones of a pair."""
        same = {name: each for name, each in terms.states.items() if each.record_id() == state.record_id()}
        if any(each.low_signature and each.high_signature for each in same.values()):
            return False
        terms.states[entry.entry_id] = state
        superseded = set(same) if state.low_signature and state.high_signature else set()
        # The state that closed the last period stays: for its sake whoever lost its disk believes the fold.
        closing = b"" if terms.fold is None else terms.fold.fold_id()
        ranked = sorted(
            ((name, each) for name, each in terms.states.items() if not closing or each.previous != closing),
            key=lambda item: (item[1].period, item[1].sequence, item[0]),
        )
        superseded.update(name for name, _ in ranked[: -limits.PAIR_STATES_KEPT_MAX])
        for name in superseded - {entry.entry_id}:
            self._forget_entry(change, other, name, terms)
            terms.states.pop(name, None)
        if entry.entry_id in superseded:
            terms.states.pop(entry.entry_id)
            return False
        return True

    def _forget_entry(self, change: LedgerChange, other: AccountId, name: bytes, terms: _Terms) -> None:
        change.drop_entry(other, name)
        terms.ids.discard(name)

    def _add_gift(self, change: LedgerChange, other: AccountId, gift: Gift, terms: _Terms) -> int:
        entry = change.entry(other, gift.lease_record)
        lease = None if entry is None else entry.record(self.store.network)
        if not isinstance(lease, Lease):
            return 0
        mark = gift.entry(period_of(lease.end_day + LATE_PASS_DAYS))
        terms.gifts.add(lease.lease_id)
        terms.ids.add(mark.entry_id)
        return change.add_entry(other, mark)


def _amounts(totals: tuple[dict[int, int], dict[int, int]]) -> tuple[Amounts, Amounts]:
    return amounts_of(totals[0]), amounts_of(totals[1])


def _session(receipt: ServeReceipt) -> _Session:
    return receipt.session, receipt.donor, receipt.reader, receipt.lease_id


def _charged(entry: Entry, network: str) -> bytes | None:
    record = entry.record(network)
    return record.lease_record if isinstance(record, Charge) else None


_ORDER: Final = {Lease: 0, Gift: 1, Charge: 2}


def _in_order(records: Iterable[PairRecord | Gift]) -> Sequence[PairRecord | Gift]:
    """Leases, then what is said of them, then the rest."""
    return sorted(records, key=lambda record: _ORDER.get(type(record), 3))
