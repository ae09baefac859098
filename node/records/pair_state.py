"""What two accounts agree to have given each other in a period, and proof of having said two things. Layer 1,
pure.

The two accounts of a pair stand in byte order, so a pair has one name. A total says what the first-named side
gave: `low_to_high` is what `high` owes `low` for. Signatures are the accounts' own, so an equivocation proves
itself; that only the device of the newest certificate makes them is a rule of the signing node.
Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record
from node.units import AccountId
from node.wire import Value

RECORD_ID_BYTES = 32


@dataclass(frozen=True, slots=True)
class PairState(Record):
    """Totals of one period in micro-credits; `previous` is the record id of the state before, b"" if none."""

    TYPE: ClassVar[str] = "pair-state"
    BYTES_MAX: ClassVar[int] = limits.PAIR_STATE_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 7
    SIGNATURE_COUNT: ClassVar[int] = 2

    network: str
    low: AccountId
    high: AccountId
    period: int
    sequence: int
    previous: bytes
    low_to_high: int
    high_to_low: int
    low_signature: bytes = b""
    high_signature: bytes = b""

    @property
    def slot(self) -> tuple[AccountId, AccountId, int, int]:
        """An honest account signs at most one state for each of these."""
        return self.low, self.high, self.period, self.sequence

    def sign(self, account: KeyPair) -> PairState:
        """With that account's signature added. Raises `CryptoError` if it is neither of the pair."""
        if account.public == self.low:
            return replace(self, low_signature=self.sign_body(account))
        if account.public == self.high:
            return replace(self, high_signature=self.sign_body(account))
        raise CryptoError("a pair state is signed by the two accounts it names")

    def is_signed_by(self, account: AccountId) -> bool:
        """Whether there is a signature of `account`, verified or not."""
        return bool((account == self.low and self.low_signature)
                    or (account == self.high and self.high_signature))  # fmt: skip

    def verify_half(self, account: AccountId) -> None:
        """Raises `CryptoError` unless `account` is of the pair and its signature holds."""
        if account not in (self.low, self.high):
            raise CryptoError("a pair state is signed by the two accounts it names")
        self.verify_body(account, self.low_signature if account == self.low else self.high_signature)

    def verify(self) -> None:
        """Raises `CryptoError` unless both signatures are there and hold."""
        self.verify_half(self.low)
        self.verify_half(self.high)

    def _fields(self) -> list[Value]:
        return [
            self.low, self.high, self.period, self.sequence, self.previous, self.low_to_high,
            self.high_to_low,
        ]  # fmt: skip

    def _signatures(self) -> Sequence[bytes]:
        return self.low_signature, self.high_signature

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        low, high = (AccountId(wire.expect_bytes(field, size=32)) for field in fields[:2])
        if not low < high:
            raise ProtocolError("a pair is two accounts in byte order")
        previous = wire.expect_bytes(fields[4])
        return cls(
            network=network,
            low=low,
            high=high,
            period=wire.expect_int(fields[2], low=0, high=limits.CREDIT_PERIOD_MAX),
            sequence=wire.expect_int(fields[3], low=0, high=limits.PAIR_SEQUENCE_MAX),
            previous=previous and wire.expect_bytes(previous, size=RECORD_ID_BYTES),
            low_to_high=wire.expect_int(fields[5], low=0, high=limits.CREDIT_MICRO_MAX),
            high_to_low=wire.expect_int(fields[6], low=0, high=limits.CREDIT_MICRO_MAX),
            low_signature=signatures[0],
            high_signature=signatures[1],
        )


@dataclass(frozen=True, slots=True)
class Equivocation(Record):
    """Two different states of one pair, period and sequence, both signed by `signer`. Needs no signature.

    `first` and `second` are encoded pair states in the order of their record ids.
    """

    TYPE: ClassVar[str] = "equivocation"
    BYTES_MAX: ClassVar[int] = limits.EQUIVOCATION_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 3
    SIGNATURE_COUNT: ClassVar[int] = 0

    network: str
    signer: AccountId
    first: bytes
    second: bytes

    @classmethod
    def of(cls, signer: AccountId, one: PairState, other: PairState) -> Equivocation:
        """The proof. Raises `ProtocolError` if the states prove nothing."""
        first, second = sorted((one, other), key=PairState.record_id)
        proof = cls(one.network, signer, first.encode(), second.encode())
        return cls.decode(proof.encode(), network=one.network)

    def states(self) -> tuple[PairState, PairState]:
        """The two states."""
        return (
            PairState.decode(self.first, network=self.network),
            PairState.decode(self.second, network=self.network),
        )

    def verify(self) -> None:
        """Raises `CryptoError` unless `signer` signed both states."""
        for state in self.states():
            state.verify_half(self.signer)

    def _fields(self) -> list[Value]:
        return [self.signer, self.first, self.second]

    def _signatures(self) -> Sequence[bytes]:
        return ()

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        proof = cls(
            network=network,
            signer=AccountId(wire.expect_bytes(fields[0], size=32)),
            first=wire.expect_bytes(fields[1], size_max=limits.PAIR_STATE_BYTES_MAX),
            second=wire.expect_bytes(fields[2], size_max=limits.PAIR_STATE_BYTES_MAX),
        )
        first, second = proof.states()
        if first.slot != second.slot or proof.signer not in (first.low, first.high):
            raise ProtocolError("two states that are not of one pair, period, sequence and signer")
        if not first.record_id() < second.record_id():
            raise ProtocolError("two states that do not differ, or stand in the wrong order")
        return proof
