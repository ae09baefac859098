"""Few donors, large files, and holders that die in the midst of puts: disks fill to their caps.

With as many donors as shards nobody can stand in for a holder that fails, so quorums matter. All are in one
private network: credit would stop them long before their caps.
"""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.host import HostSettings
from simulations.scenario import Plan, Scenario
from simulations.workload import Workload


def _plan(random: Random, brief: bool) -> Plan:
    donors, others = (4, 3) if brief else (6, 6)
    hosts = [
        HostSettings(donated_bytes=random.randrange(16, 22) * MIB, is_private=True) for _ in range(donors)
    ]
    hosts += [HostSettings(is_private=True) for _ in range(others)]
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=(0.25 if brief else 2) * HOUR_S,
        workload=Workload(
            code=Code(2, donors),
            mean_pause_s=10 if brief else 40,
            file_bytes_max=14_000_000,
            weights=(("put", 8), ("get", 2), ("range", 2), ("delete", 3), ("health", 1)),
            strike=0.7,
            putters=tuple(range(donors, donors + others)),
        ),
    )


SCENARIO = Scenario("filling", "few donors fill up, and die in the midst of puts", _plan)
