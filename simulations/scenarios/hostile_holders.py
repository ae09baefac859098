"""A third of the donors lie: corrupt blocks, withheld blocks, wrong blocks, silence, noise."""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.sabotage import SABOTAGES
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    count = 9 if brief else 21
    duration_s = (0.3 if brief else 3) * HOUR_S
    hostile = random.sample(range(3, count), count // 3)
    kinds = list(SABOTAGES)
    faults = [
        # Some lie from the first byte on, some only once they hold something.
        Fault(random.choice([JOIN_S, JOIN_S + duration_s / 4]), "turn-hostile", index,
              word=kinds[number % len(kinds)])
        for number, index in enumerate(hostile)
    ]  # fmt: skip
    honest = [index for index in range(count) if index not in hostile]
    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB) for _ in range(count)],
        faults=sorted(faults, key=lambda fault: fault.at_s),
        duration_s=duration_s,
        workload=Workload(
            code=Code(2, 7), mean_pause_s=40 if brief else 90, putters=tuple(honest), readers=tuple(honest)
        ),
    )


SCENARIO = Scenario("hostile_holders", "a third of the donors lie about what they hold", _plan)
