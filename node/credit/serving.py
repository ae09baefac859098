"""Receipts for what is served, between the streams and the ledger: both ends. Layer 4.

A donor's receipts are taken in a few seconds after their streams ended, many at a time; the last ones may be
lost in a crash. The reader takes its own in after the donor and then has an exchange, so that both ends
agree, also where they have never met: then the donor's copy comes with it. Nothing wakes where nothing is
served. Source: credit.md, "Earning".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from node import limits
from node.credit.admitting import CreditAdmission
from node.credit.exchange import Exchange
from node.credit.ledger import Ledger
from node.crypto.keystore import NodeKeys
from node.ports import Entropy
from node.records.receipt import SESSION_BYTES, ServeReceipt, session_of
from node.units import AccountId, Contact, LeaseId, PeerId

DONOR_BATCH_S: Final = 5.0
READER_BATCH_S: Final = 15.0
"""Later than the donor: the exchange that follows finds its receipts durable."""
_DAY_BYTES: Final = 4

Record = Callable[[AccountId, Sequence[ServeReceipt]], Awaitable[bool]]


class _Batch:
    """What was heard, and a wait until some of it is to be taken in."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._heard: deque[ServeReceipt] = deque(maxlen=limits.CREDIT_HEARD_MAX)
        self._event = trio.Event()

    def add(self, receipts: Sequence[ServeReceipt]) -> None:
        self._heard.extend(receipts)
        self._event.set()

    async def wait(self) -> None:
        while not self._heard:
            self._event = trio.Event()
            await self._event.wait()
        await trio.sleep(self._delay_s)

    def take(self) -> list[ServeReceipt]:
        taken = list(self._heard)
        self._heard.clear()
        return taken


class ServingReceipts:
    """Both ends of serving for one account: the ports of `node.chunks.serving`."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        keys: NodeKeys,
        admission: CreditAdmission,
        exchange: Exchange,
        entropy: Entropy,
        record: Record,
        takes_receipts: bool = True,
    ) -> None:
        """`record` puts receipts into a pair's set, durably. As a donor, without `takes_receipts` nobody owes
        for what is served from now on."""
        self._takes_receipts = takes_receipts
        self._ledger = ledger
        self._keys = keys
        self._admission = admission
        self._exchange = exchange
        self._entropy = entropy
        self._record = record
        self._served = _Batch(DONOR_BATCH_S)
        self._read = _Batch(READER_BATCH_S)
        self._donors: dict[PeerId, Contact] = {}

    async def run(self) -> None:
        """Take receipts in until cancelled, and then what is left."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_donor)
                nursery.start_soon(self._run_reader)
        finally:
            with trio.CancelScope(shield=True):
                await self._take_served()
                await self._take_read()

    # --- as a reader ----------------------------------------------------------------------------------------

    def new_session(self) -> bytes:
        """As the port says."""
        return session_of(self._admission.day, self._entropy.random_bytes(SESSION_BYTES - _DAY_BYTES))

    def receipt(self, session: bytes, donor: PeerId, lease_id: LeaseId, byte_count: int) -> ServeReceipt:
        """As the port says."""
        receipt = ServeReceipt(
            network=self._ledger.store.network,
            session=session,
            donor=donor,
            reader=self._ledger.me,
            lease_id=lease_id,
            byte_count=byte_count,
        )
        return receipt.sign(self._keys.account)

    def was_served(self, contact: Contact, receipts: Sequence[ServeReceipt]) -> None:
        """As the port says."""
        if len(self._donors) < limits.EXCHANGES_QUEUED_MAX or contact.peer_id in self._donors:
            self._donors[contact.peer_id] = contact
            self._read.add(receipts)

    async def _run_reader(self) -> None:
        while True:
            await self._read.wait()
            await self._take_read()

    async def _take_read(self) -> None:
        donors, receipts = self._donors, self._read.take()
        self._donors = {}
        by_account: dict[AccountId, list[ServeReceipt]] = {}
        for donor in donors:
            account = await self._account_of(donor)
            if account not in (None, self._ledger.me):
                assert account is not None
                by_account.setdefault(account, []).extend(r for r in receipts if r.donor == donor)
        for account, each in by_account.items():
            await self._record(account, each)
        for contact in donors.values():
            self._exchange.owe(contact)

    # --- as a donor -----------------------------------------------------------------------------------------

    def has_served(self, receipts: Sequence[ServeReceipt]) -> None:
        """As the port says."""
        others = [receipt for receipt in receipts if receipt.reader != self._ledger.me]
        if others and self._takes_receipts:
            self._served.add(others)

    async def goes_first(self, peer_id: PeerId) -> bool:
        """As the port says."""

        def look() -> bool:
            def first(account: AccountId | None) -> bool:
                if account is None or account == self._ledger.me:
                    return account is not None
                return self._ledger.store.read(lambda view: view.account(account)).standing.owes <= 0

            return first(self._ledger.store.read(lambda view: view.account_of(peer_id)))

        return peer_id == self._keys.peer_id or await self._admission.run(look)

    async def _run_donor(self) -> None:
        while True:
            await self._served.wait()
            await self._take_served()

    async def _take_served(self) -> None:
        by_reader: dict[AccountId, list[ServeReceipt]] = {}
        for receipt in self._served.take():
            by_reader.setdefault(receipt.reader, []).append(receipt)
        for reader, receipts in by_reader.items():
            await self._record(reader, receipts)

    async def _account_of(self, peer_id: PeerId) -> AccountId | None:
        return await self._admission.run(
            lambda: self._ledger.store.read(lambda view: view.account_of(peer_id))
        )
