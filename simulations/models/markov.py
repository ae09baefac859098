"""A segment as a Markov chain: shards leave one by one, a repair brings all of them back.

State: how many shards live. In state i one leaves at rate i / mean life. At or under the threshold a repair
is on its way, which takes an exponential time with the given mean and restores all; a segment with fewer than
`data_shards` is lost for ever. Solved by uniformisation: a sum of terms none of which is negative, so that
a probability of 1e-15 is as exact as one of a half. Source: Jensen, Markoff chains as
an aid in the study of Markoff processes (1953).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from node.chunks.geometry import Code
from simulations.models.churn import Floats

YEAR_DAYS = 365.0


@dataclass(frozen=True, slots=True)
class Upkeep:
    """How a segment is kept alive, in days."""

    code: Code
    life_days: float
    """Mean time that a donor stays in the network."""
    repair_days: float
    """Mean time from a segment's fall to the threshold until it is whole."""

    @property
    def threshold(self) -> int:
        """Live shards at which repair begins: half of the parity is lost."""
        return self.code.total_shards - self.code.parity_shards // 2

    @property
    def states(self) -> range:
        """Numbers of live shards, the lost one first."""
        return range(self.code.data_shards - 1, self.code.total_shards + 1)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the chain says of one segment that begins whole."""

    loss: float
    """Probability that it is lost within the time."""
    repairs: float
    """Expected repairs within the time."""
    traffic: float
    """Bytes moved by them, in multiples of the segment: data_shards are read, each missing one is written."""


def generator(upkeep: Upkeep) -> Floats:
    """Rates a day between `upkeep.states`; the first is absorbing."""
    states = upkeep.states
    rates = np.zeros((len(states), len(states)))
    for place, live in enumerate(states):
        if place == 0:
            continue
        rates[place, place - 1] += live / upkeep.life_days
        if live <= upkeep.threshold:
            rates[place, -1] += 1 / upkeep.repair_days
    np.fill_diagonal(rates, -rates.sum(axis=1))
    return rates


def outlook(upkeep: Upkeep, *, days: float = YEAR_DAYS) -> Outlook:
    """Loss and repairs in `days`, to rounding."""
    rates = generator(upkeep)
    pace = float(-rates.diagonal().min()) * 1.02
    step = np.eye(len(rates)) + rates / pace
    chance = np.zeros(len(rates))
    chance[-1] = 1.0
    states = np.array(upkeep.states)
    is_due = (states <= upkeep.threshold) & (states >= upkeep.code.data_shards)
    missing = upkeep.code.total_shards - states
    cost = is_due * (upkeep.code.data_shards + missing) / upkeep.code.data_shards
    mean = pace * days
    spread = 12 * math.sqrt(mean) + 40
    loss = repairs = traffic = 0.0
    survival = 1.0  # probability that more than `turn` steps happen
    for turn in range(int(mean + spread) + 1):
        weight = math.exp(turn * math.log(mean) - mean - math.lgamma(turn + 1))
        loss += weight * chance[0]
        survival = max(0.0, survival - weight)
        # Time spent in a state: 1 / pace for every step that is not the last one.
        repairs += survival / pace * float(chance @ is_due) / upkeep.repair_days
        traffic += survival / pace * float(chance @ cost) / upkeep.repair_days
        chance = chance @ step
    return Outlook(loss, repairs, traffic)


def fixed_delay_loss(upkeep: Upkeep, *, days: float = YEAR_DAYS) -> float:
    """Loss in `days` if a repair takes exactly `repair_days`: more leave in that time than the code bears.

    Each fall to the threshold risks it once; how many falls there are is taken as their mean.
    """
    code, threshold = upkeep.code, upkeep.threshold
    leaves = -math.expm1(-upkeep.repair_days / upkeep.life_days)
    risk = at_least(threshold - code.data_shards + 1, threshold, leaves)
    fall_days = upkeep.life_days * sum(1 / live for live in range(threshold + 1, code.total_shards + 1))
    return -math.expm1(days / (fall_days + upkeep.repair_days) * math.log1p(-risk))


def at_least(count: int, of: int, chance: float) -> float:
    """Probability that `count` or more of `of` independent things happen."""
    return math.fsum(
        math.comb(of, happened) * chance**happened * (1 - chance) ** (of - happened)
        for happened in range(max(0, count), of + 1)
    )


def live_shards(upkeep: Upkeep) -> dict[int, float]:
    """In the long run, how often a segment that is not lost has each number of live shards."""
    rates = generator(upkeep)[1:, 1:]
    rates[0, 0] += upkeep.code.data_shards / upkeep.life_days  # as if the last departure did not happen
    system = np.vstack([rates.T, np.ones(len(rates))])
    wanted = np.append(np.zeros(len(rates)), 1.0)
    share = np.linalg.lstsq(system, wanted, rcond=None)[0].clip(min=0)
    return dict(zip(upkeep.states[1:], (float(value) for value in share / share.sum()), strict=True))
