"""A donor and a client that asks it by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from node.chunks import messages
from node.chunks.client import HolderClient
from node.crypto.signing import KeyPair
from node.errors import RefusedError
from tests.chunks.put_swarm import Donor, Swarm, swarm_of

PUT_ID = messages.PutId(b"p" * 16)
STRANGER = KeyPair.from_seed(b"s" * 32)


@asynccontextmanager
async def one_donor() -> AsyncIterator[tuple[Swarm, Donor, HolderClient]]:
    async with swarm_of(1) as swarm, swarm.client() as client:
        yield swarm, swarm.donors[0], client


async def refused(code: str, request: Callable[[], Awaitable[object]]) -> None:
    """The request is declined with this code."""
    with pytest.raises(RefusedError) as caught:
        await request()
    assert caught.value.code == code


def assert_untouched(donor: Donor) -> None:
    """Nothing is kept, nothing is reserved."""
    statistics = donor.store.statistics()
    assert (statistics.shards, statistics.leases, statistics.reserved_bytes) == (0, 0, 0)
    assert donor.server.statistics().open_puts == 0
