"""The book of promises says what holders owe, also of those that died between writing and answering."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import PurePath
from random import Random

import trio

from node.daemon.compose import Node
from simulations.host import Host
from simulations.promises import ShardName
from simulations.scenario import JOIN_S
from simulations.workload import Actions
from simulations.world import World
from tests.simulations.pair_of_hosts import run_with_two


def run_in_world(act: Callable[[World, Host, Actions], Awaitable[None]]) -> None:
    """Run `act(world, holder, actions)`, in which no checker may find anything."""

    async def with_holder(world: World, actions: Actions) -> None:
        await act(world, world.hosts[0], actions)
        assert not world.violations

    run_with_two(with_holder)


def cut_the_power(node: Node, host: Host) -> None:
    """The power goes before the next operation of the disk; try one."""
    host.disk.crash_at = host.disk.operations
    node.ports.files.replace(PurePath("last"), b"words")


def names_kept(host: Host) -> set[ShardName]:
    """Shards on which the node's store has leases."""
    assert host.node is not None
    store = host.node.store
    return {
        (segment_id, held.shard_index) for segment_id in store.segments() for held in store.leases(segment_id)
    }


async def return_from_death_in(
    world: World, holder: Host, action: Callable[..., Awaitable[object]], *arguments: object
) -> None:
    """Have the other machine do something during which the holder dies; start that again."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(action, *arguments)
        while holder.is_up:  # noqa: ASYNC110  # a machine has no event for its death
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    holder.on_up.pop(0)
    await world.start(holder)


async def restart_with(world: World, holder: Host, hook: Callable[[Host, Node], None]) -> None:
    """Start the holder again, with a hook that comes before the book of promises."""
    await holder.stop()
    holder.on_up.insert(0, hook)
    await world.start(holder)
    await trio.sleep(JOIN_S)


def test_a_lease_that_was_durable_when_its_holder_died_is_a_promise() -> None:
    async def act(world: World, holder: Host, actions: Actions) -> None:
        def die_before_answering(host: Host, node: Node) -> None:
            close = node.server.keeper.close_put

            async def closed(*arguments: object) -> bytes:
                body = await close(*arguments)  # type: ignore[arg-type]
                cut_the_power(node, host)
                return body

            setattr(node.server.keeper, "close_put", closed)  # noqa: B010

        await restart_with(world, holder, die_before_answering)
        await return_from_death_in(world, holder, actions.put, world.hosts[1], Random(0))
        kept = names_kept(holder)
        assert len(kept) == 1
        assert {name for name, _ in world.promises.of(holder)} == kept

    run_in_world(act)


def test_a_lease_that_ended_when_its_holder_died_is_no_promise() -> None:
    async def act(world: World, holder: Host, actions: Actions) -> None:
        file = await actions.put(world.hosts[1], Random(0))
        assert file is not None
        (name,) = names_kept(holder)
        assert [owed for owed, _ in world.promises.of(holder)] == [name]

        def die_when_it_has_ended(host: Host, node: Node) -> None:
            end = node.store.end_lease

            def ended(lease_id: object) -> bool:
                end(lease_id)  # type: ignore[arg-type]
                cut_the_power(node, host)
                return True

            setattr(node.store, "end_lease", ended)  # noqa: B010

        await restart_with(world, holder, die_when_it_has_ended)
        await return_from_death_in(world, holder, actions.delete, world.hosts[1], file)
        assert not names_kept(holder)
        assert not world.promises.of(holder)

    run_in_world(act)
