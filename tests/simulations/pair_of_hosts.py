"""The smallest world: a donor, and a machine that gives nothing and puts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

import trio

from node.chunks.geometry import Code
from node.units import DAY_S, MIB
from simulations.determinism import run_deterministically
from simulations.host import HostSettings
from simulations.network import Link
from simulations.scenario import JOIN_S
from simulations.workload import Actions, Workload
from simulations.world import World, open_world


def run_with_two(act: Callable[[World, Actions], Awaitable[None]]) -> None:
    """Run `act(world, actions)` once both have joined; `world.hosts` are the donor and the putter."""

    async def main() -> None:
        async with open_world("test", link=Link(latency_s=0.01)) as world:
            world.add_host(HostSettings(donated_bytes=32 * MIB, is_private=True))
            world.add_host(HostSettings(is_private=True))
            for host in world.hosts:
                await world.start(host)
            await trio.sleep(JOIN_S)
            with trio.fail_after(DAY_S):
                await act(world, Actions(world, Workload(code=Code(1, 1)), Random(0)))

    run_deterministically(main, seed="test")
