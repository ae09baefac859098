"""Argon2id: from what a person types to a key, at a bounded cost. Layer 1, pure.

The cost may come from a link or a file, so it is checked before anything is allocated.
Source: RFC 9106 (one lane, version 0x13) through PyNaCl.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import nacl.bindings
import nacl.exceptions

from node import limits
from node.errors import CryptoError, ProtocolError, UsageError

SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """What one try costs. Raises `ProtocolError` out of bounds."""

    memory_kib: int
    passes: int

    def __post_init__(self) -> None:
        if not limits.ARGON2_MEMORY_KIB_MIN <= self.memory_kib <= limits.ARGON2_MEMORY_KIB_MAX:
            raise ProtocolError(f"Argon2id with {self.memory_kib} KiB of memory is out of bounds")
        if not 1 <= self.passes <= limits.ARGON2_PASSES_MAX:
            raise ProtocolError(f"Argon2id with {self.passes} passes is out of bounds")


DEFAULT_COST = PasswordCost(memory_kib=128 * 1024, passes=3)
"""About a third of a second and, at 128 MiB, a tenth of a small machine's memory."""


def stretch(password: str, salt: bytes, cost: PasswordCost) -> bytes:
    """The 32-byte key of a password (Unicode NFC, so that keyboards agree).

    Raises:
        UsageError: it is empty, too long or no text.
        CryptoError: there is not enough memory.
    """
    try:
        encoded = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        raise UsageError("the password is not valid text") from None
    if not 0 < len(encoded) <= limits.PASSWORD_BYTES_MAX:
        raise UsageError(f"a password has 1 to {limits.PASSWORD_BYTES_MAX} bytes")
    try:
        return nacl.bindings.crypto_pwhash_alg(
            32,
            encoded,
            salt,
            cost.passes,
            cost.memory_kib * 1024,
            nacl.bindings.crypto_pwhash_ALG_ARGON2ID13,
        )
    except nacl.exceptions.RuntimeError as error:  # libsodium fails for want of memory only
        raise CryptoError(
            f"checking a password takes {cost.memory_kib // 1024} MiB of memory, and the machine has less"
        ) from error
