"""The Network port: one suite over libp2p on loopback, the internet in memory, and that under caps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from random import Random
from typing import Any

import pytest
import trio
from nacl.signing import SigningKey

from node.errors import ProtocolError, RefusedError, UnreachableError
from node.net.libp2p_network import open_network
from node.net.rate_limit import Rates, with_rate_limits
from node.ports import Network, Stream
from node.units import Contact, Multiaddr, PeerId
from simulations.network import Internet
from tests.patience import PATIENCE_S
from tests.streams import echo, read_exactly, read_to_end

ECHO = "/cairn/echo/1"
MakeNetwork = Callable[[], Awaitable[Network]]


def peer_id_of_seed(seed: bytes) -> PeerId:
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(SigningKey(seed).verify_key))


@pytest.fixture(params=["simulated", "limited", "libp2p"])
async def make_network(request: pytest.FixtureRequest) -> AsyncIterator[MakeNetwork]:
    internet = Internet(Random(7))
    stop = trio.Event()
    count = 0

    async def live(seed: bytes, *, task_status: Any) -> None:
        adapter: AbstractAsyncContextManager[Network]
        if request.param == "simulated":
            adapter = internet.join(peer_id_of_seed(seed))
        elif request.param == "limited":
            adapter = limited(internet.join(peer_id_of_seed(seed)))
        else:
            adapter = open_network(seed, [Multiaddr("/ip4/127.0.0.1/tcp/0")])
        async with adapter as network:
            task_status.started(network)
            await stop.wait()

    async with trio.open_nursery() as nursery:

        async def make() -> Network:
            nonlocal count
            count += 1
            network: Network = await nursery.start(live, count.to_bytes(32, "big"))
            return network

        yield make
        stop.set()


@asynccontextmanager
async def limited(opening: AbstractAsyncContextManager[Network]) -> AsyncIterator[Network]:
    rates = Rates(upload=40_000_000, download=50_000_000, for_others=60_000_000)
    async with opening as network, with_rate_limits(network, rates) as slower:
        yield slower


def contact_of(network: Network) -> Contact:
    return Contact(network.peer_id, network.listen_addresses())


def serve_echo(network: Network, *, streams_max: int = 64, streams_max_per_peer: int = 64) -> None:
    network.serve(ECHO, echo, streams_max=streams_max, streams_max_per_peer=streams_max_per_peer)


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - another node's state has no event to wait for
            await trio.sleep(0.005)


async def test_the_peer_id_is_the_identity(make_network: MakeNetwork) -> None:
    network = await make_network()
    assert network.peer_id == peer_id_of_seed((1).to_bytes(32, "big"))


async def test_bytes_go_there_and_back_and_end(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    stream = await client.open_stream(contact_of(server), ECHO)
    assert stream.peer_id == server.peer_id
    await stream.send_all(b"one")
    assert await read_exactly(stream, 3) == b"one"
    await stream.send_all(memoryview(b"two"))
    await stream.close_write()
    assert await read_to_end(stream) == b"two"
    await stream.aclose()


async def test_the_handler_knows_who_calls(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    callers: list[PeerId] = []

    async def note(stream: Stream) -> None:
        callers.append(stream.peer_id)

    server.serve(ECHO, note, streams_max=1, streams_max_per_peer=1)
    stream = await client.open_stream(contact_of(server), ECHO)
    assert await stream.receive_some(1) == b""
    await stream.aclose()
    assert callers == [client.peer_id]


async def test_more_than_a_window_goes_both_ways_at_once(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    stream = await client.open_stream(contact_of(server), ECHO)
    content = Random(1).randbytes(3_000_001)

    async def send() -> None:
        await stream.send_all(content)
        await stream.close_write()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            assert await read_to_end(stream) == content


async def test_streams_do_not_mix(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)

    async def exchange(index: int) -> None:
        stream = await client.open_stream(contact_of(server), ECHO)
        content = bytes([index]) * (1 + 7_919 * index)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(content)
                await stream.close_write()

            nursery.start_soon(send)
            assert await read_to_end(stream) == content
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for index in range(30):
            nursery.start_soon(exchange, index)


async def test_a_stalled_reader_holds_the_writer_and_no_other_stream(make_network: MakeNetwork) -> None:
    """Backpressure: what is not read stays with the sender, and is all there when reading goes on."""
    server, client = await make_network(), await make_network()
    serve_echo(server)
    go_on = trio.Event()
    received: list[bytes] = []

    async def slow(stream: Stream) -> None:
        await go_on.wait()
        received.append(await read_to_end(stream))

    server.serve("/cairn/slow/1", slow, streams_max=1, streams_max_per_peer=1)
    stream = await client.open_stream(contact_of(server), "/cairn/slow/1")
    content = Random(2).randbytes(4_000_000)
    sent = trio.Event()

    async def send() -> None:
        await stream.send_all(content)
        await stream.close_write()
        sent.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        other = await client.open_stream(contact_of(server), ECHO)
        await other.send_all(b"hello")
        assert await read_exactly(other, 5) == b"hello"
        assert not sent.is_set()
        go_on.set()
    assert await stream.receive_some(1) == b""
    assert received == [content]


async def test_an_unknown_protocol_is_refused_and_the_connection_lives(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    with pytest.raises(RefusedError) as refused:
        await client.open_stream(contact_of(server), "/cairn/nothing/1")
    assert refused.value.code == "protocol"
    stream = await client.open_stream(contact_of(server), ECHO)
    await stream.send_all(b"x")
    assert await read_exactly(stream, 1) == b"x"


async def test_nobody_at_the_address(make_network: MakeNetwork) -> None:
    client = await make_network()
    nobody = Contact(peer_id_of_seed(bytes(32)), (Multiaddr("/ip4/127.0.0.1/tcp/1"),))
    with pytest.raises(UnreachableError):
        await client.open_stream(nobody, ECHO)
    with pytest.raises(UnreachableError):
        await client.connect(Contact(nobody.peer_id))
    assert client.connected() == ()


async def test_hostile_addresses_are_unreachable_and_no_more(make_network: MakeNetwork) -> None:
    client = await make_network()
    addresses = (
        *("", "/", "nonsense", "/ip4/1.2.3.4", "/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/999.1.1.1/tcp/1"),
        *(
            "/ip4/127.0.0.1/tcp/99999",
            "/dns4//tcp/1",
            "/unix/tmp/x",
            "\0/ip4",
            "/p2p-circuit",
            "/dns4/a\0/tcp/1",
        ),
    )
    for address in addresses:
        with pytest.raises(UnreachableError):
            await client.connect(Contact(peer_id_of_seed(bytes(32)), (Multiaddr(address),)))


async def test_another_peer_at_the_address_is_not_taken_for_the_one_wanted(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    wrong = Contact(peer_id_of_seed(b"w" * 32), server.listen_addresses())
    with pytest.raises(UnreachableError):
        await client.open_stream(wrong, ECHO)
    assert wrong.peer_id not in client.connected()


async def test_a_later_address_is_tried_when_the_first_is_dead(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    dead = Multiaddr("/ip4/127.0.0.1/tcp/1")
    await client.connect(Contact(server.peer_id, (dead, *server.listen_addresses())))
    assert client.connected() == (server.peer_id,)


async def test_no_connection_to_oneself(make_network: MakeNetwork) -> None:
    network = await make_network()
    serve_echo(network)
    with pytest.raises(UnreachableError):
        await network.open_stream(contact_of(network), ECHO)


async def test_both_sides_know_of_a_connection(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    heard: list[tuple[str, PeerId]] = []
    server.on_connected(lambda peer: heard.append(("server", peer)))
    client.on_connected(lambda peer: heard.append(("client", peer)))
    await client.connect(contact_of(server))
    await eventually(lambda: len(heard) == 2)
    assert set(heard) == {("server", client.peer_id), ("client", server.peer_id)}
    assert server.connected() == (client.peer_id,)
    assert client.connected() == (server.peer_id,)
    assert client.addresses_of(server.peer_id) == server.listen_addresses()
    assert server.addresses_of(client.peer_id) == ()
    observed = server.observed_address(client.peer_id)
    assert observed is not None
    assert observed.startswith("/ip4/")
    assert client.observed_address(server.peer_id) == server.listen_addresses()[0]


async def test_the_dialled_peer_opens_streams_over_the_same_connection(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(client)
    await client.connect(contact_of(server))
    await eventually(lambda: client.peer_id in server.connected())
    stream = await server.open_stream(Contact(client.peer_id), ECHO)
    await stream.send_all(b"back")
    assert await read_exactly(stream, 4) == b"back"


async def test_both_dial_at_once(make_network: MakeNetwork) -> None:
    one, other = await make_network(), await make_network()
    serve_echo(one)
    serve_echo(other)

    async def exchange(network: Network, peer: Network) -> None:
        for _ in range(5):
            stream = await network.open_stream(contact_of(peer), ECHO)
            await stream.send_all(b"hi")
            assert await read_exactly(stream, 2) == b"hi"
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange, one, other)
        nursery.start_soon(exchange, other, one)
    assert one.connected() == (other.peer_id,)
    assert other.connected() == (one.peer_id,)


async def test_many_callers_share_one_dial(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    heard: list[PeerId] = []
    server.on_connected(heard.append)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.connect, contact_of(server))
    await eventually(lambda: bool(heard))
    assert heard == [client.peer_id]


async def test_a_disconnect_ends_streams_on_both_sides(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    ended: list[str] = []

    async def wait_for_the_end(stream: Stream) -> None:
        try:
            ended.append("data" if await stream.receive_some(1) else "end")
        except UnreachableError:
            ended.append("reset")

    server.serve(ECHO, wait_for_the_end, streams_max=1, streams_max_per_peer=1)
    stream = await client.open_stream(contact_of(server), ECHO)
    await client.disconnect(server.peer_id)
    await eventually(lambda: bool(ended) and not server.connected())
    assert ended[0] in ("reset", "end")
    assert client.connected() == ()
    with pytest.raises(UnreachableError):
        await stream.send_all(b"x")
    await client.disconnect(server.peer_id)
    again = await client.open_stream(contact_of(server), ECHO)
    await again.aclose()


async def test_streams_over_the_limits_are_turned_away(make_network: MakeNetwork) -> None:
    server, client, other = await make_network(), await make_network(), await make_network()
    serve_echo(server, streams_max=3, streams_max_per_peer=2)

    async def try_one(network: Network) -> Stream | None:
        """A stream that echoes, or None if it was turned away (at once, or at its first use)."""
        try:
            stream = await network.open_stream(contact_of(server), ECHO)
            await stream.send_all(b"?")
            return stream if await stream.receive_some(1) == b"?" else None
        except (RefusedError, UnreachableError):
            return None

    first, second = await try_one(client), await try_one(client)
    assert first is not None
    assert second is not None
    assert await try_one(client) is None
    third = await try_one(other)
    assert third is not None
    assert await try_one(other) is None
    await first.close_write()
    assert await first.receive_some(1) == b""
    await first.aclose()
    with trio.fail_after(PATIENCE_S):
        while await try_one(client) is None:  # noqa: ASYNC110 - the other node frees the place
            await trio.sleep(0.01)


async def test_a_handler_that_fails_resets_its_stream_alone(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)

    async def fail(stream: Stream) -> None:
        await stream.receive_some(1)
        raise ProtocolError("no")

    async def fail_in_a_task(stream: Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, stream)

    good = await client.open_stream(contact_of(server), ECHO)
    for protocol, handler in (("/cairn/fail/1", fail), ("/cairn/fail/2", fail_in_a_task)):
        server.serve(protocol, handler, streams_max=1, streams_max_per_peer=1)
        bad = await client.open_stream(contact_of(server), protocol)
        await bad.send_all(b"x")
        with suppress(UnreachableError):
            assert await bad.receive_some(1) == b""
    await good.send_all(b"fine")
    assert await read_exactly(good, 4) == b"fine"


async def test_cancelling_a_send_resets_that_stream_and_no_other(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    never = trio.Event()

    async def deaf(stream: Stream) -> None:
        await never.wait()

    server.serve("/cairn/deaf/1", deaf, streams_max=9, streams_max_per_peer=9)
    good = await client.open_stream(contact_of(server), ECHO)
    for _ in range(3):
        stream = await client.open_stream(contact_of(server), "/cairn/deaf/1")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(20_000_000))
                await good.send_all(b"and")
                assert await read_exactly(good, 3) == b"and"
                scope.cancel()
        with pytest.raises(UnreachableError):
            await stream.send_all(b"more")
    await good.send_all(b"still")
    assert await read_exactly(good, 5) == b"still"
    assert client.connected() == (server.peer_id,)


async def test_closing_is_idempotent_and_silent(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    for _ in range(2):
        stream = await client.open_stream(contact_of(server), ECHO)
        await stream.reset()
        await stream.reset()
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(UnreachableError):
            await stream.send_all(b"x")
        with pytest.raises(UnreachableError):
            await stream.receive_some(1)


async def test_many_short_streams_leave_nothing_behind(make_network: MakeNetwork) -> None:
    """More streams, one after another, than may be open at once."""
    server, client = await make_network(), await make_network()
    serve_echo(server, streams_max=2, streams_max_per_peer=2)
    for index in range(400):
        stream = await client.open_stream(contact_of(server), ECHO)
        word = index.to_bytes(2, "big")
        await stream.send_all(word)
        await stream.close_write()
        assert await read_to_end(stream) == word
        await stream.aclose()


async def test_a_sender_whose_reader_left_is_told(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()

    async def leave(stream: Stream) -> None:
        await stream.receive_some(1)
        await stream.reset()

    server.serve(ECHO, leave, streams_max=1, streams_max_per_peer=1)
    stream = await client.open_stream(contact_of(server), ECHO)
    with trio.fail_after(PATIENCE_S), pytest.raises(UnreachableError):
        await stream.send_all(bytes(50_000_000))


async def test_reading_waits_at_a_checkpoint(make_network: MakeNetwork) -> None:
    server, client = await make_network(), await make_network()
    serve_echo(server)
    stream = await client.open_stream(contact_of(server), ECHO)
    with trio.move_on_after(0.01) as scope:
        await stream.receive_some(1)
    assert scope.cancelled_caught
    await stream.send_all(b"z")
    assert await read_exactly(stream, 1) == b"z", "a read that was cancelled loses nothing"
