"""What a hostile peer can do to a node, from the socket up. Each attack works against any node.

They speak Noise properly, since anyone can, and break the rules above it.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import trio

from node.errors import NodeError
from node.net import multistream
from node.net.addresses import parse_endpoint
from node.net.noise import ChannelError, Handshake, SecureChannel
from node.net.upgrade import CAIRN_YAMUX, YAMUX, upgrade_dialled
from node.units import Contact
from tests.patience import PATIENCE_S

DATA, WINDOW_UPDATE, PING, FIRST_WINDOW, BLOCKED = 0, 1, 2, 4, 5
SYN, ACK, FIN, RST = 1, 2, 4, 8
WINDOW_BYTES = 256 * 1024
NOTHING: Mapping[str, Any] = {}


async def tcp(victim: Contact) -> trio.SocketStream:
    endpoint = parse_endpoint(victim.addresses[0])
    assert endpoint is not None
    return await trio.open_tcp_stream(endpoint.host, endpoint.port)


@asynccontextmanager
async def secure_channel(victim: Contact, seed: bytes, *, muxer: str = YAMUX) -> AsyncIterator[SecureChannel]:
    """A channel on which a muxer has been agreed and nothing been sent."""
    stream = await tcp(victim)
    async with stream:
        yield await upgrade_dialled(stream, Handshake(seed.ljust(32)), victim.peer_id, muxers=(muxer,))


def frame(kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBHII", 0, kind, flags, stream_id, length) + body


def opening(stream_id: int, protocol: str) -> bytes:
    """The frames that open a stream for a protocol."""
    proposal = multistream.proposal(protocol)
    return frame(WINDOW_UPDATE, SYN, stream_id, 0) + frame(DATA, 0, stream_id, len(proposal), proposal)


async def send_until_cut_off(
    channel: SecureChannel, messages: Sequence[bytes], *, reads: bool = True
) -> bool:
    """Whether the victim ended the connection before everything was sent."""

    async def drain() -> None:
        try:
            while True:
                await channel.receive()
        except ChannelError:
            pass

    async with trio.open_nursery() as nursery:
        if reads:
            nursery.start_soon(drain)
        try:
            for message in messages:
                await channel.send([message])
        except ChannelError:
            return True
        finally:
            nursery.cancel_scope.cancel()
    return False


async def ignore_window(victim: Contact, protocol: str, *, byte_count: int, muxer: str = YAMUX) -> bool:
    """Send on one stream without ever being given window; whether the victim cut it off."""
    block = bytes(65_000)
    async with secure_channel(victim, b"ignores window", muxer=muxer) as channel:
        await channel.send([opening(1, protocol)])
        flood = [frame(DATA, 0, 1, len(block), block)] * (byte_count // len(block))
        return await send_until_cut_off(channel, flood)


async def fill_windows(
    victim: Contact, protocol: str, *, streams: int, piece_bytes: int, seed: bytes = b"fills windows"
) -> None:
    """Use the first window of many streams to the full, in pieces of a given size; then hold them a while."""
    async with secure_channel(victim, seed) as channel:
        piece_frames = 64_000 // (piece_bytes + 12)
        for index in range(streams):
            stream_id = 2 * index + 1
            one = frame(DATA, 0, stream_id, piece_bytes, bytes(piece_bytes))
            count = (WINDOW_BYTES - 100) // piece_bytes
            messages = [opening(stream_id, protocol)]
            messages += [one * piece_frames] * (count // piece_frames)
            if await send_until_cut_off(channel, messages):
                return
        await trio.sleep(0.5)


async def open_streams(victim: Contact, *, count: int) -> None:
    """Open streams and say nothing on them."""
    async with secure_channel(victim, b"opens streams") as channel:
        frames = [frame(WINDOW_UPDATE, SYN, 2 * index + 1, 0) for index in range(count)]
        messages = [b"".join(frames[start : start + 1_000]) for start in range(0, count, 1_000)]
        await send_until_cut_off(channel, messages)


@asynccontextmanager
async def idle_streams(
    victim: Contact,
    protocols: Sequence[str],
    *,
    each: int,
    seed: bytes = b"leaves idle",
    beginnings: Mapping[str, bytes] = NOTHING,
) -> AsyncIterator[None]:
    """Hold streams open, agreed on and silent after `beginnings`, while the context lasts."""
    async with secure_channel(victim, seed) as channel:
        stream_id = 1
        for protocol in protocols:
            said = beginnings.get(protocol, b"")
            for _ in range(each):
                await channel.send(
                    [opening(stream_id, protocol) + frame(DATA, 0, stream_id, len(said), said)]
                )
                stream_id += 2
        yield


async def ping_without_reading(victim: Contact, *, count: int) -> bool:
    """Ask for answers and never take them; whether the victim cut it off."""
    async with secure_channel(victim, b"never reads") as channel:
        messages = [frame(PING, SYN, 0, 7) * 5_000] * (count // 5_000)
        was_cut_off = False
        with trio.move_on_after(PATIENCE_S) as scope:
            was_cut_off = await send_until_cut_off(channel, messages, reads=False)
        return was_cut_off and not scope.cancelled_caught


async def garbage_on_protocols(
    victim: Contact,
    protocols: Sequence[str],
    rng: Random,
    *,
    rounds: int,
    beginnings: Mapping[str, Sequence[bytes]] = NOTHING,
) -> None:
    """Agree on each protocol, then send bytes that mean nothing, after one of its `beginnings`."""
    stream_ids = iter(range(1, 2**31, 2))
    async with secure_channel(victim, b"sends garbage") as channel:
        messages = []
        for protocol in [*protocols] * rounds:
            stream_id = next(stream_ids)
            begun = rng.choice(beginnings.get(protocol, (b"",)))
            body = begun + rng.randbytes(rng.choice((1, 3, 4, 100, 5_000, 60_000)))
            messages.append(opening(stream_id, protocol) + frame(DATA, 0, stream_id, len(body), body))
            messages.append(frame(WINDOW_UPDATE, rng.choice((FIN, RST, 0)), stream_id, 0))
        await send_until_cut_off(channel, messages)


async def garbage_in_yamux(victim: Contact, rng: Random, *, rounds: int) -> None:
    """Frames of random headers, a connection each."""
    for index in range(rounds):
        muxer = (YAMUX, CAIRN_YAMUX)[index % 2]
        async with secure_channel(victim, b"breaks yamux", muxer=muxer) as channel:
            await send_until_cut_off(channel, [rng.randbytes(rng.randint(1, 300))])


async def confuse_windows(victim: Contact, protocol: str, *, length: int, flags: int) -> bool:
    """Speak of a first window that can't be; whether the victim cut it off."""
    async with secure_channel(victim, b"confuses windows", muxer=CAIRN_YAMUX) as channel:
        # A right answer, to the victim's own first frame; so one of the same length is one too many.
        right = frame(FIRST_WINDOW, ACK, 0, WINDOW_BYTES)
        wrong = frame(FIRST_WINDOW, flags, 0, length)
        asking = [frame(PING, SYN, 0, 7)] * 100_000
        return await send_until_cut_off(channel, [right + opening(1, protocol), wrong, *asking])


async def wish_for_windows(victim: Contact, protocol: str, *, count: int) -> None:
    """Say that much is ready, on streams that are open and on others; and never send it."""
    async with secure_channel(victim, b"wishes", muxer=CAIRN_YAMUX) as channel:
        wishes = b"".join(frame(BLOCKED, 0, 1 + 2 * (index % 40), 2**32 - 1) for index in range(1_000))
        openings = [opening(1 + 2 * index, protocol) for index in range(20)]
        await send_until_cut_off(channel, [*openings, *[wishes] * (count // 1_000)])


async def garbage_in_tcp(victim: Contact, rng: Random, *, rounds: int) -> None:
    """Bytes that never become a handshake, or stop inside one."""
    for index in range(rounds):
        stream = await tcp(victim)
        async with stream:
            prefix = multistream.proposal("/noise") if index % 2 else b""
            try:
                await stream.send_all(prefix + rng.randbytes(rng.randint(1, 2_000)))
                with trio.move_on_after(0.2):
                    while await stream.receive_some(4_096):
                        pass
            except trio.BrokenResourceError:
                pass


async def offered_security(victim: Contact, protocol: str) -> bool:
    """Whether the victim takes a security protocol."""
    stream = await tcp(victim)
    async with stream:
        await stream.send_all(multistream.proposal(protocol))
        expected = multistream.proposal(protocol)
        answer = b""
        while len(answer) < len(expected):
            part = await stream.receive_some(4_096)
            if not part:
                break
            answer += part
            if answer == multistream.refusal():
                return False
        if answer == expected:
            return True
    raise NodeError(f"an answer that is neither yes nor no: {answer!r}")
