"""Canonical msgpack: one encoding a value, and nothing else accepted."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits, wire
from node.errors import ProtocolError

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=80)
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=6), max_leaves=30)
arrays = st.lists(values, max_size=6)


def depth(value: wire.Value) -> int:
    return 1 + max((depth(item) for item in value), default=0) if isinstance(value, list) else 0


@given(arrays)
def test_decode_returns_what_encode_took(value: list[wire.Value]) -> None:
    if depth(value) > limits.WIRE_DEPTH_MAX:
        with pytest.raises(ProtocolError):
            wire.encode(value)
        return
    assert wire.decode(wire.encode(value), size_max=10**6) == value


@given(st.binary(max_size=200))
def test_whatever_decodes_re_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        value = wire.decode(data, size_max=200)
    except ProtocolError:
        return
    assert wire.encode(value) == data


@given(arrays.filter(lambda value: depth(value) <= limits.WIRE_DEPTH_MAX), st.data())
def test_a_changed_byte_never_decodes_to_the_same_value(value: list[wire.Value], data: st.DataObject) -> None:
    packed = bytearray(wire.encode(value))
    index = data.draw(st.integers(0, len(packed) - 1))
    packed[index] ^= data.draw(st.integers(1, 255))
    try:
        again = wire.decode(bytes(packed), size_max=10**6)
    except ProtocolError:
        return
    # 1 == True in Python, so equality is asked of the bytes
    assert wire.encode(again) != wire.encode(value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "nothing"),
        (b"\x01", "not an array"),
        (b"\x81\x01\x02", "a map"),
        (b"\x91\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00", "a float"),
        (b"\x91\xd4\x01\x00", "an extension"),
        (b"\x91\xcc\x01", "an integer in two bytes where one does"),
        (b"\xdc\x00\x01\x01", "a long array header where a short one does"),
        (b"\x91\xc4\x01\x00\x00", "trailing bytes"),
        (b"\x91\xa1\xff", "text that is not UTF-8"),
        (b"\x91\xa3\xed\xa0\x80", "a lone surrogate"),
        (b"\xdd\xff\xff\xff\xff", "an array of four billion items"),
        (b"\x91\xc6\xff\xff\xff\xff", "four gigabytes of bytes"),
        (b"\x91" * 100_000, "an abyss of arrays"),
        (msgpack.packb([0] * (limits.WIRE_ARRAY_ITEMS_MAX + 1)), "too many items"),
    ],
)
def test_hostile_bytes_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(ProtocolError):
        wire.decode(data, size_max=10**6)


def test_the_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(ProtocolError, match="11 bytes where at most 10"):
        wire.decode(b"\xc1" * 11, size_max=10)


def test_values_without_an_encoding_are_refused() -> None:
    for value in ({}, 1.5, object(), 2**64, -(2**63) - 1):
        with pytest.raises(ProtocolError):
            wire.encode([value])  # type: ignore[list-item]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_frame_headers(size: int, size_max: int) -> None:
    if size > size_max:
        with pytest.raises(ProtocolError):
            wire.frame_header(size, size_max=size_max)
        with pytest.raises(ProtocolError):
            wire.frame_size(size.to_bytes(4, "big"), size_max=size_max)
    else:
        assert wire.frame_size(wire.frame_header(size, size_max=size_max), size_max=size_max) == size


def test_expectations() -> None:
    assert wire.expect_bytes(b"ab", size=2) == b"ab"
    assert wire.expect_int(7, low=0, high=7) == 7
    assert wire.expect_str("é", bytes_max=2) == "é"
    assert wire.expect_list([1], count=1) == [1]
    for call in (
        lambda: wire.expect_bytes("ab"),
        lambda: wire.expect_bytes(b"ab", size=3),
        lambda: wire.expect_bytes(b"ab", size_max=1),
        lambda: wire.expect_int(True, low=0, high=7),
        lambda: wire.expect_int(8, low=0, high=7),
        lambda: wire.expect_str("é", bytes_max=1),
        lambda: wire.expect_str(b"x", bytes_max=1),
        lambda: wire.expect_list(1),
        lambda: wire.expect_list([1], count=2),
        lambda: wire.expect_list([1, 2], count_max=1),
    ):
        with pytest.raises(ProtocolError):
            call()
