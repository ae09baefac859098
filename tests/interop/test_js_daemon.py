"""js-libp2p as an independent node among whole daemons: it sees their files, they keep its records."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

import pytest
import trio

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.crypto.hashing import multihash, parse_cid
from node.crypto.identity import parse_peer_id
from node.daemon.compose import PUBLIC_KEY_NAMESPACE
from node.dht.records import PublicKeyValidator
from node.dht.service import DhtService
from node.net.bootstrap import parse_contact
from node.net.libp2p_network import open_network
from node.system.clock import SystemClock
from node.system.entropy import SystemEntropy
from simulations.machine import InlineOffload
from tests.dht.support import MemoryKeyValue
from tests.interop.js_peer import JsPeer, js_peer
from tests.patience import PATIENCE_S
from tests.swarm.command_line import cairn_json

pytestmark = pytest.mark.swarm


@dataclass(frozen=True)
class Daemons:
    """Donors, and a file that was put through the command line."""

    donors: list[NodeProcess]
    file_hash: str


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    folder = tmp_path_factory.mktemp("js")
    source = folder / "source"
    source.write_bytes(os.urandom(300_000))
    with LocalSwarm(folder / "swarm") as swarm:
        (first,) = swarm.start(donate="64MB")
        donors = [first, *swarm.start(2, donate="64MB", bootstrap=[first])]
        for donor in donors:
            assert swarm.wait_known(donor, len(donors) - 1) == len(donors) - 1
        put = cairn_json(first, "put", str(source), "--code", "2/4")
        yield Daemons(donors, put["hash"])
        assert all("Traceback" not in donor.log_tail() for donor in donors)


@asynccontextmanager
async def js_among(daemons: Daemons) -> AsyncIterator[JsPeer]:
    """A js-libp2p node that dialled the first donor and has it in its own routing table."""
    async with js_peer() as peer:
        first = daemons.donors[0]
        assert await peer.call("dial", address=first.address) == first.peer_id
        with trio.fail_after(PATIENCE_S):
            while not await peer.call("inRoutingTable", peer=first.peer_id):  # noqa: ASYNC110
                await trio.sleep(0.05)
        yield peer


@asynccontextmanager
async def stranger(daemons: Daemons, seed: bytes) -> AsyncIterator[DhtService]:
    """The DHT of a node of ours that has never met js-libp2p, joined through the last donor."""
    async with open_network(seed.ljust(32), []) as network, trio.open_nursery() as nursery:
        dht = DhtService(
            network,
            MemoryKeyValue(),
            SystemClock(),
            SystemEntropy(),
            InlineOffload(),
            validators={PUBLIC_KEY_NAMESPACE: PublicKeyValidator()},
        )
        await nursery.start(dht.run)
        dht.add_contact(parse_contact(daemons.donors[-1].address))
        assert await dht.wait_joined(PATIENCE_S)
        yield dht
        nursery.cancel_scope.cancel()


async def test_js_pings_a_daemon_and_is_in_its_routing_table(daemons: Daemons) -> None:
    async with js_among(daemons) as peer:
        first = daemons.donors[0]
        assert await peer.call("ping", peer=first.peer_id) >= 0
        with trio.fail_after(PATIENCE_S):
            while peer.peer not in await contacts_of(first):  # noqa: ASYNC110 - no event for it
                await trio.sleep(0.05)


async def contacts_of(node: NodeProcess) -> set[str]:
    """Who is in a daemon's routing table, by `cairn peers`."""
    peers = await trio.to_thread.run_sync(cairn_json, node, "peers")
    return {row["peer_id"] for row in peers["peers"] if row["contact"]}


async def test_js_finds_the_holders_of_a_file(daemons: Daemons) -> None:
    async with js_among(daemons) as peer:
        key = multihash(parse_cid(daemons.file_hash))
        found = await peer.call("findProviders", multihash=key.hex(), wanted=1)
        holders = {donor.peer_id for donor in daemons.donors[1:]}  # its owner is none
        assert found
        assert {provider["peer"] for provider in found} <= holders


async def test_a_provider_record_of_js_is_found(daemons: Daemons) -> None:
    async with js_among(daemons) as peer:
        key = b"\x12\x20" + sha256(b"something that js-libp2p has").digest()
        assert await peer.call("provide", multihash=key.hex())
        async with stranger(daemons, b"looks for a provider") as dht:
            found = await dht.find_providers(key, wanted=1)
        assert [contact.peer_id for contact in found] == [parse_peer_id(peer.peer)]


async def test_a_value_of_js_is_kept_by_daemons(daemons: Daemons) -> None:
    value = b"the encoding of a long public key" * 8
    key = b"/pk/\x12\x20" + sha256(value).digest()
    async with js_among(daemons) as peer:
        assert await peer.call("put", key=key.hex(), value=value.hex())
    async with stranger(daemons, b"looks for a value") as dht:  # js-libp2p is gone
        assert await dht.get_value(key) == value
