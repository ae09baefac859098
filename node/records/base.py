"""What every signed record has in common. Layer 1, pure.

The body of a record is one canonical msgpack array `[type, version, network, field, ...]`; signatures are
made over the body under the record's type and stand beside it: `[body, signature, ...]`. A missing signature
is empty. A record that does not re-encode to the bytes received is refused, so the bytes verified are those
received; a record of another type, version or network is refused before any signature is looked at; and
nothing is signed that `decode` would not accept.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Self, TypeVar

from node import limits, wire
from node.crypto.identity import public_key_of
from node.crypto.signing import SIGNATURE_BYTES, KeyPair, verify
from node.errors import CryptoError, ProtocolError
from node.units import PeerId
from node.wire import Value

VERSION = 1
_HEAD_ITEMS = 3  # type, version, network

R = TypeVar("R", bound="Record")


class Record(ABC):
    """A frozen dataclass with `network` first and its signatures last."""

    __slots__ = ()

    TYPE: ClassVar[str]
    BYTES_MAX: ClassVar[int]
    FIELD_COUNT: ClassVar[int]
    SIGNATURE_COUNT: ClassVar[int]

    network: str

    @abstractmethod
    def _fields(self) -> list[Value]:
        """The body after type, version and network."""

    @abstractmethod
    def _signatures(self) -> Sequence[bytes]:
        """`SIGNATURE_COUNT` signatures, b"" where one is missing."""

    @classmethod
    @abstractmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        """The record of `FIELD_COUNT` decoded fields. Raises `ProtocolError` for one out of bounds."""

    @classmethod
    def _expect_signature(cls, place: int, value: Value) -> bytes:
        """`value` as the signature at `place`, b"" where it is missing. Raises `ProtocolError`."""
        return expect_signature(value)

    @abstractmethod
    def verify(self) -> None:
        """Raises `CryptoError` unless every signature is there and holds."""

    def body(self) -> bytes:
        """The bytes that are signed."""
        return wire.encode([self.TYPE, VERSION, self.network, *self._fields()])

    def record_id(self) -> bytes:
        """SHA-256 of the body: the record's name, whoever has signed it so far."""
        return hashlib.sha256(self.body()).digest()

    def encode(self) -> bytes:
        """The body with its signatures, as stored and sent."""
        return wire.encode([self.body(), *self._signatures()])

    @classmethod
    def decode(cls, data: bytes, *, network: str) -> Self:
        """The record in `data`; its signatures are not verified yet.

        Raises:
            ProtocolError: too large, not canonical, of another type, version or network, or out of bounds.
        """
        if len(data) > limits.RECORDS_REMEMBERED_BYTES_MAX:
            return cls._decoded(data, network)
        remembered: Self = _remembered(cls, bytes(data), network)
        return remembered

    @classmethod
    def _decoded(cls, data: bytes, network: str) -> Self:
        body, *signatures = wire.expect_list(
            list(wire.decode(data, size_max=cls.BYTES_MAX)), count=1 + cls.SIGNATURE_COUNT
        )
        body_bytes = wire.expect_bytes(body)
        items = wire.decode(body_bytes, size_max=cls.BYTES_MAX)
        wire.expect_list(items, count=_HEAD_ITEMS + cls.FIELD_COUNT)
        _expect_head(items, cls.TYPE, network)
        record = cls._from_fields(
            network,
            items[_HEAD_ITEMS:],
            [cls._expect_signature(place, signature) for place, signature in enumerate(signatures)],
        )
        if record.body() != body_bytes:
            raise ProtocolError(f"a {cls.TYPE} record that does not re-encode to itself")
        return record

    def sign_body(self, key_pair: KeyPair) -> bytes:
        """The signature of the body. Raises `ProtocolError` for a record that no peer would accept."""
        type(self).decode(self.encode(), network=self.network)
        return key_pair.sign(self.TYPE, self.body())

    def verify_body(self, public: bytes, signature: bytes) -> None:
        """Raises `CryptoError` unless `signature` is there and is that of `public`."""
        if not signature:
            raise CryptoError(f"this {self.TYPE} record is not signed")
        verify(public, self.TYPE, self.body(), signature)


@lru_cache(limits.RECORDS_REMEMBERED_MAX)
def _remembered(cls: type[R], data: bytes, network: str) -> R:
    """The record in `data`: rosters and leases are read again at each look, and records are immutable."""
    return cls._decoded(data, network)


class SignedOnce(Record):
    """A record with one signature."""

    __slots__ = ()

    SIGNATURE_COUNT: ClassVar[int] = 1

    signature: bytes

    def _signatures(self) -> Sequence[bytes]:
        return (self.signature,)


def expect_peer_id(value: Value) -> PeerId:
    """`value` as a peer id. Raises `ProtocolError`."""
    peer_id = wire.expect_bytes(value)
    public_key_of(peer_id)
    return PeerId(peer_id)


def expect_time_s(value: Value) -> int:
    """`value` as seconds since 1970. Raises `ProtocolError`."""
    return wire.expect_int(value, low=0, high=limits.RECORD_TIME_S_MAX)


def _expect_head(items: Sequence[Value], record_type: str, network: str) -> None:
    if wire.expect_str(items[0], bytes_max=32) != record_type:
        raise ProtocolError(f"not a {record_type} record")
    if wire.expect_int(items[1], low=0, high=2**16) != VERSION:
        raise ProtocolError(f"a {record_type} record of another version")
    if wire.expect_str(items[2], bytes_max=limits.NETWORK_ID_BYTES_MAX) != network:
        raise ProtocolError(f"a {record_type} record of another network")


def expect_signature(value: Value) -> bytes:
    """`value` as a signature, b"" where it is missing. Raises `ProtocolError`."""
    signature = wire.expect_bytes(value)
    return signature and wire.expect_bytes(signature, size=SIGNATURE_BYTES)
