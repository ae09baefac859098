"""Volunteers come and go as measured: the mix of Freenet in 2010, sessions of the IMC study of 2006."""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import DAY_S, HOUR_S, MIB
from simulations.churn import absences, profiles_of
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    count = 9 if brief else 16
    duration_s = 0.5 * HOUR_S if brief else 0.5 * DAY_S
    faults = []
    for index, profile in enumerate(profiles_of(count)):
        for leaves_s, away_s in absences(profile, random, until_s=duration_s):
            kind = random.choices(["away", "kill", "power-loss"], [6, 3, 1])[0]
            faults.append(Fault(JOIN_S + leaves_s, kind, index, lasts_s=away_s))
    return Plan(
        hosts=[
            HostSettings(donated_bytes=64 * MIB, clock_drift_ppm=random.uniform(-100, 100))
            for _ in range(count)
        ],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(strike=0.3, code=Code(2, 6), mean_pause_s=50 if brief else 600),
    )


SCENARIO = Scenario("churn", "volunteers come and go as measured in 2006 and 2010", _plan)
