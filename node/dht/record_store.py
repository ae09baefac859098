"""Everything of the DHT that outlives a restart, in tables of the KeyValue port. Layer 3.

Tables: `dht_providers`, `dht_values` (records of others), `dht_peers` (who stored them: addresses and
quotas), `dht_expiry` (what to drop when), `dht_restore` and `dht_restore_of` (which values to store again
when), `dht_provided` (what this node announces, in key space order), `dht_contacts` (the routing table at its
last save) and `dht_meta`.

Changes take a transaction, so that many commit at once; reads open a short one. Invariants: the counts in
`dht_peers` equal the records that exist; every record has exactly one entry in `dht_expiry`, every value that
nodes keep alive one in `dht_restore`; no call touches more than a bounded number of items, whatever is
stored; the records of others weigh no more than the room that the donor's cap leaves them (design.md, section
8, number 5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from node import limits, wire
from node.dht.distance import KEY_SPACE, key_of
from node.dht.records import (
    ProviderRecord,
    Quota,
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
_WEIGHT = b"weight"
_PROVIDER_KIND = b"p"
_VALUE_KIND = b"v"
_ENTRY_BYTES_MAX = 16 * 1024
_PAGE_BYTES = 4096
_ITEM_BYTES = 16  # what LMDB spends on an item beside key and value
_INLINE_BYTES_MAX = 1024  # a larger value may get pages of its own: LMDB wants two items to a page


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
        self.room_bytes: int | None = None
        """What the records of others may weigh; None: as much as limits.py allows. May change at any time."""

    @property
    def quota(self) -> Quota:
        """What others may have stored here."""
        return Quota() if self.room_bytes is None else Quota.within(self.room_bytes)

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
        addresses = record.provider.addresses or sender.addresses
        growth = _sender_weight(provider, addresses) - _sender_weight(provider, sender.addresses)
        admitted = provider_is_admitted(
            self.quota,
            is_known=known is not None,
            of_key=of_key,
            of_peer=sender.provider_count,
            total=transaction.count(PROVIDERS),
            weight_bytes=_weight(transaction) + _provider_weight(item) + growth,
        )
        if not admitted:
            return False
        if known is None:
            sender.provider_count += 1
        else:
            _drop(transaction, EXPIRY, known + _PROVIDER_KIND + item)
        expires = record.expires_s.to_bytes(8, "big")
        if growth <= 0 or _weight(transaction) + growth <= self.quota.weight_bytes:
            sender.addresses = addresses
        _keep(transaction, PROVIDERS, item, expires)
        _keep(transaction, EXPIRY, expires + _PROVIDER_KIND + item, b"")
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
        is_same = False
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
            if not value_is_admitted(self.quota, of_peer=payer.value_count if payer else 0, total=others):
                return False
        if not is_same:
            growth = _value_weight(record.key, record.value)
            growth -= 0 if stored is None else _value_weight(record.key, stored[0].value)
            if growth > 0 and _weight(transaction) + growth > self.quota.weight_bytes:
                return False
        if stored is None or payer_id != old_payer_id:
            self._count_value(transaction, payer_id, 1)
            if stored is not None:
                self._count_value(transaction, old_payer_id, -1)
        if stored is not None:
            _drop(transaction, EXPIRY, _value_expiry(old))
        _put_value(transaction, record, payer_id)
        _keep(transaction, EXPIRY, _value_expiry(record), b"")
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
        _drop(transaction, EXPIRY, _value_expiry(stored[0]))
        self._drop_value(transaction, record.key, stored[1])

    def _set_due(self, transaction: WriteTransaction, key: bytes, due_s: int | None) -> None:
        known = transaction.get(RESTORE_OF, key)
        if known is not None:
            _drop(transaction, RESTORE, known + key)
            _drop(transaction, RESTORE_OF, key)
        if due_s is not None:
            _keep(transaction, RESTORE, due_s.to_bytes(8, "big") + key, b"")
            _keep(transaction, RESTORE_OF, key, due_s.to_bytes(8, "big"))

    def _drop_value(self, transaction: WriteTransaction, key: bytes, payer_id: PeerId) -> None:
        _drop(transaction, VALUES, key)
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
                _drop(transaction, EXPIRY, item)
                if stored is not None:
                    self._drop_value(transaction, record_key, stored[1])
        return len(due)

    def has_expired(self, *, now_s: int) -> bool:
        """Whether `expire` has anything to do."""
        with self._key_values.view() as transaction:
            first = next(iter(transaction.scan(EXPIRY)), None)
        return first is not None and int.from_bytes(first[0][:8], "big") <= now_s

    def weight_bytes(self) -> int:
        """What the records of others take of the disk, by the reckoning of `_item_weight`."""
        with self._key_values.view() as transaction:
            return _weight(transaction)

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
        _drop(transaction, EXPIRY, expires + _PROVIDER_KIND + item)
        if not _drop(transaction, PROVIDERS, item):
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


def _item_weight(key: bytes, value: bytes) -> int:
    """Bytes of pages that an item takes at worst half of which are used."""
    if len(value) > _INLINE_BYTES_MAX:
        return 2 * (len(key) + _ITEM_BYTES) + -(-(len(value) + _ITEM_BYTES) // _PAGE_BYTES) * _PAGE_BYTES
    return 2 * (len(key) + len(value) + _ITEM_BYTES)


def _weight(transaction: ReadTransaction) -> int:
    return int.from_bytes(transaction.get(META, _WEIGHT) or b"", "big")


def _keep(transaction: WriteTransaction, table: str, key: bytes, value: bytes) -> None:
    """Put an item of others, and count it."""
    old = transaction.get(table, key)
    change = _item_weight(key, value) - (0 if old is None else _item_weight(key, old))
    transaction.put(table, key, value)
    _add_weight(transaction, change)


def _drop(transaction: WriteTransaction, table: str, key: bytes) -> bool:
    old = transaction.get(table, key)
    if old is None:
        return False
    transaction.delete(table, key)
    _add_weight(transaction, -_item_weight(key, old))
    return True


def _add_weight(transaction: WriteTransaction, change: int) -> None:
    weight = max(0, _weight(transaction) + change)
    if weight:
        transaction.put(META, _WEIGHT, weight.to_bytes(8, "big"))
    else:
        transaction.delete(META, _WEIGHT)


def _provider_weight(item: bytes) -> int:
    return _item_weight(item, bytes(8)) + _item_weight(bytes(9) + item, b"")


def _sender_weight(peer_id: PeerId, addresses: Sequence[Multiaddr]) -> int:
    return _item_weight(peer_id, bytes(32) + "".join(addresses).encode()) if addresses else 0


def _value_weight(key: bytes, value: bytes) -> int:
    due = _item_weight(bytes(8) + key, b"") + _item_weight(key, bytes(8))
    return _item_weight(key, bytes(96) + value) + _item_weight(bytes(9) + key, b"") + due


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
    _keep(transaction, VALUES, record.key, data)


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
        _drop(transaction, PEERS, peer_id)
    else:
        data = wire.encode([sender.provider_count, sender.value_count, list(sender.addresses)])
        _keep(transaction, PEERS, peer_id, data)


def _addresses(values: Sequence[wire.Value]) -> tuple[Multiaddr, ...]:
    return tuple(
        Multiaddr(wire.expect_str(value, bytes_max=4 * limits.DHT_ADDRESS_BYTES_MAX)) for value in values
    )
