"""Nothing goes wrong: everything must work at once, the first time.

At the end one machine is lost, and its owner's 24 words bring the files back on a new one.
"""

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
    hosts.append(HostSettings())  # in its box until somebody restores an account on it
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=(0.25 if brief else 3) * HOUR_S,
        workload=Workload(code=Code(3, 6), mean_pause_s=30 if brief else 60),
        prepare=_hold_back,
        judge=_judge,
    )


def _hold_back(world: World) -> None:
    world.hosts[-1].is_held_back = True


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
    owners = sorted({file.owner for file in world.files if not file.is_deleted})
    if owners and not world.ended.is_set():
        await actions.restore(world.hosts[random.choice(owners)], world.hosts[-1])


SCENARIO = Scenario("steady", "nothing goes wrong", _plan)
