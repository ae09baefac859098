"""Swarms to get from."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from simulations.network import Link as Wire
from tests.chunks.swarm import Swarm


@pytest.fixture
async def swarm(autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    """An empty swarm with round trips of 10 ms."""
    async with trio.open_nursery() as nursery:
        yield Swarm(nursery, wire=Wire(latency_s=0.005))
        nursery.cancel_scope.cancel()
