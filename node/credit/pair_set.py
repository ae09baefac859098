"""A pair's set in the store: reading it, and what a new record puts aside. Layer 3, over the store.

Invariants: a book that was read again is the book that was there; of a serving session the largest receipt is
kept, of a pair the newest states and the one that closed its last period. Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node import limits
from node.credit.fold import FOLD_TAG, Fold
from node.credit.ledger_store import GIFT_TAG, Entry, LedgerChange, LedgerView
from node.credit.pair_book import PairBook
from node.credit.pair_records import Pair, PairRecord
from node.credit.units import granted_manifest_bytes, period_of
from node.credit.vesting import LATE_PASS_DAYS
from node.crypto.hashing import blake3_256
from node.records.charge import Charge
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import ServeReceipt
from node.units import AccountId, LeaseId, PeerId, SegmentId


@dataclass(frozen=True, slots=True)
class Gift:
    """The holder's word that nothing is owed for a lease: it only ever lowers what the holder claims."""

    lease_record: bytes

    def entry(self, period: int) -> Entry:
        """As it stands in the pair's set."""
        return Entry(GIFT_TAG, blake3_256(b"gift" + self.lease_record), self.lease_record, period)


_Session = tuple[bytes, PeerId, AccountId, LeaseId]


@dataclass(slots=True)
class Terms:
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


def lease_of(view: LedgerView, other: AccountId, record: Charge | Release) -> Lease | None:
    """The lease that a record of the pair is about; None where it is not there."""
    if isinstance(record, Charge):
        entry = view.entry(other, record.lease_record)
    else:
        place = view.lease_place(record.lease_id, record.holder)
        entry = None if place is None or place[0] != other else view.entry(other, place[1])
    found = None if entry is None else entry.record(view.network)
    return found if isinstance(found, Lease) else None


def load(view: LedgerView, other: AccountId, terms: Terms) -> PairBook:
    """The book of a pair from the store; `terms` come to what its records say."""
    records: list[PairRecord | Gift] = []
    gifts: list[bytes] = []
    for entry in view.entries(other):
        terms.ids.add(entry.entry_id)
        if entry.tag == GIFT_TAG:
            gifts.append(entry.data)
            continue
        if entry.tag == FOLD_TAG:
            terms.fold = Fold.decode(entry.data, network=view.network)
            continue
        record = entry.record(view.network)
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
    for each in in_order(records):
        if isinstance(each, Gift):
            continue
        if not isinstance(each, PairState) or (each.low_signature and each.high_signature):
            book.add(each)
    return book


def note(change: LedgerChange, other: AccountId, record: PairRecord, entry: Entry, terms: Terms) -> bool:
    """Take in what a record says beside its amounts; whether it is worth keeping."""
    match record:
        case Lease():
            change.place_lease(record, other)
            if record.is_granted:
                terms.manifest_bytes.setdefault(record.segment_id, granted_manifest_bytes(record))
        case Charge():
            lease = lease_of(change, other, record)
            if lease is not None:
                terms.manifest_bytes[lease.segment_id] = record.manifest_bytes
        case ServeReceipt():
            session = _session(record)
            old, byte_count = terms.served.get(session, (b"", -1))
            if record.byte_count <= byte_count:
                return False
            if old:
                _forget_entry(change, other, old, terms)
            terms.served[session] = (entry.entry_id, record.byte_count)
        case PairState():
            return _note_state(change, other, record, entry, terms)
        case _:
            pass
    return True


def _note_state(change: LedgerChange, other: AccountId, state: PairState, entry: Entry, terms: Terms) -> bool:
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
        _forget_entry(change, other, name, terms)
        terms.states.pop(name, None)
    if entry.entry_id in superseded:
        terms.states.pop(entry.entry_id)
        return False
    return True


def _forget_entry(change: LedgerChange, other: AccountId, name: bytes, terms: Terms) -> None:
    change.drop_entry(other, name)
    terms.ids.discard(name)


def add_gift(change: LedgerChange, other: AccountId, gift: Gift, terms: Terms) -> int:
    """Put the holder's word for a lease into the set; how many entries are new."""
    entry = change.entry(other, gift.lease_record)
    lease = None if entry is None else entry.record(change.network)
    if not isinstance(lease, Lease):
        return 0
    mark = gift.entry(period_of(lease.end_day + LATE_PASS_DAYS))
    terms.gifts.add(lease.lease_id)
    terms.ids.add(mark.entry_id)
    return change.add_entry(other, mark)


def _session(receipt: ServeReceipt) -> _Session:
    return receipt.session, receipt.donor, receipt.reader, receipt.lease_id


_ORDER: Final = {Lease: 0, Gift: 1, Charge: 2}


def in_order(records: Iterable[PairRecord | Gift]) -> Sequence[PairRecord | Gift]:
    """Leases, then what is said of them, then the rest."""
    return sorted(records, key=lambda record: _ORDER.get(type(record), 3))
