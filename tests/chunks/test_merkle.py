"""The Merkle tree over a shard's blocks."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.merkle import (
    check_leaves,
    leaf_of,
    leaf_path,
    root_of_path,
    shard_root,
)
from node.crypto.hashing import HASH_BYTES, Context, derive
from node.errors import CryptoError, ProtocolError
from tests.chunks.strategies import law, noise

leaf_counts = st.integers(1, 70)


def leaves_of(count: int, seed: object = 0) -> bytes:
    return noise(count * HASH_BYTES, seed)


def inner(left: bytes, right: bytes) -> bytes:
    digest: bytes = blake3(left + right, derive_key_context="cairn/1 merkle node").digest()
    return digest


def naive_root(leaves: list[bytes]) -> bytes:
    """The rule in words: pair from the left; a node without a partner goes up unchanged."""
    if len(leaves) == 1:
        return leaves[0]
    pairs = [leaves[index : index + 2] for index in range(0, len(leaves), 2)]
    return naive_root([inner(*pair) if len(pair) == 2 else pair[0] for pair in pairs])


@law(60)
@given(leaf_counts)
def test_the_root_follows_the_rule(count: int) -> None:
    leaves = leaves_of(count)
    rows = [leaves[offset : offset + 32] for offset in range(0, len(leaves), 32)]
    assert shard_root(leaves) == shard_root(memoryview(leaves)) == naive_root(rows)


@law(60)
@given(leaf_counts, st.data())
def test_a_path_proves_its_leaf_and_no_other(count: int, data: st.DataObject) -> None:
    leaves = leaves_of(count)
    index = data.draw(st.integers(0, count - 1))
    leaf, path, root = leaves[index * 32 : index * 32 + 32], leaf_path(leaves, index), shard_root(leaves)
    assert root_of_path(leaf, index, leaf_count=count, path=path) == root
    assert len(path) <= 32 * (count - 1).bit_length()
    assert root_of_path(noise(32, "other"), index, leaf_count=count, path=path) != root
    if path:
        broken = bytearray(path)
        broken[data.draw(st.integers(0, len(path) - 1))] ^= data.draw(st.integers(1, 255))
        assert root_of_path(leaf, index, leaf_count=count, path=bytes(broken)) != root
    with pytest.raises(ProtocolError):
        root_of_path(leaf, index, leaf_count=count, path=path + bytes(32))
    if path:
        with pytest.raises(ProtocolError):
            root_of_path(leaf, index, leaf_count=count, path=path[:-1])


@law(60)
@given(leaf_counts, st.data())
def test_any_changed_moved_or_dropped_leaf_changes_the_root(count: int, data: st.DataObject) -> None:
    leaves = leaves_of(count)
    root = shard_root(leaves)
    check_leaves(leaves, leaf_count=count, root=root)
    changed = bytearray(leaves)
    changed[data.draw(st.integers(0, len(leaves) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        check_leaves(changed, leaf_count=count, root=root)
    if count > 1:
        with pytest.raises(CryptoError):
            check_leaves(leaves[32:] + leaves[:32], leaf_count=count, root=root)
        with pytest.raises(CryptoError):
            check_leaves(leaves[:-32], leaf_count=count - 1, root=root)
    with pytest.raises(ProtocolError):
        check_leaves(leaves + bytes(32), leaf_count=count, root=root)


def test_a_block_made_of_two_leaves_is_no_inner_node() -> None:
    leaves = leaves_of(2)
    assert shard_root(leaves) == derive(Context.MERKLE_NODE, leaves) != leaf_of(leaves)


def test_what_is_no_leaf_list_is_refused() -> None:
    for leaves in (b"", bytes(31), bytes(33)):
        with pytest.raises(ProtocolError):
            shard_root(leaves)
    with pytest.raises(IndexError):
        leaf_path(leaves_of(3), 3)
    with pytest.raises(ProtocolError):
        root_of_path(bytes(32), 3, leaf_count=3, path=b"")
