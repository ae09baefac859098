"""The routing table against a naive model, and its laws one by one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import limits
from node.dht.distance import common_prefix_bits, key_of
from node.dht.routing_table import RoutingTable
from node.units import Contact
from tests.dht.support import contact_of, peer_id_of

OWN_KEY = key_of(peer_id_of(0))


def _in_bucket(index: int, count: int) -> list[Contact]:
    found: list[Contact] = []
    seed = 1
    while len(found) < count:
        contact = contact_of(seed)
        if common_prefix_bits(OWN_KEY, key_of(contact.peer_id)) == index:
            found.append(contact)
        seed += 1
    return found


def _add(table: RoutingTable, contact: Contact, subnet: str | None = None, now_s: float = 0.0) -> bool:
    return table.answered(contact, subnet=subnet, now_s=now_s)


def test_a_peer_that_answers_is_never_displaced() -> None:
    table = RoutingTable(OWN_KEY)
    contacts = _in_bucket(0, limits.DHT_BUCKET_CONTACTS + 30)
    first, late = contacts[: limits.DHT_BUCKET_CONTACTS], contacts[limits.DHT_BUCKET_CONTACTS :]
    assert all(_add(table, contact) for contact in first)
    assert not any(_add(table, contact) for contact in late)
    assert {entry.contact.peer_id for _, entry in table.entries()} == {c.peer_id for c in first}
    assert table.replacement_count == limits.DHT_BUCKET_CONTACTS


def test_a_silent_peer_makes_room_for_the_replacement_seen_last() -> None:
    table = RoutingTable(OWN_KEY)
    contacts = _in_bucket(0, limits.DHT_BUCKET_CONTACTS + 2)
    for contact in contacts:
        _add(table, contact)
    silent = contacts[3].peer_id
    table.failed(silent, now_s=1)
    assert silent in table  # once is bad luck
    table.failed(silent, now_s=2)
    assert silent not in table
    assert contacts[-1].peer_id in table
    assert contacts[-2].peer_id not in table


def test_without_replacement_a_silent_peer_stays_but_is_not_told() -> None:
    table = RoutingTable(OWN_KEY)
    contact = contact_of(1)
    _add(table, contact)
    for turn in range(limits.DHT_CONTACT_FAILURES_MAX - 1):
        assert contact.peer_id in table
        table.failed(contact.peer_id, now_s=turn)
    assert table.nearest(0, 20) == []
    assert table.nearest(0, 20, with_failing=True) == [contact]
    table.failed(contact.peer_id, now_s=99)
    assert contact.peer_id not in table


def test_a_newcomer_takes_the_place_of_a_silent_peer() -> None:
    table = RoutingTable(OWN_KEY)
    contacts = _in_bucket(0, limits.DHT_BUCKET_CONTACTS + 1)
    for contact in contacts[:-1]:
        _add(table, contact)
    for turn in range(limits.DHT_CONTACT_FAILURES_PASSED_ON):
        table.failed(contacts[0].peer_id, now_s=turn)
    assert _add(table, contacts[-1])
    assert contacts[0].peer_id not in table


def test_a_peer_that_answers_again_is_forgiven() -> None:
    table = RoutingTable(OWN_KEY)
    contact = contact_of(1)
    _add(table, contact)
    for turn in range(5):
        table.failed(contact.peer_id, now_s=turn)
    _add(table, contact, now_s=9)
    assert table.nearest(0, 1) == [contact]
    assert table.doubtful(now_s=10, unseen_s=900) == []


def test_one_subnet_gets_its_share_and_no_more() -> None:
    table = RoutingTable(OWN_KEY)
    for index in range(5):
        for contact in _in_bucket(index, 6):
            _add(table, contact, subnet="8.8.4.0/24")
    counts: dict[int, int] = {}
    for index, _ in table.entries():
        counts[index] = counts.get(index, 0) + 1
    assert set(counts.values()) == {limits.DHT_SUBNET_BUCKET_MAX}
    assert len(table) == limits.DHT_SUBNET_TABLE_MAX
    for contact in _in_bucket(0, 26)[6:]:
        assert _add(table, contact, subnet=None) == (contact.peer_id in table)
    assert len(table) == limits.DHT_SUBNET_TABLE_MAX + limits.DHT_BUCKET_CONTACTS - 2


def test_doubtful_are_the_long_unseen_and_the_failing_with_growing_pauses() -> None:
    table = RoutingTable(OWN_KEY)
    contact = contact_of(1)
    _add(table, contact, now_s=0)
    assert table.doubtful(now_s=899, unseen_s=900) == []
    assert table.doubtful(now_s=900, unseen_s=900) == [contact]
    table.failed(contact.peer_id, now_s=1_000)
    assert table.doubtful(now_s=1_119, unseen_s=900) == []
    assert table.doubtful(now_s=1_120, unseen_s=900) == [contact]
    table.failed(contact.peer_id, now_s=2_000)
    assert table.doubtful(now_s=2_239, unseen_s=900) == []
    assert table.doubtful(now_s=2_240, unseen_s=900) == [contact]


def test_every_subtree_is_refreshed_in_its_time() -> None:
    table = RoutingTable(OWN_KEY)
    assert [prefix.length for prefix in table.stale(now_s=0, age_s=3600)] == [1]
    for contact in _in_bucket(3, 1):
        _add(table, contact)
    stale = table.stale(now_s=0, age_s=3600)
    assert [common_prefix_bits(prefix.first, OWN_KEY) for prefix in stale] == [0, 1, 2, 3, 4]
    table.refreshed(stale[2].first, now_s=10)
    table.refreshed_from(3, now_s=10)
    assert table.stale(now_s=20, age_s=3600) == stale[:2]
    assert table.stale(now_s=3610, age_s=3600) == stale


def test_this_node_is_not_in_its_own_table() -> None:
    table = RoutingTable(OWN_KEY)
    assert not _add(table, Contact(peer_id_of(0), contact_of(1).addresses))
    assert len(table) == 0


@given(st.integers(0, 300), st.integers(0, 2**32), st.integers(0, 25))
@settings(max_examples=30)
def test_nearest_equals_sorting_all(count: int, target_seed: int, wanted: int) -> None:
    table = RoutingTable(OWN_KEY)
    for seed in range(1, count):
        _add(table, contact_of(seed))
    target = Random(target_seed).getrandbits(256)
    everyone = [entry.contact for _, entry in table.entries()]
    naive = sorted(everyone, key=lambda contact: key_of(contact.peer_id) ^ target)[:wanted]
    assert table.nearest(target, wanted) == naive


@dataclass
class _Peer:
    contact: Contact
    subnet: str | None
    failures: int = 0


class TableAgainstModel(RuleBasedStateMachine):
    """Two buckets' worth of peers that come, fail and come back; a dict of lists is the model."""

    peers: ClassVar = [
        _Peer(contact, ["a", "b", None, None, None, None][turn % 6])
        for index in (0, 1)
        for turn, contact in enumerate(_in_bucket(index, 45))
    ]

    def __init__(self) -> None:
        super().__init__()
        self.table = RoutingTable(OWN_KEY)
        self.ever_answered: set[bytes] = set()
        self.failures: dict[bytes, int] = {}
        self.now_s = 0.0

    @rule(which=st.lists(st.integers(0, 89), min_size=1, max_size=30))
    def some_answer(self, which: list[int]) -> None:
        for number in which:
            peer = self.peers[number]
            self.now_s += 1
            live = {
                entry.contact.peer_id
                for _, entry in self.table.entries()
                if self.failures[entry.contact.peer_id] < limits.DHT_CONTACT_FAILURES_PASSED_ON
            }
            self.failures[peer.contact.peer_id] = 0
            self.ever_answered.add(peer.contact.peer_id)
            is_in = self.table.answered(peer.contact, subnet=peer.subnet, now_s=self.now_s)
            assert is_in == (peer.contact.peer_id in self.table)
            assert all(peer_id in self.table for peer_id in live)  # nobody who answers is displaced

    @rule(which=st.lists(st.integers(0, 89), min_size=1, max_size=10), times=st.integers(1, 13))
    def some_fail(self, which: list[int], times: int) -> None:
        for number in which:
            peer_id = self.peers[number].contact.peer_id
            for _ in range(times):
                self.now_s += 1
                if peer_id in self.table:
                    self.failures[peer_id] += 1
                self.table.failed(peer_id, now_s=self.now_s)

    @rule(number=st.integers(0, 89))
    def one_leaves(self, number: int) -> None:
        self.table.remove(self.peers[number].contact.peer_id)
        assert self.peers[number].contact.peer_id not in self.table

    @invariant()
    def laws_hold(self) -> None:
        by_bucket: dict[int, list[str | None]] = {}
        for index, entry in self.table.entries():
            assert index == common_prefix_bits(OWN_KEY, key_of(entry.contact.peer_id))
            assert entry.contact.peer_id in self.ever_answered
            assert entry.failures == self.failures[entry.contact.peer_id]
            assert entry.failures < limits.DHT_CONTACT_FAILURES_MAX
            by_bucket.setdefault(index, []).append(entry.subnet)
        for subnets in by_bucket.values():
            assert len(subnets) <= limits.DHT_BUCKET_CONTACTS
            for name in ("a", "b"):
                assert subnets.count(name) <= limits.DHT_SUBNET_BUCKET_MAX
        everyone = [subnet for subnets in by_bucket.values() for subnet in subnets]
        assert len(self.table) == len(everyone)
        told = self.table.nearest(0, 1_000)
        assert all(self.failures[contact.peer_id] < limits.DHT_CONTACT_FAILURES_PASSED_ON for contact in told)


TestTableAgainstModel = TableAgainstModel.TestCase
TestTableAgainstModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
