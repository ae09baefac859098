"""Put with everything real but the wire: DHT nodes, LMDB, files on disk, threads."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.chunks.catalogue import Catalogue
from node.chunks.client import HolderClient
from node.chunks.coding_engines import best_engine
from node.chunks.geometry import Code
from node.chunks.put.put_file import PutServices
from node.chunks.put.upload import PutOptions, Uploader
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.crypto.hashing import multihash
from node.dht.service import DhtService
from node.records.placement_hint import HINT_NAMESPACE, HintValidator, PlacementHint, hint_key
from node.system.clock import SystemClock
from node.system.disk import DiskFiles
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from node.system.offload import ThreadOffload
from node.units import Contact
from simulations.network import Internet
from tests.chunks.put_swarm import PREAMBLE, node_keys, write_file
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from trio_typing import TaskStatus

NODES = 8
CODE = Code(2, 5)


class RealNode:
    """What a daemon composes, as far as a put needs it."""

    def __init__(self, home: Path, name: str) -> None:
        self.keys = node_keys(name)
        self.home = home / name
        self.dht: DhtService
        self.uploader: Uploader
        self.contact: Contact

    @asynccontextmanager
    async def running(self, internet: Internet, cap_bytes: int) -> AsyncIterator[None]:
        """The node's life."""
        tables = LmdbStore(self.home / "state")
        index = LmdbStore(self.home / "index")
        files, clock, entropy, offload = DiskFiles(self.home), SystemClock(), SystemEntropy(), ThreadOffload()
        store = ShardStore(files, index, entropy, cap_bytes=cap_bytes)
        async with internet.join(self.keys.peer_id) as network:
            self.contact = Contact(self.keys.peer_id, network.listen_addresses())
            self.dht = DhtService(
                network,
                tables,
                clock,
                entropy,
                offload,
                validators={HINT_NAMESPACE: HintValidator(PREAMBLE.network_id)},
            )
            server = ShardServer(
                network=network,
                store=store,
                directory=self.dht,
                keys=self.keys,
                preamble=PREAMBLE,
                clock=clock,
                offload=offload,
            )
            services = PutServices(
                network=network,
                client=HolderClient(network, PREAMBLE),
                directory=self.dht,
                catalogue=Catalogue(tables, network=PREAMBLE.network_id),
                clock=clock,
                entropy=entropy,
                offload=offload,
                engine=best_engine(),
                account_seed=self.keys.account.seed,
            )
            self.uploader = Uploader(services, files)
            async with trio.open_nursery() as nursery:
                await nursery.start(self.dht.run)
                await nursery.start(server.run)
                yield
                nursery.cancel_scope.cancel()
        store.close()
        tables.close()
        index.close()


async def test_when_put_returns_an_unrelated_node_finds_holders_and_hint(tmp_path: Path) -> None:
    path = write_file(tmp_path, 3_000_000)
    internet = Internet(random.Random(5))
    nodes = [RealNode(tmp_path, f"node {number}") for number in range(NODES)]
    async with trio.open_nursery() as nursery:

        async def live(node: RealNode, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            gives = 0 if node in (nodes[0], nodes[-1]) else 200_000_000
            async with node.running(internet, gives):
                task_status.started()
                await trio.sleep_forever()

        for node in nodes:
            await nursery.start(live, node)
            if node is not nodes[0]:
                node.dht.add_contact(nodes[0].contact)
        for node in nodes:
            assert await node.dht.wait_joined(PATIENCE_S)
        report = await nodes[0].uploader.put(path, PutOptions(code=CODE))
        assert (report.holders, report.missing_shards, report.weak) == (5, 0, False)
        assert report.notes == ()
        reader = nodes[-1].dht
        providers = await reader.find_providers(multihash(report.file_hash), wanted=3)
        assert len(providers) == 3
        value = await reader.get_value(hint_key(report.file_hash))
        assert value is not None
        hint = PlacementHint.decode(value, network=PREAMBLE.network_id)
        assert len(hint.holders) == 5
        assert {contact.peer_id for contact in providers} <= {contact.peer_id for contact in hint.holders}
        assert not list((nodes[0].home / "puts").iterdir())
        nursery.cancel_scope.cancel()
