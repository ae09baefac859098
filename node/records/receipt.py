"""Receipts: what an audit showed, what a donor answered, what a reader was served. Layer 1, pure.

An auditor is named by the peer id of the key that signs: a co-holder's identity, or the owner key or paying
account of a lease. The session of a serving receipt begins with its day, so that what was served falls
into a period although the record has no time. Source: credit.md, "Records", "Earning", "Audits".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.hashing import HASH_BYTES
from node.crypto.identity import peer_id_of, public_key_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import SignedOnce, expect_peer_id, expect_time_s
from node.records.lease import LEASE_ID_BYTES
from node.units import DAY_S, AccountId, LeaseId, PeerId
from node.wire import Value

AUDIT_NONCE_BYTES = 32
SESSION_BYTES = 16
_DAY_BYTES = 4


class Outcome(IntEnum):
    """How an audit of some leases ended."""

    PASSED = 1
    FAILED = 2
    """A sample was missing or contradicts the root."""
    NO_ANSWER = 3
    SLOW = 4
    """All samples right, but later than a donor that has the bytes would be: vests nothing, costs nothing."""
    UNKNOWN = 5
    """An error that says nothing of the bytes."""


@dataclass(frozen=True, slots=True)
class AuditReceipt(SignedOnce):
    """`auditor` asked `donor` for samples of `leases`: their ids, ascending, as one byte string.

    Leases whose outcomes differ get a receipt each, with the same round and nonce. `nonce` is the
    challenge's: one challenge is one receipt a lease, however often it is shown.
    """

    TYPE: ClassVar[str] = "audit-receipt"
    BYTES_MAX: ClassVar[int] = limits.AUDIT_RECEIPT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 10

    network: str
    leases: bytes
    round_number: int
    nonce: bytes
    asked_count: int
    passed_count: int
    failed_count: int
    time_s: int
    outcome: Outcome
    auditor: PeerId
    donor: PeerId
    signature: bytes = b""

    @property
    def day(self) -> int:
        """The day of the audit."""
        return self.time_s // DAY_S

    def lease_ids(self) -> tuple[LeaseId, ...]:
        """The leases audited."""
        return tuple(
            LeaseId(self.leases[start : start + LEASE_ID_BYTES])
            for start in range(0, len(self.leases), LEASE_ID_BYTES)
        )

    def sign(self, auditor: KeyPair) -> AuditReceipt:
        """Signed. Raises `CryptoError` if `auditor` is not the one named."""
        if peer_id_of(auditor.public) != self.auditor:
            raise CryptoError("an audit receipt is signed by the auditor it names")
        return replace(self, signature=self.sign_body(auditor))

    def verify(self) -> None:
        """Raises `CryptoError` unless the auditor's signature holds."""
        self.verify_body(public_key_of(self.auditor), self.signature)

    def _fields(self) -> list[Value]:
        return [
            self.leases, self.round_number, self.nonce, self.asked_count, self.passed_count,
            self.failed_count, self.time_s, int(self.outcome), self.auditor, self.donor,
        ]  # fmt: skip

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        asked, passed, failed = (
            wire.expect_int(field, low=0, high=limits.AUDIT_SAMPLES_MAX) for field in fields[3:6]
        )
        outcome = _outcome(fields[7])
        _check_counts(outcome, asked, passed, failed)
        auditor, donor = expect_peer_id(fields[8]), expect_peer_id(fields[9])
        if auditor == donor:
            raise ProtocolError("a donor does not audit itself")
        return cls(
            network=network,
            leases=_expect_lease_ids(fields[0]),
            round_number=wire.expect_int(fields[1], low=0, high=limits.RECORD_TIME_S_MAX),
            nonce=wire.expect_bytes(fields[2], size=AUDIT_NONCE_BYTES),
            asked_count=asked,
            passed_count=passed,
            failed_count=failed,
            time_s=expect_time_s(fields[6]),
            outcome=outcome,
            auditor=auditor,
            donor=donor,
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class AuditAnswer(SignedOnce):
    """The donor's signature under its answer: 32 bytes for each sample, as `node.chunks.audit` makes them.

    One sample that contradicts its root, with this record and the lease, convinces anybody.
    """

    TYPE: ClassVar[str] = "audit-answer"
    BYTES_MAX: ClassVar[int] = limits.AUDIT_ANSWER_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 4

    network: str
    nonce: bytes
    auditor: PeerId
    donor: PeerId
    digests: bytes
    signature: bytes = b""

    def digest(self, sample_index: int) -> bytes:
        """What the donor signed of one sample. Raises `IndexError`."""
        if not 0 <= sample_index < len(self.digests) // HASH_BYTES:
            raise IndexError(f"sample {sample_index} of {len(self.digests) // HASH_BYTES}")
        return self.digests[sample_index * HASH_BYTES : (sample_index + 1) * HASH_BYTES]

    def sign(self, identity: KeyPair) -> AuditAnswer:
        """Signed. Raises `CryptoError` if `identity` is not `donor`."""
        if peer_id_of(identity.public) != self.donor:
            raise CryptoError("an audit answer is signed by the donor it names")
        return replace(self, signature=self.sign_body(identity))

    def verify(self) -> None:
        """Raises `CryptoError` unless the donor's signature holds."""
        self.verify_body(public_key_of(self.donor), self.signature)

    def _fields(self) -> list[Value]:
        return [self.nonce, self.auditor, self.donor, self.digests]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        digests = wire.expect_bytes(fields[3], size_max=limits.AUDIT_SAMPLES_MAX * HASH_BYTES)
        if not digests or len(digests) % HASH_BYTES:
            raise ProtocolError("an audit answer has 32 bytes for each sample")
        return cls(
            network=network,
            nonce=wire.expect_bytes(fields[0], size=AUDIT_NONCE_BYTES),
            auditor=expect_peer_id(fields[1]),
            donor=expect_peer_id(fields[2]),
            digests=digests,
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class ServeReceipt(SignedOnce):
    """`reader` has been served `byte_count` bytes of a lease's shard in `session` so far: its debt.

    Cumulative: of one session the largest counts.
    """

    TYPE: ClassVar[str] = "serve-receipt"
    BYTES_MAX: ClassVar[int] = limits.SERVE_RECEIPT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 5

    network: str
    session: bytes
    donor: PeerId
    reader: AccountId
    lease_id: LeaseId
    byte_count: int
    signature: bytes = b""

    @property
    def day(self) -> int:
        """The day the session began."""
        return int.from_bytes(self.session[:_DAY_BYTES], "big")

    def sign(self, reader: KeyPair) -> ServeReceipt:
        """Signed. Raises `CryptoError` if `reader` is not the account named."""
        if reader.public != self.reader:
            raise CryptoError("a serving receipt is signed by the reader it names")
        return replace(self, signature=self.sign_body(reader))

    def verify(self) -> None:
        """Raises `CryptoError` unless the reader's signature holds."""
        self.verify_body(self.reader, self.signature)

    def _fields(self) -> list[Value]:
        return [self.session, self.donor, self.reader, self.lease_id, self.byte_count]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        session = wire.expect_bytes(fields[0], size=SESSION_BYTES)
        if int.from_bytes(session[:_DAY_BYTES], "big") > limits.RECORD_DAY_MAX:
            raise ProtocolError("a session of an impossible day")
        return cls(
            network=network,
            session=session,
            donor=expect_peer_id(fields[1]),
            reader=AccountId(wire.expect_bytes(fields[2], size=32)),
            lease_id=LeaseId(wire.expect_bytes(fields[3], size=LEASE_ID_BYTES)),
            byte_count=wire.expect_int(fields[4], low=0, high=limits.BYTE_COUNT_MAX),
            signature=signatures[0],
        )


def join_lease_ids(lease_ids: Iterable[LeaseId]) -> bytes:
    """The `leases` of a receipt."""
    return b"".join(sorted(set(lease_ids)))


def session_of(day: int, random: bytes) -> bytes:
    """The name of a session that begins on `day`; `random` is 12 unpredictable bytes."""
    assert len(random) == SESSION_BYTES - _DAY_BYTES
    return day.to_bytes(_DAY_BYTES, "big") + random


def _expect_lease_ids(value: Value) -> bytes:
    leases = wire.expect_bytes(value, size_max=limits.AUDIT_SAMPLES_MAX * LEASE_ID_BYTES)
    ids = [leases[start : start + LEASE_ID_BYTES] for start in range(0, len(leases), LEASE_ID_BYTES)]
    if not ids or len(ids[-1]) != LEASE_ID_BYTES or ids != sorted(set(ids)):
        raise ProtocolError("an audit receipt names leases, each once, in ascending order")
    return leases


def _outcome(value: Value) -> Outcome:
    return Outcome(wire.expect_int(value, low=min(Outcome), high=max(Outcome)))


def _check_counts(outcome: Outcome, asked: int, passed: int, failed: int) -> None:
    """Refuse counts that contradict the outcome, so that nobody reads them in two ways."""
    possible = {
        Outcome.PASSED: 0 < passed == asked and not failed,
        Outcome.SLOW: 0 < passed == asked and not failed,
        Outcome.FAILED: failed > 0 and passed + failed <= asked,
        Outcome.NO_ANSWER: asked > 0 and not passed and not failed,
        Outcome.UNKNOWN: passed + failed <= asked,
    }
    if not possible[outcome]:
        raise ProtocolError("an audit receipt whose counts contradict its outcome")
