"""Signatures hold for one key, one domain and one message."""

from __future__ import annotations

import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.crypto.signing import KeyPair, verify
from node.errors import CryptoError

KEY = KeyPair.from_seed(bytes(range(32)))


@given(st.binary(max_size=200))
def test_a_signature_holds(message: bytes) -> None:
    verify(KEY.public, "lease", message, KEY.sign("lease", message))


def test_it_is_plain_ed25519_over_domain_and_message() -> None:
    signed = nacl.signing.SigningKey(KEY.seed).sign(b"cairn/1/lease\0message")
    assert KEY.sign("lease", b"message") == signed.signature


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_changed_signature_is_refused(position: int, change: int) -> None:
    signature = bytearray(KEY.sign("lease", b"message"))
    signature[position] ^= change
    with pytest.raises(CryptoError):
        verify(KEY.public, "lease", b"message", bytes(signature))


def test_another_domain_message_or_key_is_refused() -> None:
    signature = KEY.sign("lease", b"message")
    other = KeyPair.from_seed(bytes(32))
    for public, domain, message in [
        (KEY.public, "release", b"message"),
        (KEY.public, "lease", b"massage"),
        (other.public, "lease", b"message"),
        (bytes(32), "lease", b"message"),  # a point of small order
        (KEY.public[:31], "lease", b"message"),
    ]:
        with pytest.raises(CryptoError):
            verify(public, domain, message, signature)
    with pytest.raises(CryptoError):
        verify(KEY.public, "lease", b"message", signature[:63])


def test_secrets_show_in_no_repr() -> None:
    assert KEY.seed.hex() not in repr(KEY)
    assert repr(KEY.seed) not in repr(KEY)
    assert "_secret" not in repr(KEY)
