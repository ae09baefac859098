"""Lookups at scale: they find what was announced, in time, and churn costs what it must."""

from __future__ import annotations

import os

import pytest

from node import limits
from node.dht.distance import KEY_BITS, key_of, nearest
from simulations.models import lookups
from simulations.models.churn import STEADY
from simulations.models.lookups import Settings
from simulations.models.population import Population, World

MANY = 2_000 if os.environ.get("CAIRN_TEST_FULL") else 40


def test_a_file_just_put_is_found_within_a_second_under_churn() -> None:
    figures = lookups.run(Settings(1_000, MANY), seed=1)
    assert figures.success >= 0.99
    assert figures.found_p95_s < 1.0
    assert figures.value_p95_s < 1.0


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    settings = Settings(300, 6)
    assert lookups.run(settings, seed=1) == lookups.run(settings, seed=1)
    assert lookups.run(settings, seed=1) != lookups.run(settings, seed=2)


def test_without_churn_a_lookup_finds_the_nearest_and_waits_for_nobody() -> None:
    population = Population(2_000, STEADY, seed=4)
    for number in range(10):
        world = World(population, number)
        key = key_of(bytes([number]))
        lookup, trace = lookups.search(world, number, key, Settings(2_000, 1), radius=0)
        keys = [key_of(population.contact(node).peer_id) for node in range(2_000)]
        others = [node for node in range(2_000) if node != number]
        assert list(trace.holders) == nearest(
            others, key, limits.DHT_BUCKET_CONTACTS, key=lambda node: keys[node]
        )
        assert lookup.is_finished
        assert trace.unanswered == 0
        assert trace.end_s < limits.DHT_LOOKUP_SLOW_S + 0.5
        assert key >> KEY_BITS == 0


def test_churn_costs_time_and_a_network_of_casual_nodes_loses_records() -> None:
    day_s = 22 * 3_600.0
    steady = lookups.run(Settings(300, 8, age_s=day_s, mix="steady"), seed=5)
    mixed = lookups.run(Settings(300, 8, age_s=day_s), seed=5)
    casual = lookups.run(Settings(300, 8, age_s=day_s, mix="casual"), seed=5)
    assert steady.success == 1.0
    assert steady.unanswered_share == 0.0
    assert steady.complete_p50_s < mixed.complete_p50_s
    assert 0 < mixed.unanswered_share < casual.unanswered_share
    assert casual.success <= mixed.success <= steady.success


def test_a_peer_that_is_gone_costs_the_clients_limits() -> None:
    figures = lookups.run(Settings(300, 20), seed=6)
    assert limits.DHT_LOOKUP_SLOW_S < figures.complete_p95_s < 4 * limits.DHT_LOOKUP_SLOW_S


@pytest.mark.parametrize("nodes", [1, 5])
def test_tiny_networks_work(nodes: int) -> None:
    figures = lookups.run(Settings(nodes, 3, mix="steady"), seed=7)
    assert figures.success == (0.0 if nodes == 1 else 1.0)
