"""A simulated machine dies as a real one does, and comes back with what was durable."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
import trio

from node.daemon.compose import Node
from simulations.determinism import run_deterministically
from simulations.disk import SimulatedCrash
from simulations.host import Host, HostSettings
from simulations.network import Link
from simulations.world import World, open_world

UNSYNCED = PurePath("unsynced")
SYNCED = PurePath("synced")


async def write_both(host: Host) -> None:
    """One file that is durable, and one that is only in the disk's cache."""
    assert host.node is not None
    files = host.node.ports.files
    files.replace(SYNCED, b"kept")
    files.open(UNSYNCED, create=True).write_at(0, b"in the cache")


async def _wait_for_ever(_: Node) -> None:
    await trio.sleep_forever()


def run_in_world(act: object) -> None:
    """Run `act(world, host)` with one donor up."""

    async def main() -> None:
        async with open_world("test", link=Link(latency_s=0.01)) as world:
            for _ in range(2):
                world.add_host(HostSettings(donated_bytes=32 * 2**20))
            for host in world.hosts:
                await world.start(host)
            await act(world, world.hosts[0])  # type: ignore[operator]
            assert not world.violations

    run_deterministically(main, seed="test")


def test_a_killed_process_loses_nothing_that_was_written() -> None:
    async def act(world: World, host: Host) -> None:
        await write_both(host)
        await host.crash(power_loss=False)
        assert not host.is_up
        await world.start(host)
        assert host.disk.read(SYNCED) == b"kept"
        assert host.disk.read(UNSYNCED) == b"in the cache"

    run_in_world(act)


def test_a_dead_node_writes_and_says_nothing_more() -> None:
    async def act(world: World, host: Host) -> None:
        node = host.node
        assert node is not None
        other = world.hosts[1]
        await host.crash(power_loss=True)
        with pytest.raises(SimulatedCrash):
            node.ports.files.replace(SYNCED, b"from beyond")
        assert other.node is not None
        assert host.peer_id not in other.node.ports.network.connected()

    run_in_world(act)


def test_who_uses_a_node_is_told_nothing_when_it_dies() -> None:
    async def act(world: World, host: Host) -> None:
        results: list[object] = []

        async def use() -> None:
            results.append(await host.use(_wait_for_ever))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.sleep(1)
            await host.crash(power_loss=True)
        assert results == [None]

    run_in_world(act)


def test_power_that_fails_in_the_midst_of_work_kills_the_node() -> None:
    async def act(world: World, host: Host) -> None:
        host.disk.crash_at = host.disk.operations + 1
        await trio.sleep(600)  # the node writes something of its own within that time
        assert world.up() == world.hosts[1:]
        await world.start(host)
        assert world.up() == world.hosts

    run_in_world(act)


def test_sources_carry_a_fixed_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            world = World("test", link=Link(), folder=tmp_path, nursery=nursery)
            assert world.source("a", b"x").stat().st_mtime == 1_600_000_000

    run_deterministically(main, seed=0)
