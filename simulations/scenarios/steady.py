"""Nothing goes wrong: everything must work at once, the first time."""

from __future__ import annotations

from random import Random

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.host import HostSettings
from simulations.scenario import Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World


def _plan(random: Random, brief: bool) -> Plan:
    count = 8 if brief else 20
    hosts = [HostSettings(donated_bytes=64 * MIB) for _ in range(count - 1)]
    hosts.append(HostSettings(dialable=False))
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=(0.25 if brief else 4) * HOUR_S,
        workload=Workload(code=Code(3, 6), mean_pause_s=30 if brief else 60),
        judge=_judge,
    )


async def _judge(world: World, actions: Actions, random: Random) -> None:
    """What may fail in a broken network may not fail in this one."""
    for name, count in world.figures.counts.items():
        if name.endswith(("unavailable", "refused for credit")):
            world.violate("findable at once", f"{count:g} times {name}, with nothing broken")
    for number, file in enumerate(world.files):
        if not file.is_deleted:
            host = random.choice(world.up())
            found = await actions.providers(host, file)
            if not found:
                world.violate("providers found", f"{host} finds no provider record of file {number}")


SCENARIO = Scenario("steady", "nothing goes wrong", _plan)
