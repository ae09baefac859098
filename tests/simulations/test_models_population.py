"""Histories and tables of the models: right on average, the same whoever asks in whatever order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from node import limits
from node.dht.distance import KEY_BITS, common_prefix_bits, key_of
from node.dht.routing_table import RoutingTable
from node.units import HOUR_S
from simulations.churn import CASUAL, FREENET_2010
from simulations.models.churn import STEADY, Churn, mean_uptime, mixed, uniform
from simulations.models.population import WORD_BITS, Population, World

MANY = np.arange(40_000)


@pytest.mark.parametrize("ago_s", [0.0, 600.0, 6.0 * HOUR_S, 22.0 * HOUR_S])
def test_each_kind_is_online_its_share_of_the_time_whenever_one_looks(ago_s: float) -> None:
    churn = Churn(FREENET_2010, len(MANY), seed=3)
    online = churn.online(0, MANY, ago_s)
    assert online.mean() == pytest.approx(mean_uptime(FREENET_2010), abs=0.01)
    for kind, profile in enumerate(FREENET_2010):
        assert (churn.kinds == kind).mean() == pytest.approx(profile.share, abs=0.01)
        assert online[churn.kinds == kind].mean() == pytest.approx(profile.uptime, abs=0.015)


def test_who_is_online_stays_about_as_long_as_the_distribution_says() -> None:
    churn = Churn((CASUAL,), len(MANY), seed=4)
    now = churn.online(0, MANY)
    for ago_s in (300.0, 3_600.0):
        # Numerically: the age of a session met at random is over `ago_s`; some left and came back.
        ages_s = np.geomspace(1e-3, 1e9, 200_000)
        lasts = np.exp(-((ages_s / CASUAL.scale_s) ** CASUAL.shape))
        beyond = np.trapezoid(np.where(ages_s > ago_s, lasts, 0), ages_s) / np.trapezoid(lasts, ages_s)
        then = churn.online(0, MANY[now], ago_s).mean()
        assert beyond - 0.02 < then < beyond + 0.06


def test_histories_do_not_depend_on_who_is_asked_with_whom() -> None:
    churn = Churn(FREENET_2010, len(MANY), seed=5)
    ago_s = np.linspace(0, 30 * HOUR_S, len(MANY))
    together = churn.online(7, MANY, ago_s)
    some = np.array([5, 17, 39_999, 20_000])
    assert (churn.online(7, some, ago_s[some]) == together[some]).all()
    assert (churn.online(8, MANY, ago_s) != together).any()
    assert (Churn(FREENET_2010, len(MANY), seed=6).online(7, MANY, ago_s) != together).any()


def test_mixing_numbers_is_the_same_for_integers_and_arrays_and_even() -> None:
    assert mixed(1, 2, 3)[0] == mixed(1, np.array([2]), 3)[0] == mixed(np.array([1]), 2, np.array([3]))[0]
    chances = uniform(9, MANY)
    assert 0 < chances.min() < chances.max() < 1
    assert chances.mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * len(MANY)))


def test_nodes_are_in_the_order_of_their_keys() -> None:
    population = Population(500, FREENET_2010, seed=1)
    keys = [key_of(population.contact(node).peer_id) for node in range(500)]
    assert keys == sorted(keys)
    assert [key >> (KEY_BITS - WORD_BITS) for key in keys] == [int(word) for word in population.keys]


@pytest.mark.parametrize("count", [1, 2, 15, 300])
def test_without_churn_a_table_answers_as_the_real_one_does(count: int) -> None:
    population = Population(count, STEADY, seed=2)
    world = World(population, 0)
    keys = [key_of(population.contact(node).peer_id) for node in range(count)]
    for node in range(0, count, 75):
        for number in range(3):
            target = key_of(b"target" + bytes([number])) if number else keys[(node + 1) % count]
            answer = world.nearest(node, target >> (KEY_BITS - WORD_BITS), 20)
            # A table of the real kind, filled with those that the model says it holds.
            table = RoutingTable(keys[node])
            everyone = world.nearest(node, target >> (KEY_BITS - WORD_BITS), count)
            for other in [*everyone, *_bucket_mates(world, node, target, count)]:
                table.answered(population.contact(other), subnet=None, now_s=0.0)
            assert [population.contact(other) for other in answer] == table.nearest(target, 20)
            assert node not in answer


def _bucket_mates(world: World, node: int, target: int, count: int) -> list[int]:
    """Whoever the model tells of the node's other buckets."""
    own = key_of(world.contact(node).peer_id)
    found = []
    for bit in range(KEY_BITS - WORD_BITS, KEY_BITS):
        found += world.nearest(node, (own ^ (1 << bit)) >> (KEY_BITS - WORD_BITS), count)
    return found


def test_a_bucket_tells_no_more_than_it_holds_and_prefers_those_who_stay() -> None:
    population = Population(20_000, FREENET_2010, seed=3)
    kinds = []
    for number in range(30):
        world = World(population, number)
        node = world.someone_online(0)
        far = int(population.keys[node]) ^ 1 << (WORD_BITS - 1)
        told = world.nearest(node, far, 20)
        own = int(population.keys[node])
        assert len(told) == limits.DHT_BUCKET_CONTACTS
        assert all(
            common_prefix_bits(own, int(population.keys[other])) - (KEY_BITS - WORD_BITS) == 0
            for other in told
        )
        kinds += [int(population.churn.kinds[other]) for other in told]
    assert kinds.count(0) / len(kinds) > 0.7
