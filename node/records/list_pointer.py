"""Where an account's list of files stands: a sealed, signed, sequenced value of the DHT. Layer 1, pure.

The key is an owner key that derives from the account seed and a salt that does too: whoever has the 24 words
finds it, nobody else can tell whose it is. What is sealed in it is for the account alone (node/chunks/
file_list.py). Of two valid pointers under one key the larger sequence counts.
Source: design.md, section 4 (recovery).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import SignedOnce, expect_time_s
from node.units import OwnerKey
from node.wire import Value

LIST_NAMESPACE = b"cairn-list"
_KEY_PREFIX = b"/" + LIST_NAMESPACE + b"/"


@dataclass(frozen=True, slots=True)
class ListPointer(SignedOnce):
    """The newest state of one list; `sealed` opens with the account alone."""

    TYPE: ClassVar[str] = "list-pointer"
    BYTES_MAX: ClassVar[int] = limits.LIST_POINTER_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 4

    network: str
    owner_key: OwnerKey
    sequence: int
    expires_s: int
    sealed: bytes
    signature: bytes = b""

    def key(self) -> bytes:
        """Its key in the DHT."""
        return list_key(self.owner_key)

    def sign(self, owner: KeyPair) -> ListPointer:
        """Signed. Raises `CryptoError` if `owner` is not `owner_key`."""
        if owner.public != self.owner_key:
            raise CryptoError("a list pointer is signed by the owner key it names")
        return replace(self, signature=self.sign_body(owner))

    def verify(self) -> None:
        """Raises `CryptoError` unless the owner's signature holds."""
        self.verify_body(self.owner_key, self.signature)

    def _fields(self) -> list[Value]:
        return [self.owner_key, self.sequence, self.expires_s, self.sealed]

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        return cls(
            network=network,
            owner_key=OwnerKey(wire.expect_bytes(fields[0], size=32)),
            sequence=wire.expect_int(fields[1], low=1, high=2**53),
            expires_s=expect_time_s(fields[2]),
            sealed=wire.expect_bytes(fields[3], size_max=limits.LIST_POINTER_BYTES_MAX),
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class ListPointerValidator:
    """The DHT's rules for value records of the namespace `cairn-list` on one network."""

    network: str

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """Raises `ProtocolError` unless `value` is a pointer that may stand under `key` now."""
        validate_pointer(key, value, now_s=now_s, network=self.network)

    def sequence(self, key: bytes, value: bytes) -> int:
        """The sequence of a pointer that `validate` accepted; the largest counts."""
        return ListPointer.decode(value, network=self.network).sequence

    def expires_s(self, key: bytes, value: bytes) -> int | None:
        """Until when a pointer that `validate` accepted is good."""
        return ListPointer.decode(value, network=self.network).expires_s


def list_key(owner_key: OwnerKey) -> bytes:
    """The DHT key of a pointer: `/cairn-list/` + owner key (32)."""
    return _KEY_PREFIX + owner_key


def validate_pointer(key: bytes, value: bytes, *, now_s: int, network: str) -> ListPointer:
    """The pointer in a value record, verified, unexpired and of this key. Raises `ProtocolError`."""
    pointer = ListPointer.decode(value, network=network)
    if pointer.key() != key:
        raise ProtocolError("a list pointer under another key")
    if pointer.expires_s <= now_s:
        raise ProtocolError("a list pointer that has expired")
    if pointer.expires_s > now_s + limits.LIST_POINTER_LIFE_S_MAX:
        raise ProtocolError("a list pointer that would live too long")
    try:
        pointer.verify()
    except CryptoError as error:
        raise ProtocolError(str(error)) from error
    return pointer
