"""Bytes next to good ones."""

from __future__ import annotations

from hypothesis import strategies as st


def damaged(encoded: bytes, data: st.DataObject) -> bytes:
    """`encoded` with one byte changed, inserted or removed, as drawn."""
    found = bytearray(encoded)
    position = data.draw(st.integers(0, len(found) - 1))
    match data.draw(st.sampled_from(["change", "insert", "remove"])):
        case "change":
            found[position] ^= data.draw(st.integers(1, 255))
        case "insert":
            found.insert(position, data.draw(st.integers(0, 255)))
        case _:
            del found[position]
    return bytes(found)
