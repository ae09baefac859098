"""Half of all machines are lost for good within an hour, and others crash and come back.

Every file that still has enough shards must be healthy again within a day, by its holders alone; of others
nobody may say that they are kept.
"""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.daemon.config import build_config
from node.units import DAY_S, HOUR_S, MIB, MINUTE_S
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import BRISK, JOIN_S, Plan, Scenario
from simulations.workload import Workload

FRAGILE = Code(6, 8)
"""Half of the machines take such a file along: nobody may say that it is kept."""
DEFAULT = build_config({})
"""As real nodes are: two days of patience with one of them, hours with half of a segment."""

LEFT_MAX = 2
"""Shards of 2/8 that may be missing in the end by the settings: repair begins with the third."""


def _plan(random: Random, brief: bool) -> Plan:
    count, config = (10, BRISK) if brief else (18, DEFAULT)
    first_s = JOIN_S + (5 if brief else 30) * MINUTE_S
    span_s = (8 if brief else 60) * MINUTE_S
    lost = random.sample(range(count), count // 2)
    faults = [Fault(first_s + random.uniform(0, span_s), "gone", index) for index in lost]
    for index in range(count):
        if index not in lost and random.random() < 0.4:
            operations = random.randrange(1, 400)
            at_s = random.uniform(JOIN_S, first_s + span_s)
            faults.append(Fault(at_s, "crash-writing", index, lasts_s=120.0, amount=operations))
    after_s = (6 if brief else 60) * MINUTE_S
    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB, config=config) for _ in range(count)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=first_s + span_s + after_s,
        workload=Workload(strike=0.3, code=Code(2, 8), mean_pause_s=40 if brief else 600),
        files_first=7 if brief else 5,
        first_codes=(Code(2, 8), Code(2, 8), FRAGILE),
        heals_within_s=2.5 * HOUR_S if brief else DAY_S - span_s - after_s,
        missing_max=0 if brief else LEFT_MAX,
    )


SCENARIO = Scenario("mass_failure", "half of the machines are lost within an hour", _plan)
