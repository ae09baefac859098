"""Get against real servers and stores: equal bytes or an error, whoever is dead, slow, corrupt or lying."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from tests.chunks.planting import content_of, plant
from tests.chunks.swarm import Swarm

STRIPE = Code(2, 4).stripe_plaintext_bytes


@pytest.fixture
def autojump_clock() -> MockClock:
    """Virtual time that jumps as soon as everybody waits."""
    return MockClock(autojump_threshold=0)


@pytest.mark.parametrize("size", [0, 1, 47, STRIPE - 1, STRIPE, STRIPE + 1, 5 * STRIPE + 17])
async def test_all_sizes_come_back_equal(size: int, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery)
        await swarm.add_holders(4)
        planted = await plant(swarm, content_of(size), code=Code(2, 4))
        async with swarm.visitor() as visitor:
            assert await visitor.read(planted.link) == content_of(size)
        nursery.cancel_scope.cancel()
