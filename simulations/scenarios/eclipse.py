"""A crowd of invented nodes settles next to a file's key and names only its own kind."""

from __future__ import annotations

from random import Random

import trio

from node.chunks.geometry import Code
from node.crypto.hashing import multihash
from node.crypto.identity import peer_id_of
from node.crypto.keystore import NodeKeys
from node.dht.distance import key_of
from node.units import HOUR_S, MIB
from simulations.host import HostSettings
from simulations.sabotage import crowd
from simulations.scenario import Plan, Scenario
from simulations.workload import Actions, Workload
from simulations.world import World

CROWD_TRIES = 400
"""Identities that the attacker makes; the nearest few to the key are used."""


def _plan(random: Random, brief: bool) -> Plan:
    honest, hostile = (9, 6) if brief else (28, 20)
    hosts = [HostSettings(donated_bytes=64 * MIB) for _ in range(honest)]
    hosts += [HostSettings(subnet=number // 2) for number in range(hostile)]
    return Plan(
        hosts=hosts,
        faults=[],
        duration_s=(0.25 if brief else 1.5) * HOUR_S,
        workload=Workload(
            code=Code(2, 6), mean_pause_s=60, putters=tuple(range(honest)), readers=tuple(range(honest))
        ),
        files_first=2,
        prepare=lambda world: _hold_back(world, honest),
        extra=_attack,
    )


def _hold_back(world: World, honest: int) -> None:
    """The crowd comes when there is a file to hide."""
    for host in world.hosts[honest:]:
        host.is_hostile = host.is_held_back = True


async def _attack(world: World, actions: Actions, random: Random) -> None:
    """Choose the identities nearest to the first file's key, start them, then look for the file."""
    target = key_of(multihash(world.files[0].file_hash))
    attackers = [host for host in world.hosts if host.is_held_back]
    seeds = [random.randbytes(32) for _ in range(CROWD_TRIES)]
    identities = [NodeKeys.of(seed, seed) for seed in seeds]
    identities.sort(key=lambda keys: key_of(peer_id_of(keys.identity.public)) ^ target)
    for host, keys in zip(attackers, identities, strict=False):
        world.rename(host, keys)
    accomplices = [host.contact for host in attackers]
    for host in attackers:
        host.on_up.append(crowd(accomplices))
        host.is_held_back = False
        await world.start(host)
    await trio.sleep(300)
    readers = [host for host in world.up() if not host.is_hostile]
    for host in random.sample(readers, min(len(readers), 6)):
        if await actions.get(host, world.files[0]):
            world.figures.add("got in spite of the crowd")
        else:
            world.violate("eclipse", f"{host} can't find the file that a crowd of {len(attackers)} hides")


SCENARIO = Scenario("eclipse", "a crowd of invented nodes hides a file's key", _plan)
