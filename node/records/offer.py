"""What donors say of themselves: offers of space, and the device that an account uses. Layer 1, pure.

Source: credit.md, "Records". Numbers in an offer are claims; placement measures what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.identity import peer_id_of, public_key_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError
from node.records.base import SignedOnce, expect_peer_id, expect_time_s
from node.units import AccountId, PeerId
from node.wire import Value

PRICE_MICROCREDITS = 1_000_000
"""What every donor asks for: one credit a MiB and day (credit.md)."""


@dataclass(frozen=True, slots=True)
class Offer(SignedOnce):
    """A donor's space for lease, until `expires_s`.

    `price` is micro-credits a MiB and day; `pledge_left_bytes` the part still given freely to newcomers;
    `uptime_permille` the donor's own measure of the last 30 days.
    """

    TYPE: ClassVar[str] = "offer"
    BYTES_MAX: ClassVar[int] = limits.OFFER_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 8

    network: str
    donor: PeerId
    account: AccountId
    free_bytes: int
    price: int
    pledge_left_bytes: int
    uptime_permille: int
    cap_bytes: int
    expires_s: int
    signature: bytes = b""

    def sign(self, identity: KeyPair) -> Offer:
        """Signed. Raises `CryptoError` if `identity` is not `donor`."""
        if peer_id_of(identity.public) != self.donor:
            raise CryptoError("an offer is signed by the donor it names")
        return replace(self, signature=self.sign_body(identity))

    def verify(self) -> None:
        """Raises `CryptoError` unless the donor's signature holds."""
        self.verify_body(public_key_of(self.donor), self.signature)

    def is_expired(self, *, now_s: int) -> bool:
        """Whether the offer no longer stands."""
        return now_s >= self.expires_s

    def _fields(self) -> list[Value]:
        return [
            self.donor, self.account, self.free_bytes, self.price, self.pledge_left_bytes,
            self.uptime_permille, self.cap_bytes, self.expires_s,
        ]  # fmt: skip

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            donor=expect_peer_id(fields[0]),
            account=AccountId(wire.expect_bytes(fields[1], size=32)),
            free_bytes=wire.expect_int(fields[2], low=0, high=limits.BYTE_COUNT_MAX),
            price=wire.expect_int(fields[3], low=0, high=limits.RATE_MICRO_MAX),
            pledge_left_bytes=wire.expect_int(fields[4], low=0, high=limits.BYTE_COUNT_MAX),
            uptime_permille=wire.expect_int(fields[5], low=0, high=1000),
            cap_bytes=wire.expect_int(fields[6], low=0, high=limits.BYTE_COUNT_MAX),
            expires_s=expect_time_s(fields[7]),
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class DeviceCert(SignedOnce):
    """The peer id that acts for an account; of two certificates the one with the larger epoch counts."""

    TYPE: ClassVar[str] = "device-cert"
    BYTES_MAX: ClassVar[int] = limits.DEVICE_CERT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 4

    network: str
    account: AccountId
    peer_id: PeerId
    epoch: int
    expires_s: int
    signature: bytes = b""

    def sign(self, account: KeyPair) -> DeviceCert:
        """Signed. Raises `CryptoError` if `account` is not the account named."""
        if account.public != self.account:
            raise CryptoError("a device certificate is signed by the account it names")
        return replace(self, signature=self.sign_body(account))

    def verify(self) -> None:
        """Raises `CryptoError` unless the account's signature holds."""
        self.verify_body(self.account, self.signature)

    def is_expired(self, *, now_s: int) -> bool:
        """Whether the certificate no longer counts."""
        return now_s >= self.expires_s

    def _fields(self) -> list[Value]:
        return [self.account, self.peer_id, self.epoch, self.expires_s]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            account=AccountId(wire.expect_bytes(fields[0], size=32)),
            peer_id=expect_peer_id(fields[1]),
            epoch=wire.expect_int(fields[2], low=0, high=2**32),
            expires_s=expect_time_s(fields[3]),
            signature=signatures[0],
        )
