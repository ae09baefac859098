"""Canonical msgpack and capped frames. Layer 1, pure.

Everything signed, hashed or sent in Cairn's own protocols is a msgpack value built from arrays, integers,
bytes, strings, booleans and None (specification: github.com/msgpack/msgpack/blob/master/spec.md). A value
has exactly one accepted encoding, the shortest: what does not re-encode to the same bytes is refused, so two
parsers can't disagree about what was signed. Maps, floats and extensions have no place here.

A frame is a 4-byte big-endian length followed by that many bytes. A block with its frame and header fits
one Noise message (network.md, trap 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from node import limits
from node.errors import ProtocolError

Value = int | bytes | str | bool | None | Sequence["Value"]

FRAME_HEADER_BYTES = 4
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1


def encode(value: Value) -> bytes:
    """The canonical encoding of a value. Raises `ProtocolError` for a type that has none."""
    _check(value, depth=0)
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def decode(data: bytes, *, size_max: int) -> list[Value]:
    """The array encoded in `data`.

    Raises:
        ProtocolError: over `size_max` bytes, not one array, trailing bytes, or not canonical.
    """
    if len(data) > size_max:
        raise ProtocolError(f"{len(data)} bytes where at most {size_max} are allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_array_len=limits.WIRE_ARRAY_ITEMS_MAX,
            max_map_len=0,
            max_ext_len=0,
            max_str_len=size_max,
            max_bin_len=size_max,
        )
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError("not a msgpack value of the accepted kinds") from error
    if not isinstance(value, list):
        raise ProtocolError("not a msgpack array")
    try:
        again = encode(value)
    except (UnicodeEncodeError, OverflowError) as error:
        raise ProtocolError("not a msgpack value of the accepted kinds") from error
    if again != data:
        raise ProtocolError("not the canonical encoding")
    return value


def frame_header(size: int, *, size_max: int) -> bytes:
    """The 4 bytes that announce a frame of `size` bytes. Raises `ProtocolError` over the cap."""
    if size > size_max:
        raise ProtocolError(f"frame of {size} bytes where at most {size_max} are allowed")
    return size.to_bytes(FRAME_HEADER_BYTES, "big")


def frame_size(header: bytes, *, size_max: int) -> int:
    """Length of the frame that a 4-byte header announces. Raises `ProtocolError` over the cap."""
    size = int.from_bytes(header, "big")
    if size > size_max:
        raise ProtocolError(f"frame of {size} bytes where at most {size_max} are allowed")
    return size


def expect_bytes(value: Value, *, size: int | None = None, size_max: int | None = None) -> bytes:
    """`value` as bytes of the given exact or largest size. Raises `ProtocolError`."""
    if not isinstance(value, bytes):
        raise ProtocolError("expected bytes")
    if size is not None and len(value) != size:
        raise ProtocolError(f"expected {size} bytes, found {len(value)}")
    if size_max is not None and len(value) > size_max:
        raise ProtocolError(f"expected at most {size_max} bytes, found {len(value)}")
    return value


def expect_int(value: Value, *, low: int, high: int) -> int:
    """`value` as an integer in [low, high]. Raises `ProtocolError`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProtocolError("expected an integer")
    if not low <= value <= high:
        raise ProtocolError(f"expected {low} to {high}, found {value}")
    return value


def expect_str(value: Value, *, bytes_max: int) -> str:
    """`value` as text of at most `bytes_max` bytes of UTF-8. Raises `ProtocolError`."""
    if not isinstance(value, str):
        raise ProtocolError("expected text")
    if len(value.encode()) > bytes_max:
        raise ProtocolError(f"expected at most {bytes_max} bytes of text")
    return value


def expect_list(value: Value, *, count: int | None = None, count_max: int | None = None) -> Sequence[Value]:
    """`value` as an array of the given exact or largest length. Raises `ProtocolError`."""
    if not isinstance(value, list):
        raise ProtocolError("expected an array")
    if count is not None and len(value) != count:
        raise ProtocolError(f"expected {count} items, found {len(value)}")
    if count_max is not None and len(value) > count_max:
        raise ProtocolError(f"expected at most {count_max} items, found {len(value)}")
    return value


def _check(value: Value, *, depth: int) -> None:
    if depth > limits.WIRE_DEPTH_MAX:
        raise ProtocolError("nested too deeply")
    if value is None or isinstance(value, bool | bytes | str):
        return
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise ProtocolError("integer out of range")
        return
    if isinstance(value, list | tuple):
        for item in value:
            # Nearly all items are plain, and each record and message comes through here: no call for those.
            kind = type(item)
            if kind is bytes or (kind is int and _INT_MIN <= item <= _INT_MAX):
                if depth == limits.WIRE_DEPTH_MAX:
                    raise ProtocolError("nested too deeply")
            else:
                _check(item, depth=depth + 1)
        return
    raise ProtocolError(f"{type(value).__name__} has no canonical encoding")
