"""js-libp2p's kad-dht as an independent node of our DHT: tables, providers and values, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from node.crypto.identity import parse_peer_id, peer_id_text
from node.dht.service import DhtService
from node.net.bootstrap import peer_multiaddr
from node.net.libp2p_network import Libp2pNetwork, open_network
from node.system.clock import SystemClock
from node.system.entropy import SystemEntropy
from node.units import Contact, Multiaddr
from simulations.machine import InlineOffload
from tests.dht.support import MemoryKeyValue, NumberedValidator, multihash_of
from tests.interop.js_peer import JsPeer, js_peer
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.swarm

NODE_COUNT = 4
NAMESPACE = "numbered"


class DhtNode:
    def __init__(self, network: Libp2pNetwork, dht: DhtService) -> None:
        self.network = network
        self.dht = dht
        self.contact = Contact(network.peer_id, network.listen_addresses())
        self.name = peer_id_text(network.peer_id)


@asynccontextmanager
async def dht_node(seed: bytes) -> AsyncIterator[DhtNode]:
    async with open_network(seed.ljust(32), [Multiaddr("/ip4/127.0.0.1/tcp/0")]) as network:
        dht = DhtService(
            network,
            MemoryKeyValue(),
            SystemClock(),
            SystemEntropy(),
            InlineOffload(),
            validators={NAMESPACE.encode(): NumberedValidator()},
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(dht.run)
            yield DhtNode(network, dht)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def swarm_with_js() -> AsyncIterator[tuple[list[DhtNode], JsPeer]]:
    """Our nodes know each other; js-libp2p dials the first, and everyone learns of it through the DHT."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(dht_node(b"dht %d" % index)) for index in range(NODE_COUNT)]
        for node in nodes[1:]:
            node.dht.add_contact(nodes[0].contact)
        for node in nodes:
            assert await node.dht.wait_joined(PATIENCE_S)
        peer = await stack.enter_async_context(js_peer(namespaces=(NAMESPACE,)))
        await peer.call(
            "dial", address=peer_multiaddr(nodes[0].contact.addresses[0], nodes[0].contact.peer_id)
        )
        with trio.fail_after(PATIENCE_S):
            while not await knows_and_is_known(nodes[0], peer):  # noqa: ASYNC110 - js-libp2p has no event for it
                await trio.sleep(0.05)
        yield nodes, peer


async def knows_and_is_known(node: DhtNode, peer: JsPeer) -> bool:
    ours = any(known.contact.peer_id == peer.contact.peer_id for known in node.dht.contacts())
    return ours and bool(await peer.call("inRoutingTable", peer=node.name))


async def test_each_is_in_the_others_routing_table() -> None:
    async with swarm_with_js() as (nodes, peer):
        assert await knows_and_is_known(nodes[0], peer)
        found = await peer.call("findPeer", peer=nodes[3].name)
        assert set(nodes[3].contact.addresses) <= {address.partition("/p2p/")[0] for address in found}
        contact = await nodes[2].dht.find_peer(peer.contact.peer_id)
        assert contact is not None
        assert set(peer.contact.addresses) <= set(contact.addresses)


async def test_js_finds_what_we_provide() -> None:
    async with swarm_with_js() as (nodes, peer):
        key = multihash_of(1)
        assert await nodes[1].dht.provide([key]) > 0
        found = await peer.call("findProviders", multihash=key.hex(), wanted=1)
        assert [provider["peer"] for provider in found] == [nodes[1].name]


async def test_we_find_what_js_provides() -> None:
    async with swarm_with_js() as (nodes, peer):
        key = multihash_of(2)
        assert await peer.call("provide", multihash=key.hex())
        for node in nodes:
            found = await node.dht.find_providers(key, wanted=1)
            assert [contact.peer_id for contact in found] == [parse_peer_id(peer.peer)]


async def test_js_gets_a_value_that_we_put() -> None:
    async with swarm_with_js() as (nodes, peer):
        key, value = f"/{NAMESPACE}/ours".encode(), b"7:seven"
        assert await nodes[1].dht.put_value(key, value) > 0
        assert await peer.call("get", key=key.hex()) == value.hex()


async def test_we_get_a_value_that_js_put() -> None:
    async with swarm_with_js() as (nodes, peer):
        key, value = f"/{NAMESPACE}/theirs".encode(), b"8:eight"
        assert await peer.call("put", key=key.hex(), value=value.hex())
        for node in nodes:
            assert await node.dht.get_value(key) == value
