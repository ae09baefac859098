"""Ranges of a file, read as a stream: what they cost, what they show, and that they end."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks.geometry import Code
from node.chunks.get.download import GetSettings, RemoteFile
from node.errors import (
    OwnerInconsistentError,
    UsageError,
)
from tests.chunks.planting import SMALL, STRIPE, content_of, plant, with_another_block
from tests.chunks.swarm import Swarm


async def test_a_range_shows_what_the_stripe_hashes_pin_or_nothing(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    """A range has no whole shards to compare; it can't show other content all the same."""
    await swarm.add_holders(4)
    content = content_of(3 * STRIPE)
    planted = await plant(swarm, content, code=SMALL, tamper=with_another_block(2, 0))
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link, 0, STRIPE) == content[:STRIPE]
        swarm.kill(swarm.holders[:1])
        with pytest.raises(OwnerInconsistentError):
            await visitor.read(planted.link, 0, STRIPE)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 1),
        (STRIPE - 1, STRIPE + 1),
        (STRIPE, 2 * STRIPE),
        (3 * STRIPE + 5, 3 * STRIPE + 5),
        (64 * STRIPE - 1, 64 * STRIPE + 1),
        (65 * STRIPE, 65 * STRIPE + 100),
    ],
)
async def test_a_range_costs_the_stripes_that_contain_it(
    autojump_clock: MockClock, swarm: Swarm, start: int, stop: int
) -> None:
    content = content_of(65 * STRIPE + 100)
    await swarm.add_holders(4)
    planted = await plant(swarm, content, code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        async with remote.stream(start, stop) as pieces:
            assert b"".join([piece async for piece in pieces]) == content[start:stop]
        stripes = (stop - 1) // STRIPE - start // STRIPE + 1 if start < stop else 0
        small = 64 * 2 if stop > 65 * STRIPE else 0
        assert remote.fetched_bytes == (small or stripes * 2 * limits.BLOCK_BYTES)


async def test_ranges_beyond_the_file_are_refused(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        with pytest.raises(UsageError):
            remote.stream(0, 11)
        with pytest.raises(UsageError):
            remote.select("", (10, 12))
        assert remote.select("", (8, 12)).length == 2


async def test_a_reader_that_does_not_read_stops_the_fetching(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    code = Code(1, 2)
    content = content_of(200 * code.stripe_plaintext_bytes)
    await swarm.add_holders(2)
    planted = await plant(swarm, content, code=code)
    async with swarm.visitor() as visitor:
        downloader = visitor.downloader(GetSettings(window_bytes=10 * limits.BLOCK_BYTES))
        remote = await downloader.open_file(planted.link)
        async with remote.stream() as pieces:
            first = await anext(pieces)
            await trio.sleep(300)
            assert remote.fetched_bytes <= 3 * 10 * limits.BLOCK_BYTES + 64 * 40_000  # window, decoded pieces
            assert first + b"".join([piece async for piece in pieces]) == content


async def test_leaving_a_stream_early_ends_it(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(30 * STRIPE), code=SMALL)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(planted.link)
        with pytest.raises(KeyError):  # the reader's own error, as it is
            await _read_one_and_fail(remote)
        async with remote.stream(5, 6) as pieces:
            assert [piece async for piece in pieces] == [content_of(6)[5:]]


async def _read_one_and_fail(remote: RemoteFile) -> None:
    async with remote.stream() as pieces:
        await anext(pieces)
        raise KeyError
