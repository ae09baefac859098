"""Leases and their release: who keeps which shard until when. Layer 1, pure.

A lease is a promise signed twice: the owner key (or another key that pays to keep the shard) asks, the holder
agrees. Where the owner is away and the shard had to move, its `RepairGrant` stands in its signature's place:
then the first bytes of the nonce count the replacements of the shard. Days are 86,400 s since 1970; a lease
covers `start_day` up to, not including, `end_day`.
Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.identity import peer_id_of, public_key_of
from node.crypto.signing import SIGNATURE_BYTES, KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import Record, SignedOnce, expect_peer_id, expect_signature
from node.records.repair import Handover, OwnerHalf, RepairGrant
from node.units import DAY_S, LeaseId, OwnerKey, PeerId, SegmentId
from node.wire import Value

LEASE_ID_BYTES = 16
LEASE_NONCE_BYTES = 16
_GENERATION_BYTES = 4
_CLOCK_DAYS = 1  # clocks of honest peers differ by a day at most
_SIGNATURE_IN_HALF = b"\x92\xc4\x40"  # an array of two, the first one 64 bytes


@dataclass(frozen=True, slots=True)
class Lease(Record):
    """The holder keeps one shard until `end_day`.

    `rate` is micro-credits a MiB and day, `egress_cap_bytes` what readers may fetch free of charge.
    `owner_signature` is a signature, or an encoded `OwnerHalf`.
    """

    TYPE: ClassVar[str] = "lease"
    BYTES_MAX: ClassVar[int] = limits.LEASE_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 12
    SIGNATURE_COUNT: ClassVar[int] = 2

    network: str
    lease_id: LeaseId
    segment_id: SegmentId
    shard_index: int
    root: bytes
    byte_count: int
    owner_key: OwnerKey
    holder: PeerId
    start_day: int
    end_day: int
    rate: int
    egress_cap_bytes: int
    nonce: bytes
    owner_signature: bytes = b""
    holder_signature: bytes = b""

    @property
    def expires_s(self) -> int:
        """The first second that the lease no longer covers."""
        return self.end_day * DAY_S

    @property
    def is_granted(self) -> bool:
        """Whether a grant stands for the owner's signature."""
        half = self.owner_signature
        return len(half) > SIGNATURE_BYTES and not half.startswith(_SIGNATURE_IN_HALF)

    @property
    def half(self) -> OwnerHalf | None:
        """What stands for the owner's signature; None where it stands alone, or nobody signed yet."""
        if len(self.owner_signature) <= SIGNATURE_BYTES:
            return None
        return OwnerHalf.decode(self.owner_signature, network=self.network)

    @property
    def grant(self) -> RepairGrant | None:
        """The repair grant that stands for the owner's signature, if one does."""
        half = self.half
        return half.owner if half is not None and isinstance(half.owner, RepairGrant) else None

    @property
    def generation(self) -> int:
        """How many replacements of the shard led to this lease; 0 for one that the owner signed."""
        return int.from_bytes(self.nonce[:_GENERATION_BYTES], "big") if self.is_granted else 0

    def under_grant(self, grant: RepairGrant, handover: Handover | None = None) -> Lease:
        """With a grant as the owner's half; the nonce is `granted_nonce`. Raises `ProtocolError`."""
        half = OwnerHalf(grant, handover).encode()
        return Lease.decode(replace(self, owner_signature=half).encode(), network=self.network)

    def with_handover(self, handover: Handover) -> Lease:
        """The same lease, saying that another holder gave the shard up in favour of this one."""
        half = self.half
        owner = self.owner_signature if half is None else half.owner
        changed = replace(self, owner_signature=OwnerHalf(owner, handover).encode())
        return Lease.decode(changed.encode(), network=self.network)

    def sign_as_owner(self, owner: KeyPair) -> Lease:
        """With the owner's half. Raises `CryptoError` if `owner` is not `owner_key`."""
        if owner.public != self.owner_key:
            raise CryptoError("a lease is signed by the owner key it names")
        return replace(self, owner_signature=self.sign_body(owner))

    def countersign(self, identity: KeyPair) -> Lease:
        """With the holder's half. Raises `CryptoError` if `identity` is not `holder`, or the owner's half
        does not hold."""
        if peer_id_of(identity.public) != self.holder:
            raise CryptoError("a lease is countersigned by the holder it names")
        self.verify_owner_half()
        return replace(self, holder_signature=self.sign_body(identity))

    def verify_owner_half(self) -> None:
        """Raises `CryptoError` unless the owner's signature is there and holds, or its grant covers this."""
        half = self.half
        if half is None:
            self.verify_body(self.owner_key, self.owner_signature)
            return
        if isinstance(half.owner, RepairGrant):
            self._check_grant(half.owner)
        else:
            self.verify_body(self.owner_key, half.owner)
        if half.handover is not None:
            self._check_handover(half.handover, is_granted=isinstance(half.owner, RepairGrant))

    def _check_grant(self, grant: RepairGrant) -> None:
        grant.verify()
        if (grant.network, grant.segment_id, grant.owner_key) != (
            self.network, self.segment_id, self.owner_key
        ):  # fmt: skip
            raise CryptoError("a lease under the grant of another segment or owner")
        if (
            self.shard_index >= grant.total_shards
            or self.rate > grant.rate
            or self.expires_s > grant.expires_s
            or not 1 <= self.generation <= grant.generation_max
        ):
            raise CryptoError("a lease beyond what its grant allows")

    def _check_handover(self, handover: Handover, *, is_granted: bool) -> None:
        handover.verify()
        if (handover.network, handover.segment_id, handover.shard_index, handover.successor) != (
            self.network, self.segment_id, self.shard_index, self.holder
        ):  # fmt: skip
            raise CryptoError("a lease under the handover of another shard, or to another holder")
        # A lease under a grant begins with its handover. One of the owner's was there before: of a holder
        # that was renewed in time rosters may know only what begins when its present lease ends.
        is_early = is_granted and handover.day < self.start_day - _CLOCK_DAYS
        if handover.lease_id == self.lease_id or is_early:
            raise CryptoError("a lease that does not follow from its handover")

    def verify(self) -> None:
        """Raises `CryptoError` unless both signatures are there and hold."""
        self.verify_owner_half()
        self.verify_body(public_key_of(self.holder), self.holder_signature)

    def _fields(self) -> list[Value]:
        return [
            self.lease_id, self.segment_id, self.shard_index, self.root, self.byte_count, self.owner_key,
            self.holder, self.start_day, self.end_day, self.rate, self.egress_cap_bytes, self.nonce,
        ]  # fmt: skip

    def _signatures(self) -> Sequence[bytes]:
        return self.owner_signature, self.holder_signature

    @classmethod
    def _expect_signature(cls, place: int, value: Value) -> bytes:
        signature = wire.expect_bytes(value, size_max=limits.OWNER_HALF_BYTES_MAX)
        return signature if place == 0 and len(signature) > SIGNATURE_BYTES else expect_signature(signature)

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        start_day = wire.expect_int(fields[7], low=0, high=limits.RECORD_DAY_MAX)
        end_day = wire.expect_int(fields[8], low=0, high=limits.RECORD_DAY_MAX)
        if not 0 < end_day - start_day <= limits.LEASE_DAYS_MAX:
            raise ProtocolError(f"a lease lasts 1 to {limits.LEASE_DAYS_MAX} days")
        if len(signatures[0]) > SIGNATURE_BYTES:
            OwnerHalf.decode(signatures[0], network=network)
        return cls(
            network=network,
            lease_id=LeaseId(wire.expect_bytes(fields[0], size=LEASE_ID_BYTES)),
            segment_id=SegmentId(wire.expect_bytes(fields[1], size=32)),
            shard_index=wire.expect_int(fields[2], low=0, high=limits.TOTAL_SHARDS_MAX - 1),
            root=wire.expect_bytes(fields[3], size=32),
            byte_count=wire.expect_int(fields[4], low=0, high=limits.BYTE_COUNT_MAX),
            owner_key=OwnerKey(wire.expect_bytes(fields[5], size=32)),
            holder=expect_peer_id(fields[6]),
            start_day=start_day,
            end_day=end_day,
            rate=wire.expect_int(fields[9], low=0, high=limits.RATE_MICRO_MAX),
            egress_cap_bytes=wire.expect_int(fields[10], low=0, high=limits.BYTE_COUNT_MAX),
            nonce=wire.expect_bytes(fields[11], size=LEASE_NONCE_BYTES),
            owner_signature=signatures[0],
            holder_signature=signatures[1],
        )


def granted_nonce(generation: int, random: bytes) -> bytes:
    """The nonce of a lease under a grant; `random` is 12 unpredictable bytes."""
    assert len(random) == LEASE_NONCE_BYTES - _GENERATION_BYTES
    return generation.to_bytes(_GENERATION_BYTES, "big") + random


@dataclass(frozen=True, slots=True)
class Release(SignedOnce):
    """The end of one lease, said by the key that signed it or by the file's owner key."""

    TYPE: ClassVar[str] = "release"
    BYTES_MAX: ClassVar[int] = limits.RELEASE_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 3

    network: str
    lease_id: LeaseId
    holder: PeerId
    signer: OwnerKey
    signature: bytes = b""

    def sign(self, key_pair: KeyPair) -> Release:
        """Signed. Raises `CryptoError` if `key_pair` is not `signer`."""
        if key_pair.public != self.signer:
            raise CryptoError("a release is signed by the key it names")
        return replace(self, signature=self.sign_body(key_pair))

    def verify(self) -> None:
        """Raises `CryptoError` unless the signer's signature holds. Whether the signer may end the lease is
        `ends`."""
        self.verify_body(self.signer, self.signature)

    def ends(self, lease: Lease, *, file_owner: OwnerKey) -> bool:
        """Whether this release, once verified, ends `lease` on a shard of a file that `file_owner` owns."""
        return (
            (self.network, self.lease_id, self.holder) == (lease.network, lease.lease_id, lease.holder)
            and self.signer in (lease.owner_key, file_owner)
        )  # fmt: skip

    def _fields(self) -> list[Value]:
        return [self.lease_id, self.holder, self.signer]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            lease_id=LeaseId(wire.expect_bytes(fields[0], size=LEASE_ID_BYTES)),
            holder=expect_peer_id(fields[1]),
            signer=OwnerKey(wire.expect_bytes(fields[2], size=32)),
            signature=signatures[0],
        )
