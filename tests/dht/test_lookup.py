"""Lookups end, and find the nearest live nodes, whatever a minority does."""

from __future__ import annotations

import os
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.dht.distance import key_of, radius_of
from node.dht.lookup import Lookup
from node.units import Contact, Multiaddr, PeerId
from tests.dht.lookup_model import LookupModel
from tests.dht.support import contact_of, peer_id_of

OWN_ID = peer_id_of(0)
FULL = "CAIRN_TEST_FULL" in os.environ
NODES = 10_000 if FULL else 1_000


def _start(model: LookupModel, target: int, *, seeds: int = 20, radius: int = 0) -> Lookup:
    """As seen from a random node of the model."""
    viewer = model.rng.choice([peer_id for peer_id in model.contacts if peer_id not in model.liars])
    contacts = model.table_of(viewer).nearest(target, seeds)
    return Lookup(target, contacts, own_id=viewer, radius=radius)


def _share_found(model: LookupModel, lookup: Lookup) -> float:
    truth = set(model.live_nearest(lookup.target, 20))
    own = {lookup._own_id}
    found = {contact.peer_id for contact in lookup.closest()}
    return len(truth & found) / len(truth - own)


def test_finds_exactly_the_nearest_in_a_healthy_network() -> None:
    model = LookupModel(Random(1), NODES)
    asked = []
    for _ in range(50):
        lookup = model.run(_start(model, model.rng.getrandbits(256)))
        assert _share_found(model, lookup) == 1.0
        asked.append(lookup.asked_count)
    assert sum(asked) / len(asked) < 45


def test_finds_the_living_of_the_nearest_when_many_just_died() -> None:
    """Tables still name the dead; whoever is alive of those that held a record is found all the same."""
    model = LookupModel(Random(2), NODES)
    lookups = [_start(model, model.rng.getrandbits(256)) for _ in range(30)]
    for lookup in lookups:
        held = model.live_nearest(lookup.target, 20)
        model.kill(0.4)
        model.run(lookup)
        living = set(held) - model.dead - {lookup._own_id}
        found = {contact.peer_id for contact in lookup.closest()}
        assert len(living & found) >= 0.9 * len(living)
        assert not found & model.dead
        model.dead = set()


def test_finds_the_nearest_of_the_living_once_tables_noticed() -> None:
    model = LookupModel(Random(2), NODES)
    model.kill(0.4)
    model.bury()
    for _ in range(30):
        lookup = model.run(_start(model, model.rng.getrandbits(256)))
        assert _share_found(model, lookup) == 1.0


def test_one_known_contact_is_enough_to_begin() -> None:
    model = LookupModel(Random(3), NODES)
    for _ in range(20):
        assert _share_found(model, model.run(_start(model, model.rng.getrandbits(256), seeds=1))) == 1.0


def test_liars_that_invent_contacts_only_cost_questions() -> None:
    model = LookupModel(Random(4), NODES)
    invented = 10**6

    def lie(target: int) -> list[Contact]:
        nonlocal invented
        invented += 20
        return [contact_of(invented + turn) for turn in range(20)]

    model.liars = dict.fromkeys(model.rng.sample(sorted(model.contacts), NODES // 5), lie)
    for _ in range(20):
        lookup = model.run(_start(model, model.rng.getrandbits(256)))
        assert _share_found(model, lookup) >= 0.95


def test_an_eclipse_over_one_path_does_not_hide_the_honest_nodes() -> None:
    """The attacker owns the nearest seed and 200 identities nearer to the target than anyone honest."""
    model = LookupModel(Random(5), NODES)
    target = key_of(b"the victim's key")
    crowd = [contact_of(10**7 + seed) for seed in range(60_000)]
    crowd.sort(key=lambda contact: key_of(contact.peer_id) ^ target)
    crowd = crowd[:200]
    nearest_honest = model.keys[model.live_nearest(target, 1)[0]] ^ target
    assert sum(key_of(contact.peer_id) ^ target < nearest_honest for contact in crowd) >= 20

    def lie(_: int) -> list[Contact]:
        return model.rng.sample(crowd, 20)

    model.liars = {contact.peer_id: lie for contact in crowd}
    attacker = crowd[0]
    for _ in range(20):
        viewer = model.rng.choice(sorted(model.contacts))
        honest_seeds = model.table_of(viewer).nearest(target, 19)
        lookup = Lookup(target, [attacker, *honest_seeds], own_id=viewer, radius=radius_of(NODES, 20))
        model.run(lookup)
        truth = set(model.live_nearest(target, 20)) - {viewer}
        found = {contact.peer_id for contact in lookup.closest()}
        assert len(found & set(model.contacts)) >= 10
        assert len(found & truth) >= 10
        assert lookup.asked_count <= limits.DHT_LOOKUP_QUERIES_MAX


def test_a_wrong_address_from_a_liar_is_made_good_by_an_honest_teller() -> None:
    wanted = contact_of(1)
    liar, honest = contact_of(2), contact_of(3)
    lookup = Lookup(key_of(wanted.peer_id), [liar, honest], own_id=OWN_ID)
    assert {contact.peer_id for contact in lookup.next_queries()} == {liar.peer_id, honest.peer_id}
    lookup.on_reply(liar.peer_id, [Contact(wanted.peer_id, (Multiaddr("/ip4/8.8.8.8/tcp/1"),))])
    (first_try,) = lookup.next_queries()
    assert first_try.addresses == ("/ip4/8.8.8.8/tcp/1",)
    lookup.on_failure(wanted.peer_id)
    assert not lookup.is_finished
    lookup.on_reply(honest.peer_id, [wanted])
    (second_try,) = lookup.next_queries()
    assert second_try == wanted
    lookup.on_failure(wanted.peer_id)
    assert lookup.is_finished  # no third one


def test_a_slow_contact_holds_nothing_up_and_counts_if_it_comes_in_time() -> None:
    contacts = [contact_of(seed) for seed in range(1, 13)]
    lookup = Lookup(0, contacts, own_id=OWN_ID)
    asked = lookup.next_queries()
    assert len(asked) == limits.DHT_LOOKUP_PARALLEL
    slow = asked[0].peer_id
    assert lookup.on_slow(slow)
    assert not lookup.on_slow(slow)
    assert len(lookup.next_queries()) == 1
    for contact in contacts[:6]:
        if contact.peer_id != slow:
            lookup.on_reply(contact.peer_id, [])
    lookup.on_reply(slow, [contact_of(99)])
    assert slow in {contact.peer_id for contact in lookup.answered()}
    assert contact_of(99) in lookup.next_queries()


def test_everyone_within_the_radius_is_asked_and_kept() -> None:
    model = LookupModel(Random(6), NODES)
    target = model.rng.getrandbits(256)
    radius = radius_of(NODES, 40)
    lookup = model.run(_start(model, target, radius=radius))
    within = {peer_id for peer_id, key in model.keys.items() if key ^ target <= radius} - {lookup._own_id}
    found = {contact.peer_id for contact in lookup.closest()}
    assert len(within) > 25
    assert len(within & found) >= 0.9 * len(within)


def test_unasked_and_repeated_replies_change_nothing() -> None:
    lookup = Lookup(0, [contact_of(1)], own_id=OWN_ID)
    lookup.on_reply(contact_of(1).peer_id, [contact_of(2)])  # not asked yet
    (asked,) = lookup.next_queries()
    lookup.on_reply(contact_of(5).peer_id, [contact_of(6)])  # a stranger
    lookup.on_reply(asked.peer_id, [contact_of(3), Contact(OWN_ID)])
    lookup.on_reply(asked.peer_id, [contact_of(4)])  # twice
    lookup.on_failure(asked.peer_id)
    assert [contact.peer_id for contact in lookup.answered()] == [asked.peer_id]
    assert lookup.next_queries() == [contact_of(3)]


def test_a_reply_of_any_length_counts_for_twenty() -> None:
    lookup = Lookup(0, [contact_of(1)], own_id=OWN_ID)
    (asked,) = lookup.next_queries()
    lookup.on_reply(asked.peer_id, [contact_of(seed) for seed in range(2, 5_000)])
    assert lookup.contact_of(contact_of(21).peer_id) is not None
    assert lookup.contact_of(contact_of(22).peer_id) is None


def test_without_contacts_it_is_over_at_once() -> None:
    lookup = Lookup(0, [], own_id=OWN_ID)
    assert lookup.is_finished
    assert lookup.closest() == []


@given(
    seed=st.integers(0, 2**32),
    outcomes=st.lists(st.sampled_from(["reply", "fail", "slow", "slow and reply", "lie"]), min_size=1),
    radius_bits=st.integers(0, 256),
)
@settings(max_examples=60, deadline=None)
def test_ends_whatever_the_answers_are(seed: int, outcomes: list[str], radius_bits: int) -> None:
    rng = Random(seed)
    fresh = iter(range(seed % 1_000, 10**9))
    lookup = Lookup(
        rng.getrandbits(256),
        [contact_of(next(fresh)) for _ in range(5)],
        own_id=OWN_ID,
        radius=(1 << radius_bits) - 1,
    )
    asked: list[PeerId] = []
    while not lookup.is_finished:
        queries = lookup.next_queries()
        assert queries
        for contact in queries:
            outcome = outcomes[len(asked) % len(outcomes)]
            asked.append(contact.peer_id)
            if outcome.startswith("slow"):
                lookup.on_slow(contact.peer_id)
            if outcome.endswith(("reply", "lie")):
                lookup.on_reply(contact.peer_id, [contact_of(next(fresh)) for _ in range(20)])
            elif outcome == "fail":
                lookup.on_failure(contact.peer_id)
    assert len(asked) <= limits.DHT_LOOKUP_QUERIES_MAX
    assert max(map(asked.count, asked)) <= 2


@pytest.mark.parametrize("paths_with_attacker", [1, 2])
def test_no_contact_is_asked_by_two_paths(paths_with_attacker: int) -> None:
    model = LookupModel(Random(paths_with_attacker), 300)
    model.run(_start(model, 0))
    assert len(model.asked) == len(set(model.asked))
