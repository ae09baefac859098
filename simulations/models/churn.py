"""Who is online when, for any number of volunteers' machines: drawn when asked for, the same for ever.

A machine's history is a function of the seed, the world and its number, computed backwards from now, so that
a million machines cost nothing until a lookup touches one. Sources: the Freenet project's survey of 2010
(37 % of nodes always on with 96 % uptime, 33 % regular with 56 %, 30 % casual with 16 %); Stutzbach and
Rejaie, Understanding Churn in Peer-to-Peer Networks (IMC 2006): sessions of casual nodes follow a Weibull
distribution with shape 0.34 to 0.59 and scale 21 to 42 minutes. The survey tells no session lengths of the
other two kinds; two days and nine hours are assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from node.units import DAY_S, HOUR_S
from simulations.churn import CASUAL, FREENET_2010, SESSION_MIN_S, Profile

Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]
Bits = NDArray[np.bool_]

_QUANTILES = 4_096
_SWITCHES_MIN = 6
_SWITCH_PACE_S = 1.5 * HOUR_S
"""The kind that switches most does it half as often."""


STEADY = (Profile("steady", 1.0, 1.0 - 1e-12, 1.0, 1e6 * DAY_S),)
"""Nobody ever leaves."""
CASUAL_ONLY = (replace(CASUAL, share=1.0),)
"""The worst network there could be."""
MIXES = {"freenet": FREENET_2010, "steady": STEADY, "casual": CASUAL_ONLY}

_WORD = 2**64 - 1
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def residual_s(profile: Profile) -> float:
    """Mean time that one who is online now will stay: long sessions weigh more."""
    return profile.scale_s**2 * math.gamma(1 + 2 / profile.shape) / (2 * profile.session_s)


def mean_uptime(mix: Sequence[Profile]) -> float:
    """Share of the machines that is online at any time."""
    return sum(profile.share * profile.uptime for profile in mix)


def mixed(*parts: NDArray[np.uint64] | Indexes | int) -> NDArray[np.uint64]:
    """Numbers of 64 bits from integers, broadcast against each other: splitmix64 over each in turn."""
    words = 0
    start = 0
    for part in parts:  # plain integers come first, where they are quickest
        if not isinstance(part, int):
            break
        words = ((words ^ part) + _MIX[0]) & _WORD
        words = ((words ^ words >> 30) * _MIX[1]) & _WORD
        words = ((words ^ words >> 27) * _MIX[2]) & _WORD
        words ^= words >> 31
        start += 1
    state = np.array([words], np.uint64)
    for part in parts[start:]:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(_MIX[0])
        state ^= state >> np.uint64(30)
        state *= np.uint64(_MIX[1])
        state ^= state >> np.uint64(27)
        state *= np.uint64(_MIX[2])
        state ^= state >> np.uint64(31)
    return state


def uniform(*parts: NDArray[np.uint64] | Indexes | int) -> Floats:
    """A number in (0, 1) from integers."""
    return ((mixed(*parts) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


class Churn:
    """The histories of `count` machines of a mix."""

    def __init__(self, mix: Sequence[Profile], count: int, *, seed: int) -> None:
        self.mix = tuple(mix)
        self._seed = seed
        bounds = np.cumsum([profile.share for profile in mix])[:-1]
        self.kinds = np.searchsorted(bounds, uniform(seed, 1, np.arange(count))).astype(np.int8)
        self._uptime = np.array([profile.uptime for profile in mix])
        self._shape = np.array([profile.shape for profile in mix])
        self._scale_s = np.array([profile.scale_s for profile in mix])
        self._absence_s = np.array([profile.absence_s for profile in mix])
        self._session_ages_s = np.array([_session_ages_s(profile) for profile in mix])

    def online(self, world: int, machines: Indexes, ago_s: Floats | float = 0.0) -> Bits:
        """Whether each machine was online `ago_s` before now, in one of the worlds that the seed names."""
        ago = np.broadcast_to(np.asarray(ago_s, np.float64), machines.shape)
        if not len(machines):
            return np.zeros(0, np.bool_)
        kinds = self.kinds[machines]
        is_on = uniform(self._seed, 2, world, machines) < self._uptime[kinds]
        if not ago.any():
            return is_on
        switch_s = self._age_s(kinds, is_on, uniform(self._seed, 3, world, machines))
        state = is_on
        for turn in range(_SWITCHES_MIN + 2 * math.ceil(float(ago.max()) / _SWITCH_PACE_S)):
            has_switched = switch_s < ago
            if not has_switched.any():
                break
            state = np.where(has_switched, ~state, state)
            length_s = self._length_s(kinds, state, uniform(self._seed, 4 + turn, world, machines))
            switch_s = np.where(has_switched, switch_s + length_s, np.inf)
        return state

    def _length_s(self, kinds: NDArray[np.int8], is_on: Bits, chance: Floats) -> Floats:
        """A whole session or absence."""
        exponential = -np.log(chance)
        session_s = self._scale_s[kinds] * exponential ** (1 / self._shape[kinds])
        return np.where(is_on, np.maximum(session_s, SESSION_MIN_S), self._absence_s[kinds] * exponential)

    def _age_s(self, kinds: NDArray[np.int8], is_on: Bits, chance: Floats) -> Floats:
        """How long the session or absence has lasted that is met at a random time."""
        place = chance * (_QUANTILES - 1)
        below = place.astype(np.int64)
        low, high = self._session_ages_s[kinds, below], self._session_ages_s[kinds, below + 1]
        session_s = low + (high - low) * (place - below)
        return np.where(is_on, session_s, -self._absence_s[kinds] * np.log(chance))


def _session_ages_s(profile: Profile) -> Floats:
    """Quantiles of the age of a session met at a random time: its density is that a session lasts longer."""
    ages_s = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, 20_000)]) * profile.scale_s
    lasts = np.exp(-((ages_s / profile.scale_s) ** profile.shape))
    share = np.concatenate([[0.0], np.cumsum(np.diff(ages_s) * (lasts[1:] + lasts[:-1]) / 2)])
    return np.interp(np.linspace(0, 1, _QUANTILES + 1), share / share[-1], ages_s)
