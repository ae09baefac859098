"""js-libp2p as an independent peer of the network adapter: dial, identify, ping and streams, both ways."""

from __future__ import annotations

import pytest
import trio

from node.crypto.identity import peer_id_text
from node.net import identify
from node.net.bootstrap import peer_multiaddr
from node.net.libp2p_network import Libp2pNetwork, open_network
from node.units import Contact, Multiaddr
from tests.interop.js_peer import JsPeer, js_peer
from tests.js_process import JsError
from tests.patience import PATIENCE_S
from tests.streams import echo, read_exactly, read_to_end

ECHO = "/cairn/echo/1"
LOOPBACK = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
LARGE_BYTES = 1_500_000  # several windows of either side

pytestmark = pytest.mark.swarm


def serve_echo(network: Libp2pNetwork) -> None:
    network.serve(ECHO, echo, streams_max=8, streams_max_per_peer=8)


async def dial_from_js(peer: JsPeer, network: Libp2pNetwork) -> str:
    name = peer_id_text(network.peer_id)
    address = peer_multiaddr(network.listen_addresses()[0], network.peer_id)
    assert await peer.call("dial", address=address) == name
    return name


async def test_js_dials_pings_and_identifies_us() -> None:
    async with open_network(b"c" * 32, LOOPBACK) as network, js_peer() as peer:
        serve_echo(network)
        name = await dial_from_js(peer, network)
        assert network.connected() == (peer.contact.peer_id,)
        for _ in range(3):
            assert await peer.call("ping", peer=name) >= 0
        with trio.fail_after(PATIENCE_S):
            while (seen := await peer.call("identified", peer=name)) is None:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert seen["agent"] == identify.AGENT_VERSION
        assert set(seen["protocols"]) >= {ECHO, identify.IDENTIFY, identify.PING}
        assert seen["addresses"] == [network.listen_addresses()[0]]
        assert seen["observed"].startswith("/ip4/127.0.0.1/tcp/")


@pytest.mark.parametrize("size", [1, 65_508, LARGE_BYTES])
async def test_js_streams_to_us(size: int) -> None:
    async with open_network(b"c" * 32, LOOPBACK) as network, js_peer() as peer:
        serve_echo(network)
        name = await dial_from_js(peer, network)
        assert await peer.call("echo", peer=name, size=size) is True


@pytest.mark.parametrize("size", [1, 65_508, LARGE_BYTES])
async def test_we_dial_and_stream_to_js(size: int) -> None:
    async with open_network(b"c" * 32, []) as network, js_peer() as peer:
        for _ in range(2):  # the second stream's protocol is known: it opens without a round trip
            stream = await network.open_stream(peer.contact, ECHO)
            content = bytes(range(250)) * (size // 250 + 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, content)
                with trio.fail_after(PATIENCE_S):
                    assert await read_exactly(stream, len(content)) == content
            # Not earlier: js-libp2p's iterator misses an end that came before its handler began to read.
            await stream.close_write()
            assert await read_to_end(stream) == b""
            await stream.aclose()


async def test_we_ping_js() -> None:
    async with open_network(b"c" * 32, []) as network, js_peer() as peer:
        stream = await network.open_stream(peer.contact, identify.PING)
        for round_index in range(3):
            await stream.send_all(bytes([round_index]) * 32)
            received = b""
            while len(received) < 32:
                received += await stream.receive_some(32)
            assert received == bytes([round_index]) * 32
        await stream.aclose()


async def test_we_read_what_js_says_of_us() -> None:
    async with open_network(b"c" * 32, []) as network, js_peer() as peer:
        stream = await network.open_stream(peer.contact, identify.IDENTIFY)
        assert await identify.read_observed(stream) == bytes([127, 0, 0, 1])
        await stream.aclose()


async def test_js_is_told_when_a_protocol_is_unknown_here() -> None:
    async with open_network(b"c" * 32, LOOPBACK) as network, js_peer() as peer:
        name = await dial_from_js(peer, network)
        with pytest.raises(JsError, match=r"[Pp]rotocol"):
            await peer.call("echo", peer=name, size=1)
        serve_echo(network)
        assert await peer.call("echo", peer=name, size=1) is True


async def test_streams_to_js_open_over_its_own_dial() -> None:
    async with open_network(b"c" * 32, LOOPBACK) as network, js_peer() as peer:
        await dial_from_js(peer, network)
        stream = await network.open_stream(Contact(peer.contact.peer_id), ECHO)
        await stream.send_all(b"back")
        assert await read_exactly(stream, 4) == b"back"
        await stream.aclose()
