"""Whole nodes, composed as the daemon composes them, over simulated adapters and virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from node.crypto.keystore import NodeKeys, open_or_create
from node.crypto.passwords import PasswordCost
from node.daemon.compose import Node, NodePorts, open_node
from node.daemon.config import Config
from node.daemon.memory import DaemonMemory, Donation
from node.units import Contact
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet, Link
from tests.clocks import VirtualClock

T = TypeVar("T")


@dataclass(eq=False)
class Machine:
    """What outlives a node's process."""

    name: str
    disk: FakeDisk = field(default_factory=FakeDisk)

    def __post_init__(self) -> None:
        self.state = FakeKeyValue(self.disk)
        self.index = FakeKeyValue(self.disk)
        self.entropy = SeededEntropy(self.name)

    def keys(self) -> NodeKeys:
        """The keys on this disk; made at the first call."""
        return open_or_create(self.disk, self.entropy, cost=PasswordCost(8, 1))

    def give(self, cap_bytes: int) -> None:
        """Donate from the next start on."""
        DaemonMemory(self.state).set_donation(Donation(cap_bytes))


@dataclass(eq=False)
class World:
    """An internet and a calendar that all nodes share."""

    internet: Internet = field(default_factory=lambda: Internet(Random(1), link=Link(latency_s=0.01)))
    clock: VirtualClock = field(default_factory=VirtualClock)

    @asynccontextmanager
    async def node(
        self, machine: Machine, *, listed: Sequence[Contact] = (), config: Config | None = None
    ) -> AsyncIterator[Node]:
        """A running node on `machine`."""
        keys = machine.keys()
        async with self.internet.join(keys.peer_id) as network:
            ports = NodePorts(
                network=network,
                files=machine.disk,
                state=machine.state,
                index=machine.index,
                clock=self.clock,
                entropy=machine.entropy,
                offload=InlineOffload(),
            )
            async with open_node(config or Config(), ports, keys, listed=listed) as node:
                yield node


def contact_of(node: Node) -> Contact:
    """How to join through a node."""
    return Contact(node.keys.peer_id, node.ports.network.listen_addresses())
