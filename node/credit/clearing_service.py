"""Clearing over the wire: finding cycles, collecting signatures, giving up. Layer 4.

The account that wants to store drives: it asks the donor for cycles, has every other member sign in order,
signs last, and tells everybody. Invariants: a member's signature is durable, with what it reserves, before it
leaves; a complete clear is durable at the initiator before anybody hears of it, enters the sets of its pairs
and so reaches all members by any later exchange; whoever gives up says so, and never after signing. A lost
message is sent again: every step may be repeated. Source: credit.md, "Clearing".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import trio

from node import limits
from node.credit import messages
from node.credit.admitting import CreditAdmission
from node.credit.bloom import SALT_BYTES, BloomFilter
from node.credit.clearing import ClearBook, Cycle, Debts, four_cycles, three_cycles
from node.credit.exchange import Exchange
from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerChange, LedgerView
from node.credit.pairing import Pairing
from node.credit.units import period_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, CryptoError, ProtocolError, RemoteError
from node.framing import FramedStream
from node.ports import Entropy
from node.records.clear import CLEAR_ID_BYTES, Abort, Clear
from node.records.offer import Offer
from node.records.pair_state import RECORD_ID_BYTES
from node.units import AccountId, Contact, PeerId

MAKE_ROOM_S: Final = 15.0
"""What clearing may hold up one offer of a put."""
TRIES: Final = 4
"""Times that one member is asked the same: a message may be lost on either way."""


class Addresses(Protocol):
    """Where peers are: the part of the directory that clearing needs."""

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """Fresh addresses of a peer, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """A cycle and a peer for each of its accounts."""

    cycle: Cycle
    peers: tuple[PeerId, ...]


class ClearingService:
    """One account's clears."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        pairing: Pairing,
        exchange: Exchange,
        admission: CreditAdmission,
        account: KeyPair,
        peer_id: PeerId,
        entropy: Entropy,
        addresses: Addresses | None,
    ) -> None:
        self._ledger = ledger
        self._pairing = pairing
        self._exchange = exchange
        self._admission = admission
        self._account = account
        self._peer_id = peer_id
        self._entropy = entropy
        self._addresses = addresses
        self._book = ClearBook(ledger.me)
        self._one_at_a_time = trio.Lock()
        self._finds: Counter[PeerId] = Counter()
        self._finds_day = 0
        pairing.on_clear = self._note_complete
        exchange.extra |= {
            messages.FindCycle: self._answer_find,
            messages.SignClear: self._answer_sign,
            messages.AbortClear: self._answer_abort,
        }

    @property
    def book(self) -> ClearBook:
        """Every clear that this account has seen."""
        return self._book

    @property
    def _period(self) -> int:
        return period_of(self._ledger.today(self._admission.day))

    def load(self) -> None:
        """Take up what is on the disk. What this account began and never signed is given up."""
        records = self._ledger.store.read(lambda view: list(view.clears()))
        for record in records:
            if isinstance(record, Clear):
                self._book.add(record)
        for record in records:
            if isinstance(record, Abort) and record.clear_record in self._book.clears:
                self._book.add_abort(record)
        for record_id, clear in list(self._book.clears.items()):
            if clear.initiator == self._ledger.me and self._ledger.me not in clear.signers():
                self._give_up(record_id)
        forgotten = self._book.forget(period=self._period)

        def change(ledger: LedgerChange) -> None:
            for record_id in forgotten:
                ledger.drop_clear(record_id)

        if forgotten:
            self._ledger.update(change)

    # --- the initiator ------------------------------------------------------------------------------------

    async def make_room(self, contact: Contact, offer: Offer, need: int, have: int) -> int:
        """Clear debts so that a donor owes this account what is missing; what it would accept then.

        What a donor says it would accept is its word alone. What it owes by this account's own records is not
        cleared a second time, so that saying "nothing" again and again brings it no more than one need.
        """
        debtors = await self._admission.run(lambda: self._debtors(offer.account))
        if not debtors:
            return have
        with trio.move_on_after(MAKE_ROOM_S):
            async with self._one_at_a_time:
                owed = await self._admission.run(lambda: self._free_at(offer.account))
                missing = need - max(have, owed)
                if missing <= 0:
                    return have
                try:
                    for found in await self.find(contact, offer.account, missing, debtors):
                        amount = min(found.cycle.amount, missing, self._own_debt(found.cycle))
                        if amount > 0 and await self.clear(found, amount):
                            have += amount
                            missing -= amount
                        if missing <= 0:
                            break
                except RemoteError:
                    return have
        return have

    async def find(
        self, contact: Contact, donor: AccountId, amount: int, debtors: Sequence[AccountId]
    ) -> list[Found]:
        """Cycles through a donor, as it knows them. Raises `RemoteError`."""
        owes_me = BloomFilter.of(debtors, self._entropy.random_bytes(SALT_BYTES))
        request = messages.FindCycle(self._ledger.me, amount, owes_me.encode())
        reply = await self._ask(contact, donor, request, messages.Cycles)
        assert isinstance(reply, messages.Cycles)
        known = set(debtors)
        return [
            found
            for found in _found(reply)
            if found.cycle.accounts[:2] == (self._ledger.me, donor) and found.cycle.accounts[-1] in known
        ]

    async def clear(self, found: Found, amount: int) -> bool:
        """Have everybody sign, then sign; whether the clear is complete."""
        me, accounts = self._ledger.me, found.cycle.accounts
        clear = Clear(
            network=self._ledger.store.network,
            clear_id=self._entropy.random_bytes(CLEAR_ID_BYTES),
            cycle=accounts,
            amount=amount,
            pair_states=self._states(accounts),
            initiator=me,
            end_period=self._period + 1,
        )
        await self._admission.run(lambda: self._keep(clear))
        contacts = [await self._contact(peer_id) for peer_id in found.peers]
        for account, contact in zip(accounts[1:], contacts[1:], strict=True):
            signed = await self._signature(contact, account, clear)
            if signed is None:
                record_id = clear.record_id()
                await self._admission.run(lambda: self._give_up(record_id))  # noqa: B023 - run at once
                await self._tell_aborted(clear, dict(zip(accounts[1:], contacts[1:], strict=True)))
                return False
            clear = signed
        complete = await self._admission.run(lambda: self._complete(clear))
        for account, contact in zip(accounts[1:], contacts[1:], strict=True):
            await self._signature(contact, account, complete)
        return True

    async def _signature(self, contact: Contact, account: AccountId, clear: Clear) -> Clear | None:
        """The clear with that member's signature; None if it declines or does not answer."""
        request = messages.SignClear(clear.encode())
        for _ in range(TRIES):
            try:
                reply = await self._ask(contact, account, request, messages.Signed, messages.Declined)
            except RemoteError:
                await trio.sleep(0.5)
                continue
            if isinstance(reply, messages.Declined):
                return None
            assert isinstance(reply, messages.Signed)
            try:
                merged = clear.merge(Clear.decode(reply.record, network=clear.network))
                merged.verify_member(account)
            except (ProtocolError, CryptoError):
                return None
            return await self._admission.run(lambda merged=merged: self._keep(merged))  # type: ignore[misc]
        return None

    async def _tell_aborted(self, clear: Clear, contacts: dict[AccountId, Contact]) -> None:
        abort = self._book.aborts.get(clear.record_id(), {}).get(self._ledger.me)
        if abort is None:
            return
        for account in clear.signers():
            try:
                await self._ask(
                    contacts[account], account, messages.AbortClear(abort.encode()), messages.Done
                )
            except RemoteError:
                continue  # for that one it lapses

    async def _ask(
        self,
        contact: Contact,
        account: AccountId,
        request: messages.Message,
        *kinds: type[messages.Message],
    ) -> messages.Message:
        session, framed = await self._exchange.open(contact)
        try:
            if session.other != account:
                raise RemoteError(framed.peer, "acts for another account than it did")
            reply = await session.ask(request, *kinds)
        except BaseException:
            await framed.reset()
            raise
        await framed.aclose()
        return reply

    async def _contact(self, peer_id: PeerId) -> Contact:
        """Where a member is: connected, or to be looked up."""
        network = self._exchange.network
        if peer_id in network.connected() or self._addresses is None:
            return Contact(peer_id, network.addresses_of(peer_id))
        return await self._addresses.find_peer(peer_id) or Contact(peer_id)

    def _states(self, accounts: Sequence[AccountId]) -> tuple[bytes, ...]:
        """The states of this account's own two debts; it knows none of the others."""

        def state_of(other: AccountId) -> bytes:
            agreed = self._pairing.agreed(other)
            return bytes(RECORD_ID_BYTES) if agreed is None else agreed.record_id()

        unknown = (bytes(RECORD_ID_BYTES),) * (len(accounts) - 2)
        return (state_of(accounts[1]), *unknown, state_of(accounts[-1]))

    def _own_debt(self, cycle: Cycle) -> int:
        """What the last of a cycle owes this account, as far as this account knows."""
        debtor = cycle.accounts[-1]
        return max(0, self._ledger.store.read(lambda view: view.account(debtor)).standing.owes)

    # --- the other members --------------------------------------------------------------------------------

    async def _answer_find(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        assert isinstance(request, messages.FindCycle)
        self._count_find(framed.peer_id)
        owes_asker = BloomFilter.decode(request.owes_me)
        asker, me = AccountId(request.asker), self._ledger.me
        debts = await self._admission.run(self._creditors)
        if asker != other:  # `other` is the donor, and this account the second of a cycle of four
            cycles = four_cycles(other, {me: request.amount or 1}, me, debts, asker, owes_asker)
            return await self._cycles(cycles, framed.peer_id)
        cycles = three_cycles(me, debts, asker, owes_asker)
        found = [*_found(await self._cycles(cycles, framed.peer_id))]
        if not found:
            found = await self._ask_seconds(request, debts, framed.peer_id)
        return messages.Cycles(
            tuple(
                (each.cycle.accounts, each.cycle.amount, each.peers)
                for each in found[: limits.CLEAR_CANDIDATES_MAX]
            )
        )

    def _count_find(self, peer_id: PeerId) -> None:
        """A search costs a walk through the accounts, and questions to others. Raises `CreditError`."""
        if self._finds_day != self._admission.day:
            self._finds_day, self._finds = self._admission.day, Counter()
        self._finds[peer_id] += 1
        if self._finds[peer_id] > limits.CLEAR_FINDS_PER_PEER_MAX:
            raise CreditError("too many searches for cycles today")

    async def _ask_seconds(
        self, request: messages.FindCycle, debts: Debts, asker_peer: PeerId
    ) -> list[Found]:
        """Cycles of four, from the creditors that this donor owes most."""
        ranked = sorted(debts, key=lambda account: -debts[account])
        found: list[Found] = []
        for second in ranked[: limits.CLEAR_SECONDS_ASKED_MAX]:
            peer_id = await self._admission.run(lambda second=second: self._peer_of(second))  # type: ignore[misc]
            if peer_id is None or second == request.asker:
                continue
            ask = messages.FindCycle(request.asker, min(request.amount, debts[second]), request.owes_me)
            try:
                reply = await self._ask(await self._contact(peer_id), second, ask, messages.Cycles)
            except RemoteError:
                continue
            assert isinstance(reply, messages.Cycles)
            for each in _found(reply):
                if each.cycle.accounts[:3] == (request.asker, self._ledger.me, second):
                    amount = min(each.cycle.amount, debts[second])
                    peers = (asker_peer, self._peer_id, *each.peers[2:])
                    found.append(Found(Cycle(each.cycle.accounts, amount), peers))
        return found

    async def _answer_sign(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        assert isinstance(request, messages.SignClear)
        clear = Clear.decode(request.record, network=self._ledger.store.network)
        if other not in clear.cycle:
            raise ProtocolError("a clear of others")
        try:
            return messages.Signed((await self._admission.run(lambda: self._sign(clear))).encode())
        except (CreditError, ProtocolError) as error:
            return messages.Declined(str(error)[: limits.ERROR_TEXT_CHARACTERS_MAX])

    async def _answer_abort(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        assert isinstance(request, messages.AbortClear)
        abort = Abort.decode(request.record, network=self._ledger.store.network)

        def take() -> int:
            if abort.clear_record not in self._book.clears:
                return 0
            self._book.add_abort(abort)
            self._ledger.update(lambda change: change.set_clear(abort))
            return 1

        return messages.Done(await self._admission.run(take))

    # --- the book, on the ledger's thread -----------------------------------------------------------------

    def _sign(self, clear: Clear) -> Clear:
        """With this account's signature, durable with what it reserves. Raises `CreditError`."""
        me = self._ledger.me
        seen = self._book.add(clear)
        if len(seen.signers()) == len(seen.cycle):
            self._ledger.update(
                lambda change: self._pairing.spread_clear(change, seen, day=self._admission.day)
            )
            return seen
        if me in seen.signers():
            return self._keep(seen)
        creditor = seen.creditor_of(me)
        row = self._ledger.store.read(lambda view: view.account(creditor))
        standing = row.standing
        debt = -(standing.owes + standing.unvested - standing.granted)
        self._book.check_sign(seen, debt=debt, cap=self._ledger.policy.pledge, period=self._period)
        return self._keep(seen.sign(self._account))

    def _keep(self, clear: Clear) -> Clear:
        """Keep a clear as it is known now, durably, with what it reserves."""
        seen = self._book.add(clear)

        def change(ledger: LedgerChange) -> None:
            ledger.set_clear(seen)
            self._reserve(ledger, seen)

        self._ledger.update(change)
        return seen

    def _complete(self, clear: Clear) -> Clear:
        """The initiator's signature, the last: the clear counts from here on, whatever is lost."""
        complete = self._book.add(clear.sign(self._account))
        day = self._admission.day
        self._ledger.update(lambda change: self._pairing.spread_clear(change, complete, day=day))
        return complete

    def _note_complete(self, change: LedgerChange, clear: Clear) -> None:
        """A complete clear, by whatever way it came: it reserves nothing any more."""
        known = self._book.clears.get(clear.record_id(), clear)
        self._book.clears[clear.record_id()] = known.merge(clear)
        self._reserve(change, clear)

    def _reserve(self, change: LedgerChange, clear: Clear) -> None:
        creditor = clear.creditor_of(self._ledger.me)
        self._ledger.reserve(change, creditor, self._book.reserved(self._ledger.me, creditor))

    def _give_up(self, record_id: bytes) -> None:
        clear = self._book.clears[record_id]
        abort = Abort(clear.network, record_id, self._ledger.me).sign(self._account)
        self._book.check_abort(record_id)
        self._book.add_abort(abort)
        self._ledger.update(lambda change: change.set_clear(abort))

    def _debtors(self, donor: AccountId) -> list[AccountId]:
        """Accounts that owe this one, the donor aside."""

        def look(view: LedgerView) -> list[AccountId]:
            return [
                account
                for account, row in islice(view.accounts(), limits.CLEAR_SCAN_ACCOUNTS_MAX)
                if row.standing.owes > 0 and account != donor
            ]

        return self._ledger.store.read(look)

    def _free_at(self, donor: AccountId) -> int:
        """What a donor owes this account beyond what it keeps for it already; below 0 if it is owed."""
        today = self._ledger.today(self._admission.day)

        def look(view: LedgerView) -> int:
            on_its_way = self._ledger.book(view, donor).unvested(self._ledger.me, today=today)
            return view.account(donor).standing.owes - on_its_way

        return self._ledger.store.read(look)

    def _creditors(self) -> dict[AccountId, int]:
        """Whom this account owes, and how much of that is free to be cleared."""

        def look(view: LedgerView) -> dict[AccountId, int]:
            return {
                account: -row.standing.position
                for account, row in islice(view.accounts(), limits.CLEAR_SCAN_ACCOUNTS_MAX)
                if row.standing.position < 0
            }

        return self._ledger.store.read(look)

    def _peer_of(self, account: AccountId) -> PeerId | None:
        certs = self._ledger.store.read(lambda view: view.certs(account))
        return certs[0].peer_id if certs else None

    async def _cycles(self, cycles: Sequence[Cycle], asker_peer: PeerId) -> messages.Cycles:
        """Cycles with a peer for each account that this node knows one of."""

        def place() -> list[tuple[tuple[bytes, ...], int, tuple[bytes, ...]]]:
            placed: list[tuple[tuple[bytes, ...], int, tuple[bytes, ...]]] = []
            for cycle in cycles:
                peers: list[bytes] = []
                for position, account in enumerate(cycle.accounts):
                    if account == self._ledger.me:
                        peers.append(self._peer_id)
                    elif position < 2 and len(cycle.accounts) == limits.CLEAR_MEMBERS_MAX:
                        peers.append(asker_peer)  # the donor fills these in
                    elif position == 0:
                        peers.append(asker_peer)
                    else:
                        peers.append(self._peer_of(account) or b"")
                if all(peers):
                    placed.append((cycle.accounts, cycle.amount, tuple(peers)))
            return placed

        return messages.Cycles(tuple(await self._admission.run(place)))


def _found(reply: messages.Cycles) -> list[Found]:
    return [
        Found(
            Cycle(tuple(AccountId(account) for account in accounts), amount),
            tuple(PeerId(peer_id) for peer_id in peers),
        )
        for accounts, amount, peers in reply.cycles
        if 3 <= len(accounts) <= limits.CLEAR_MEMBERS_MAX
    ]
