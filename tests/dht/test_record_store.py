"""The store against plain dicts, its quotas, and what survives being opened again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import limits
from node.dht import record_store
from node.dht.distance import KEY_SPACE, key_of
from node.dht.record_store import RecordStore
from node.dht.records import ProviderRecord, ValueRecord, ValueRules
from node.system.lmdb_store import LmdbStore
from node.units import Contact, Multiaddr, PeerId
from tests.clocks import START_S
from tests.dht.support import VALIDATORS, MemoryKeyValue, contact_of, multihash_of, peer_id_of

RULES = ValueRules(VALIDATORS)
KEY = b"/numbered/a"


def _provide(
    kv: MemoryKeyValue | LmdbStore, key: bytes, who: Contact, *, now_s: int = START_S, life_s: int = 100
) -> bool:
    store = RecordStore(kv)
    record = ProviderRecord(key, who, now_s + life_s)
    return kv.update(lambda tx: store.add_provider(tx, record, now_s=now_s))


def _put(
    kv: MemoryKeyValue | LmdbStore, key: bytes, value: bytes, sender: int, *, now_s: int = START_S
) -> bool:
    store = RecordStore(kv)
    record = ValueRecord(key, value, now_s, now_s + 100)
    return kv.update(lambda tx: store.put_value(tx, record, sender_id=peer_id_of(sender), rules=RULES))


def test_everything_survives_being_opened_again(tmp_path: Path) -> None:
    kv = LmdbStore(tmp_path)
    store = RecordStore(kv)
    assert _provide(kv, multihash_of(1), contact_of(1))
    assert _put(kv, KEY, b"1:x", 1)
    kv.update(lambda tx: store.add_provided(tx, [multihash_of(2)]))
    kv.update(lambda tx: store.set_sweep_place(tx, KEY_SPACE * 22_727 + 5))
    kv.update(lambda tx: store.save_contacts(tx, [contact_of(3), contact_of(4)]))
    kv.close()
    again = LmdbStore(tmp_path)
    store = RecordStore(again)
    assert store.providers(multihash_of(1), now_s=START_S) == [contact_of(1)]
    value = store.value(KEY, now_s=START_S)
    assert value is not None
    assert value.value == b"1:x"
    assert store.is_provided(multihash_of(2))
    assert store.sweep_place() == KEY_SPACE * 22_727 + 5
    assert sorted(store.contacts(), key=lambda c: c.peer_id) == sorted(
        [contact_of(3), contact_of(4)], key=lambda c: c.peer_id
    )
    again.close()


def test_saved_contacts_are_replaced() -> None:
    kv = MemoryKeyValue()
    store = RecordStore(kv)
    kv.update(lambda tx: store.save_contacts(tx, [contact_of(1), contact_of(2)]))
    moved = Contact(contact_of(2).peer_id, contact_of(9).addresses)
    kv.update(lambda tx: store.save_contacts(tx, [moved, contact_of(3)]))
    assert set(store.contacts()) == {moved, contact_of(3)}


def test_a_key_has_so_many_providers_and_expired_ones_make_room() -> None:
    kv = MemoryKeyValue()
    key = multihash_of(1)
    for seed in range(limits.DHT_PROVIDERS_PER_KEY_MAX):
        assert _provide(kv, key, contact_of(seed), life_s=100 if seed else 10)
    assert not _provide(kv, key, contact_of(1_000))
    assert _provide(kv, key, contact_of(5))  # a refresh
    assert _provide(kv, multihash_of(2), contact_of(1_000))  # another key
    assert _provide(kv, key, contact_of(1_000), now_s=START_S + 10)
    found = RecordStore(kv).providers(key, now_s=START_S + 10)
    assert len(found) == limits.DHT_PROVIDERS_PER_KEY_MAX
    assert contact_of(0) not in found


def test_a_peer_has_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DHT_PROVIDER_RECORDS_PER_PEER_MAX", 3)
    monkeypatch.setattr(limits, "DHT_VALUE_RECORDS_PER_PEER_MAX", 2)
    kv = MemoryKeyValue()
    assert [_provide(kv, multihash_of(seed), contact_of(1)) for seed in range(5)] == [True] * 3 + [False] * 2
    assert _provide(kv, multihash_of(4), contact_of(2))
    names = [b"/numbered/%d" % number for number in range(4)]
    assert [_put(kv, name, b"1:x", 1) for name in names] == [True, True, False, False]
    assert _put(kv, names[2], b"1:x", 2)
    assert not _put(kv, names[2], b"2:x", 1)  # a better value, but no room for its sender
    stored = RecordStore(kv).value(names[2], now_s=START_S)
    assert stored is not None
    assert stored.value == b"1:x"  # the refused one displaced nothing


def test_room_is_bounded_by_what_records_weigh_and_comes_back_with_their_end() -> None:
    kv = MemoryKeyValue()
    store = RecordStore(kv)
    store.room_bytes = 100_000
    long = tuple(Multiaddr(f"/ip4/198.51.100.{n}/tcp/4001") for n in range(8))
    kept = 0
    for seed in range(400):
        value = ValueRecord(b"/numbered/%d" % seed, b"1:" + bytes(7_000), START_S, START_S + 100)
        provider = ProviderRecord(multihash_of(seed), Contact(peer_id_of(seed), long), START_S + 100)
        kept += kv.update(
            lambda tx, value=value, seed=seed: store.put_value(  # type: ignore[misc]
                tx, value, sender_id=peer_id_of(seed), rules=RULES
            )
        )
        kept += kv.update(
            lambda tx, provider=provider: store.add_provider(tx, provider, now_s=START_S)  # type: ignore[misc]
        )
        assert store.weight_bytes() <= 100_000
    assert 10 < kept < 400
    refreshed = ProviderRecord(multihash_of(0), Contact(peer_id_of(0), long), START_S + 150)
    assert kv.update(lambda tx: store.add_provider(tx, refreshed, now_s=START_S))
    assert store.weight_bytes() <= 100_000
    kv.update(lambda tx: store.expire(tx, now_s=START_S + 120, count_max=1_000))
    assert store.weight_bytes() < 5_000
    assert _put(kv, b"/numbered/999", b"1:x", 1)


def test_a_larger_value_needs_room_for_what_it_adds() -> None:
    kv = MemoryKeyValue()
    store = RecordStore(kv)
    store.room_bytes = 10_000

    def put(value: bytes) -> bool:
        record = ValueRecord(KEY, value, START_S, START_S + 100)
        return kv.update(lambda tx: store.put_value(tx, record, sender_id=peer_id_of(1), rules=RULES))

    assert put(b"1:x")
    assert not put(b"2:" + bytes(8_100))
    assert put(b"2:" + bytes(4_000))
    assert put(b"3:x")


def test_a_later_announcement_without_addresses_keeps_the_known_ones() -> None:
    kv = MemoryKeyValue()
    assert _provide(kv, multihash_of(1), contact_of(1))
    assert _provide(kv, multihash_of(2), Contact(contact_of(1).peer_id))
    assert RecordStore(kv).providers(multihash_of(1), now_s=START_S) == [contact_of(1)]


def test_the_best_value_stays_until_it_expires() -> None:
    kv = MemoryKeyValue()
    store = RecordStore(kv)
    assert _put(kv, KEY, b"2:x", 1)
    assert not _put(kv, KEY, b"1:x", 2)
    assert _put(kv, KEY, b"2:x", 3, now_s=START_S + 50)  # again: lives longer
    assert store.value(KEY, now_s=START_S + 149) is not None
    assert _put(kv, KEY, b"3:x", 2, now_s=START_S + 60)
    assert _put(kv, KEY, b"1:x", 2, now_s=START_S + 160)  # the better one has expired
    stored = store.value(KEY, now_s=START_S + 160)
    assert stored is not None
    assert stored.value == b"1:x"


def test_what_is_announced_comes_in_key_space_order_and_in_pages() -> None:
    kv = MemoryKeyValue()
    store = RecordStore(kv)
    keys = [multihash_of(seed) for seed in range(50)]
    kv.update(lambda tx: store.add_provided(tx, keys))
    ordered = sorted((key_of(key), key) for key in keys)
    assert store.provided(start=0, end=KEY_SPACE, count_max=100) == ordered
    assert store.provided(start=ordered[10][0], end=ordered[20][0], count_max=100) == ordered[10:20]
    assert store.provided(start=ordered[10][0], end=KEY_SPACE, count_max=5) == ordered[10:15]
    assert store.provided(start=KEY_SPACE, end=KEY_SPACE, count_max=5) == []
    kv.update(lambda tx: store.remove_provided(tx, keys[:30]))
    assert [key for _, key in store.provided(start=0, end=KEY_SPACE, count_max=100)] == [
        key for _, key in ordered if key in keys[30:]
    ]


class StoreAgainstModel(RuleBasedStateMachine):
    """Announcements, values and expiry in any order; dicts are the model."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = MemoryKeyValue()
        self.store = RecordStore(self.kv)
        self.now_s = START_S
        self.providers: dict[tuple[bytes, PeerId], int] = {}
        self.values: dict[bytes, tuple[bytes, int]] = {}

    @rule(key=st.integers(0, 3), who=st.integers(0, 5), life_s=st.integers(1, 60))
    def announce(self, key: int, who: int, life_s: int) -> None:
        contact = contact_of(who)
        assert _provide(self.kv, multihash_of(key), contact, now_s=self.now_s, life_s=life_s)
        self.providers[multihash_of(key), contact.peer_id] = self.now_s + life_s

    @rule(name=st.integers(0, 3), number=st.integers(0, 3), sender=st.integers(0, 2))
    def put(self, name: int, number: int, sender: int) -> None:
        key, value = b"/numbered/%d" % name, b"%d:" % number
        old, expires_s = self.values.get(key, (b"", 0))
        wins = expires_s <= self.now_s or old == value or number > int(old[:1])
        assert _put(self.kv, key, value, sender, now_s=self.now_s) == wins
        if wins:
            self.values[key] = (value, self.now_s + 100)

    @rule(seconds=st.integers(1, 50))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule(count_max=st.integers(1, 4))
    def expire(self, count_max: int) -> None:
        due = sum(expires_s <= self.now_s for expires_s in self.providers.values())
        due += sum(expires_s <= self.now_s for _, expires_s in self.values.values())
        before = self.store.counts()
        dropped = self.kv.update(lambda tx: self.store.expire(tx, now_s=self.now_s, count_max=count_max))
        after = self.store.counts()
        assert dropped <= min(due, count_max)
        assert before.providers + before.values - after.providers - after.values == dropped

    @invariant()
    def reads_agree(self) -> None:
        for key in map(multihash_of, range(4)):
            found = {contact.peer_id for contact in self.store.providers(key, now_s=self.now_s)}
            assert found == {
                who for (k, who), expires_s in self.providers.items() if k == key and expires_s > self.now_s
            }
        for name in range(4):
            key = b"/numbered/%d" % name
            stored = self.store.value(key, now_s=self.now_s)
            value, expires_s = self.values.get(key, (b"", 0))
            assert (stored.value if stored else None) == (value if expires_s > self.now_s else None)

    @invariant()
    def every_record_has_one_expiry_and_is_counted_once(self) -> None:
        tables = self.kv.tables
        records = len(tables.get(record_store.PROVIDERS, {})) + len(tables.get(record_store.VALUES, {}))
        assert len(tables.get(record_store.EXPIRY, {})) == records
        counted = 0
        with self.kv.view() as view:
            for peer_id, _ in view.scan(record_store.PEERS):
                sender = record_store._sender(view, PeerId(peer_id))
                assert sender is not None
                assert sender.provider_count + sender.value_count > 0
                counted += sender.provider_count + sender.value_count
        assert counted == records

    @invariant()
    def the_weight_is_that_of_what_is_kept(self) -> None:
        others = (record_store.PROVIDERS, record_store.VALUES, record_store.PEERS, record_store.EXPIRY)
        items = [item for name in others for item in self.kv.tables.get(name, {}).items()]
        assert self.store.weight_bytes() == sum(record_store._item_weight(*item) for item in items)

    def teardown(self) -> None:
        while self.kv.update(lambda tx: self.store.expire(tx, now_s=self.now_s + 1_000, count_max=3)):
            pass
        assert not any(self.kv.tables.values())


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
