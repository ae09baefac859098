"""Ed25519 signatures with a domain for each type of record. Layer 1, pure.

What is signed is `cairn/1/` + domain + NUL + message, so that a signature of one type means nothing as
another. Source: RFC 8032 through PyNaCl, whose verification refuses keys of small order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import nacl.bindings
import nacl.exceptions

from node import limits
from node.errors import CryptoError

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_DOMAIN = re.compile(r"[a-z][a-z0-9.-]{0,31}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key. Its seed is secret: it shows in no `repr`."""

    seed: bytes = field(repr=False)
    public: bytes
    _secret: bytes = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """The key pair of a 32-byte seed."""
        assert len(seed) == SEED_BYTES
        public, secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        return cls(seed, public, secret)

    def sign(self, domain: str, message: bytes) -> bytes:
        """The 64-byte signature of `message` under `domain` (a record's type)."""
        return nacl.bindings.crypto_sign(_signed_bytes(domain, message), self._secret)[:SIGNATURE_BYTES]


def verify(public: bytes, domain: str, message: bytes, signature: bytes) -> None:
    """Raises `CryptoError` unless `signature` is that of `public` over `message` under `domain`."""
    if len(public) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        raise CryptoError(f"the signature of this {domain} record has the wrong length")
    signed = signature + _signed_bytes(domain, message)
    try:
        if len(signed) > limits.SIGNED_REMEMBERED_BYTES_MAX:
            nacl.bindings.crypto_sign_open(signed, public)
        else:
            _verified(signed, public)
    except nacl.exceptions.BadSignatureError as error:
        raise CryptoError(f"the signature of this {domain} record does not hold") from error


@lru_cache(limits.SIGNATURES_REMEMBERED_MAX)
def _verified(signed: bytes, public: bytes) -> None:
    """As libsodium says; what held once holds again, and what did not is not remembered."""
    nacl.bindings.crypto_sign_open(signed, public)


def _signed_bytes(domain: str, message: bytes) -> bytes:
    assert _DOMAIN.fullmatch(domain), domain
    return b"cairn/1/" + domain.encode() + b"\0" + message
