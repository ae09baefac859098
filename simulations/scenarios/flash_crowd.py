"""Everybody wants one file at once, most of them on machines that have only just joined."""

from __future__ import annotations

from random import Random

import trio

from node.chunks.geometry import Code
from node.units import HOUR_S, MIB
from simulations.faults import Fault
from simulations.host import HostSettings
from simulations.scenario import JOIN_S, Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World

WAVES = 4
WAVE_S = 20.0


def _plan(random: Random, brief: bool) -> Plan:
    donors, readers = (7, 5) if brief else (12, 36)
    hosts = [HostSettings(donated_bytes=64 * MIB) for _ in range(donors)]
    hosts += [HostSettings(dialable=random.random() < 0.5) for _ in range(readers)]
    duration_s = (0.2 if brief else 1) * HOUR_S
    # Two holders die in the rush.
    faults = [
        Fault(JOIN_S + 90 + random.uniform(0, WAVES * WAVE_S), "kill", index, lasts_s=300)
        for index in random.sample(range(donors), 2)
    ]
    return Plan(
        hosts=hosts,
        faults=faults,
        duration_s=duration_s,
        workload=Workload(
            code=Code(3, 7), mean_pause_s=300, file_bytes_max=400_000, putters=tuple(range(donors))
        ),
        files_first=1,
        extra=_rush,
    )


async def _rush(world: World, actions: Actions, random: Random) -> None:
    """All hosts get the first file, in waves."""
    await trio.sleep(60)

    async def get(index: int, after_s: float) -> None:
        await trio.sleep(after_s)
        host = world.hosts[index]
        if host.is_up and await actions.get(host, world.files[0]):
            world.figures.add("rush served")

    async with trio.open_nursery() as nursery:
        for index in range(len(world.hosts)):
            nursery.start_soon(get, index, random.randrange(WAVES) * WAVE_S + random.random())


SCENARIO = Scenario("flash_crowd", "everybody gets one file at once", _plan)
