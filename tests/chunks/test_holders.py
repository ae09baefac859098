"""Peers are looked up when nothing else leads to them, and not over and over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from node.chunks.holders import ABSENT_S, Holders, end
from node.errors import UnreachableError
from node.units import HOUR_S, Contact
from tests.chunks.swarm import Holder, Swarm, Visitor


@asynccontextmanager
async def holder_and_visitor() -> AsyncIterator[tuple[Swarm, Holder, Visitor, Holders]]:
    """A donor, somebody who knows nobody, and how that one asks donors."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery)
        (holder,) = await swarm.add_holders(1)
        async with swarm.visitor() as visitor:
            holders = Holders(
                client=visitor.client, directory=visitor.directory, clock=swarm.clock, scores=visitor.scores
            )
            yield swarm, holder, visitor, holders
        nursery.cancel_scope.cancel()


async def test_who_has_dialled_this_node_is_not_looked_up(autojump_clock: MockClock) -> None:
    async with holder_and_visitor() as (swarm, holder, visitor, holders):
        network = visitor.network
        await holder.network.connect(Contact(network.peer_id, network.listen_addresses()))
        assert not network.addresses_of(holder.peer_id)
        await end(await holders.open(Contact(holder.peer_id)), clean=True)
        assert swarm.directory.lookups == 0


async def test_one_look_up_is_enough_where_it_leads_nowhere(autojump_clock: MockClock) -> None:
    async with holder_and_visitor() as (swarm, holder, _, holders):
        swarm.kill([holder])  # its address stays in the directory
        await trio.sleep(1)
        for _ in range(2):
            with pytest.raises(UnreachableError):
                await holders.open(Contact(holder.peer_id))
        assert swarm.directory.lookups == 1
        await trio.sleep(ABSENT_S)
        with pytest.raises(UnreachableError):
            await holders.open(Contact(holder.peer_id))
        assert swarm.directory.lookups == 2


async def test_who_can_wait_leaves_the_long_absent_alone(autojump_clock: MockClock) -> None:
    async with holder_and_visitor() as (swarm, holder, _, holders):
        absent, known = Contact(holder.peer_id), swarm.directory.addresses.pop(holder.peer_id)
        for _ in range(24):
            assert await holders.look_up(absent, patience_s=4 * HOUR_S) is None
            await trio.sleep(HOUR_S)
        assert 5 <= swarm.directory.lookups <= 10
        before = swarm.directory.lookups
        assert await holders.look_up(absent) is None
        assert swarm.directory.lookups == before + 1, "who decides by it looks now"
        swarm.directory.addresses[holder.peer_id] = known
        await trio.sleep(4 * HOUR_S)
        await end(await holders.open(absent, patience_s=4 * HOUR_S), clean=True)


async def test_an_absence_is_over_when_the_peer_was_there(autojump_clock: MockClock) -> None:
    async with holder_and_visitor() as (swarm, holder, visitor, holders):
        absent, known = Contact(holder.peer_id), swarm.directory.addresses.pop(holder.peer_id)
        for _ in range(2):
            assert await holders.look_up(absent) is None
            await trio.sleep(2 * HOUR_S)
        await end(await holders.open(known), clean=True)
        await visitor.network.disconnect(holder.peer_id)
        before = swarm.directory.lookups
        assert await holders.look_up(absent, patience_s=4 * HOUR_S) is None
        assert swarm.directory.lookups == before + 1
