"""Credit services of several accounts over the internet in memory, each on a disk that outlives it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from node.credit.admission import Policy
from node.credit.pair_ledger import Balance
from node.credit.pair_records import PairRecord
from node.credit.service import CreditService
from node.crypto.keystore import NodeKeys
from node.framing import Preamble
from node.units import DAY_S, GIB, Contact, PeerId
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy
from simulations.network import Internet, Link
from tests.clocks import HandClock
from tests.credit.actors import DAY, NETWORK, Actor

T = TypeVar("T")
POLICY = Policy.of(GIB, newcomer_credits=100, local_line=0)


@dataclass(eq=False)
class Neighbour:
    """One account's node."""

    actor: Actor
    street: Street
    disk: FakeDisk = field(default_factory=FakeDisk)
    policy: Policy = POLICY
    takes_receipts: bool = True

    def __post_init__(self) -> None:
        self.tables = FakeKeyValue(self.disk)
        self.service: CreditService

    def crash(self) -> None:
        """Lose what was not durable."""
        self.disk.crash()
        self.tables = self.tables.reopened()

    @asynccontextmanager
    async def living(self) -> AsyncIterator[CreditService]:
        """One life."""
        actor = self.actor
        async with self.street.internet.join(actor.peer_id) as network, trio.open_nursery() as nursery:
            self.service = CreditService(
                network=network, state=self.tables, keys=NodeKeys(actor.device, actor.key, b"entropy"),
                preamble=Preamble(NETWORK, 1), clock=self.street.clock, offload=InlineOffload(),
                entropy=SeededEntropy(str(actor.number)), addresses=self.street,
                policy=self.policy, is_assigned=lambda receipt, lease: True,
                takes_receipts=self.takes_receipts,
            )  # fmt: skip
            self.contact = Contact(actor.peer_id, network.listen_addresses())
            self.street.contacts[actor.peer_id] = self.contact
            await self.service.start(lambda lease_id: True)
            await nursery.start(self.service.run)
            yield self.service
            nursery.cancel_scope.cancel()

    def balance_with(self, other: Neighbour) -> Balance:
        """As this node's book has it, all of it."""
        ledger, account = self.service.ledger, other.actor.account
        today = ledger.today(self.street.day)
        return ledger.store.read(lambda view: ledger.book(view, account).balance(today=today))

    def add(self, other: Neighbour, *records: PairRecord) -> int:
        """Records of this node's own."""
        return self.service.pairing.add(other.actor.account, records, day=self.street.day)


@dataclass(eq=False)
class Street:
    """An internet and a calendar."""

    link: Link = field(default_factory=Link)
    seed: int = 1
    clock: HandClock = field(default_factory=lambda: HandClock(DAY * DAY_S + 60))

    def __post_init__(self) -> None:
        self.internet = Internet(random.Random(self.seed), link=self.link)
        self.contacts: dict[PeerId, Contact] = {}

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """As a directory would."""
        await trio.lowlevel.checkpoint()
        return self.contacts.get(peer_id)

    @property
    def day(self) -> int:
        return self.clock.now_s() // DAY_S

    def neighbours(self, count: int) -> list[Neighbour]:
        """Accounts 1, 2, 3..."""
        return [Neighbour(Actor(number), self) for number in range(1, count + 1)]
