"""Volunteers come and go as measured: the mix of Freenet in 2010, sessions of the IMC study of 2006.

With `--days` for weeks: machines are lost for good as well, and new ones come in their place. The settings
are those of real nodes then (a holder counts as dead after two days), and what the dead held must have been
made again by whoever was left.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from node.chunks.geometry import Code
from node.units import DAY_S, HOUR_S, MIB
from simulations.churn import ALWAYS_ON, Profile, absences, profiles_of
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Workload
from simulations.world import SEED_CONTACTS, World

CODE = Code(2, 6)
PLACES = 12
"""Machines at a time, in a run of weeks."""
MEAN_LIFE_S = 30 * DAY_S
"""Until a machine is lost for good: the shortest life of the table in credit.md."""
HEALED_WITHIN_S = 3.5 * DAY_S
"""Two days until the last of the dead counts as dead, and a day for audits and turns."""


def _plan(random: Random, brief: bool) -> Plan:
    count = 9 if brief else 16
    duration_s = 0.5 * HOUR_S if brief else 0.5 * DAY_S
    faults = [
        fault
        for index, profile in enumerate(profiles_of(count))
        for fault in _comes_and_goes(profile, random, index, JOIN_S, duration_s)
    ]
    return Plan(
        hosts=[_machine(random) for _ in range(count)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(strike=0.3, code=CODE, mean_pause_s=50 if brief else 600),
    )


def _plan_days(random: Random, days: float) -> Plan:
    duration_s = days * DAY_S
    faults: list[Fault] = []
    later = 0
    # Those that newcomers join through stay, as the machines in a list of bootstrap peers do.
    profiles = [ALWAYS_ON] * SEED_CONTACTS + profiles_of(PLACES - SEED_CONTACTS)
    for place, profile in enumerate(profiles):
        index, comes_s = place, JOIN_S
        while comes_s < duration_s:
            stays = place < SEED_CONTACTS
            goes_s = duration_s if stays else comes_s + random.expovariate(1 / MEAN_LIFE_S)
            until_s = min(goes_s, duration_s)
            faults += _comes_and_goes(profile, random, index, comes_s, until_s)
            if goes_s >= duration_s:
                break
            faults.append(Fault(goes_s, "gone", index))
            comes_s = goes_s + random.uniform(1, 24) * HOUR_S
            index = PLACES + later
            later += 1
            faults.append(Fault(comes_s, "join", index))
    return Plan(
        hosts=[_machine(random) for _ in range(PLACES + later)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(strike=0.1, code=CODE, mean_pause_s=HOUR_S, files_max=30),
        prepare=_hold_back,
        heals_within_s=HEALED_WITHIN_S,
        missing_max=(CODE.total_shards - CODE.data_shards) // 2,
    )


def _hold_back(world: World) -> None:
    """Machines beyond the first ones join later."""
    for host in world.hosts[PLACES:]:
        host.is_held_back = True


def _machine(random: Random) -> HostSettings:
    return HostSettings(donated_bytes=64 * MIB, clock_drift_ppm=random.uniform(-100, 100))


def _comes_and_goes(
    profile: Profile, random: Random, index: int, from_s: float, until_s: float
) -> Iterator[Fault]:
    for leaves_s, away_s in absences(profile, random, until_s=until_s - from_s):
        kind = random.choices(["away", "kill", "power-loss"], [6, 3, 1])[0]
        yield Fault(from_s + leaves_s, kind, index, lasts_s=away_s)


SCENARIO = Scenario("churn", "volunteers come and go as measured in 2006 and 2010", _plan, _plan_days)
