"""The key space: SHA-256 keys, XOR distance, prefixes and what they say of the network's size. Layer 2,
pure.

A key is an integer in [0, 2^256). Source: Kademlia (Maymounkov and Mazières, 2002), section 2; libp2p
kad-dht specification, "Distance" (the key of a peer is the SHA-256 of its binary id, the key of a record
that of its raw key bytes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import median
from typing import TypeVar

T = TypeVar("T")

KEY_BITS = 256
KEY_SPACE = 1 << KEY_BITS


def key_of(data: bytes) -> int:
    """The place in the key space of a binary peer id or of a record's raw key."""
    return int.from_bytes(sha256(data).digest(), "big")


def common_prefix_bits(a: int, b: int) -> int:
    """How many leading bits two keys share, 0 to 256."""
    return KEY_BITS - (a ^ b).bit_length()


def nearest(items: Iterable[T], target: int, count: int, *, key: Callable[[T], int]) -> list[T]:
    """The `count` items nearest to `target`, nearest first; `key` gives an item's place."""
    return heapq.nsmallest(count, items, key=lambda item: key(item) ^ target)


@dataclass(frozen=True, slots=True)
class Prefix:
    """All keys that begin with the same bits: a subtree of the key space."""

    bits: int
    """The leading bits, as the first key of the subtree: all lower bits are 0."""
    length: int
    """How many leading bits are fixed, 0 to 256."""

    @classmethod
    def of(cls, key: int, length: int) -> Prefix:
        """The subtree of keys that share `length` leading bits with `key`."""
        free = KEY_BITS - length
        return cls(key >> free << free, length)

    def __contains__(self, key: int) -> bool:
        return (key ^ self.bits) >> (KEY_BITS - self.length) == 0

    @property
    def first(self) -> int:
        """The lowest key."""
        return self.bits

    @property
    def end(self) -> int:
        """One past the highest key."""
        return self.bits + (1 << (KEY_BITS - self.length))

    def sibling(self) -> Prefix:
        """The other half of the parent subtree. The whole space has none."""
        assert self.length > 0
        return Prefix(self.bits ^ (1 << (KEY_BITS - self.length)), self.length)


def preimage_within(prefix: Prefix, seed: bytes, *, tries_max: int) -> bytes | None:
    """Bytes whose key lies in a subtree, by trying: about 2^length tries; None if none of `tries_max` does.

    Messages carry bytes and the receiver hashes them, so that a place in the key space can't just be named.
    """
    for turn in range(tries_max):
        candidate = seed + turn.to_bytes(4, "big")
        if key_of(candidate) in prefix:
            return candidate
    return None


def network_size_from(target: int, nearest_keys: Sequence[int]) -> float:
    """Number of nodes that `nearest_keys`, all the nearest to `target`, let one expect. 0 from none.

    The rank of the farthest over the share of the key space that it spans; minus one makes it unbiased, as
    the farthest one is not independent of the span. Needs 3 or more keys to mean anything: fewer are a whole
    network, counted.
    """
    if len(nearest_keys) < 3:
        return float(len(nearest_keys))
    span = max(key ^ target for key in nearest_keys) + 1
    return (len(nearest_keys) - 1) * (KEY_SPACE / span)


def radius_of(network_size: float, count: int) -> int:
    """The distance within which `count` nodes of a network are expected."""
    if network_size <= count:
        return KEY_SPACE - 1
    return int(KEY_SPACE / network_size * count)


def crowded_subtrees(target: int, nearest_keys: Sequence[int], radius: int, *, count: int) -> list[Prefix]:
    """Where to look for the nodes that a crowd around `target` hides; empty where there is none.

    A crowd is `count` nodes in a quarter, or less, of the space where as many are expected. It hides who lies
    in the rest of it: the sibling subtrees from the radius inwards, of which the first few hold nearly all.
    """
    if len(nearest_keys) < count or radius <= 0:
        return []
    shared = min(common_prefix_bits(key, target) for key in nearest_keys)
    expected = KEY_BITS - radius.bit_length()
    if shared <= expected + 1:
        return []
    return [
        Prefix.of(target, length).sibling() for length in range(expected + 1, min(shared, expected + 4) + 1)
    ]


class SizeEstimate:
    """The network's size as the median of what recent lookups showed.

    A median, since whoever crowds around one key makes the network look larger from there alone, and a
    larger network has a smaller radius.
    """

    def __init__(self, samples_max: int) -> None:
        self._samples: list[float] = []
        self._samples_max = samples_max

    def add(self, target: int, nearest_keys: Sequence[int]) -> None:
        """Learn from the nearest live nodes to a target, as a finished lookup found them."""
        if nearest_keys:
            self._samples.append(network_size_from(target, nearest_keys))
            del self._samples[: -self._samples_max]

    @property
    def nodes(self) -> float:
        """Nodes other than this one; 0 while nothing is known."""
        return median(self._samples) if self._samples else 0.0
