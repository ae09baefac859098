"""Clearing over the wire: collecting signatures, giving up. Layer 4.

The account that wants to store drives: it asks the donor for cycles, has every other member sign in order,
signs last, and tells everybody. Invariants: a member's signature is durable, with what it reserves, before it
leaves; a complete clear is durable at the initiator before anybody hears of it, enters the sets of its pairs
and so reaches all members by any later exchange; whoever gives up says so, and never after signing. A lost
message is sent again: every step may be repeated. Source: credit.md, "Clearing".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from node import limits
from node.credit import messages
from node.credit.admitting import CreditAdmission
from node.credit.clearing import ClearBook, Cycle
from node.credit.cycle_finder import CycleFinder, Found
from node.credit.exchange import Exchange
from node.credit.kept_clears import KeptClears
from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerView
from node.credit.members import Addresses, Members
from node.credit.pairing import Pairing
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
        self._admission = admission
        self._entropy = entropy
        self.members = Members(exchange, addresses)
        self.finder = CycleFinder(ledger, admission, self.members, peer_id, entropy)
        self.kept = KeptClears(ledger, pairing, account)
        self._one_at_a_time = trio.Lock()
        exchange.extra |= {
            messages.FindCycle: self.finder.answer,
            messages.SignClear: self._answer_sign,
            messages.AbortClear: self._answer_abort,
        }

    @property
    def book(self) -> ClearBook:
        """Every clear that this account has seen."""
        return self.kept.book

    async def load(self) -> None:
        """Take up what is on the disk. What this account began and never signed is given up."""
        await self._admission.run(lambda: self.kept.load(day=self._admission.day))

    # --- the initiator ------------------------------------------------------------------------------------

    async def make_room(self, contact: Contact, offer: Offer, need: int, have: int) -> int:
        """Clear debts so that a donor owes this account what is missing; what it would accept then.

        A clear has a least amount, so up to that much more than is missing may be paid ahead.
        What a donor says it would accept is its word alone. What it owes by this account's own records is not
        cleared a second time, so that saying "nothing" again and again brings it no more than one need.
        """
        debtors = await self._admission.run(lambda: self.finder.debtors(offer.account))
        if not debtors:
            return have
        with trio.move_on_after(MAKE_ROOM_S):
            async with self._one_at_a_time:
                owed = await self._admission.run(lambda: self._free_at(offer.account))
                missing = need - max(have, owed)
                if missing <= 0:
                    return have
                least = limits.CLEAR_MICROS_MIN
                try:
                    for found in await self.finder.find(contact, offer.account, max(missing, least), debtors):
                        amount = min(found.cycle.amount, max(missing, least), self._own_debt(found.cycle))
                        if amount >= least and await self.clear(found, amount):
                            have += amount
                            missing -= amount
                        if missing <= 0:
                            break
                except RemoteError:
                    return have
        return have

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
            end_period=self.kept.period(self._admission.day) + 1,
        )
        await self._admission.run(lambda: self.kept.keep(clear))
        contacts = [await self.members.contact(peer_id) for peer_id in found.peers]
        for account, contact in zip(accounts[1:], contacts[1:], strict=True):
            signed = await self._signature(contact, account, clear)
            if signed is None:
                record_id = clear.record_id()
                await self._admission.run(lambda: self.kept.give_up(record_id))  # noqa: B023 - run at once
                await self._tell_aborted(clear, dict(zip(accounts[1:], contacts[1:], strict=True)))
                return False
            clear = signed
        complete = await self._admission.run(lambda: self.kept.complete(clear, day=self._admission.day))
        for account, contact in zip(accounts[1:], contacts[1:], strict=True):
            await self._signature(contact, account, complete)
        return True

    async def _signature(self, contact: Contact, account: AccountId, clear: Clear) -> Clear | None:
        """The clear with that member's signature; None if it declines or does not answer."""
        request = messages.SignClear(clear.encode())
        for _ in range(TRIES):
            try:
                reply = await self.members.ask(contact, account, request, messages.Signed, messages.Declined)
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
            return await self._admission.run(lambda merged=merged: self.kept.keep(merged))  # type: ignore[misc]
        return None

    async def _tell_aborted(self, clear: Clear, contacts: dict[AccountId, Contact]) -> None:
        abort = self.kept.book.aborts.get(clear.record_id(), {}).get(self._ledger.me)
        if abort is None:
            return
        for account in clear.signers():
            try:
                await self.members.ask(
                    contacts[account], account, messages.AbortClear(abort.encode()), messages.Done
                )
            except RemoteError:
                continue  # for that one it lapses

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

    def _free_at(self, donor: AccountId) -> int:
        """What a donor owes this account beyond what it keeps for it already; below 0 if it is owed."""
        today = self._ledger.today(self._admission.day)

        def look(view: LedgerView) -> int:
            on_its_way = self._ledger.book(view, donor).unvested(self._ledger.me, today=today)
            return view.account(donor).standing.owes - on_its_way

        return self._ledger.store.read(look)

    # --- the other members --------------------------------------------------------------------------------

    async def _answer_sign(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        assert isinstance(request, messages.SignClear)
        clear = Clear.decode(request.record, network=self._ledger.store.network)
        if other not in clear.cycle:
            raise ProtocolError("a clear of others")
        try:
            signed = await self._admission.run(lambda: self.kept.sign(clear, day=self._admission.day))
        except (CreditError, ProtocolError) as error:
            return messages.Declined(str(error)[: limits.ERROR_TEXT_CHARACTERS_MAX])
        return messages.Signed(signed.encode())

    async def _answer_abort(
        self, request: messages.Message, other: AccountId, framed: FramedStream
    ) -> messages.Message:
        assert isinstance(request, messages.AbortClear)
        abort = Abort.decode(request.record, network=self._ledger.store.network)
        return messages.Done(int(await self._admission.run(lambda: self.kept.take_abort(abort))))
