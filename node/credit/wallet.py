"""The putter's side of spending: the device certificate, charges, which donors to prefer. Layer 4.

The implementation of `node.chunks.admission.Payer` over the ledger. Invariants: the certificate is made from
the account's key and kept, so a node keeps its epoch over restarts; a restored account on this machine, or
this account on a new machine, begins a newer epoch; it is renewed before it expires.
Source: credit.md, "Records", "Spending".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerChange, LedgerView
from node.crypto.keystore import NodeKeys
from node.ports import Clock
from node.records.charge import Charge
from node.records.lease import Lease
from node.records.offer import DeviceCert, Offer
from node.units import DAY_S, Contact

CERT_LIFE_S: Final = 400 * DAY_S
CERT_RENEW_S: Final = 100 * DAY_S
"""A certificate with less left than that is made anew."""

MakeRoom = Callable[[Contact, Offer, int, int], Awaitable[int]]


class Wallet:
    """What this node's account signs when it stores on others."""

    def __init__(self, ledger: Ledger, keys: NodeKeys, clock: Clock) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._cert: DeviceCert | None = None
        self.on_dealt: Callable[[Contact], None] = lambda _: None
        self.on_short: MakeRoom | None = None

    def device_cert(self) -> DeviceCert:
        """This node's certificate, made or renewed where that is due. Blocks on the disk then."""
        now_s = self._clock.now_s()
        if self._cert is not None and self._cert.expires_s - now_s > CERT_RENEW_S:
            return self._cert
        kept = self._ledger.store.read(LedgerView.own_cert)
        mine = (self._keys.account_id, self._keys.peer_id)
        if kept is None or (kept.account, kept.peer_id) != mine:
            kept = DeviceCert(self._ledger.store.network, *mine, epoch=now_s, expires_s=0)
        if kept.expires_s - now_s <= CERT_RENEW_S:
            kept = replace(kept, expires_s=now_s + CERT_LIFE_S).sign(self._keys.account)
            cert = kept

            def change(ledger: LedgerChange) -> None:
                ledger.set_own_cert(cert)

            self._ledger.store.update(change)
            self._ledger.learn(cert)
        self._cert = kept
        return kept

    def cert(self) -> bytes:
        """As the port says."""
        return self.device_cert().encode()

    def charge(self, lease: Lease, manifest_bytes: int) -> Charge:
        """As the port says."""
        charge = Charge.of(lease, self._keys.account_id, manifest_bytes=manifest_bytes)
        return charge.sign(self._keys.account)

    def preference(self, offer: Offer) -> int:
        """As the port says."""
        row = self._ledger.store.read(lambda view: view.account(offer.account))
        if row.standing.owes > 0:
            return 2
        return int(bool(row.given or row.received))

    async def make_room(self, contact: Contact, offer: Offer, *, need: int, have: int) -> int:
        """As the port says: by clearing debts around a cycle, where there is one."""
        if self.on_short is None:
            return have
        return await self.on_short(contact, offer, need, have)

    def dealt_with(self, contact: Contact) -> None:
        """As the port says."""
        self.on_dealt(contact)
