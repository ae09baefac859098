"""The libp2p adapter beyond the port: restarts, silence, odd links, what leaves on the wire."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.errors import ConfigError, UnreachableError
from node.framing import FramedStream
from node.net.addresses import Endpoint, parse_endpoint
from node.net.libp2p_network import Libp2pNetwork, open_network
from node.ports import Network, Stream
from node.units import Contact, Multiaddr
from tests.dht.support import peer_id_of
from tests.net import attackers
from tests.net.test_hostile import Victim, exchange
from tests.net.victim import ECHO
from tests.patience import PATIENCE_S
from tests.streams import echo

LOOPBACK = Multiaddr("/ip4/127.0.0.1/tcp/0")
SERVER = b"server".ljust(32)
CLIENT = b"client".ljust(32)

pytestmark = pytest.mark.swarm


def contact_of(network: Network) -> Contact:
    return Contact(network.peer_id, network.listen_addresses())


@asynccontextmanager
async def echo_server(address: Multiaddr = LOOPBACK) -> AsyncIterator[Libp2pNetwork]:
    async with open_network(SERVER, [address]) as network:
        network.serve(ECHO, echo, streams_max=64, streams_max_per_peer=64)
        yield network


async def test_a_peer_is_found_again_under_a_new_address() -> None:
    async with open_network(CLIENT, []) as client:
        for _ in range(3):
            async with echo_server() as server:
                await exchange(client, contact_of(server))


async def test_a_peer_that_restarts_at_its_address_is_found_at_once() -> None:
    async with open_network(CLIENT, []) as client:
        async with echo_server() as server:
            contact = contact_of(server)
            await exchange(client, contact)
        async with echo_server(contact.addresses[0]):
            await exchange(client, contact)


async def test_a_silent_peer_is_disconnected() -> None:
    """A stopped process keeps its sockets; only silence tells."""
    clock = MockClock(rate=1)
    process = subprocess.Popen(  # noqa: ASYNC220 - started before the loop matters
        [sys.executable, "-m", "tests.net.victim"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        victim = Victim(process)

        async def wait_for_silence() -> float:
            async with open_network(CLIENT, []) as client:
                await exchange(client, victim.contact)
                os.kill(process.pid, signal.SIGSTOP)
                # Nobody answers from here on: time goes on as soon as this process has nothing left to do.
                clock.rate = 0
                clock.autojump_threshold = 0
                start_s = trio.current_time()
                while client.connected():  # noqa: ASYNC110 - the port reports no disconnections
                    await trio.sleep(1)
                return trio.current_time() - start_s

        waited_s = await trio.to_thread.run_sync(lambda: trio.run(wait_for_silence, clock=clock))
        os.kill(process.pid, signal.SIGKILL)
    assert (
        limits.CONNECTION_SILENCE_S < waited_s <= limits.CONNECTION_SILENCE_S + 2 * limits.PING_INTERVAL_S + 5
    )


@asynccontextmanager
async def relay(target: Contact, *, piece_bytes: int) -> AsyncIterator[Contact]:
    """A link on the way to the target that cuts everything into small segments."""

    async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(piece_bytes):
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def carry(near: trio.SocketStream) -> None:
        async with near, await attackers.tcp(target) as far, trio.open_nursery() as both:
            both.start_soon(copy, near, far)
            both.start_soon(copy, far, near)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, carry, 0)
        port = listeners[0].socket.getsockname()[1]
        yield Contact(target.peer_id, (Multiaddr(f"/ip4/127.0.0.1/tcp/{port}"),))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("piece_bytes", [1, 500])
async def test_a_link_of_small_segments_carries_everything(piece_bytes: int) -> None:
    async with (
        echo_server() as server,
        open_network(CLIENT, []) as client,
        relay(contact_of(server), piece_bytes=piece_bytes) as through,
    ):
        stream = await client.open_stream(through, ECHO)
        content = os.urandom(400 * piece_bytes + 4_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, content)
            received = bytearray()
            while len(received) < len(content):
                received += await stream.receive_some(65_536)
        assert received == content


async def test_a_full_block_leaves_as_one_frame_in_one_message() -> None:
    """network.md: a tail frame costs 1.7 times the processor time."""

    async def send_block(stream: Stream) -> None:
        await FramedStream(stream).send_block([b"h" * 27], bytes(limits.BLOCK_BYTES))
        await stream.receive_some(1)

    async with open_network(SERVER, [LOOPBACK]) as server:
        server.serve("/cairn/block/1", send_block, streams_max=1, streams_max_per_peer=1)
        async with attackers.secure_channel(contact_of(server), CLIENT) as channel:
            await channel.send([attackers.opening(1, "/cairn/block/1")])
            sizes = []
            while 65_519 not in sizes:
                message = await channel.receive()
                sizes.append(len(message))
                assert len(message) == 65_519 or len(message) < 200
            assert message[:12] == attackers.frame(attackers.DATA, 0, 1, 65_507)


async def test_a_second_stream_of_a_known_protocol_needs_no_round_trip() -> None:
    async with echo_server() as server, open_network(CLIENT, []) as client:
        await exchange(client, contact_of(server))
        with trio.fail_after(PATIENCE_S):
            stream = await client.open_stream(Contact(server.peer_id), ECHO)
            assert stream._answer_due  # type: ignore[attr-defined]
            await stream.send_all(b"x")
            assert await stream.receive_some(1) == b"x"


async def test_a_protocol_that_is_no_longer_served_is_unreachable() -> None:
    async with echo_server() as server, open_network(CLIENT, []) as client:
        await exchange(client, contact_of(server))
        del server._services[ECHO]
        stream = await client.open_stream(Contact(server.peer_id), ECHO)
        with pytest.raises(UnreachableError):
            await stream.receive_some(1)


async def test_a_port_in_use_is_a_configuration_error() -> None:
    async with echo_server() as server:
        with pytest.raises(ConfigError, match="can't listen"):
            async with open_network(CLIENT, server.listen_addresses()):
                pass
    for address in ("", "/ip4/127.0.0.1", "/dns4/localhost/tcp/1", "/ip4/127.0.0.1/udp/1"):
        with pytest.raises(ConfigError, match="not an address"):
            async with open_network(CLIENT, [Multiaddr(address)]):
                pass


async def test_further_addresses_are_listened_on_where_there_are_any() -> None:
    here, elsewhere = Multiaddr("/ip4/127.0.0.2/tcp/0"), Multiaddr("/ip6/2001:db8::1/tcp/0")
    async with open_network(SERVER, [LOOPBACK], also=[elsewhere, here]) as network:
        first, second = (parse_endpoint(address) for address in network.listen_addresses())
        assert first is not None
        assert second == Endpoint("ip4", "127.0.0.2", first.port)


async def test_announced_addresses_are_told_before_the_bound_ones() -> None:
    announced = (Multiaddr("/dns4/node.example.org/tcp/4001"), Multiaddr("/ip4/192.0.2.7/tcp/4001"))
    async with open_network(SERVER, [LOOPBACK], announce=announced) as network:
        told = network.listen_addresses()
        assert told[:2] == announced
        assert told[2:] == (Multiaddr(f"/ip4/127.0.0.1/tcp/{network.port}"),)


@pytest.mark.parametrize(
    "address",
    ["/ip4/0.0.0.0/tcp/4001", "/ip4/192.0.2.7/tcp/0", "/ip4/192.0.2.7/udp/4001", "192.0.2.7:4001", ""],
)
async def test_what_nobody_can_dial_is_not_announced(address: str) -> None:
    with pytest.raises(ConfigError, match="is not an address to announce"):
        async with open_network(SERVER, [LOOPBACK], announce=[Multiaddr(address)]):
            pass


async def test_nothing_stays_open() -> None:
    """File descriptors, after many connections that ended in many ways."""

    def open_count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with echo_server() as server:
        before = open_count()
        for _ in range(5):
            async with open_network(CLIENT, [LOOPBACK]) as client:
                await exchange(client, contact_of(server))
                await client.disconnect(server.peer_id)
                with pytest.raises(UnreachableError):
                    await client.connect(Contact(peer_id_of(1), server.listen_addresses()))
        with trio.fail_after(PATIENCE_S):
            while open_count() > before:  # noqa: ASYNC110 - the server's side of a closed connection
                await trio.sleep(0.01)
        assert server.connected() == ()


def test_every_address_parses_that_a_network_tells() -> None:
    async def run() -> None:
        async with open_network(SERVER, [LOOPBACK, Multiaddr("/ip4/0.0.0.0/tcp/0")]) as network:
            assert len(network.listen_addresses()) == 2
            assert all(parse_endpoint(address) is not None for address in network.listen_addresses())

    trio.run(run)
