"""A swarm for tests of transfers: real servers and stores over the internet in memory and fake disks.

The directory is one dictionary that all nodes share; everything else is the code that a daemon runs. Time is
virtual where a test asks for trio's `MockClock`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from node.chunks.catalogue import Catalogue
from node.chunks.client import HolderClient
from node.chunks.coding_engines import best_engine
from node.chunks.put.upload import PutSettings, Uploader
from node.chunks.serve.server import ShardServer
from node.chunks.serving import Serving
from node.chunks.store.shard_store import ShardStore
from node.crypto.keystore import NodeKeys
from node.crypto.signing import KeyPair
from node.framing import Preamble
from node.units import Contact, PeerId
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet, Link, SimulatedNetwork
from tests.clocks import VirtualClock

if TYPE_CHECKING:
    from trio_typing import TaskStatus

T = TypeVar("T")

PREAMBLE = Preamble("test", 1)
INSTANT = Link()
GIGABYTE = 10**9


@dataclass(slots=True)
class Board:
    """What the directory of all nodes knows."""

    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    providers: dict[bytes, set[PeerId]] = field(default_factory=dict)
    values: dict[bytes, bytes] = field(default_factory=dict)


class BoardDirectory:
    """One node's Directory over the shared board."""

    def __init__(self, board: Board, peer_id: PeerId) -> None:
        self._board = board
        self._peer_id = peer_id

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        await trio.lowlevel.checkpoint()
        return self._board.contacts.get(peer_id)

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        await trio.lowlevel.checkpoint()
        peers = sorted(self._board.providers.get(key, ()))[:wanted]
        return [self._board.contacts.get(peer, Contact(peer)) for peer in peers]

    async def provide(self, keys: Sequence[bytes]) -> int:
        await trio.lowlevel.checkpoint()
        for key in keys:
            self._board.providers.setdefault(key, set()).add(self._peer_id)
        return len(self._board.contacts)

    async def stop_providing(self, keys: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        for key in keys:
            self._board.providers.get(key, set()).discard(self._peer_id)

    def provided(self, *, after: bytes | None, limit: int) -> Sequence[bytes]:
        own = sorted(key for key, peers in self._board.providers.items() if self._peer_id in peers)
        return [key for key in own if after is None or key > after][:limit]

    async def put_value(self, key: bytes, value: bytes) -> int:
        await trio.lowlevel.checkpoint()
        self._board.values[key] = value
        return len(self._board.contacts)

    async def get_value(self, key: bytes) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._board.values.get(key)

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        await trio.lowlevel.checkpoint()
        others = [contact for peer, contact in self._board.contacts.items() if peer != self._peer_id]
        return others[:count]


def node_keys(name: str) -> NodeKeys:
    """Keys that depend on the name alone."""
    seed = hashlib.sha256(name.encode()).digest()
    return NodeKeys(
        identity=KeyPair.from_seed(seed),
        account=KeyPair.from_seed(hashlib.sha256(seed).digest()),
        account_entropy=hashlib.sha256(b"account" + seed).digest(),
    )


class Donor:
    """A holder: a disk that outlives its process."""

    def __init__(self, swarm: Swarm, name: str, cap_bytes: int) -> None:
        self.swarm = swarm
        self.name = name
        self.keys = node_keys(name)
        self.disk = FakeDisk()
        self.tables = FakeKeyValue(self.disk)
        self.cap_bytes = cap_bytes
        self.store: ShardStore
        self.server: ShardServer
        self.network: SimulatedNetwork
        self.serving: Serving | None = None
        self.alive = False
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        return self.keys.peer_id

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life."""
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        with self._scope:
            async with self.swarm.internet.join(self.peer_id) as self.network:
                self.store = ShardStore(
                    self.disk, self.tables, SeededEntropy(self.name), cap_bytes=self.cap_bytes
                )
                contact = Contact(self.peer_id, self.network.listen_addresses())
                self.swarm.board.contacts[self.peer_id] = contact
                self.server = ShardServer(
                    network=self.network,
                    store=self.store,
                    directory=BoardDirectory(self.swarm.board, self.peer_id),
                    keys=self.keys,
                    preamble=PREAMBLE,
                    clock=VirtualClock(),
                    offload=InlineOffload(),
                    serving=self.serving,
                )
                self.alive = True
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.server.run)
                    task_status.started()
        self.alive = False
        self.store.close()
        self._gone.set()

    async def die(self) -> None:
        """End this life; the disk stays."""
        self.swarm.board.contacts.pop(self.peer_id, None)
        self._scope.cancel()
        await self._gone.wait()

    @property
    def contact(self) -> Contact:
        return self.swarm.board.contacts[self.peer_id]


class Swarm:
    """Donors, and whoever puts to them."""

    def __init__(self, nursery: trio.Nursery, seed: int = 7, link: Link = INSTANT) -> None:
        self.nursery = nursery
        self.internet = Internet(random.Random(seed), link=link)
        self.board = Board()
        self.donors: list[Donor] = []

    async def add_donors(self, count: int, *, cap_bytes: int = GIGABYTE) -> list[Donor]:
        """Start donors."""
        added = []
        for _ in range(count):
            donor = Donor(self, f"donor {len(self.donors)}", cap_bytes)
            self.donors.append(donor)
            added.append(donor)
            await self.nursery.start(donor.run)
        return added

    @asynccontextmanager
    async def client(self, name: str = "client") -> AsyncIterator[HolderClient]:
        """A node that only asks."""
        async with self.internet.join(node_keys(name).peer_id) as network:
            yield HolderClient(network, PREAMBLE)

    def bytes_received(self) -> int:
        """Block bytes that all donors took."""
        return sum(donor.server.traffic.bytes_received for donor in self.donors)

    def reserved_bytes(self) -> int:
        """What is reserved anywhere."""
        return sum(donor.store.statistics().reserved_bytes for donor in self.donors if donor.alive)

    def leases(self) -> int:
        """Leases kept anywhere."""
        return sum(donor.store.statistics().leases for donor in self.donors if donor.alive)


class Putter:
    """A node that puts: its home outlives its process."""

    def __init__(self, swarm: Swarm, name: str = "putter", settings: PutSettings | None = None) -> None:
        self.swarm = swarm
        self.keys = node_keys(name)
        self.home = FakeDisk()
        self.tables = FakeKeyValue(self.home)
        self.settings = settings
        self.lives = 0

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.tables, network=PREAMBLE.network_id)

    def crash(self) -> None:
        """Lose what was not durable."""
        self.home.crash()
        self.tables = self.tables.reopened()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Uploader]:
        """One life: nothing but the home is kept."""
        self.lives += 1
        async with self.swarm.internet.join(self.keys.peer_id) as network:
            yield Uploader(
                network=network,
                client=HolderClient(network, PREAMBLE),
                directory=BoardDirectory(self.swarm.board, self.keys.peer_id),
                files=self.home,
                catalogue=self.catalogue,
                clock=VirtualClock(),
                entropy=SeededEntropy(f"putter {self.lives}"),
                offload=InlineOffload(),
                engine=best_engine(),
                account_seed=self.keys.account.seed,
                settings=self.settings,
            )


@asynccontextmanager
async def swarm_of(count: int, *, cap_bytes: int = GIGABYTE, link: Link = INSTANT) -> AsyncIterator[Swarm]:
    """A swarm that ends with the context."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, link=link)
        await swarm.add_donors(count, cap_bytes=cap_bytes)
        yield swarm
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait, in virtual time, for something to become true."""
    while not condition():  # noqa: ASYNC110 - what it waits for has no event
        await trio.sleep(0.001)


def write_file(folder: Path, size: int, *, name: str = "source.bin", seed: int = 1) -> Path:
    """A file of reproducible bytes."""
    path = folder / name
    path.write_bytes(random.Random(seed).randbytes(size))
    return path
