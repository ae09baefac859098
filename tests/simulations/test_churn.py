"""Simulated volunteers come and go as the measurements say."""

from __future__ import annotations

from random import Random

import pytest

from simulations.churn import ALWAYS_ON, CASUAL, FREENET_2010, REGULAR, Profile, absences, profiles_of

DAYS = 2_000


def test_the_shares_are_those_of_the_survey() -> None:
    profiles = profiles_of(100)
    assert [profiles.count(profile) for profile in FREENET_2010] == [37, 33, 30]
    assert profiles_of(1) == [REGULAR]


@pytest.mark.parametrize("profile", FREENET_2010, ids=lambda profile: profile.name)
def test_uptime_is_the_measured_one(profile: Profile) -> None:
    until_s = DAYS * 86_400.0
    away_s = sum(away for _, away in absences(profile, Random(7), until_s=until_s))
    assert 1 - away_s / until_s == pytest.approx(profile.uptime, abs=0.04)


def test_absences_follow_each_other() -> None:
    back_s = 0.0
    for leaves_s, away_s in absences(CASUAL, Random(1), until_s=10 * 86_400.0):
        assert leaves_s >= back_s
        back_s = leaves_s + away_s
    assert ALWAYS_ON.session_s > REGULAR.session_s > CASUAL.session_s
