"""Durability: the chain, the count and the specification say the same where all can speak."""

from __future__ import annotations

import math

import pytest

from node.chunks.geometry import Code
from simulations.models import availability, durability, markov
from simulations.models.durability import REPAIRS_DAYS, SPECIFIED
from simulations.models.markov import Upkeep

CASES = [
    (data, total, life, repair, losses[place], losses[3])
    for (data, total, life), losses in SPECIFIED.items()
    for place, repair in enumerate(REPAIRS_DAYS)
]


@pytest.mark.parametrize(("data", "total", "life", "repair", "loss", "traffic"), CASES)
def test_the_chain_gives_the_specified_figures(
    data: int, total: int, life: int, repair: float, loss: float, traffic: float
) -> None:
    outlook = markov.outlook(Upkeep(Code(data, total), life, repair))
    assert loss / 1.35 < outlook.loss < loss * 1.35
    if repair == 1.0:
        assert outlook.traffic == pytest.approx(traffic, rel=0.1)


@pytest.mark.parametrize(
    "upkeep", [Upkeep(Code(4, 12), 30, 3), Upkeep(Code(10, 30), 30, 3), Upkeep(Code(10, 40), 30, 7)]
)
def test_the_count_agrees_with_the_chain(upkeep: Upkeep) -> None:
    segments = 4_000
    outlook = markov.outlook(upkeep)
    counted = durability.count(upkeep, segments=segments, seed=1, is_fixed=False)
    assert counted.loss == pytest.approx(outlook.loss, abs=4 * math.sqrt(outlook.loss / segments))
    assert counted.traffic == pytest.approx(outlook.traffic, rel=0.03)
    assert counted.repairs == pytest.approx(outlook.repairs, rel=0.03)


def test_a_fixed_delay_loses_what_the_formula_says_and_far_less_than_an_exponential_one() -> None:
    upkeep = Upkeep(Code(4, 12), 30, 3)
    segments = 20_000
    expected = markov.fixed_delay_loss(upkeep)
    counted = durability.count(upkeep, segments=segments, seed=2, is_fixed=True)
    assert counted.loss == pytest.approx(expected, abs=5 * math.sqrt(expected / segments))
    assert expected < markov.outlook(upkeep).loss / 5


def test_losses_grow_with_time_and_slowness_and_shrink_with_parity() -> None:
    losses = [markov.outlook(Upkeep(Code(10, 30), 90, repair)).loss for repair in (0.5, 1, 2, 4, 8)]
    assert losses == sorted(losses)
    years = [markov.outlook(Upkeep(Code(10, 30), 90, 3), days=365 * year).loss for year in (1, 2, 4)]
    assert years[1] == pytest.approx(2 * years[0], rel=0.1)
    assert years == sorted(years)
    codes = [markov.outlook(Upkeep(Code(10, total), 90, 3)).loss for total in (40, 30, 20)]
    assert codes == sorted(codes)


def test_without_repair_a_segment_dies_as_independent_coins_say() -> None:
    upkeep = Upkeep(Code(4, 12), 365, 1e12)
    gone = 1 - math.exp(-1)
    assert markov.outlook(upkeep).loss == pytest.approx(markov.at_least(9, 12, gone), rel=1e-6)


def test_counting_is_the_same_for_the_same_seed() -> None:
    upkeep = Upkeep(Code(4, 12), 30, 7)
    one, again, other = (durability.count(upkeep, segments=500, seed=s, is_fixed=True) for s in (1, 1, 2))
    assert one == again != other


def test_live_shards_in_the_long_run_add_up_and_are_mostly_above_the_threshold() -> None:
    usual = markov.live_shards(Upkeep(Code(10, 30), 90, 3))
    assert math.fsum(usual.values()) == pytest.approx(1)
    assert set(usual) == set(range(10, 31))
    assert sum(share for live, share in usual.items() if live > 20) > 0.85


def test_availability_is_as_specified_without_choice_and_far_better_with_it() -> None:
    plain, worst, chosen = availability.availability(Code(10, 30), seed=1)
    assert plain.segment_unavailable == pytest.approx(0.0014, abs=0.0001)
    assert plain.file_unavailable == pytest.approx(0.28, abs=0.01)
    assert worst.holders_online >= 20
    assert chosen.segment_unavailable < worst.segment_unavailable < plain.segment_unavailable / 1e6


def test_a_disaster_hits_as_binomials_say_and_no_subnet_takes_more_than_two_shards() -> None:
    figures = availability.disaster(Code(10, 30), [0.0, 0.2, 0.5, 1.0])
    losses = [row.segment_lost for row in figures]
    assert losses == sorted(losses)
    assert losses[0] == 0.0
    assert losses[-1] == pytest.approx(1.0)
    assert losses[2] > markov.at_least(21, 30, 0.5)  # some shards were missing before
    free, diverse = availability.subnet(Code(10, 30), seed=1)
    assert diverse.shards_lost_max == 2
    assert free.shards_lost_max > 2


def test_too_few_is_the_exact_sum_of_coins() -> None:
    assert availability.too_few([0.5, 0.25], 1) == pytest.approx(0.375)
    assert availability.too_few([1.0] * 5, 5) == 0.0
    assert availability.too_few([0.9] * 10, 10) == pytest.approx(1 - 0.9**10)
