"""A small filter that says which accounts may owe somebody, without listing them. Layer 2, pure.

Invariants: no account that was put in is ever denied; the size is capped; a false match costs one declined
clear. A salt of its own for every filter: accounts that collide once don't collide always.
Source: Bloom 1970; double hashing after Kirsch and Mitzenmacher 2006.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from node import limits, wire
from node.crypto.hashing import blake3_256
from node.errors import ProtocolError
from node.units import AccountId

SALT_BYTES = 16
BITS_PER_ACCOUNT = 12
"""At least; sizes are powers of two, so that an odd step visits different bits."""
BYTES_MIN = 64
HASH_COUNT = 8
"""Near the best number for 12 bits an account: one false match in 300."""


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """`bits` is 1 byte to `BLOOM_FILTER_BYTES_MAX`."""

    salt: bytes
    bits: bytes

    @classmethod
    def of(cls, accounts: Collection[AccountId], salt: bytes) -> BloomFilter:
        """The filter of these accounts; past the size cap it matches others more often, never fewer."""
        assert len(salt) == SALT_BYTES
        wanted = max(BYTES_MIN, math.ceil(len(accounts) * BITS_PER_ACCOUNT / 8))
        byte_count = min(limits.BLOOM_FILTER_BYTES_MAX, 1 << (wanted - 1).bit_length())
        bits = bytearray(byte_count)
        for account in accounts:
            for position in _positions(salt, account, 8 * byte_count):
                bits[position // 8] |= 1 << position % 8
        return cls(salt, bytes(bits))

    def __contains__(self, account: AccountId) -> bool:
        return all(
            self.bits[position // 8] >> position % 8 & 1
            for position in _positions(self.salt, account, 8 * len(self.bits))
        )

    @property
    def fill_permille(self) -> int:
        """Bits set, in thousandths: a filter of all ones matches everybody and is of no use."""
        return sum(byte.bit_count() for byte in self.bits) * 1000 // (8 * len(self.bits))

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([self.salt, self.bits])

    @classmethod
    def decode(cls, data: bytes) -> BloomFilter:
        """Raises `ProtocolError` over the cap, or for a filter that has no bits."""
        items = wire.decode(data, size_max=limits.BLOOM_FILTER_BYTES_MAX + 64)
        salt, bits = wire.expect_list(items, count=2)
        filled = wire.expect_bytes(bits, size_max=limits.BLOOM_FILTER_BYTES_MAX)
        if not filled:
            raise ProtocolError("a filter without bits")
        return cls(wire.expect_bytes(salt, size=SALT_BYTES), filled)


def _positions(salt: bytes, account: AccountId, bit_count: int) -> Iterator[int]:
    digest = blake3_256(salt + account)
    start, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big") | 1
    return ((start + index * step) % bit_count for index in range(HASH_COUNT))
