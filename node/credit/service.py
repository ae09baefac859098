"""Credit of one node: the ledger, who is admitted, what is paid. Layer 4.

What the rest of the node sees of credit. Everything that reads or changes the ledger takes turns under one
lock, off the event loop. Nothing here wakes up by itself: exchanges follow contacts.
Source: credit.md.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from node import limits
from node.credit.admission import Policy
from node.credit.admitting import NEWER_DEVICE, CreditAdmission
from node.credit.clearing_service import ClearingService
from node.credit.exchange import Exchange
from node.credit.ledger import IsAssigned, Ledger
from node.credit.ledger_store import AccountRow, LedgerStore, LedgerView
from node.credit.members import Addresses
from node.credit.pair_records import PairRecord
from node.credit.pairing import Pairing
from node.credit.serving import ServingReceipts
from node.credit.units import MICROS_PER_CREDIT, PERIOD_DAYS
from node.credit.wallet import Wallet
from node.crypto.keystore import NodeKeys
from node.errors import RemoteError, UsageError
from node.framing import Preamble
from node.ports import Clock, Entropy, KeyValue, Network, Offload
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import MIB, AccountId, Contact, LeaseId, PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio


ASKED_WHO_ACTS_MAX: Final = 4
"""Peers asked whether another machine acts for this account."""


@dataclass(frozen=True, slots=True)
class PeerBalance:
    """How this account stands with another one, in micro-credits."""

    account: AccountId
    balance: int
    """What the other one owes; negative where this account does."""
    line: int
    """What it may have kept here for nothing, as set."""
    line_left: int
    """What its running leases leave of that."""
    given: int
    """What this account has given it, gifts included."""
    received: int
    """What it has given this account."""
    gifts: int
    """The part of `given` that went under its line."""
    open_leases: int
    """What its leases here may still come to."""
    is_known: bool
    is_frozen: bool


@dataclass(frozen=True, slots=True)
class CreditSummary:
    """How this account stands with everybody, in micro-credits."""

    earned: int
    """All that was given and is not a gift."""
    gifts: int
    received: int
    owed: int
    """What others owe this account."""
    owes: int
    """What this account owes others."""
    open_leases: int
    """What others' leases here may still come to."""
    friends: int
    """Accounts with a line."""
    lines: int
    """Of all of them together."""
    accounts: int
    """Accounts that this one has dealt with."""
    peers: tuple[PeerBalance, ...]
    """The largest balances and all lines, up to a limit."""

    @property
    def net(self) -> int:
        """What this account is owed, all in all."""
        return self.owed - self.owes


def line_micros(byte_count: int) -> int:
    """A line of so many bytes, kept for a period, in micro-credits."""
    return byte_count * PERIOD_DAYS * MICROS_PER_CREDIT // MIB


def line_bytes(micros: int) -> int:
    """The bytes that so many micro-credits keep for a period."""
    return micros * MIB // (PERIOD_DAYS * MICROS_PER_CREDIT)


def _balance(account: AccountId, row: AccountRow, today: int) -> PeerBalance:
    standing = row.standing
    return PeerBalance(
        account=account,
        balance=standing.owes,
        line=row.line,
        line_left=standing.line,
        given=row.received,
        received=row.given,
        gifts=row.gifts,
        open_leases=standing.unvested,
        is_known=standing.is_known,
        is_frozen=today < row.frozen_until,
    )


def _summary(view: LedgerView, peers_max: int, today: int) -> CreditSummary:
    earned = gifts = received = owed = owes = open_leases = friends = lines = accounts = 0
    shown: list[tuple[int, bytes, PeerBalance]] = []
    for account, row in view.accounts():
        accounts += 1
        earned, gifts = earned + row.received - row.gifts, gifts + row.gifts
        received, open_leases = received + row.given, open_leases + row.standing.unvested
        owed, owes = owed + max(0, row.standing.owes), owes + max(0, -row.standing.owes)
        friends, lines = friends + bool(row.line), lines + row.line
        entry = (
            abs(row.standing.owes) + row.line + row.standing.unvested,
            account,
            _balance(account, row, today),
        )
        push = heapq.heappush if len(shown) < peers_max else heapq.heappushpop
        push(shown, entry)
    peers = tuple(peer for _, _, peer in sorted(shown, key=lambda item: (-item[0], item[1])))
    return CreditSummary(earned, gifts, received, owed, owes, open_leases, friends, lines, accounts, peers)


class CreditService:
    """One node's credit."""

    def __init__(
        self,
        *,
        network: Network,
        state: KeyValue,
        keys: NodeKeys,
        clock: Clock,
        offload: Offload,
        policy: Policy,
        preamble: Preamble,
        entropy: Entropy,
        addresses: Addresses | None = None,
        is_assigned: IsAssigned = lambda receipt, lease: False,
        takes_receipts: bool = True,
    ) -> None:
        """Call `start` before anything else. `takes_receipts`: readers owe for what they are served."""
        self._lock = trio.Lock()
        self.ledger = Ledger(
            LedgerStore(state, preamble.network_id),
            me=keys.account_id,
            peer_id=keys.peer_id,
            is_assigned=is_assigned,
        )
        self._policy = policy
        self.wallet = Wallet(self.ledger, keys, clock)
        self.admission = CreditAdmission(
            self.ledger, network=network, clock=clock, offload=offload, lock=self._lock
        )
        self.pairing = Pairing(self.ledger, keys.account)
        self.exchange = Exchange(
            network=network,
            preamble=preamble,
            ledger=self.ledger,
            pairing=self.pairing,
            admission=self.admission,
            wallet=self.wallet,
        )
        self.clearing = ClearingService(
            ledger=self.ledger,
            pairing=self.pairing,
            exchange=self.exchange,
            admission=self.admission,
            account=keys.account,
            peer_id=keys.peer_id,
            entropy=entropy,
            addresses=addresses,
        )
        self.serving = ServingReceipts(
            ledger=self.ledger,
            keys=keys,
            admission=self.admission,
            exchange=self.exchange,
            entropy=entropy,
            record=self._add,
            takes_receipts=takes_receipts,
        )
        self.wallet.on_dealt = self.exchange.owe
        self.wallet.on_short = self.clearing.make_room
        self._network = network
        self._heard: deque[AuditReceipt] = deque(maxlen=limits.CREDIT_HEARD_MAX)
        self._was_heard = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    async def start(self, is_kept: Callable[[LeaseId], bool]) -> None:
        """Take up what is on the disk; `is_kept` says whether a lease's shard became durable."""
        await self.set_policy(self._policy)
        await self.admission.recover(is_kept)
        await self.admission.run(self.wallet.device_cert)
        await self.clearing.load()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Exchange records with counterparties until cancelled; started once requests are taken."""
        async with trio.open_nursery() as nursery:
            self._token = trio.lowlevel.current_trio_token()
            nursery.start_soon(self._take_heard)
            nursery.start_soon(self.serving.run)
            await nursery.start(self.exchange.run)
            task_status.started()

    def hear(self, receipts: Sequence[AuditReceipt]) -> None:
        """Receipts of audits have become durable: they are taken in soon. From any thread."""
        self._heard.extend(receipts)
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._note_heard)

    def _note_heard(self) -> None:
        self._was_heard.set()

    async def _take_heard(self) -> None:
        while True:
            while self._heard:
                count = min(len(self._heard), limits.CREDIT_ENTRIES_PER_MESSAGE_MAX)
                await self.audited([self._heard.popleft() for _ in range(count)])
            await self._was_heard.wait()
            self._was_heard = trio.Event()

    async def served(self, receipt: ServeReceipt) -> None:
        """A reader's receipt: what this node was served or has served. Durable when this returns.

        Receipts that do not hold, and those of strangers to the ledger, are left out.
        """
        me, store = self.ledger.me, self.ledger.store

        def find() -> AccountId | None:
            if receipt.reader != me:
                return receipt.reader
            return store.read(lambda view: view.account_of(receipt.donor))

        other = await self.admission.run(find)
        if other is not None and other != me:
            await self._record(other, [receipt])

    async def audited(self, receipts: Iterable[AuditReceipt]) -> None:
        """Receipts of audits: they count for every pair whose leases they name."""

        def group() -> dict[AccountId, list[AuditReceipt]]:
            found: dict[AccountId, dict[bytes, AuditReceipt]] = {}

            def look(view: LedgerView) -> None:
                for receipt in receipts:
                    for lease_id in receipt.lease_ids():
                        place = view.lease_place(lease_id, receipt.donor)
                        if place is not None:
                            found.setdefault(place[0], {})[receipt.record_id()] = receipt

            self.ledger.store.read(look)
            return {other: list(records.values()) for other, records in found.items()}

        for other, records in (await self.admission.run(group)).items():
            await self._record(other, records)

    async def _record(self, other: AccountId, records: Sequence[PairRecord]) -> None:
        """Put records into a pair's set, and have them exchanged if its peer is there."""
        if await self._add(other, records):
            self._owe(other)

    async def _add(self, other: AccountId, records: Sequence[PairRecord]) -> bool:
        """Put records into a pair's set; whether any was news."""
        day = self.admission.day
        return bool(await self.admission.run(lambda: self.pairing.add(other, records, day=day)))

    def _owe(self, other: AccountId) -> None:
        certs = self.ledger.store.read(lambda view: view.certs(other))
        for cert in certs[:1]:
            self.exchange.owe(Contact(cert.peer_id, self._network.addresses_of(cert.peer_id)))

    async def sync(self, contact: Contact) -> PeerBalance:
        """Exchange with a peer now; how this account stands with its account then. Raises `RemoteError`."""
        return await self.balance(await self.exchange.sync(contact))

    async def acts_elsewhere(self) -> str | None:
        """What a peer says if another machine acts for this account by now; None if none says so."""
        network = self.exchange.network
        for peer_id in network.connected()[:ASKED_WHO_ACTS_MAX]:
            try:
                await self.exchange.sync(Contact(peer_id, network.addresses_of(peer_id)))
            except RemoteError as error:
                _, found, words = str(error).partition(NEWER_DEVICE)
                if found:
                    return found + words
        return None

    async def summary(self, *, peers_max: int = limits.BALANCES_SHOWN_MAX) -> CreditSummary:
        """How this account stands, all in all and with each other one, the largest balances first."""

        def look() -> CreditSummary:
            day = self.ledger.today(self.admission.day)
            if self.ledger.store.read(lambda view: view.due(day)):
                self.ledger.update(lambda change: self.ledger.refresh_due(change, day=day))
            return self.ledger.store.read(lambda view: _summary(view, peers_max, day))

        return await self.admission.run(look)

    async def balance(self, account: AccountId) -> PeerBalance:
        """How this account stands with another one."""

        def look() -> PeerBalance:
            today = self.ledger.today(self.admission.day)
            row = self.ledger.store.read(lambda view: view.account(account))
            return _balance(account, row, today)

        return await self.admission.run(look)

    async def set_line(self, account: AccountId, byte_count: int) -> PeerBalance:
        """Let a friend keep so many bytes here for nothing; 0 takes that back for what is still to come.

        Raises `UsageError` for this account itself.
        """
        if account == self.ledger.me:
            raise UsageError("that is this node's own account: a line is for somebody else's")
        day, micros = self.admission.day, line_micros(byte_count)
        await self.admission.run(lambda: self.ledger.set_line(account, micros, day=day))
        return await self.balance(account)

    async def account_of(self, peer_id: PeerId) -> AccountId | None:
        """The account that a peer has said to act for, if this node has met it."""
        return await self.admission.run(lambda: self.ledger.store.read(lambda view: view.account_of(peer_id)))

    async def set_policy(self, policy: Policy) -> None:
        """Give under these caps from now on."""
        await self.admission.run(lambda: self.ledger.set_policy(policy))
