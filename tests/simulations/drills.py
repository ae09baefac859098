"""Brief scenarios that lead straight to one safeguard: what a mutation breaks shows with nearly any seed.

The scenarios of `simulations/` look for what nobody thought of; a drill repeats on purpose the one course of
events that a safeguard exists for, so that a change of the code elsewhere does not move it out of sight.
"""

from __future__ import annotations

from random import Random

import trio

from node.chunks.geometry import Code
from node.units import MIB
from simulations.host import HostSettings
from simulations.scenario import LEAVE_EARLY_S, Extra, Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World

DONORS = 4
QUIET = 1e9
"""A mean pause of the workload at which it does nothing by itself."""
LARGE_BYTES = 4_000_000
"""A put that takes some seconds at the rate of a home's line."""


def _drill(
    name: str, summary: str, extra: Extra, *, donated_bytes: int = 64 * MIB, putters: int = 1
) -> Scenario:
    def plan(random: Random, brief: bool) -> Plan:
        hosts = [HostSettings(donated_bytes=donated_bytes, is_private=True) for _ in range(DONORS)]
        hosts += [HostSettings(is_private=True) for _ in range(putters)]
        return Plan(
            hosts=hosts,
            faults=[],
            duration_s=LEAVE_EARLY_S + 900.0,
            workload=Workload(
                code=Code(2, DONORS), mean_pause_s=QUIET, putters=tuple(range(DONORS, DONORS + putters))
            ),
            files_first=1,
            extra=extra,
        )

    return Scenario(name, summary, plan)


async def _kill_a_donor_in_a_put(world: World, actions: Actions, random: Random) -> None:
    """With as many donors as shards, and no room for a second one at any, nobody can stand in for it."""
    victim = world.hosts[random.randrange(DONORS)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_put, actions, world, DONORS, random, 4 * LARGE_BYTES)
        await trio.sleep(random.uniform(1.0, 3.0))
        await victim.crash(power_loss=False)
    await world.start(victim)


async def _lose_putters_in_their_puts(world: World, actions: Actions, random: Random) -> None:
    """Whoever put is gone for good; donors wait for blocks that never come."""
    async with trio.open_nursery() as nursery:
        for index in range(DONORS, len(world.hosts)):
            nursery.start_soon(_put, actions, world, index, random, LARGE_BYTES)
            await trio.sleep(random.uniform(1.0, 3.0))
            world.hosts[index].is_gone = True
            await world.hosts[index].crash(power_loss=True)
        nursery.cancel_scope.cancel()


async def _put_more_than_fits(world: World, actions: Actions, random: Random) -> None:
    """Several at once: each alone would fit, all together do not."""
    async with trio.open_nursery() as nursery:
        for index in range(DONORS, len(world.hosts)):
            nursery.start_soon(_put, actions, world, index, random, 3 * LARGE_BYTES)


async def _put(actions: Actions, world: World, index: int, random: Random, size_bytes: int) -> None:
    await actions.put(world.hosts[index], random, size_bytes=size_bytes)


DYING_DONOR = _drill("dying_donor", "a donor dies in a put", _kill_a_donor_in_a_put, donated_bytes=16 * MIB)
DYING_PUTTERS = _drill("dying_putters", "everyone who puts is lost", _lose_putters_in_their_puts, putters=3)
CROWDED = _drill(
    "crowded", "more is put at once than fits", _put_more_than_fits, donated_bytes=20 * MIB, putters=6
)
