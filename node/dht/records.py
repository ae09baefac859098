"""Provider and value records: what a key may be, who may store, for how long, which value wins. Layer 2,
pure.

Invariants: a value is kept only where its namespace has a validator that accepted it; of two valid values
of a key every node picks the same one, whatever the order of arrival. Source: libp2p kad-dht specification,
"Content routing" and "Entry validation".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from node import limits
from node.errors import CryptoError, ProtocolError
from node.units import Contact

MULTIHASH_IDENTITY = 0x00
MULTIHASH_SHA256 = 0x12
_PEER_SHARE = 8
_PEER_VALUES_MIN = 16
_PEER_PROVIDERS_MIN = 128
_PROVIDER_BYTES = 400  # a provider record's two items, in pages that are half full


class Validator(Protocol):
    """The rules of one namespace of value keys (`/<namespace>/...`). Pure."""

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """Accept a value or raise `ProtocolError` or `CryptoError`."""
        ...

    def sequence(self, key: bytes, value: bytes) -> int:
        """Version of a value that `validate` accepted: the highest wins, the greater bytes among equals."""
        ...

    def expires_s(self, key: bytes, value: bytes) -> int | None:
        """Until when a value that `validate` accepted says itself that it holds; None if it does not say.

        One that says is kept alive by the nodes that hold it, until then.
        """
        ...


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A peer said that it provides a key."""

    key: bytes
    provider: Contact
    expires_s: int


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """A value that somebody stored here."""

    key: bytes
    value: bytes
    received_s: int
    expires_s: int
    is_restored: bool = False
    """Whether nodes that hold it store it again, so that it needs nobody's care before `expires_s`."""


def check_multihash(data: bytes) -> None:
    """A multihash: code, length of one byte, digest of that length. Raises `ProtocolError`."""
    if not 3 <= len(data) <= limits.DHT_KEY_BYTES_MAX:
        raise ProtocolError(f"a multihash of {len(data)} bytes")
    position = 0
    while data[position] & 0x80:  # the code is a varint
        position += 1
        if position > 3 or position + 2 >= len(data):
            raise ProtocolError("not a multihash")
    if data[position + 1] != len(data) - position - 2:
        raise ProtocolError("a multihash whose length is wrong")


def is_peer_id(data: bytes) -> bool:
    """Whether this can be a binary peer id: an identity multihash of a short public key, or a SHA-256."""
    if not 2 < len(data) <= limits.DHT_PEER_ID_BYTES_MAX or data[1] != len(data) - 2:
        return False
    return data[0] == MULTIHASH_IDENTITY or (data[0] == MULTIHASH_SHA256 and len(data) == 34)


def namespace_of(key: bytes) -> bytes:
    """`pk` of `/pk/...`. Raises `ProtocolError`."""
    if not key.startswith(b"/") or len(key) > limits.DHT_KEY_BYTES_MAX:
        raise ProtocolError("a value's key is /<namespace>/<name>")
    namespace, slash, name = key[1:].partition(b"/")
    if not namespace or not slash or not name:
        raise ProtocolError("a value's key is /<namespace>/<name>")
    return namespace


class ValueRules:
    """The validators of all namespaces as one rule."""

    def __init__(self, validators: Mapping[bytes, Validator]) -> None:
        self._validators = dict(validators)

    def check(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """Raises `ProtocolError` unless the value may be stored and believed."""
        validator = self._validator(key)
        if len(value) > limits.DHT_VALUE_BYTES_MAX:
            raise ProtocolError(f"a value of {len(value)} bytes")
        try:
            validator.validate(key, value, now_s=now_s)
        except CryptoError as error:
            raise ProtocolError(f"a value that does not hold: {error}") from error

    def is_valid(self, key: bytes, value: bytes, *, now_s: int) -> bool:
        """`check` as a question."""
        try:
            self.check(key, value, now_s=now_s)
        except ProtocolError:
            return False
        return True

    def is_better(self, key: bytes, value: bytes, than: bytes) -> bool:
        """Whether a value wins over another one; `check` accepted both."""
        validator = self._validator(key)
        return (validator.sequence(key, value), value) > (validator.sequence(key, than), than)

    def record(self, key: bytes, value: bytes, *, now_s: int) -> ValueRecord:
        """The record of a value that `check` accepted, received now."""
        own_s = self._validator(key).expires_s(key, value)
        expires_s = now_s + limits.DHT_VALUE_EXPIRY_S if own_s is None else own_s
        return ValueRecord(key, value, now_s, expires_s, is_restored=own_s is not None)

    def _validator(self, key: bytes) -> Validator:
        namespace = namespace_of(key)
        validator = self._validators.get(namespace)
        if validator is None:
            raise ProtocolError("no validator for the namespace of this key")
        return validator


class PublicKeyValidator:
    """`/pk/<peer id>`: libp2p's own records of public keys, proved by the peer id itself.

    The peer id is a multihash of the key's protobuf: the identity for short keys, SHA-256 for long ones.
    """

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """As in `Validator`."""
        if not key.startswith(b"/pk/"):
            raise ProtocolError("not the key of a public key")
        peer_id = key[len(b"/pk/") :]
        if not is_peer_id(peer_id):
            raise ProtocolError("not a peer id")
        digest = value if peer_id[0] == MULTIHASH_IDENTITY else sha256(value).digest()
        if peer_id[2:] != digest:
            raise ProtocolError("the public key does not belong to the peer id")

    def sequence(self, key: bytes, value: bytes) -> int:
        """There is only one valid value."""
        return 0

    def expires_s(self, key: bytes, value: bytes) -> int | None:
        """A public key does not say: whoever cares stores it again."""
        return None


def restore_due_s(record_key: bytes, node_key: int, *, received_s: int) -> int:
    """When this node stores a value again that it last received at `received_s`.

    Each holder of a value has a time of its own, and the first one's store renews the others' copies: so a
    value costs one store a period, not one a holder.
    """
    spread = int.from_bytes(sha256(node_key.to_bytes(32, "big") + record_key).digest()[:4], "big")
    return received_s + limits.DHT_RESTORE_S + spread % limits.DHT_RESTORE_SPREAD_S


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of others' records a node keeps; without a donor's cap, all that limits.py allows."""

    weight_bytes: int = field(default_factory=lambda: limits.DHT_RECORDS_BYTES_MAX)
    values_per_peer: int = field(default_factory=lambda: limits.DHT_VALUE_RECORDS_PER_PEER_MAX)
    providers_per_peer: int = field(default_factory=lambda: limits.DHT_PROVIDER_RECORDS_PER_PEER_MAX)

    @classmethod
    def within(cls, byte_count: int) -> Quota:
        """What fits `byte_count` bytes of the disk; one peer gets an eighth, or what a small node needs."""
        byte_count = min(byte_count, limits.DHT_RECORDS_BYTES_MAX)
        share = byte_count // _PEER_SHARE
        return cls(
            byte_count,
            min(cls().values_per_peer, max(_PEER_VALUES_MIN, share // limits.DHT_VALUE_BYTES_MAX)),
            min(cls().providers_per_peer, max(_PEER_PROVIDERS_MIN, share // _PROVIDER_BYTES)),
        )


def provider_is_admitted(
    quota: Quota, *, is_known: bool, of_key: int, of_peer: int, total: int, weight_bytes: int
) -> bool:
    """Whether a provider record may be stored, given how many are and what all would weigh with it.

    A refresh always may. Whoever came first stays: a flood of new identities displaces nobody.
    """
    return is_known or (
        of_key < limits.DHT_PROVIDERS_PER_KEY_MAX
        and of_peer < quota.providers_per_peer
        and total < limits.DHT_PROVIDER_RECORDS_MAX
        and weight_bytes <= quota.weight_bytes
    )


def value_is_admitted(quota: Quota, *, of_peer: int, total: int) -> bool:
    """Whether a valid value may be stored, given how many others the sender stored here, and all did."""
    return of_peer < quota.values_per_peer and total < limits.DHT_VALUE_RECORDS_MAX
