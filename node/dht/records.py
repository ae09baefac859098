"""The rules for provider and value records: who may store what, for how long, and which value wins. Layer 2, pure.

Invariants: a value is kept only where its namespace has a validator that accepted it; of two valid values of a
key every node picks the same one, whatever the order of arrival. Source: libp2p kad-dht specification, "Entry
validation".
"""

from __future__ import annotations

from typing import Protocol


class Validator(Protocol):
    """The rules of one namespace of value keys (`/<namespace>/...`). Pure."""

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """Accept a value or raise `ProtocolError` (`CryptoError` counts as well)."""
        ...

    def sequence(self, key: bytes, value: bytes) -> int:
        """Version of a value that `validate` accepted: the highest wins, the greater bytes among equals."""
        ...
