"""One account's real ledger on a disk that survives it."""

from __future__ import annotations

from collections.abc import Iterable

from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerStore
from node.credit.pairing import Pairing
from node.records.offer import DeviceCert
from node.units import DAY_S
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from tests.credit.actors import DAY, NETWORK, Actor


class CrashingLedger:
    """It knows the devices of `known`, and goes on after `crash` with what was durable."""

    def __init__(self, me: Actor, known: Iterable[Actor], *, cert_days: int) -> None:
        self.me = me
        self.disk = FakeDisk()
        self.tables = FakeKeyValue(self.disk)
        self.day = DAY
        self.begin()
        for each in known:
            cert = DeviceCert(NETWORK, each.account, each.peer_id, 1, (DAY + cert_days) * DAY_S)
            self.ledger.learn(cert.sign(each.key))

    def begin(self) -> None:
        """A life of the node starts."""
        self.ledger = Ledger(
            LedgerStore(self.tables, NETWORK),
            me=self.me.account,
            peer_id=self.me.peer_id,
            is_assigned=lambda receipt, lease: True,
        )
        self.pairing = Pairing(self.ledger, self.me.key)

    def crash(self) -> None:
        """The power goes, and the node starts again."""
        self.disk.crash()
        self.tables = self.tables.reopened()
        self.begin()
