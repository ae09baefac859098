"""What lets holders move and repair shards without the owner. Layer 1, pure.

The owner's grant, a holder's word that another one takes its shard over, the two together as the owner's half
of a lease, and the intent a repairer announces. Source: credit.md, "Records" and "Repair".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.identity import peer_id_of, public_key_of
from node.crypto.signing import SIGNATURE_BYTES, KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record, SignedOnce, expect_peer_id, expect_time_s
from node.units import AccountId, LeaseId, OwnerKey, PeerId, SegmentId
from node.wire import Value


@dataclass(frozen=True, slots=True)
class RepairGrant(Record):
    """The owner's half of every lease that replaces a lost shard of one segment.

    `rate` is the highest rate, in micro-credits a MiB and day; `max_credits` is in micro-credits, over all
    replacements; `data_shards` and `total_shards` are the code that a repairer must use.
    """

    TYPE: ClassVar[str] = "repair-grant"
    BYTES_MAX: ClassVar[int] = limits.REPAIR_GRANT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 9
    SIGNATURE_COUNT: ClassVar[int] = 2

    network: str
    segment_id: SegmentId
    owner_key: OwnerKey
    generation_max: int
    rate: int
    data_shards: int
    total_shards: int
    account: AccountId
    max_credits: int
    expires_s: int
    owner_signature: bytes = b""
    account_signature: bytes = b""

    def sign(self, owner: KeyPair, account: KeyPair) -> RepairGrant:
        """With both signatures. Raises `CryptoError` if a key is not the one named."""
        if owner.public != self.owner_key or account.public != self.account:
            raise CryptoError("a repair grant is signed by the owner key and the account it names")
        return replace(self, owner_signature=self.sign_body(owner), account_signature=self.sign_body(account))

    def verify(self) -> None:
        """Raises `CryptoError` unless both signatures are there and hold."""
        self.verify_body(self.owner_key, self.owner_signature)
        self.verify_body(self.account, self.account_signature)

    def is_expired(self, *, now_s: int) -> bool:
        """Whether the grant no longer counts."""
        return now_s >= self.expires_s

    def _fields(self) -> list[Value]:
        return [
            self.segment_id, self.owner_key, self.generation_max, self.rate, self.data_shards,
            self.total_shards, self.account, self.max_credits, self.expires_s,
        ]  # fmt: skip

    def _signatures(self) -> Sequence[bytes]:
        return self.owner_signature, self.account_signature

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        data_shards = wire.expect_int(fields[4], low=1, high=limits.TOTAL_SHARDS_MAX)
        return cls(
            network=network,
            segment_id=SegmentId(wire.expect_bytes(fields[0], size=32)),
            owner_key=OwnerKey(wire.expect_bytes(fields[1], size=32)),
            generation_max=wire.expect_int(fields[2], low=0, high=limits.REPAIR_GENERATION_MAX),
            rate=wire.expect_int(fields[3], low=0, high=limits.RATE_MICRO_MAX),
            data_shards=data_shards,
            total_shards=wire.expect_int(fields[5], low=data_shards, high=limits.TOTAL_SHARDS_MAX),
            account=AccountId(wire.expect_bytes(fields[6], size=32)),
            max_credits=wire.expect_int(fields[7], low=0, high=limits.CREDIT_MICRO_MAX),
            expires_s=expect_time_s(fields[8]),
            owner_signature=signatures[0],
            account_signature=signatures[1],
        )


@dataclass(frozen=True, slots=True)
class Handover(SignedOnce):
    """`holder` gives its lease of a shard up in favour of `successor`, once that one keeps the shard."""

    TYPE: ClassVar[str] = "handover"
    BYTES_MAX: ClassVar[int] = limits.HANDOVER_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 6

    network: str
    lease_id: LeaseId
    segment_id: SegmentId
    shard_index: int
    holder: PeerId
    successor: PeerId
    day: int
    signature: bytes = b""

    def sign(self, identity: KeyPair) -> Handover:
        """Signed. Raises `CryptoError` if `identity` is not `holder`."""
        if peer_id_of(identity.public) != self.holder:
            raise CryptoError("a handover is signed by the holder it names")
        return replace(self, signature=self.sign_body(identity))

    def verify(self) -> None:
        """Raises `CryptoError` unless the holder's signature holds."""
        self.verify_body(public_key_of(self.holder), self.signature)

    def _fields(self) -> list[Value]:
        return [self.lease_id, self.segment_id, self.shard_index, self.holder, self.successor, self.day]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        holder, successor = expect_peer_id(fields[3]), expect_peer_id(fields[4])
        if holder == successor:
            raise ProtocolError("a handover to oneself")
        return cls(
            network=network,
            lease_id=LeaseId(wire.expect_bytes(fields[0], size=16)),
            segment_id=SegmentId(wire.expect_bytes(fields[1], size=32)),
            shard_index=wire.expect_int(fields[2], low=0, high=limits.TOTAL_SHARDS_MAX - 1),
            holder=holder,
            successor=successor,
            day=wire.expect_int(fields[5], low=0, high=limits.RECORD_DAY_MAX),
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class OwnerHalf:
    """Stands where the owner's signature of a lease would: whoever sees the lease can verify it alone.

    `owner` is the grant, or the owner's signature of the lease itself. `handover` is there where another
    holder gave the shard up in favour of this one.
    """

    owner: RepairGrant | bytes
    handover: Handover | None = None

    @property
    def grant(self) -> RepairGrant | None:
        """The grant; None where the owner signed the lease itself."""
        return self.owner if isinstance(self.owner, RepairGrant) else None

    def encode(self) -> bytes:
        """The canonical encoding; longer than a signature."""
        owner = self.owner if isinstance(self.owner, bytes) else self.owner.encode()
        return wire.encode([owner, b"" if self.handover is None else self.handover.encode()])

    @classmethod
    def decode(cls, data: bytes, *, network: str) -> OwnerHalf:
        """Raises `ProtocolError`; signatures are not verified yet."""
        owner, handover = (
            wire.expect_bytes(item)
            for item in wire.expect_list(
                list(wire.decode(data, size_max=limits.OWNER_HALF_BYTES_MAX)), count=2
            )
        )
        if len(owner) == SIGNATURE_BYTES and not handover:
            raise ProtocolError("a signature alone is its own half")
        return cls(
            owner if len(owner) == SIGNATURE_BYTES else RepairGrant.decode(owner, network=network),
            Handover.decode(handover, network=network) if handover else None,
        )


@dataclass(frozen=True, slots=True)
class RepairIntent(SignedOnce):
    """`holder` is about to make the shards `indexes` (one byte each, ascending) of a segment again."""

    TYPE: ClassVar[str] = "repair-intent"
    BYTES_MAX: ClassVar[int] = limits.REPAIR_INTENT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 5

    network: str
    segment_id: SegmentId
    indexes: bytes
    generation: int
    day: int
    holder: PeerId
    signature: bytes = b""

    def sign(self, identity: KeyPair) -> RepairIntent:
        """Signed. Raises `CryptoError` if `identity` is not `holder`."""
        if peer_id_of(identity.public) != self.holder:
            raise CryptoError("a repair intent is signed by the holder it names")
        return replace(self, signature=self.sign_body(identity))

    def verify(self) -> None:
        """Raises `CryptoError` unless the holder's signature holds."""
        self.verify_body(public_key_of(self.holder), self.signature)

    def _fields(self) -> list[Value]:
        return [self.segment_id, self.indexes, self.generation, self.day, self.holder]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        indexes = wire.expect_bytes(fields[1], size_max=limits.TOTAL_SHARDS_MAX)
        if not indexes or list(indexes) != sorted(set(indexes)) or indexes[-1] >= limits.TOTAL_SHARDS_MAX:
            raise ProtocolError("a repair intent names shards, each once, in ascending order")
        return cls(
            network=network,
            segment_id=SegmentId(wire.expect_bytes(fields[0], size=32)),
            indexes=indexes,
            generation=wire.expect_int(fields[2], low=0, high=limits.REPAIR_GENERATION_MAX),
            day=wire.expect_int(fields[3], low=0, high=limits.RECORD_DAY_MAX),
            holder=expect_peer_id(fields[4]),
            signature=signatures[0],
        )
