"""Machines of the Freenet mix that come, go and leave for good, many at once. Pure, over numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from node.units import HOUR_S
from simulations.churn import FREENET_2010
from simulations.models.churn import Bits, Floats, Indexes

EVENING, MORNING = 18, 8
"""Hours at which those that are off at night are switched off and on: an office's night, not a home's."""
_MIX_UPTIME = np.array([profile.uptime for profile in FREENET_2010])


@dataclass(slots=True)
class Machines:
    """Who is online: sessions and absences drawn one by one, departures for good."""

    random: np.random.Generator
    count: int
    life_s: float
    kind: Indexes = field(init=False)
    is_on: Bits = field(init=False)
    switch_s: Floats = field(init=False)
    leaves_s: Floats = field(init=False)
    number: Indexes = field(init=False)
    """Which machine has this place: a newcomer takes the place of who left."""
    born: int = 0
    nightly: float = 0.0
    is_nightly: Bits = field(init=False)

    def __post_init__(self) -> None:
        self.kind, self.is_on = np.zeros(self.count, np.int64), np.zeros(self.count, np.bool_)
        self.switch_s, self.leaves_s = np.zeros(self.count), np.zeros(self.count)
        self.number = np.zeros(self.count, np.int64)
        self.is_nightly = np.arange(self.count) < self.nightly * self.count
        self.replace(np.arange(self.count), 0.0)

    def replace(self, places: Indexes, now_s: float) -> None:
        """New machines of the mix in these places."""
        self.kind[places] = self.random.choice(
            len(FREENET_2010), len(places), p=[profile.share for profile in FREENET_2010]
        )
        self.is_on[places] = self.random.random(len(places)) < _MIX_UPTIME[self.kind[places]]
        self.switch_s[places] = now_s + self._lengths(places)
        self.leaves_s[places] = now_s + self.random.exponential(self.life_s, len(places))
        self.number[places] = self.born + np.arange(len(places))
        self.born += len(places)

    def advance(self, now_s: float) -> None:
        """Sessions up to `now_s`."""
        while len(due := np.flatnonzero(self.switch_s <= now_s)):
            self.is_on[due] = ~self.is_on[due]
            self.switch_s[due] += self._lengths(due)

    def online(self, now_s: float) -> Bits:
        """Who is there: on, and not switched off for the night."""
        hour = int(now_s) // HOUR_S % 24
        return self.is_on & ~self.is_nightly if hour >= EVENING or hour < MORNING else self.is_on

    def _lengths(self, places: Indexes) -> Floats:
        lengths = np.zeros(len(places))
        for kind, profile in enumerate(FREENET_2010):
            of_kind = self.kind[places] == kind
            session = profile.scale_s * self.random.weibull(profile.shape, len(places))
            absence = self.random.exponential(profile.absence_s, len(places))
            lengths = np.where(of_kind, np.where(self.is_on[places], session, absence), lengths)
        return np.maximum(lengths, 30.0)
