"""Who pays for a lease, and for how many bytes. Layer 1, pure.

Shown to the lease's donor only, so that nobody else links an account's files. A charge names the lease by
its record id, which covers holder, bytes, days and rate: it can't be carried to another lease. It also says
for how many bytes of manifest the lease is billed, so that both ends compute the same value from it.
Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Self

from node import limits, wire
from node.crypto.signing import KeyPair
from node.errors import CryptoError
from node.records.base import SignedOnce
from node.records.lease import Lease
from node.units import KIB, AccountId
from node.wire import Value

BILLED_EXTRA_BYTES: Final = 4 * KIB
"""A lease is billed for its shard, the manifests kept with it, and this."""
_MANIFEST_REST_BYTES: Final = 160
"""Of a segment manifest, beside its roots and stripe hashes: 130 in practice."""


def manifest_bytes_max(total_shards: int, stripe_count: int) -> int:
    """The most bytes that an encoded segment manifest of these numbers takes."""
    most = 32 * (total_shards + stripe_count) + _MANIFEST_REST_BYTES
    return min(most, limits.SEGMENT_MANIFEST_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Charge(SignedOnce):
    """`account` owes what the lease with record id `lease_record` comes to."""

    TYPE: ClassVar[str] = "charge"
    BYTES_MAX: ClassVar[int] = limits.CHARGE_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 3

    network: str
    lease_record: bytes
    account: AccountId
    manifest_bytes: int = 0
    signature: bytes = b""

    @classmethod
    def of(cls, lease: Lease, account: AccountId, *, manifest_bytes: int = 0) -> Charge:
        """The unsigned charge of a lease whose encoded segment manifest has `manifest_bytes`."""
        return cls(lease.network, lease.record_id(), account, manifest_bytes)

    def sign(self, account: KeyPair) -> Charge:
        """Signed. Raises `CryptoError` if `account` is not the account named."""
        if account.public != self.account:
            raise CryptoError("a charge is signed by the account that pays")
        return replace(self, signature=self.sign_body(account))

    def verify(self) -> None:
        """Raises `CryptoError` unless the account's signature holds."""
        self.verify_body(self.account, self.signature)

    def _fields(self) -> list[Value]:
        return [self.lease_record, self.account, self.manifest_bytes]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            lease_record=wire.expect_bytes(fields[0], size=32),
            account=AccountId(wire.expect_bytes(fields[1], size=32)),
            manifest_bytes=wire.expect_int(fields[2], low=0, high=limits.SEGMENT_MANIFEST_BYTES_MAX),
            signature=signatures[0],
        )
