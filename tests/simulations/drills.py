"""Brief scenarios that lead straight to one safeguard: what a mutation breaks shows with nearly any seed.

The scenarios of `simulations/` look for what nobody thought of; a drill repeats on purpose the one course of
events that a safeguard exists for, so that a change of the code elsewhere does not move it out of sight.
"""

from __future__ import annotations

from functools import partial
from random import Random

import trio

from node.chunks.geometry import Code
from node.daemon.compose import Node
from node.units import HOUR_S, MIB, SegmentId
from simulations import sabotage
from simulations.faults import Fault, inject
from simulations.host import HostSettings
from simulations.scenario import BRISK, LEAVE_EARLY_S, Extra, Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World

DONORS = 4
QUIET = 1e9
"""A mean pause of the workload at which it does nothing by itself."""
LARGE_BYTES = 4_000_000
AUDITS_S = 3 * HOUR_S
STRANGERS = 8
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


async def _lie_in_audits(world: World, actions: Actions, random: Random) -> None:
    """One donor gives nothing of what it keeps, another noise, while the others and the owner audit."""
    await _put(actions, world, DONORS, random, LARGE_BYTES)
    for index, word in ((1, "withhold"), (2, "forge")):
        await inject(world, [Fault(trio.current_time(), "turn-hostile", index, word=word)])
    await trio.sleep(AUDITS_S)


async def _move_for_nothing(world: World, actions: Actions, random: Random) -> None:
    """A holder says that another one is lost, and asks a third to take its shard under the owner's grant."""
    greedy = world.hosts[random.randrange(DONORS)]
    greedy.is_hostile = True
    assert greedy.node is not None
    sabotage.greedy(greedy, greedy.node)
    for file in world.files:
        for segment_id in file.segments:
            await greedy.use(partial(_repair, segment_id=segment_id))


async def _repair(node: Node, segment_id: SegmentId) -> None:
    await node.healing.service.repair_now(segment_id)


async def _put_as_strangers(world: World, actions: Actions, random: Random) -> None:
    """One newcomer after the other; together they want more than any donor pledged."""
    for index in range(DONORS, len(world.hosts)):
        await _put(actions, world, index, random, LARGE_BYTES)


def _strangers_plan(random: Random, brief: bool) -> Plan:
    """Donors with small pledges, in a public network, and more newcomers than they are for."""
    hosts = [HostSettings(donated_bytes=32 * MIB) for _ in range(DONORS)] + [HostSettings()] * STRANGERS
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=LEAVE_EARLY_S + 900.0,
        workload=Workload(code=Code(2, DONORS), mean_pause_s=QUIET, putters=(DONORS,)),
        files_first=0,
        extra=_put_as_strangers,
    )


def _audits_plan(random: Random, brief: bool) -> Plan:
    """Donors that audit each other every half an hour; large shards are sampled every other time."""
    settings = HostSettings(donated_bytes=64 * MIB, is_private=True, config=BRISK)
    other = HostSettings(is_private=True, config=BRISK)
    return Plan(
        hosts=[settings] * DONORS + [other],
        faults=[],
        duration_s=LEAVE_EARLY_S + AUDITS_S + 300.0,
        workload=Workload(code=Code(2, DONORS), mean_pause_s=QUIET, putters=(DONORS,), readers=(DONORS,)),
        files_first=1,
        first_bytes=2 * LARGE_BYTES,
        extra=_lie_in_audits,
    )


def _lost_plan(random: Random, brief: bool) -> Plan:
    """Half of the donors are lost, and with them a file whose owner is still there to ask."""
    code = Code(4, 6)
    hosts = [HostSettings(donated_bytes=64 * MIB, is_private=True) for _ in range(code.total_shards)]
    return Plan(
        hosts=[*hosts, HostSettings(is_private=True)],
        faults=[Fault(120.0 + index, "gone", index) for index in range(3)],
        duration_s=LEAVE_EARLY_S + 600.0,
        workload=Workload(code=code, mean_pause_s=QUIET, putters=(code.total_shards,)),
        files_first=1,
        heals_within_s=600.0,
    )


def _spare_plan(random: Random, brief: bool) -> Plan:
    """More donors than shards, so that there is somebody to move a shard to."""
    hosts = [HostSettings(donated_bytes=64 * MIB, is_private=True) for _ in range(DONORS + 2)]
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=LEAVE_EARLY_S + 900.0,
        workload=Workload(code=Code(2, DONORS), mean_pause_s=QUIET),
        files_first=3,
        extra=_move_for_nothing,
    )


async def _put(actions: Actions, world: World, index: int, random: Random, size_bytes: int) -> None:
    await actions.put(world.hosts[index], random, size_bytes=size_bytes)


DYING_DONOR = _drill("dying_donor", "a donor dies in a put", _kill_a_donor_in_a_put, donated_bytes=16 * MIB)
DYING_PUTTERS = _drill("dying_putters", "everyone who puts is lost", _lose_putters_in_their_puts, putters=3)
CROWDED = _drill(
    "crowded", "more is put at once than fits", _put_more_than_fits, donated_bytes=20 * MIB, putters=6
)
LYING_DONORS = Scenario("lying_donors", "donors lie in audits", _audits_plan)
GREEDY_HOLDER = Scenario("greedy_holder", "a holder has a living one replaced", _spare_plan)
STRANGERS_COME = Scenario("strangers_come", "newcomers want more than was pledged", _strangers_plan)
LOSING_DONORS = Scenario("losing_donors", "donors are lost, and a file with them", _lost_plan)
