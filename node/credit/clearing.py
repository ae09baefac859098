"""Clearing debts around cycles of three and four accounts. Layer 2, pure.

Invariants: a complete clear lowers every debt of its cycle by the same amount, so nobody's net position
changes, and it counts whenever it completes. Because it may do so late, its amount stays reserved at those
who signed it until it does, also when it is over: a unit of debt clears at most once. A clear is open until
the period after its end, or until a member who has not signed gives up; at most one open clear a pair; all
that an account signed and that is open stays under its cap; nobody signs for less than `CLEAR_MICROS_MIN`,
since a clear is remembered for ever. The state of a clear is a function of the set of
signatures and aborts seen and of the period: order and repetition do not matter.

The upload that a clear pays for creates the debt of the last edge, so the initiator (who wants to store) may
turn its debtor's debt into one of the donor; every other member must owe what it clears.
Source: credit.md, "Clearing".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from node import limits
from node.credit.bloom import BloomFilter
from node.credit.units import format_micros
from node.errors import CreditError, ProtocolError
from node.records.clear import Abort, Clear
from node.units import AccountId

Debts = Mapping[AccountId, int]
"""Micro-credits by account; all above 0."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """Each account owes the next, the last the first; the initiator, who wants credit, stands first."""

    accounts: tuple[AccountId, ...]
    amount: int
    """The most that all of its debts allow, as far as known."""


def three_cycles(
    donor: AccountId, donor_owes: Debts, asker: AccountId, owe_asker: BloomFilter
) -> list[Cycle]:
    """Cycles asker -> donor -> middle -> asker: creditors of the donor that may owe the asker."""
    found = [
        Cycle((asker, donor, middle), amount)
        for middle, amount in donor_owes.items()
        if middle in owe_asker and middle not in (asker, donor)
    ]
    return _best(found)


def four_cycles(
    donor: AccountId,
    donor_owes: Debts,
    second: AccountId,
    second_owes: Debts,
    asker: AccountId,
    owe_asker: BloomFilter,
) -> list[Cycle]:
    """Cycles asker -> donor -> second -> third -> asker, as `second`, whom the donor asked, finds them."""
    if second in (asker, donor) or donor_owes.get(second, 0) <= 0:
        return []
    found = [
        Cycle((asker, donor, second, third), min(amount, donor_owes[second]))
        for third, amount in second_owes.items()
        if third in owe_asker and third not in (asker, donor, second)
    ]
    return _best(found)


def _best(cycles: Iterable[Cycle]) -> list[Cycle]:
    worth = (cycle for cycle in cycles if cycle.amount >= limits.CLEAR_MICROS_MIN)
    ranked = sorted(worth, key=lambda cycle: (-cycle.amount, cycle.accounts))
    return ranked[: limits.CLEAR_CANDIDATES_MAX]


class ClearState(Enum):
    """Where a clear stands. COMPLETE is final; the others may still become it."""

    OPEN = auto()
    """Some may still sign; who has can't sign another one with the same accounts."""
    ABORTED = auto()
    """A member that has not signed gave up: another clear may be tried. Its amount stays reserved."""
    LAPSED = auto()
    """More than a period past its end period: another clear may be tried. Its amount stays reserved."""
    COMPLETE = auto()


@dataclass(slots=True)
class ClearBook:
    """All clears that `me` has seen, by record id, with every signature and abort seen."""

    me: AccountId
    clears: dict[bytes, Clear] = field(default_factory=dict)
    aborts: dict[bytes, dict[AccountId, Abort]] = field(default_factory=dict)

    def add(self, clear: Clear) -> Clear:
        """Take in a clear with the signatures it has; what is known of it now.

        Raises:
            ProtocolError: `me` is not in its cycle, or too many clears of that pair are waiting.
            CryptoError: a signature does not hold.
        """
        if self.me not in clear.cycle:
            raise ProtocolError("a clear of others")
        clear.verify_partial()
        known = self.clears.get(clear.record_id())
        if known is None:
            self._check_room(clear)
        merged = clear if known is None else known.merge(clear)
        self.clears[clear.record_id()] = merged
        return merged

    def add_abort(self, abort: Abort) -> None:
        """Take in an abort of a known clear.

        Raises:
            ProtocolError: the clear is unknown, or the account is not in its cycle.
            CryptoError: the signature does not hold.
        """
        clear = self.clears.get(abort.clear_record)
        if clear is None or abort.member not in clear.cycle:
            raise ProtocolError("an abort of a clear that is not known here")
        abort.verify()
        self.aborts.setdefault(abort.clear_record, {})[abort.member] = abort

    def state(self, record_id: bytes, *, period: int) -> ClearState:
        """Where that clear stands. Raises `KeyError` for an unknown one."""
        clear = self.clears[record_id]
        signers = clear.signers()
        if len(signers) == len(clear.cycle):
            return ClearState.COMPLETE
        if any(member not in signers for member in self.aborts.get(record_id, {})):
            return ClearState.ABORTED
        return ClearState.LAPSED if period > clear.end_period + 1 else ClearState.OPEN

    def complete(self) -> list[Clear]:
        """Clears that count, late or not."""
        return [clear for clear in self.clears.values() if len(clear.signers()) == len(clear.cycle)]

    def reserved(self, debtor: AccountId, creditor: AccountId) -> int:
        """Micro-credits of that debt which clears signed by `me` may still clear, late ones too.

        Who withholds the last signature may give it years later, and an abort does not bind a liar; so
        nothing but completion ends it. What is reserved can be neither cleared again nor counted as owed.
        """
        return sum(
            clear.amount
            for clear in self.clears.values()
            if self.me in clear.signers()
            and len(clear.signers()) < len(clear.cycle)
            and (debtor, creditor) in set(clear.debts())
        )

    def open_total(self, *, period: int) -> int:
        """Micro-credits of all clears that `me` signed and that are open."""
        return sum(clear.amount for clear in self._open_signed(period))

    def check_sign(self, clear: Clear, *, debt: int, cap: int, period: int) -> None:
        """Whether `me` may sign: `cap` is `P_new`, `debt` what `me` owes its creditor of the cycle.

        The debt is without what only co-holders vouch for (`Balance.confirmed`), and less what the creditor
        has on its way here (`unvested`). Raises `CreditError` with the reason.
        """
        record_id = clear.record_id()
        if record_id not in self.clears:
            raise CreditError("a clear is seen before it is signed")
        if self.me in self.aborts.get(record_id, {}):
            raise CreditError("this account has given this clear up")
        if self.me in self.clears[record_id].signers():
            return
        if self.state(record_id, period=period) is not ClearState.OPEN or period > clear.end_period:
            raise CreditError("the clear is over")
        if clear.amount < limits.CLEAR_MICROS_MIN:
            raise CreditError(f"a clear is for {format_micros(limits.CLEAR_MICROS_MIN)} credits at least")
        neighbours = {clear.creditor_of(self.me), clear.debtor_of(self.me)}
        for other in self._open_signed(period):
            if neighbours & {other.creditor_of(self.me), other.debtor_of(self.me)}:
                raise CreditError("another clear with the same account is open")
        if self.open_total(period=period) + clear.amount > cap:
            raise CreditError(f"open clears are capped at {format_micros(cap)} credits")
        free = debt - self.reserved(self.me, clear.creditor_of(self.me))
        if self.me != clear.initiator and clear.amount > free:
            raise CreditError(
                f"the clear is for {format_micros(clear.amount)} credits, "
                f"and only {format_micros(max(0, free))} are owed"
            )

    def check_abort(self, record_id: bytes) -> None:
        """Whether `me` may give up: never after signing. Raises `CreditError`."""
        if self.me in self.clears[record_id].signers():
            raise CreditError("what is signed can't be given up")

    def forget(self, *, period: int) -> list[bytes]:
        """Drop clears that `me` has not signed and that are over; their record ids."""
        over = [
            record_id
            for record_id, clear in self.clears.items()
            if self.me not in clear.signers()
            and self.state(record_id, period=period) in (ClearState.ABORTED, ClearState.LAPSED)
        ]
        for record_id in over:
            del self.clears[record_id]
            self.aborts.pop(record_id, None)
        return over

    def _open_signed(self, period: int) -> list[Clear]:
        return [
            clear
            for record_id, clear in self.clears.items()
            if self.me in clear.signers() and self.state(record_id, period=period) is ClearState.OPEN
        ]

    def _check_room(self, clear: Clear) -> None:
        """Strangers must not fill the book; what `me` initiates always finds room."""
        waiting = sum(
            clear.debtor_of(self.me) in other.cycle
            for other in self.clears.values()
            if len(other.signers()) < len(other.cycle)
        )
        if waiting >= limits.CLEARS_REMEMBERED_PER_PAIR_MAX and clear.initiator != self.me:
            raise ProtocolError("too many clears of this pair are waiting")
