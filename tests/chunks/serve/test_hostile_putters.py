"""What no honest putter sends: refused, and nothing changes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks import messages
from node.chunks.client import HolderClient, HolderSession
from node.errors import RefusedError, RemoteError, UnreachableError
from node.framing import FramedStream, Preamble
from node.units import OwnerKey
from node.wire import Value
from tests.chunks.put_swarm import Donor
from tests.chunks.sample_segment import TODAY, SampleSegment, altered, sample_segment
from tests.chunks.serve.one_donor import PUT_ID, STRANGER, assert_untouched, one_donor, refused

Hostile = Callable[[HolderSession, SampleSegment, Donor], Awaitable[object]]


async def _put_with(
    session: HolderSession, sample: SampleSegment, *leases: bytes, manifest: bytes | None = None
) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    await sample.send(session, (0,))
    return await session.close_put(PUT_ID, manifest or sample.manifest.encoded, leases)


async def _other_block(session: HolderSession, sample: SampleSegment, donor: Donor) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    for stripe, block in enumerate(sample.blocks[0]):
        await session.send_block(0, stripe, bytes(len(block)))
    return await session.close_put(PUT_ID, sample.manifest.encoded, [sample.lease(donor.peer_id, 0).encode()])


async def _after_open(
    session: HolderSession, sample: SampleSegment, *blocks: tuple[int, int, bytes]
) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    for slot, index, block in blocks:
        await session.send_block(slot, index, block)
    await session.abort_put(PUT_ID)
    return None


def _lease(sample: SampleSegment, donor: Donor, **changes: object) -> bytes:
    return altered(sample.lease(donor.peer_id, 0), sample.owner, **changes)


HOSTILE: dict[str, Hostile] = {
    "blocks that do not give the root": _other_block,
    "a lease with another root": lambda s, m, d: _put_with(s, m, _lease(m, d, root=bytes(32))),
    "a lease of another shard": lambda s, m, d: _put_with(s, m, m.lease(d.peer_id, 1).encode()),
    "a lease of another holder": lambda s, m, d: _put_with(
        s, m, _lease(m, d, holder=type(d.peer_id)(d.peer_id[:-1] + b"x"))
    ),
    "a lease of another length": lambda s, m, d: _put_with(s, m, _lease(m, d, byte_count=1)),
    "a lease that is over": lambda s, m, d: _put_with(
        s, m, _lease(m, d, start_day=TODAY - 40, end_day=TODAY - 10)
    ),
    "a lease far ahead": lambda s, m, d: _put_with(
        s, m, _lease(m, d, start_day=TODAY + 10, end_day=TODAY + 40)
    ),
    "a lease by a stranger": lambda s, m, d: _put_with(
        s,
        m,
        altered(m.lease(d.peer_id, 0), STRANGER, owner_key=OwnerKey(STRANGER.public)),
    ),
    "an unsigned lease": lambda s, m, d: _put_with(
        s, m, replace(m.lease(d.peer_id, 0), owner_signature=b"").encode()
    ),
    "no lease": lambda s, m, d: _put_with(s, m),
    "garbage for a lease": lambda s, m, d: _put_with(s, m, b"garbage"),
    "garbage for a manifest": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=b"garbage"
    ),
    "the manifest of another segment": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=sample_segment(seed=2).manifest.encoded
    ),
    "the manifest of another length": lambda s, m, d: _put_with(
        s, m, m.lease(d.peer_id, 0).encode(), manifest=sample_segment(100).manifest.encoded
    ),
    "a slot out of range": lambda s, m, d: _after_open(s, m, (1, 0, m.blocks[0][0])),
    "a block out of order": lambda s, m, d: _after_open(s, m, (0, 1, m.blocks[0][1])),
    "a block of a wrong size": lambda s, m, d: _after_open(s, m, (0, 0, b"x" * 64)),
    "more blocks than announced": lambda s, m, d: _after_open(
        s,
        m,
        *((0, stripe, block) for stripe, block in enumerate(m.blocks[0])),
        (0, len(m.blocks[0]), m.blocks[0][0]),
    ),
    "a block without a put": lambda s, m, d: _block_alone(s),
    "a close before the last block": lambda s, m, d: _early_close(s, m, d),
    "a shard twice": lambda s, m, d: s.open_put(m.open_request(PUT_ID, (0, 0))),
    "a shard beyond the code": lambda s, m, d: s.open_put(m.open_request(PUT_ID, (4,))),
    "an impossible code": lambda s, m, d: s.open_put(replace(m.open_request(PUT_ID, (0,)), data_shards=9)),
    "odd block lengths": lambda s, m, d: s.open_put(
        replace(m.open_request(PUT_ID, (0,)), last_block_bytes=65)
    ),
    "an attachment without the segment's placement": lambda s, m, d: s.attach(
        messages.ATTACHED_MANIFEST, m.file.file_hash, m.manifest.segment_id, m.file.encoded
    ),
    "a release that is garbage": lambda s, m, d: s.release([b"garbage"]),
}


async def _block_alone(session: HolderSession) -> object:
    await session.send_block(0, 0, b"x" * 64)
    return await session.offer(1, 1)


async def _early_close(session: HolderSession, sample: SampleSegment, donor: Donor) -> object:
    await session.open_put(sample.open_request(PUT_ID, (0,)))
    lease = sample.lease(donor.peer_id, 0).encode()
    return await session.close_put(PUT_ID, sample.manifest.encoded, [lease])


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_no_honest_putter_sends_is_refused_and_changes_nothing(
    what: str, autojump_clock: MockClock
) -> None:
    sample = sample_segment()
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        with pytest.raises((RefusedError, UnreachableError)):
            await HOSTILE[what](session, sample, donor)
        await session.reset()
        await trio.sleep(limits.PUT_SILENCE_S + 10)
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await sample.put(again, donor.contact, (0,), seed=5)


@pytest.mark.parametrize(
    "message",
    [
        ["nonsense"],
        [],
        [1, 2, 3],
        ["put", b"short"],
        ["read", bytes(32), 0, []],
        ["read", bytes(32), 0, list(range(65))],
        ["read", bytes(32), 300, [0]],
        ["attach", "unheard-of", bytes(32), bytes(32), 5],
        ["attach", "manifest", bytes(32), bytes(32), 2**40],
        ["close", bytes(16), b"", 2**40],
        ["announce", [], [bytes(32)] * 65],
        ["release", [b""] * 49],
        ["done", 1],
        ["offer?", -1, 1],
        ["roster+", bytes(32), 2**30],
    ],
)
async def test_messages_out_of_bounds_end_their_stream_alone(
    message: list[Value], autojump_clock: MockClock
) -> None:
    async with one_donor() as (_, donor, client):
        session = await client.open(donor.contact)
        framed: FramedStream = session._framed
        await framed.send(message)
        with pytest.raises((RefusedError, UnreachableError)):
            await framed.receive(deadline_s=5)
        await session.reset()
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await again.offer(1, 1)


async def test_random_bytes_end_their_stream_alone(autojump_clock: MockClock) -> None:
    source = random.Random(3)
    async with one_donor() as (_, donor, client):
        for _ in range(50):
            stream = await client._network.open_stream(donor.contact, messages.PROTOCOL)
            try:
                await stream.send_all(source.randbytes(source.randrange(1, 3000)))
                await stream.close_write()
                while await stream.receive_some(65536):
                    pass
            except RemoteError:
                pass
            await stream.reset()
        assert_untouched(donor)
        async with client.session(donor.contact) as again:
            await again.offer(1, 1)


async def test_another_network_is_refused_in_words(autojump_clock: MockClock) -> None:
    async with one_donor() as (_, donor, client):
        foreign = HolderClient(client._network, Preamble("elsewhere", 1))
        async with foreign.session(donor.contact) as session:
            await refused("network", lambda: session.offer(1, 1))
