"""Sealing of stripes and headers, and the keys derived for it. Layer 1, pure.

XChaCha20-Poly1305; the nonce of a stripe is its index in the segment, so a segment key seals each stripe
once: sealing other bytes under the same key and index is the caller's fault (design.md, section 3). The
additional data binds format version, segment index, stripe index and the last-stripe flag. A key opens
nothing but what was sealed with it, but the cipher alone does not commit to its key: the key check does.
Source: draft-irtf-cfrg-xchacha-03 through PyNaCl.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import nacl.bindings
import nacl.exceptions
from nacl._sodium import ffi
from nacl._sodium import lib as sodium

from node.crypto.hashing import Context, derive
from node.crypto.signing import KeyPair
from node.errors import CryptoError
from node.ports import Buffer

FORMAT_VERSION = 1
FILE_KEY_BYTES = 32
OWNER_SALT_BYTES = 16
KEY_CHECK_BYTES = 32  # two keys with one check would need a collision of BLAKE3
SEAL_BYTES = 16  # what sealing adds
NONCE_BYTES = 24
KEY_BYTES = 32


class Suite(IntEnum):
    """How a file is sealed; one byte in its manifest."""

    XCHACHA20_POLY1305 = 1


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """Seals and opens the stripes of one segment."""

    segment_index: int
    key: bytes = field(repr=False)

    def seal(self, stripe_index: int, *, last: bool, plaintext: bytes) -> bytes:
        """The ciphertext of a stripe, `SEAL_BYTES` longer. `stripe_index` counts within the segment;
        `last` is true for the file's last stripe only."""
        return seal_bytes(self.key, _stripe_nonce(stripe_index), self._aad(stripe_index, last), plaintext)

    def open(self, stripe_index: int, *, last: bool, ciphertext: bytes) -> bytes:
        """The plaintext of a stripe. Raises `CryptoError` if any bit or any argument differs."""
        return open_bytes(self.key, _stripe_nonce(stripe_index), self._aad(stripe_index, last), ciphertext)

    def seal_into(self, stripe_index: int, *, last: bool, plaintext: Buffer, sealed: Buffer) -> None:
        """`seal` without a copy: fills `sealed`, writable and `SEAL_BYTES` longer than `plaintext`."""
        nonce, aad = _stripe_nonce(stripe_index), self._aad(stripe_index, last)
        seal_bytes_into(self.key, nonce, aad, plaintext, sealed)

    def open_into(self, stripe_index: int, *, last: bool, ciphertext: Buffer, opened: Buffer) -> None:
        """`open` without a copy: fills `opened`, which may be the beginning of `ciphertext` itself.

        Raises `CryptoError`; the content of `opened` is of no use then.
        """
        nonce, aad = _stripe_nonce(stripe_index), self._aad(stripe_index, last)
        open_bytes_into(self.key, nonce, aad, ciphertext, opened)

    def _aad(self, stripe_index: int, last: bool) -> bytes:
        return (
            bytes([FORMAT_VERSION])
            + self.segment_index.to_bytes(4, "big")
            + stripe_index.to_bytes(4, "big")
            + bytes([last])
        )


@dataclass(frozen=True, slots=True)
class HeaderKey:
    """Seals the header of one file, once."""

    key: bytes = field(repr=False)

    def seal(self, plaintext: bytes) -> bytes:
        """The sealed header, `SEAL_BYTES` longer."""
        return seal_bytes(self.key, bytes(NONCE_BYTES), bytes([FORMAT_VERSION]), plaintext)

    def open(self, ciphertext: bytes) -> bytes:
        """The header. Raises `CryptoError`."""
        return open_bytes(self.key, bytes(NONCE_BYTES), bytes([FORMAT_VERSION]), ciphertext)


@dataclass(frozen=True, slots=True)
class FileKeys:
    """Everything that is derived from one file key (32 random bytes, new for every put)."""

    file_key: bytes = field(repr=False)
    header_key: HeaderKey
    key_check: bytes

    @classmethod
    def derive(cls, file_key: bytes) -> FileKeys:
        """The keys of a 32-byte file key."""
        assert len(file_key) == FILE_KEY_BYTES
        return cls(
            file_key=file_key,
            header_key=HeaderKey(derive(Context.HEADER_KEY, file_key)),
            key_check=derive(Context.KEY_CHECK, file_key, size=KEY_CHECK_BYTES),
        )

    def segment_key(
        self, suite: Suite, *, data_shards: int, block_bytes: int, segment_index: int
    ) -> SegmentKey:
        """The key of one segment. The geometry is part of it: stripes cut otherwise get another key."""
        material = (
            self.file_key
            + bytes([suite, data_shards])
            + block_bytes.to_bytes(4, "big")
            + segment_index.to_bytes(4, "big")
        )
        return SegmentKey(segment_index, derive(Context.SEGMENT_KEY, material))


def owner_key(account_seed: bytes, owner_salt: bytes) -> KeyPair:
    """The key pair that owns one file: of the account seed (32 bytes) and the salt in the manifests (16)."""
    assert len(account_seed) == 32
    assert len(owner_salt) == OWNER_SALT_BYTES
    return KeyPair.from_seed(derive(Context.OWNER_KEY_SEED, account_seed + owner_salt))


def seal_bytes(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """XChaCha20-Poly1305. The caller sees to it that (key, nonce) never seals two texts."""
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, aad, nonce, key)


def open_bytes(key: bytes, nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    """The plaintext. Raises `CryptoError`."""
    if len(ciphertext) < SEAL_BYTES:
        raise CryptoError("too short to be sealed bytes")
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, aad, nonce, key)
    except nacl.exceptions.CryptoError as error:
        raise CryptoError("the seal does not hold: wrong key, or the bytes were changed") from error


def seal_bytes_into(key: bytes, nonce: bytes, aad: bytes, plaintext: Buffer, sealed: Buffer) -> None:
    """`seal_bytes` into a writable buffer, `SEAL_BYTES` longer than `plaintext`.

    `nacl.bindings` allocates twice for every call, and fresh pages cost as much as the cipher itself: this
    calls the same function of libsodium on buffers that are used again.
    """
    _check_sizes(key, nonce, len(plaintext), len(sealed))
    failed = sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(
        ffi.from_buffer(sealed, require_writable=True), ffi.NULL,
        ffi.from_buffer(plaintext), len(plaintext), aad, len(aad), ffi.NULL, nonce, key,
    )  # fmt: skip
    assert not failed  # only a text over 2^38 bytes fails


def open_bytes_into(key: bytes, nonce: bytes, aad: bytes, ciphertext: Buffer, opened: Buffer) -> None:
    """`open_bytes` into a writable buffer, or the beginning of `ciphertext`. Raises `CryptoError`."""
    _check_sizes(key, nonce, len(opened), len(ciphertext))
    failed = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(
        ffi.from_buffer(opened, require_writable=True), ffi.NULL, ffi.NULL,
        ffi.from_buffer(ciphertext), len(ciphertext), aad, len(aad), nonce, key,
    )  # fmt: skip
    if failed:
        raise CryptoError("the seal does not hold: wrong key, or the bytes were changed")


def _check_sizes(key: bytes, nonce: bytes, plaintext_bytes: int, sealed_bytes: int) -> None:
    # libsodium writes where it is told: these hold under `python -O` too.
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES or sealed_bytes != plaintext_bytes + SEAL_BYTES:
        raise CryptoError("buffers of these sizes can't be sealed or opened")


def _stripe_nonce(stripe_index: int) -> bytes:
    return stripe_index.to_bytes(NONCE_BYTES, "big")
