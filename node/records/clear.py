"""Clearing a debt around a cycle of three or four accounts, and giving up on it. Layer 1, pure.

Each account of the cycle owes the next one, the last owes the first; a complete clear lowers all of these
debts by `amount`, so nobody's net position changes. The initiator stands first and signs last.
Source: credit.md, "Records" and "Clearing".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record, SignedOnce
from node.records.pair_state import RECORD_ID_BYTES
from node.units import AccountId
from node.wire import Value

CLEAR_ID_BYTES = 16
CLEAR_MEMBERS_MIN = 3


@dataclass(frozen=True, slots=True)
class Clear(Record):
    """Void until every member has signed. `amount` is in micro-credits.

    `pair_states` are record ids, one for each debt in the order of the cycle: the states that the members
    saw it in. A cycle of three leaves the fourth signature empty.
    """

    TYPE: ClassVar[str] = "clear"
    BYTES_MAX: ClassVar[int] = limits.CLEAR_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 6
    SIGNATURE_COUNT: ClassVar[int] = limits.CLEAR_MEMBERS_MAX

    network: str
    clear_id: bytes
    cycle: tuple[AccountId, ...]
    amount: int
    pair_states: tuple[bytes, ...]
    initiator: AccountId
    end_period: int
    signatures: tuple[bytes, ...] = (b"",) * limits.CLEAR_MEMBERS_MAX

    def debts(self) -> Iterator[tuple[AccountId, AccountId]]:
        """(debtor, creditor) of each debt that the clear lowers."""
        for position, debtor in enumerate(self.cycle):
            yield debtor, self.cycle[(position + 1) % len(self.cycle)]

    def creditor_of(self, account: AccountId) -> AccountId:
        """Whom `account` owes in this cycle. Raises `ValueError` for a stranger."""
        return self.cycle[(self.cycle.index(account) + 1) % len(self.cycle)]

    def debtor_of(self, account: AccountId) -> AccountId:
        """Who owes `account` in this cycle. Raises `ValueError` for a stranger."""
        return self.cycle[self.cycle.index(account) - 1]

    def signers(self) -> frozenset[AccountId]:
        """Members with a signature, verified or not."""
        return frozenset(
            member for member, signature in zip(self.cycle, self.signatures, strict=False) if signature
        )

    def sign(self, member: KeyPair) -> Clear:
        """With that member's signature added.

        Raises:
            CryptoError: no member; or the initiator, before every other signature is there and holds.
        """
        account = AccountId(member.public)
        if account not in self.cycle:
            raise CryptoError("a clear is signed by the accounts of its cycle")
        if account == self.initiator:
            for other in self.cycle[1:]:
                self.verify_member(other)
        return self._with(self.cycle.index(account), self.sign_body(member))

    def merge(self, other: Clear) -> Clear:
        """The signatures of both. Raises `ProtocolError` for another clear."""
        if other.record_id() != self.record_id():
            raise ProtocolError("signatures of another clear")
        # The larger of two signatures by one key, so that the order of merging does not matter.
        return replace(self, signatures=tuple(map(max, self.signatures, other.signatures)))

    def verify_member(self, account: AccountId) -> None:
        """Raises `CryptoError` unless that member's signature is there and holds."""
        self.verify_body(account, self.signatures[self.cycle.index(account)])

    def verify_partial(self) -> None:
        """Raises `CryptoError` if one of the signatures that are there does not hold."""
        for account in self.signers():
            self.verify_member(account)

    def verify(self) -> None:
        """Raises `CryptoError` unless every member's signature is there and holds."""
        for account in self.cycle:
            self.verify_member(account)

    def _with(self, position: int, signature: bytes) -> Clear:
        before, after = self.signatures[:position], self.signatures[position + 1 :]
        return replace(self, signatures=(*before, signature, *after))

    def _fields(self) -> list[Value]:
        return [
            self.clear_id, list(self.cycle), self.amount, list(self.pair_states), self.initiator,
            self.end_period,
        ]  # fmt: skip

    def _signatures(self) -> Sequence[bytes]:
        return self.signatures

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        cycle = tuple(
            AccountId(wire.expect_bytes(item, size=32))
            for item in wire.expect_list(fields[1], count_max=limits.CLEAR_MEMBERS_MAX)
        )
        if len(cycle) < CLEAR_MEMBERS_MIN or len(set(cycle)) != len(cycle):
            raise ProtocolError("a cycle is three or four different accounts")
        initiator = AccountId(wire.expect_bytes(fields[4], size=32))
        if initiator != cycle[0]:
            raise ProtocolError("a clear's initiator stands first in its cycle")
        if any(signatures[len(cycle) :]):
            raise ProtocolError("a clear with more signatures than members")
        states = wire.expect_list(fields[3], count=len(cycle))
        return cls(
            network=network,
            clear_id=wire.expect_bytes(fields[0], size=CLEAR_ID_BYTES),
            cycle=cycle,
            amount=wire.expect_int(fields[2], low=1, high=limits.CREDIT_MICRO_MAX),
            pair_states=tuple(wire.expect_bytes(state, size=RECORD_ID_BYTES) for state in states),
            initiator=initiator,
            end_period=wire.expect_int(fields[5], low=0, high=limits.CREDIT_PERIOD_MAX),
            signatures=tuple(signatures),
        )


@dataclass(frozen=True, slots=True)
class Abort(SignedOnce):
    """`member` has not signed the clear with record id `clear_record` and never will."""

    TYPE: ClassVar[str] = "abort"
    BYTES_MAX: ClassVar[int] = limits.ABORT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 2

    network: str
    clear_record: bytes
    member: AccountId
    signature: bytes = b""

    def sign(self, member: KeyPair) -> Abort:
        """Signed. Raises `CryptoError` if `member` is not the account named."""
        if member.public != self.member:
            raise CryptoError("an abort is signed by the member it names")
        return replace(self, signature=self.sign_body(member))

    def verify(self) -> None:
        """Raises `CryptoError` unless the member's signature holds."""
        self.verify_body(self.member, self.signature)

    def _fields(self) -> list[Value]:
        return [self.clear_record, self.member]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            clear_record=wire.expect_bytes(fields[0], size=RECORD_ID_BYTES),
            member=AccountId(wire.expect_bytes(fields[1], size=32)),
            signature=signatures[0],
        )
