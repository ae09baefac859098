"""Finding who keeps a file: old addresses, missing records, silent and babbling peers, the wrong key."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from node.chunks import messages
from node.chunks.geometry import Code
from node.crypto.hashing import multihash
from node.crypto.links import Link, WrappedKey, wrap_key
from node.crypto.passwords import PasswordCost
from node.errors import (
    CryptoError,
    NotFoundError,
    UsageError,
    WrongPassphraseError,
)
from node.ports import Stream
from node.units import Contact, FileHash, Multiaddr, PeerId
from tests.chunks.planting import SMALL, STRIPE, content_of, plant
from tests.chunks.swarm import Swarm, Visitor


async def test_without_placement_and_bundle_rosters_and_providers_do(
    autojump_clock: MockClock, swarm: Swarm
) -> None:
    code = Code(1, 3)
    content = content_of(code.segment_plaintext_bytes + 100)
    await swarm.add_holders(3)
    planted = await plant(swarm, content, code=code, place=False)
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content


async def test_a_holders_own_shards_count(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(3 * STRIPE), code=SMALL)
    swarm.kill(swarm.holders[2:])
    reader = Visitor(swarm, swarm.holders[1].network)
    assert await reader.read(planted.link) == content_of(3 * STRIPE)
    report = await reader.health_checker().check(planted.link.file_hash)
    assert report.segments[0].alive == 2


async def test_stale_addresses_are_looked_up(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    nowhere = (Multiaddr("/ip4/192.0.2.1/tcp/1"),)
    planted = await plant(swarm, content_of(STRIPE), code=SMALL, addresses=nowhere)
    for known in swarm.directory.providers.values():
        for peer_id in known:
            known[peer_id] = Contact(peer_id, nowhere)
    swarm.directory.values.clear()
    async with swarm.visitor() as visitor:
        assert await visitor.read(planted.link) == content_of(STRIPE)


async def test_silent_holders_delay_but_do_not_stop_a_get(autojump_clock: MockClock, swarm: Swarm) -> None:
    """Partitioned, not refused: nothing answers a dial."""
    await swarm.add_holders(6)
    planted = await plant(swarm, content_of(STRIPE), code=Code(2, 6))
    async with swarm.visitor() as visitor:
        silent = [holder.peer_id for holder in swarm.holders[:3]]
        others = [holder.peer_id for holder in swarm.holders[3:]]
        swarm.internet.partition(silent, [*others, visitor.network.peer_id])
        started = trio.current_time()
        assert await visitor.read(planted.link) == content_of(STRIPE)
        assert trio.current_time() - started < 5


async def test_peers_that_talk_garbage_stop_nobody(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(STRIPE), code=SMALL)
    key = multihash(planted.link.file_hash)
    liars = []

    async def babble(stream: Stream) -> None:
        await stream.send_all(b"\x00\x00\x00\x05garbage" * 9)

    async with swarm.visitor() as first, swarm.visitor() as second, swarm.visitor() as visitor:
        for liar in (first, second):
            liar.network.serve(messages.PROTOCOL, babble, streams_max=99, streams_max_per_peer=99)
            liars.append(Contact(liar.network.peer_id, liar.network.listen_addresses()))
        known = dict(swarm.directory.providers[key])
        swarm.directory.providers[key] = {liar.peer_id: liar for liar in liars} | known
        swarm.directory.values.clear()  # the hint would name an honest holder first
        assert await visitor.read(planted.link) == content_of(STRIPE)
        blamed = visitor.scores.score(liars[0].peer_id)
        assert blamed is not None
        assert blamed.blame > 1


async def test_what_nobody_has_is_not_found(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(1)
    async with swarm.visitor() as visitor:
        with pytest.raises(NotFoundError) as raised:
            await visitor.read(Link(FileHash(bytes(32)), bytes(32)))
        assert raised.value.exit_code == 22
        swarm.directory.providers[multihash(bytes(32))] = {PeerId(b"x"): swarm.holders[0].contact}
        with pytest.raises(NotFoundError):
            await visitor.read(Link(FileHash(bytes(32)), bytes(32)))


async def test_a_key_of_another_file_is_refused(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    async with swarm.visitor() as visitor:
        with pytest.raises(CryptoError, match="does not belong"):
            await visitor.read(Link(planted.link.file_hash, bytes(32)))
        with pytest.raises(UsageError):
            await visitor.read(planted.link.verify_link())


async def test_a_password_link_opens_with_its_password_only(autojump_clock: MockClock, swarm: Swarm) -> None:
    await swarm.add_holders(4)
    planted = await plant(swarm, content_of(10), code=SMALL)
    assert planted.link.key is not None
    cost = PasswordCost(memory_kib=8, passes=1)
    wrapped: WrappedKey = wrap_key(planted.link.key, planted.link.file_hash, "correct horse", bytes(16), cost)
    link = Link(planted.link.file_hash, wrapped=wrapped)
    async with swarm.visitor() as visitor:
        remote = await visitor.downloader().open_file(link, password="correct horse")
        assert remote.size_bytes == 10
        with pytest.raises(WrongPassphraseError) as raised:
            await visitor.downloader().open_file(link, password="wrong")
        assert raised.value.exit_code == 12
