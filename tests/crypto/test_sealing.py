"""Sealing: what was sealed opens, and nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.crypto.sealing import (
    SEAL_BYTES,
    FileKeys,
    HeaderKey,
    SegmentKey,
    Suite,
    owner_key,
)
from node.errors import CryptoError

SUITE = Suite.XCHACHA20_POLY1305
KEYS = FileKeys.derive(bytes(range(32)))


def segment_key(
    data_shards: int = 10, block_bytes: int = 65_472, segment_index: int = 3, keys: FileKeys = KEYS
) -> SegmentKey:
    return keys.segment_key(
        SUITE, data_shards=data_shards, block_bytes=block_bytes, segment_index=segment_index
    )


@given(st.binary(max_size=3000), st.integers(0, 63), st.booleans())
def test_a_stripe_opens(plaintext: bytes, stripe_index: int, last: bool) -> None:
    key = segment_key()
    ciphertext = key.seal(stripe_index, last=last, plaintext=plaintext)
    assert len(ciphertext) == len(plaintext) + SEAL_BYTES
    assert key.open(stripe_index, last=last, ciphertext=ciphertext) == plaintext


@given(st.binary(max_size=3000), st.integers(0, 63), st.booleans())
def test_sealing_in_place_makes_the_same_bytes(plaintext: bytes, stripe_index: int, last: bool) -> None:
    key, buffer = segment_key(), bytearray(b"x" * (len(plaintext) + SEAL_BYTES + 2))
    sealed = memoryview(buffer)[1:-1]
    key.seal_into(stripe_index, last=last, plaintext=memoryview(plaintext), sealed=sealed)
    assert sealed == key.seal(stripe_index, last=last, plaintext=plaintext)
    opened = sealed[: len(plaintext)]
    key.open_into(stripe_index, last=last, ciphertext=sealed, opened=opened)
    assert opened == plaintext
    assert buffer[:1] == buffer[-1:] == b"x"  # nothing was written outside


def test_in_place_too_a_wrong_seal_or_size_is_refused() -> None:
    key, opened = segment_key(), bytearray(6)
    sealed = bytearray(key.seal(1, last=False, plaintext=b"stripe"))
    with pytest.raises(CryptoError, match="does not hold"):
        key.open_into(2, last=False, ciphertext=sealed, opened=opened)
    for size in (0, 5, 7):
        with pytest.raises(CryptoError, match="sizes"):
            key.open_into(1, last=False, ciphertext=sealed, opened=bytearray(size))
        with pytest.raises(CryptoError, match="sizes"):
            key.seal_into(1, last=False, plaintext=bytes(size), sealed=bytearray(22))
    with pytest.raises(CryptoError, match="sizes"):
        SegmentKey(0, bytes(31)).seal_into(1, last=False, plaintext=b"", sealed=bytearray(16))


@given(st.binary(max_size=300), st.data())
def test_a_changed_bit_is_seen(plaintext: bytes, data: st.DataObject) -> None:
    ciphertext = bytearray(segment_key().seal(1, last=False, plaintext=plaintext))
    ciphertext[data.draw(st.integers(0, len(ciphertext) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CryptoError):
        segment_key().open(1, last=False, ciphertext=bytes(ciphertext))


@pytest.mark.parametrize(
    ("key", "stripe_index", "last"),
    [
        (segment_key(), 2, False),
        (segment_key(), 1, True),
        (segment_key(segment_index=4), 1, False),
        (segment_key(data_shards=11), 1, False),
        (segment_key(block_bytes=64), 1, False),
        (SegmentKey(4, segment_key().key), 1, False),  # the right key in another place
        (segment_key(keys=FileKeys.derive(bytes(32))), 1, False),
    ],
)  # fmt: skip
def test_every_field_is_bound(key: SegmentKey, stripe_index: int, last: bool) -> None:
    ciphertext = segment_key().seal(1, last=False, plaintext=b"stripe")
    assert segment_key().open(1, last=False, ciphertext=ciphertext) == b"stripe"
    with pytest.raises(CryptoError):
        key.open(stripe_index, last=last, ciphertext=ciphertext)


def test_the_format_version_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    stripe = segment_key().seal(0, last=True, plaintext=b"stripe")
    header = KEYS.header_key.seal(b"header")
    monkeypatch.setattr("node.crypto.sealing.FORMAT_VERSION", 2)
    with pytest.raises(CryptoError):
        segment_key().open(0, last=True, ciphertext=stripe)
    with pytest.raises(CryptoError):
        KEYS.header_key.open(header)


@pytest.mark.parametrize("length", [0, 1, SEAL_BYTES - 1])
def test_too_few_bytes_are_refused(length: int) -> None:
    with pytest.raises(CryptoError, match="too short"):
        segment_key().open(0, last=True, ciphertext=bytes(length))


def test_the_header_has_a_key_of_its_own() -> None:
    sealed = KEYS.header_key.seal(b"name and size")
    assert KEYS.header_key.open(sealed) == b"name and size"
    with pytest.raises(CryptoError):
        HeaderKey(segment_key().key).open(sealed)
    with pytest.raises(CryptoError):
        FileKeys.derive(bytes(32)).header_key.open(sealed)


def test_derived_keys_differ_from_each_other() -> None:
    derived = [
        KEYS.header_key.key,
        KEYS.key_check,
        KEYS.file_key,
        segment_key().key,
        segment_key(segment_index=0).key,
    ]
    assert len(set(derived)) == len(derived)


def test_each_salt_has_an_owner_key_of_its_own() -> None:
    first, second = owner_key(bytes(32), bytes(16)), owner_key(bytes(32), b"\1" + bytes(15))
    assert first.public != second.public
    assert owner_key(bytes(32), bytes(16)).public == first.public
    assert owner_key(b"\1" + bytes(31), bytes(16)).public != first.public


def test_keys_show_in_no_repr() -> None:
    shown = repr(KEYS) + repr(segment_key())
    for secret in (KEYS.file_key, KEYS.header_key.key, segment_key().key):
        assert repr(secret) not in shown
        assert secret.hex() not in shown
