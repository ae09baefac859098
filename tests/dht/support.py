"""What the DHT's tests share: peers, small ports, and a swarm over the internet in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, TypeVar

import trio

from node.dht.records import PublicKeyValidator, Validator
from node.dht.service import DhtService, DhtSettings
from node.errors import ProtocolError
from node.ports import ReadTransaction, WriteTransaction
from node.units import Contact, Multiaddr, PeerId
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet, SimulatedNetwork
from tests.clocks import VirtualClock

if TYPE_CHECKING:
    from trio_typing import TaskStatus

T = TypeVar("T")


def peer_id_of(seed: int) -> PeerId:
    """A peer id that looks like an Ed25519 one."""
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + Random(seed).randbytes(32))


def contact_of(seed: int) -> Contact:
    """A contact on a public address of its own /24."""
    host = seed % 60_000
    address = f"/ip4/{30 + host // 16_000}.{host // 250 % 64}.{host % 250}.1/tcp/4001"
    return Contact(peer_id_of(seed), (Multiaddr(address),))


def multihash_of(seed: int) -> bytes:
    """A key that looks like the multihash of a BLAKE3 hash."""
    return b"\x1e\x20" + Random(f"key {seed}").randbytes(32)


class MemoryKeyValue:
    """KeyValue in a dict; changes that raise leave nothing behind."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, bytes]] = {}
        self.update_count = 0

    @contextmanager
    def view(self) -> Iterator[ReadTransaction]:
        yield _Transaction(self.tables)

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        self.update_count += 1
        copy = {name: dict(table) for name, table in self.tables.items()}
        try:
            return change(_Transaction(self.tables))
        except BaseException:
            self.tables = copy
            raise

    def close(self) -> None:
        pass


class _Transaction:
    def __init__(self, tables: dict[str, dict[bytes, bytes]]) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._tables.get(table, {}).get(key)

    def scan(self, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        items = self._tables.get(table, {})
        for key in sorted(items):
            if key.startswith(prefix) and key >= start:
                yield key, items[key]

    def count(self, table: str) -> int:
        return len(self._tables.get(table, {}))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert 1 <= len(key) <= 511
        self._tables.setdefault(table, {})[key] = bytes(value)

    def delete(self, table: str, key: bytes) -> bool:
        return self._tables.get(table, {}).pop(key, None) is not None


class NumberedValidator:
    """`/numbered/<name>`: values are `<number>:<text>`."""

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        if not value.partition(b":")[0].isdigit():
            raise ProtocolError("no number")

    def expires_s(self, key: bytes, value: bytes) -> int | None:
        return None

    def sequence(self, key: bytes, value: bytes) -> int:
        return int(value.partition(b":")[0])


VALIDATORS: Mapping[bytes, Validator] = {b"numbered": NumberedValidator(), b"pk": PublicKeyValidator()}


@dataclass
class SwarmNode:
    """A running node; `stop` ends it as a crash would, keeping its tables."""

    network: SimulatedNetwork
    dht: DhtService
    key_values: MemoryKeyValue
    scope: trio.CancelScope
    stopped: trio.Event

    @property
    def contact(self) -> Contact:
        return Contact(self.network.peer_id, self.network.listen_addresses())

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()


@dataclass
class Swarm:
    """Nodes on one internet."""

    internet: Internet
    nursery: trio.Nursery
    nodes: list[SwarmNode] = field(default_factory=list)

    async def add(
        self,
        seed: int,
        *,
        via: SwarmNode | None = None,
        key_values: MemoryKeyValue | None = None,
        settings: DhtSettings | None = None,
        address: Multiaddr | None = None,
    ) -> SwarmNode:
        """Start a node; it joins through `via`, or through nobody."""
        node = await self.nursery.start(self._run, seed, key_values or MemoryKeyValue(), settings, address)
        assert isinstance(node, SwarmNode)
        self.nodes.append(node)
        if via is not None:
            node.dht.add_contact(via.contact)
            assert await node.dht.wait_joined(30)
        return node

    async def _run(
        self,
        seed: int,
        key_values: MemoryKeyValue,
        settings: DhtSettings | None,
        address: Multiaddr | None,
        *,
        task_status: TaskStatus[SwarmNode],
    ) -> None:
        stopped = trio.Event()
        try:
            with trio.CancelScope() as scope:
                async with AsyncExitStack() as stack:
                    network = await stack.enter_async_context(
                        self.internet.join(peer_id_of(seed), address=address)
                    )
                    dht = DhtService(
                        network, key_values, VirtualClock(), SeededEntropy(seed), InlineOffload(),
                        validators=VALIDATORS, settings=settings,
                    )  # fmt: skip
                    nursery = await stack.enter_async_context(trio.open_nursery())
                    await nursery.start(dht.run)
                    task_status.started(SwarmNode(network, dht, key_values, scope, stopped))
        finally:
            stopped.set()


@asynccontextmanager
async def open_swarm(count: int = 0, *, seed: int = 1) -> AsyncIterator[Swarm]:
    """`count` joined nodes, all through the first."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(Internet(Random(seed)), nursery)
        for index in range(count):
            await swarm.add(1000 * seed + index, via=swarm.nodes[0] if index else None)
        yield swarm
        nursery.cancel_scope.cancel()
