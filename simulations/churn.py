"""How long volunteers' machines stay, from published measurements. Pure.

Sources: the Freenet project's survey of 2010 (37 % of nodes always on with 96 % uptime, 33 % regular with
56 %, 30 % casual with 16 %); Stutzbach and Rejaie, Understanding Churn in Peer-to-Peer Networks (IMC 2006):
session lengths follow a Weibull distribution with shape 0.34 to 0.59 and scale 21 to 42 minutes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from node.units import DAY_S, HOUR_S, MINUTE_S


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of volunteer. Sessions are Weibull; `scale_s` and `shape` are those of the time online."""

    name: str
    share: float
    uptime: float
    shape: float
    scale_s: float

    @property
    def session_s(self) -> float:
        """Mean time online."""
        return self.scale_s * math.gamma(1 + 1 / self.shape)

    @property
    def absence_s(self) -> float:
        """Mean time offline, so that the uptime comes out."""
        return self.session_s * (1 - self.uptime) / self.uptime


ALWAYS_ON = Profile("always on", 0.37, 0.96, 1.0, 2.0 * DAY_S)
REGULAR = Profile("regular", 0.33, 0.56, 1.0, 9.0 * HOUR_S)
CASUAL = Profile("casual", 0.30, 0.16, 0.47, 31.0 * MINUTE_S)
FREENET_2010 = (ALWAYS_ON, REGULAR, CASUAL)
SESSION_MIN_S = 30.0
"""Shorter ones would end before the node has joined."""


def profiles_of(count: int) -> list[Profile]:
    """The mix for `count` machines, in the published shares as nearly as whole machines allow."""
    bounds, total = [], 0.0
    for profile in FREENET_2010:
        total += profile.share
        bounds.append((total, profile))
    return [next(p for bound, p in bounds if (i + 0.5) / count <= bound + 1e-9) for i in range(count)]


def absences(profile: Profile, random: Random, *, until_s: float) -> Iterator[tuple[float, float]]:
    """(when it leaves, for how long), from a start in the middle of a session on."""
    now_s = random.random() * _session(profile, random)
    while now_s < until_s:
        away_s = random.expovariate(1 / profile.absence_s)
        yield now_s, away_s
        now_s += away_s + _session(profile, random)


def _session(profile: Profile, random: Random) -> float:
    return max(SESSION_MIN_S, random.weibullvariate(profile.scale_s, profile.shape))
