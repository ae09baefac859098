"""Disks that are slow, full, failing, rotting or cut off in the midst of a write, and clocks that step."""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    count = 8 if brief else 16
    duration_s = (0.3 if brief else 4) * HOUR_S
    faults = []
    for _ in range(12 if brief else 60):
        at_s, index = random.uniform(JOIN_S, duration_s - 300), random.randrange(count)
        lasts_s = random.uniform(20, 400)
        kind = random.choices(
            [
                "slow-disk",
                "full-disk",
                "failing-sync",
                "crash-writing",
                "power-loss",
                "bit-rot",
                "clock-step",
            ],
            [3, 2, 1, 5, 2, 1, 1],
        )[0]
        amount = {
            "slow-disk": random.uniform(0.01, 2.0),
            "full-disk": random.randrange(0, 200_000),
            "crash-writing": random.randrange(1, 300),
            "bit-rot": random.randrange(1, 20),
            "clock-step": random.uniform(-7200, 7200),
        }.get(kind, 0.0)
        faults.append(Fault(at_s, kind, index, lasts_s=lasts_s, amount=amount))
    return Plan(
        hosts=[
            HostSettings(donated_bytes=random.choice([16 * MIB, 20 * MIB, 40 * MIB])) for _ in range(count)
        ],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(
            strike=0.3, code=Code(2, 6), file_bytes_max=600_000, mean_pause_s=20 if brief else 60
        ),
    )


SCENARIO = Scenario("slow_disks", "disks are slow, full, failing or rotting; power fails mid-write", _plan)
