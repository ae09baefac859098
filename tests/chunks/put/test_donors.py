"""Looking for donors: everybody who can be found is asked, once, with no search more than it takes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from trio.testing import MockClock

from node.chunks.client import HolderClient
from node.chunks.put.donors import DonorPool
from node.chunks.scores import Scoreboard
from node.units import Contact
from tests.chunks.put_swarm import PREAMBLE, BoardDirectory, Swarm, node_keys, swarm_of
from tests.clocks import VirtualClock


class CountingDirectory(BoardDirectory):
    """Counts searches; each shows only some."""

    searches = 0
    shown = 1_000

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        self.searches += 1
        everybody = await super().sample_contacts(1_000)
        start = (self.searches - 1) * self.shown
        return everybody[start : start + min(count, self.shown)]


async def gathered(swarm: Swarm, total_shards: int, shown: int) -> tuple[DonorPool, int]:
    """A pool that has looked for donors, and in how many searches."""
    peer_id = node_keys("putter").peer_id
    async with swarm.internet.join(peer_id) as network:
        directory = CountingDirectory(swarm.board, peer_id)
        directory.shown = shown
        pool = DonorPool(
            network=network,
            client=HolderClient(network, PREAMBLE),
            directory=directory,
            clock=VirtualClock(),
            scores=Scoreboard(),
            wanted_bytes=1_000,
            shard_bytes=100,
            total_shards=total_shards,
        )
        await pool.gather()
    return pool, directory.searches


@pytest.mark.parametrize("count", [0, 1, 7])
async def test_a_search_that_finds_everybody_is_the_only_one(count: int, autojump_clock: MockClock) -> None:
    async with swarm_of(count) as swarm:
        pool, searches = await gathered(swarm, total_shards=5, shown=1_000)
        assert searches == 1
        assert len(pool.donors()) == pool.asked_count == count


async def test_where_there_are_more_it_searches_on(autojump_clock: MockClock) -> None:
    async with swarm_of(6, cap_bytes=0) as swarm:
        await swarm.add_donors(3)
        pool, searches = await gathered(swarm, total_shards=1, shown=6)
        assert searches == 2
        assert {donor.contact.peer_id for donor in pool.donors()} == {
            donor.peer_id for donor in swarm.donors[6:]
        }
