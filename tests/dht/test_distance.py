"""Laws of the key space."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.dht.distance import (
    KEY_BITS,
    KEY_SPACE,
    Prefix,
    SizeEstimate,
    common_prefix_bits,
    key_of,
    nearest,
    network_size_from,
    preimage_within,
    radius_of,
)

keys = st.integers(0, KEY_SPACE - 1)


def test_key_is_the_sha256_of_the_bytes() -> None:
    assert key_of(b"cairn").to_bytes(32, "big") == sha256(b"cairn").digest()


@given(keys, keys)
def test_common_prefix_counts_equal_leading_bits(a: int, b: int) -> None:
    bits = [f"{key:0256b}" for key in (a, b)]
    naive = next((i for i in range(KEY_BITS) if bits[0][i] != bits[1][i]), KEY_BITS)
    assert common_prefix_bits(a, b) == naive


@given(keys, keys, st.integers(0, KEY_BITS))
def test_prefix_holds_the_keys_that_share_its_bits(key: int, other: int, length: int) -> None:
    prefix = Prefix.of(key, length)
    assert key in prefix
    assert (other in prefix) == (common_prefix_bits(key, other) >= length)
    assert (other in prefix) == (prefix.first <= other < prefix.end)


@given(keys, st.integers(1, KEY_BITS))
def test_siblings_are_the_halves_of_their_parent(key: int, length: int) -> None:
    one = Prefix.of(key, length)
    other = one.sibling()
    parent = Prefix.of(key, length - 1)
    assert other.sibling() == one
    assert {one.first, other.first} == {parent.first, parent.first + (parent.end - parent.first) // 2}


@given(st.lists(keys, unique=True, max_size=50), keys, st.integers(0, 60))
def test_nearest_equals_sorting(items: list[int], target: int, count: int) -> None:
    assert (
        nearest(items, target, count, key=lambda key: key)
        == sorted(items, key=lambda key: key ^ target)[:count]
    )


def test_a_preimage_lies_in_its_subtree_and_is_given_up_when_too_deep() -> None:
    prefix = Prefix.of(key_of(b"target"), 10)
    found = preimage_within(prefix, b"seed", tries_max=65_536)
    assert found is not None
    assert key_of(found) in prefix
    assert preimage_within(Prefix.of(key_of(b"target"), 200), b"seed", tries_max=100) is None


@pytest.mark.parametrize("count", [25, 100, 1_000, 20_000])
def test_size_is_estimated_within_a_third(count: int) -> None:
    rng = Random(count)
    nodes = [rng.getrandbits(256) for _ in range(count)]
    estimate = SizeEstimate(16)
    for _ in range(16):
        target = rng.getrandbits(256)
        estimate.add(target, nearest(nodes, target, 20, key=lambda key: key))
    assert count * 0.67 < estimate.nodes < count * 1.5


def test_a_crowd_around_one_key_does_not_move_the_estimate() -> None:
    rng = Random(7)
    nodes = [rng.getrandbits(256) for _ in range(1_000)]
    victim = rng.getrandbits(256)
    crowd = [victim ^ rng.getrandbits(200) for _ in range(100)]
    estimate = SizeEstimate(16)
    for target in [victim, *(rng.getrandbits(256) for _ in range(8)), victim]:
        estimate.add(target, nearest(nodes + crowd, target, 20, key=lambda key: key))
    assert 600 < estimate.nodes < 1_700
    honest = sum(key ^ victim <= radius_of(estimate.nodes, 20) for key in nodes)
    assert honest >= 8  # the radius still reaches past the crowd


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_handful_of_nodes_is_counted(count: int) -> None:
    assert network_size_from(5, list(range(count))) == count


@given(st.floats(1, 1e9))
def test_radius_covers_everything_when_the_network_is_small(size: float) -> None:
    radius = radius_of(size, 20)
    assert 0 < radius < KEY_SPACE
    assert (radius == KEY_SPACE - 1) == (size <= 20)
