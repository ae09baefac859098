"""The clears that an account has seen, kept durably with what they reserve. Layer 3, over the ledger.

Synchronous and used by one thread at a time. Invariants: a signature of this account is durable, with what it
reserves, before anybody sees it; a complete clear is durable before anybody hears of it, and enters the sets
of its pairs; what was signed is never given up. Source: credit.md, "Clearing".
"""

from __future__ import annotations

from node.credit.clearing import ClearBook
from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerChange
from node.credit.pairing import Pairing
from node.credit.units import period_of
from node.crypto.signing import KeyPair
from node.records.clear import Abort, Clear


class KeptClears:
    """One account's `ClearBook`, on the disk."""

    def __init__(self, ledger: Ledger, pairing: Pairing, account: KeyPair) -> None:
        self._ledger = ledger
        self._pairing = pairing
        self._account = account
        self.book = ClearBook(ledger.me)
        """Every clear that this account has seen."""
        pairing.on_clear = self._note_complete

    def load(self, *, day: int) -> None:
        """Take up what is on the disk. What this account began and never signed is given up."""
        records = self._ledger.store.read(lambda view: list(view.clears()))
        for record in records:
            if isinstance(record, Clear):
                self.book.add(record)
        for record in records:
            if isinstance(record, Abort) and record.clear_record in self.book.clears:
                self.book.add_abort(record)
        for record_id, clear in list(self.book.clears.items()):
            if clear.initiator == self._ledger.me and self._ledger.me not in clear.signers():
                self.give_up(record_id)
        forgotten = self.book.forget(period=self.period(day))

        def change(ledger: LedgerChange) -> None:
            for record_id in forgotten:
                ledger.drop_clear(record_id)

        if forgotten:
            self._ledger.update(change)

    def period(self, day: int) -> int:
        """The period of that day, or of the last one that this ledger has seen."""
        return period_of(self._ledger.today(day))

    def sign(self, clear: Clear, *, day: int) -> Clear:
        """With this account's signature, durable with what it reserves.

        Raises `CreditError` with the reason not to, `ProtocolError` and `CryptoError` for what is no clear.
        """
        me = self._ledger.me
        seen = self.book.add(clear)
        if len(seen.signers()) == len(seen.cycle):
            self._ledger.update(lambda change: self._pairing.spread_clear(change, seen, day=day))
            return seen
        if me in seen.signers():
            return self.keep(seen)
        creditor = seen.creditor_of(me)
        row = self._ledger.store.read(lambda view: view.account(creditor))
        standing = row.standing
        debt = -(standing.owes + standing.unvested - standing.granted)
        self.book.check_sign(seen, debt=debt, cap=self._ledger.policy.pledge, period=self.period(day))
        return self.keep(seen.sign(self._account))

    def keep(self, clear: Clear) -> Clear:
        """Keep a clear as it is known now, durably, with what it reserves."""
        seen = self.book.add(clear)

        def change(ledger: LedgerChange) -> None:
            ledger.set_clear(seen)
            self._reserve(ledger, seen)

        self._ledger.update(change)
        return seen

    def complete(self, clear: Clear, *, day: int) -> Clear:
        """The initiator's signature, the last: the clear counts from here on, whatever is lost."""
        complete = self.book.add(clear.sign(self._account))
        self._ledger.update(lambda change: self._pairing.spread_clear(change, complete, day=day))
        return complete

    def _note_complete(self, change: LedgerChange, clear: Clear) -> None:
        """A complete clear, by whatever way it came: it reserves nothing any more."""
        known = self.book.clears.get(clear.record_id(), clear)
        self.book.clears[clear.record_id()] = known.merge(clear)
        self._reserve(change, clear)

    def _reserve(self, change: LedgerChange, clear: Clear) -> None:
        creditor = clear.creditor_of(self._ledger.me)
        self._ledger.reserve(change, creditor, self.book.reserved(self._ledger.me, creditor))

    def give_up(self, record_id: bytes) -> None:
        """Say that this account will not sign. Raises `CreditError` if it has."""
        clear = self.book.clears[record_id]
        abort = Abort(clear.network, record_id, self._ledger.me).sign(self._account)
        self.book.check_abort(record_id)
        self.book.add_abort(abort)
        self._ledger.update(lambda change: change.set_clear(abort))

    def take_abort(self, abort: Abort) -> bool:
        """Keep a member's word that it gave up; whether the clear is known here.

        Raises `ProtocolError` and `CryptoError` for what is no such word.
        """
        if abort.clear_record not in self.book.clears:
            return False
        self.book.add_abort(abort)
        self._ledger.update(lambda change: change.set_clear(abort))
        return True
