"""A node reaches itself as it reaches others."""

from __future__ import annotations

from random import Random

import pytest
import trio
import trio.testing

from node.errors import RefusedError, UnreachableError
from node.net.loopback import with_loopback
from node.ports import Stream
from node.units import Contact, PeerId
from simulations.network import Internet
from tests.streams import echo

ME, OTHER = PeerId(b"\x01" * 38), PeerId(b"\x02" * 38)
BIG = bytes(range(256)) * 4000


async def read_all(stream: Stream) -> bytes:
    parts = []
    while part := await stream.receive_some(65_536):
        parts.append(part)
    return b"".join(parts)


async def test_a_stream_to_oneself_carries_bytes_both_ways_and_ends() -> None:
    async with Internet(Random(1)).join(ME) as raw, with_loopback(raw) as network:
        network.serve("/echo", echo, streams_max=1, streams_max_per_peer=1)
        stream = await network.open_stream(Contact(ME), "/echo")
        assert stream.peer_id == ME
        got: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                got.append(await read_all(stream))

            nursery.start_soon(read)
            await stream.send_all(BIG)
            await stream.close_write()
        assert got == [BIG]
        await stream.aclose()
        with pytest.raises(UnreachableError):
            await stream.send_all(b"x")


async def test_an_unread_stream_stops_its_sender() -> None:
    async def deaf(_: Stream) -> None:
        await trio.sleep_forever()

    async with Internet(Random(1)).join(ME) as raw, with_loopback(raw) as network:
        network.serve("/deaf", deaf, streams_max=1, streams_max_per_peer=1)
        stream = await network.open_stream(Contact(ME), "/deaf")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, BIG)
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            nursery.cancel_scope.cancel()
        with pytest.raises(UnreachableError):  # cancelled halfway: this stream is no more
            await stream.send_all(b"x")


async def test_a_reset_and_a_protocol_nobody_serves() -> None:
    async with Internet(Random(1)).join(ME) as raw, with_loopback(raw) as network:
        with pytest.raises(RefusedError):
            await network.open_stream(Contact(ME), "/none")
        network.serve("/echo", echo, streams_max=1, streams_max_per_peer=1)
        stream = await network.open_stream(Contact(ME), "/echo")
        await stream.reset()
        with pytest.raises(UnreachableError):
            await stream.receive_some(1)


async def test_others_are_reached_as_before() -> None:
    internet = Internet(Random(1))
    async with internet.join(ME) as raw, internet.join(OTHER) as other, with_loopback(raw) as network:
        other.serve("/echo", echo, streams_max=1, streams_max_per_peer=1)
        contact = Contact(OTHER, other.listen_addresses())
        await network.connect(contact)
        assert network.connected() == (OTHER,)
        stream = await network.open_stream(contact, "/echo")
        await stream.send_all(b"hello")
        assert await stream.receive_some(10) == b"hello"
