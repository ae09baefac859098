"""A swarm in memory for tests of transfers: real servers, stores and records; simulated adapters."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from random import Random
from typing import TYPE_CHECKING, TypeVar

import trio

from node.chunks.client import HolderClient
from node.chunks.coding_engines import best_engine
from node.chunks.get.download import Downloader, GetSettings
from node.chunks.get.health import HealthChecker
from node.chunks.get.renew import Renewer
from node.chunks.scores import Scoreboard
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.crypto.keystore import NodeKeys
from node.crypto.links import Link
from node.framing import Preamble
from node.net.loopback import LoopbackNetwork, with_loopback
from node.units import Contact, PeerId, SegmentId
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet, SimulatedNetwork
from simulations.network import Link as Wire
from tests.clocks import START_S, HandClock

if TYPE_CHECKING:
    from trio_typing import TaskStatus

NETWORK = "test"
PREAMBLE = Preamble(NETWORK, 1)
NOW_S = START_S
CAP_BYTES = 256 << 20
ACCOUNT_SEED = hashlib.sha256(b"the owner's account").digest()

PACKS = PurePath("packs")

T = TypeVar("T")


@dataclass(eq=False)
class SharedDirectory:
    """What a DHT that works would answer: the same to everybody, after a delay."""

    delay_s: float = 0.02
    lookup_s: float = 0.02
    """How long it takes to find a peer, or that nobody knows it."""
    providers: dict[bytes, dict[PeerId, Contact]] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)
    addresses: dict[PeerId, Contact] = field(default_factory=dict)
    lookups: int = 0

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        self.lookups += 1
        await trio.sleep(self.lookup_s)
        return self.addresses.get(peer_id)

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        await trio.sleep(self.delay_s)
        return list(self.providers.get(key, {}).values())[:wanted]

    async def put_value(self, key: bytes, value: bytes) -> int:
        self.values[key] = value
        await trio.sleep(self.delay_s)
        return 1

    async def get_value(self, key: bytes) -> bytes | None:
        await trio.sleep(self.delay_s)
        return self.values.get(key)

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        await trio.sleep(self.delay_s)
        return list(self.addresses.values())[:count]


@dataclass(eq=False)
class DirectoryOf:
    """One node's view of a `SharedDirectory`."""

    shared: SharedDirectory
    own: Contact

    async def provide(self, keys: Sequence[bytes]) -> int:
        for key in keys:
            self.shared.providers.setdefault(key, {})[self.own.peer_id] = self.own
        await trio.sleep(self.shared.delay_s)
        return 1

    async def stop_providing(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self.shared.providers.get(key, {}).pop(self.own.peer_id, None)
        await trio.lowlevel.checkpoint()

    def provided(self, *, after: bytes | None, limit: int) -> Sequence[bytes]:
        own = sorted(key for key, peers in self.shared.providers.items() if self.own.peer_id in peers)
        return [key for key in own if after is None or key > after][:limit]

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        return await self.shared.find_peer(peer_id)

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        return await self.shared.find_providers(key, wanted=wanted)

    async def put_value(self, key: bytes, value: bytes) -> int:
        return await self.shared.put_value(key, value)

    async def get_value(self, key: bytes) -> bytes | None:
        return await self.shared.get_value(key)

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        return await self.shared.sample_contacts(count)


@dataclass(eq=False)
class Holder:
    """A donor that runs."""

    keys: NodeKeys
    network: LoopbackNetwork
    disk: FakeDisk
    store: ShardStore
    server: ShardServer
    stop: Callable[[], None]

    @property
    def peer_id(self) -> PeerId:
        return self.network.peer_id

    @property
    def contact(self) -> Contact:
        return Contact(self.peer_id, self.network.listen_addresses())

    def rot(self) -> None:
        """Flip a bit in every 10 KiB of this holder's packs."""
        for name in self.disk.list(PACKS):
            pack = self.disk.open(PACKS / name)
            for offset in range(700, pack.size(), 10 * 1024):
                pack.write_at(offset, bytes([pack.read_at(offset, 1)[0] ^ 1]))
            pack.sync()

    def rot_once(self, segment_id: SegmentId, shard_index: int, block_index: int) -> None:
        """Flip a bit in one block."""
        block = self.store.read_block(segment_id, shard_index, block_index)
        for name in self.disk.list(PACKS):
            pack = self.disk.open(PACKS / name)
            offset = pack.read_at(0, pack.size()).find(block)
            if offset >= 0:
                pack.write_at(offset + 5, bytes([block[5] ^ 1]))
                pack.sync()
                return
        raise AssertionError("that block is in no pack")


class Swarm:
    """An internet, a directory, and donors."""

    def __init__(
        self, nursery: trio.Nursery, *, seed: int = 1, wire: Wire | None = None, cap_bytes: int = CAP_BYTES
    ) -> None:
        self.internet = Internet(Random(seed), link=wire or Wire())
        self.directory = SharedDirectory()
        self.clock = HandClock()
        self.entropy = SeededEntropy(b"%d" % seed)
        self.holders: list[Holder] = []
        self._nursery = nursery
        self._cap_bytes = cap_bytes
        self._count = 0

    def _keys(self) -> NodeKeys:
        self._count += 1
        seed = hashlib.sha256(b"node %d" % self._count).digest()
        return NodeKeys.of(seed, hashlib.sha256(seed).digest())

    async def add_holders(self, count: int) -> list[Holder]:
        added = [await self._nursery.start(self._run_holder) for _ in range(count)]
        self.holders.extend(added)
        return added

    async def _run_holder(self, task_status: TaskStatus[Holder]) -> None:
        keys = self._keys()
        with trio.CancelScope() as scope:
            async with (
                self.internet.join(keys.peer_id) as raw,
                with_loopback(raw) as network,
                trio.open_nursery() as nursery,
            ):
                disk = FakeDisk()
                store = ShardStore(disk, FakeKeyValue(), SeededEntropy("store"), cap_bytes=self._cap_bytes)
                contact = Contact(keys.peer_id, network.listen_addresses())
                server = ShardServer(
                    network=network, store=store, directory=DirectoryOf(self.directory, contact), keys=keys,
                    preamble=PREAMBLE, clock=self.clock, offload=InlineOffload(),
                )  # fmt: skip
                await nursery.start(server.run)
                self.directory.addresses[keys.peer_id] = contact
                task_status.started(Holder(keys, network, disk, store, server, scope.cancel))

    def kill(self, holders: Sequence[Holder]) -> None:
        """Stop holders; their addresses stay in everybody's records."""
        for holder in holders:
            holder.stop()

    @asynccontextmanager
    async def visitor(self) -> AsyncIterator[Visitor]:
        """A node that has just joined and gives nothing."""
        keys = self._keys()
        async with self.internet.join(keys.peer_id) as network:
            yield Visitor(self, network)


class Visitor:
    """Somebody who gets, checks and renews."""

    def __init__(self, swarm: Swarm, network: SimulatedNetwork | LoopbackNetwork) -> None:
        self.swarm = swarm
        self.network = network
        self.client = HolderClient(network, PREAMBLE)
        self.directory = DirectoryOf(swarm.directory, Contact(network.peer_id))
        self.scores = Scoreboard()

    def downloader(self, settings: GetSettings | None = None) -> Downloader:
        return Downloader(
            client=self.client, directory=self.directory, clock=self.swarm.clock, offload=InlineOffload(),
            engine=best_engine(), scores=self.scores, settings=settings,
        )  # fmt: skip

    def health_checker(self) -> HealthChecker:
        return HealthChecker(
            client=self.client, directory=self.directory, clock=self.swarm.clock, entropy=self.swarm.entropy,
            scores=self.scores,
        )  # fmt: skip

    def renewer(self, account_seed: bytes = ACCOUNT_SEED) -> Renewer:
        return Renewer(
            client=self.client, directory=self.directory, clock=self.swarm.clock, entropy=self.swarm.entropy,
            scores=self.scores, account_seed=account_seed,
        )  # fmt: skip

    async def read(self, link: Link, start: int = 0, stop: int | None = None) -> bytes:
        remote = await self.downloader().open_file(link)
        async with remote.stream(start, stop) as pieces:
            return b"".join([piece async for piece in pieces])
