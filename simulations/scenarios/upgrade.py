"""Two versions of the protocol side by side, while one machine after another is upgraded.

Versions that differ refuse each other's transfers in words; the DHT is common to both. So a file may be out
of reach while its holders speak another version, and must be whole again when all speak the same.
"""

from __future__ import annotations

from random import Random

import trio

from node.chunks.geometry import Code
from node.daemon.compose import PROTOCOL_VERSION
from node.units import HOUR_S, MIB
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, LEAVE_EARLY_S, Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World


def _plan(random: Random, brief: bool) -> Plan:
    count = 8 if brief else 18
    duration_s = (0.35 if brief else 4) * HOUR_S
    order = random.sample(range(count), count)

    async def upgrade(world: World, actions: Actions, _: Random) -> None:
        pause_s = (duration_s - JOIN_S - 2 * LEAVE_EARLY_S) / count
        for index in order:
            await trio.sleep(pause_s)
            host = world.hosts[index]
            await host.stop()
            host.version = PROTOCOL_VERSION + 1
            await world.start(host)
            world.figures.add("upgraded")

    return Plan(
        hosts=[HostSettings(donated_bytes=64 * MIB) for _ in range(count)],
        faults=[],
        duration_s=duration_s,
        workload=Workload(code=Code(2, 5), mean_pause_s=35 if brief else 90),
        extra=upgrade,
    )


SCENARIO = Scenario("upgrade", "two protocol versions side by side", _plan)
