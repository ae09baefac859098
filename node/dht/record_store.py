"""Everything of the DHT that outlives a restart, in tables of the KeyValue port. Layer 3.

Tables: `dht_providers`, `dht_values` (records of others), `dht_peers` (who stored them: addresses and
quotas), `dht_expiry` (what to drop when), `dht_restore` and `dht_restore_of` (which values to store again
when), `dht_provided` (what this node announces, in key space order), `dht_contacts` (the routing table at its
last save) and `dht_meta`.

Changes take a transaction, so that many commit at once; reads open a short one. Invariants: the counts in
`dht_peers` equal the records that exist; every record has exactly one entry in `dht_expiry`, every value that
nodes keep alive one in `dht_restore`; no call touches more than a bounded number of items, whatever is
stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from node import limits, wire
from node.dht.distance import KEY_SPACE, key_of
from node.dht.records import (
    ProviderRecord,
    ValueRecord,
    ValueRules,
    provider_is_admitted,
    value_is_admitted,
)
from node.ports import KeyValue, ReadTransaction, WriteTransaction
from node.units import Contact, Multiaddr, PeerId

PROVIDERS = "dht_providers"
VALUES = "dht_values"
PEERS = "dht_peers"
EXPIRY = "dht_expiry"
RESTORE = "dht_restore"
RESTORE_OF = "dht_restore_of"
PROVIDED = "dht_provided"
CONTACTS = "dht_contacts"
META = "dht_meta"

_SWEEP = b"sweep"
_PROVIDER_KIND = b"p"
_VALUE_KIND = b"v"
_ENTRY_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """How much is stored."""

    providers: int
    values: int
    provided: int


@dataclass(slots=True)
class _Sender:
    """Someone whose records are kept."""

    provider_count: int
    value_count: int
    addresses: tuple[Multiaddr, ...]


class RecordStore:
    """Records, contacts and the sweep's place."""

    def __init__(self, key_values: KeyValue) -> None:
        self._key_values = key_values

    # --- records of others ----------------------------------------------------------------------------

    def providers(self, key: bytes, *, now_s: int) -> list[Contact]:
        """Who announced a key and has not expired."""
        prefix = _provider_prefix(key)
        with self._key_values.view() as transaction:
            found = []
            for item, value in transaction.scan(PROVIDERS, prefix):
                if int.from_bytes(value, "big") > now_s:
                    provider = PeerId(item[len(prefix) :])
                    sender = _sender(transaction, provider)
                    found.append(Contact(provider, sender.addresses if sender else ()))
            return found

    def add_provider(self, transaction: WriteTransaction, record: ProviderRecord, *, now_s: int) -> bool:
        """Store or refresh a provider record; False if a quota leaves no room."""
        provider = record.provider.peer_id
        prefix = _provider_prefix(record.key)
        item = prefix + provider
        sender = _sender(transaction, provider) or _Sender(0, 0, ())
        known = transaction.get(PROVIDERS, item)
        of_key = 0
        if known is None:
            for other, value in list(transaction.scan(PROVIDERS, prefix)):
                if int.from_bytes(value, "big") <= now_s:
                    self._drop_provider(transaction, other, value)
                else:
                    of_key += 1
        admitted = provider_is_admitted(
            is_known=known is not None,
            of_key=of_key,
            of_peer=sender.provider_count,
            total=transaction.count(PROVIDERS),
        )
        if not admitted:
            return False
        if known is None:
            sender.provider_count += 1
        else:
            transaction.delete(EXPIRY, known + _PROVIDER_KIND + item)
        expires = record.expires_s.to_bytes(8, "big")
        sender.addresses = record.provider.addresses or sender.addresses
        transaction.put(PROVIDERS, item, expires)
        transaction.put(EXPIRY, expires + _PROVIDER_KIND + item, b"")
        _put_sender(transaction, provider, sender)
        return True

    def value(self, key: bytes, *, now_s: int) -> ValueRecord | None:
        """The value of a key, unless it has expired."""
        with self._key_values.view() as transaction:
            stored = _value(transaction, key)
        if stored is None or stored[0].expires_s <= now_s:
            return None
        return stored[0]

    def put_value(
        self,
        transaction: WriteTransaction,
        record: ValueRecord,
        *,
        sender_id: PeerId,
        rules: ValueRules,
        due_s: int | None = None,
    ) -> bool:
        """Store a value that `rules` accepted; False if a better one is stored or a quota leaves no room.

        The same value again renews its time. `due_s` is when this node is to store it again.
        """
        stored = _value(transaction, record.key)
        if stored is None:
            payer_id = sender_id
        else:
            old, old_payer_id = stored
            is_same = old.value == record.value
            is_live = old.expires_s > record.received_s
            if is_live and not is_same and not rules.is_better(record.key, record.value, old.value):
                return False
            payer_id = old_payer_id if is_same else sender_id
        if stored is None or payer_id != old_payer_id:
            payer = _sender(transaction, payer_id)
            others = transaction.count(VALUES) - (stored is not None)
            if not value_is_admitted(of_peer=payer.value_count if payer else 0, total=others):
                return False
            self._count_value(transaction, payer_id, 1)
            if stored is not None:
                self._count_value(transaction, old_payer_id, -1)
        if stored is not None:
            transaction.delete(EXPIRY, _value_expiry(old))
        _put_value(transaction, record, payer_id)
        transaction.put(EXPIRY, _value_expiry(record), b"")
        self._set_due(transaction, record.key, due_s if record.is_restored else None)
        return True

    def due_values(self, *, now_s: int, count_max: int) -> list[ValueRecord]:
        """Up to `count_max` values whose time has come to be stored again, and which still hold."""
        found: list[ValueRecord] = []
        with self._key_values.view() as transaction:
            for item, _ in transaction.scan(RESTORE):
                if int.from_bytes(item[:8], "big") > now_s or len(found) == count_max:
                    break
                stored = _value(transaction, item[8:])
                if stored is not None and stored[0].expires_s > now_s:
                    found.append(stored[0])
        return found

    def restored(
        self, transaction: WriteTransaction, record: ValueRecord, *, is_kept: bool, due_s: int
    ) -> None:
        """After a value was stored again: whether it stays here too, and then until when it rests.

        Nothing happens to one that was replaced meanwhile.
        """
        stored = _value(transaction, record.key)
        if stored is None or stored[0].value != record.value:
            return
        if is_kept:
            self._set_due(transaction, record.key, due_s)
            return
        transaction.delete(EXPIRY, _value_expiry(stored[0]))
        self._drop_value(transaction, record.key, stored[1])

    def _set_due(self, transaction: WriteTransaction, key: bytes, due_s: int | None) -> None:
        known = transaction.get(RESTORE_OF, key)
        if known is not None:
            transaction.delete(RESTORE, known + key)
            transaction.delete(RESTORE_OF, key)
        if due_s is not None:
            transaction.put(RESTORE, due_s.to_bytes(8, "big") + key, b"")
            transaction.put(RESTORE_OF, key, due_s.to_bytes(8, "big"))

    def _drop_value(self, transaction: WriteTransaction, key: bytes, payer_id: PeerId) -> None:
        transaction.delete(VALUES, key)
        self._set_due(transaction, key, None)
        self._count_value(transaction, payer_id, -1)

    def expire(self, transaction: WriteTransaction, *, now_s: int, count_max: int) -> int:
        """Drop up to `count_max` records whose time is over; how many."""
        end = (now_s + 1).to_bytes(8, "big")
        due: list[bytes] = []
        for item, _ in transaction.scan(EXPIRY):
            if item >= end or len(due) == count_max:
                break
            due.append(item)
        for item in due:
            expires, kind, record_key = item[:8], item[8:9], item[9:]
            if kind == _PROVIDER_KIND:
                self._drop_provider(transaction, record_key, expires)
            else:
                stored = _value(transaction, record_key)
                transaction.delete(EXPIRY, item)
                if stored is not None:
                    self._drop_value(transaction, record_key, stored[1])
        return len(due)

    def has_expired(self, *, now_s: int) -> bool:
        """Whether `expire` has anything to do."""
        with self._key_values.view() as transaction:
            first = next(iter(transaction.scan(EXPIRY)), None)
        return first is not None and int.from_bytes(first[0][:8], "big") <= now_s

    def counts(self) -> RecordCounts:
        """In O(1)."""
        with self._key_values.view() as transaction:
            return RecordCounts(
                transaction.count(PROVIDERS), transaction.count(VALUES), transaction.count(PROVIDED)
            )

    # --- what this node announces ---------------------------------------------------------------------

    def add_provided(self, transaction: WriteTransaction, keys: Iterable[bytes]) -> None:
        """Announce these keys from now on."""
        for key in keys:
            transaction.put(PROVIDED, _place(key), key)

    def remove_provided(self, transaction: WriteTransaction, keys: Iterable[bytes]) -> None:
        """Announce these keys no longer."""
        for key in keys:
            transaction.delete(PROVIDED, _place(key))

    def is_provided(self, key: bytes) -> bool:
        """Whether this node announces a key."""
        with self._key_values.view() as transaction:
            return transaction.get(PROVIDED, _place(key)) is not None

    def provided(self, *, start: int, end: int, count_max: int) -> list[tuple[int, bytes]]:
        """The first (place, key) pairs with `start` <= place < `end` of what this node announces."""
        if start >= KEY_SPACE:
            return []
        with self._key_values.view() as transaction:
            items = transaction.scan(PROVIDED, start=start.to_bytes(32, "big"))
            found = []
            for place_bytes, key in islice(items, count_max):
                place = int.from_bytes(place_bytes, "big")
                if place >= end:
                    break
                found.append((place, key))
            return found

    def sweep_place(self) -> int | None:
        """Up to where the sweep has come; None before the first one."""
        with self._key_values.view() as transaction:
            data = transaction.get(META, _SWEEP)
        return None if data is None else int.from_bytes(data, "big")

    def set_sweep_place(self, transaction: WriteTransaction, place: int) -> None:
        """`place` counts whole turns of the key space above its 256 bits."""
        transaction.put(META, _SWEEP, place.to_bytes(48, "big"))

    # --- the routing table ----------------------------------------------------------------------------

    def contacts(self) -> list[Contact]:
        """The contacts saved last."""
        with self._key_values.view() as transaction:
            return [
                Contact(PeerId(peer_id), _addresses(wire.decode(data, size_max=_ENTRY_BYTES_MAX)))
                for peer_id, data in transaction.scan(CONTACTS)
            ]

    def save_contacts(self, transaction: WriteTransaction, contacts: Sequence[Contact]) -> None:
        """Replace the saved contacts."""
        kept = {contact.peer_id: wire.encode(list(contact.addresses)) for contact in contacts}
        for peer_id, data in list(transaction.scan(CONTACTS)):
            if kept.get(PeerId(peer_id)) == data:
                del kept[PeerId(peer_id)]
            else:
                transaction.delete(CONTACTS, peer_id)
        for new_id, data in kept.items():
            transaction.put(CONTACTS, new_id, data)

    # --- within ---------------------------------------------------------------------------------------

    def _drop_provider(self, transaction: WriteTransaction, item: bytes, expires: bytes) -> None:
        transaction.delete(EXPIRY, expires + _PROVIDER_KIND + item)
        if not transaction.delete(PROVIDERS, item):
            return
        provider = PeerId(item[1 + item[0] :])
        sender = _sender(transaction, provider)
        if sender is not None:
            sender.provider_count -= 1
            _put_sender(transaction, provider, sender)

    def _count_value(self, transaction: WriteTransaction, sender_id: PeerId, change: int) -> None:
        sender = _sender(transaction, sender_id) or _Sender(0, 0, ())
        sender.value_count += change
        _put_sender(transaction, sender_id, sender)


def _provider_prefix(key: bytes) -> bytes:
    return bytes((len(key),)) + key


def _place(key: bytes) -> bytes:
    return key_of(key).to_bytes(32, "big")


def _value_expiry(record: ValueRecord) -> bytes:
    return record.expires_s.to_bytes(8, "big") + _VALUE_KIND + record.key


def _value(transaction: ReadTransaction, key: bytes) -> tuple[ValueRecord, PeerId] | None:
    data = transaction.get(VALUES, key)
    if data is None:
        return None
    value, received_s, expires_s, sender_id = wire.decode(data, size_max=_ENTRY_BYTES_MAX)
    record = ValueRecord(
        key,
        wire.expect_bytes(value),
        wire.expect_int(received_s, low=0, high=2**63),
        wire.expect_int(expires_s, low=0, high=2**63),
        is_restored=transaction.get(RESTORE_OF, key) is not None,
    )
    return record, PeerId(wire.expect_bytes(sender_id))


def _put_value(transaction: WriteTransaction, record: ValueRecord, sender_id: PeerId) -> None:
    data = wire.encode([record.value, record.received_s, record.expires_s, sender_id])
    transaction.put(VALUES, record.key, data)


def _sender(transaction: ReadTransaction, peer_id: PeerId) -> _Sender | None:
    data = transaction.get(PEERS, peer_id)
    if data is None:
        return None
    provider_count, value_count, addresses = wire.decode(data, size_max=_ENTRY_BYTES_MAX)
    return _Sender(
        wire.expect_int(provider_count, low=0, high=2**63),
        wire.expect_int(value_count, low=0, high=2**63),
        _addresses(wire.expect_list(addresses)),
    )


def _put_sender(transaction: WriteTransaction, peer_id: PeerId, sender: _Sender) -> None:
    if sender.provider_count == 0 and sender.value_count == 0:
        transaction.delete(PEERS, peer_id)
    else:
        data = wire.encode([sender.provider_count, sender.value_count, list(sender.addresses)])
        transaction.put(PEERS, peer_id, data)


def _addresses(values: Sequence[wire.Value]) -> tuple[Multiaddr, ...]:
    return tuple(
        Multiaddr(wire.expect_str(value, bytes_max=4 * limits.DHT_ADDRESS_BYTES_MAX)) for value in values
    )
