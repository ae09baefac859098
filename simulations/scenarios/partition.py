"""The network falls apart and comes together again: islands, links that work one way, resets, slow lines."""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    count = 8 if brief else 18
    duration_s = (0.4 if brief else 4) * HOUR_S
    faults = []
    at_s = JOIN_S + 60.0
    while at_s < duration_s - 900:
        lasts_s = random.uniform(20, 600)
        island = tuple(sorted(random.sample(range(count), random.randrange(1, count // 2 + 1))))
        kind = random.choice(["partition", "one-way"])
        faults.append(Fault(at_s, kind, random.randrange(count), lasts_s=lasts_s, others=island))
        at_s += lasts_s + random.uniform(60, 600)
    for _ in range(6 if brief else 40):
        host, *others = random.sample(range(count), 4)
        faults.append(Fault(random.uniform(JOIN_S, duration_s), "reset", host, others=tuple(others)))
    for _ in range(2 if brief else 8):
        faults.append(
            Fault(
                random.uniform(JOIN_S, duration_s), "slow-link", random.randrange(count),
                lasts_s=random.uniform(60, 900), amount=random.uniform(0.1, 0.8),
            )
        )  # fmt: skip
    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB) for _ in range(count)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(code=Code(2, 5), mean_pause_s=40 if brief else 90),
    )


SCENARIO = Scenario("partition", "islands, one-way links, resets and slow lines", _plan)
