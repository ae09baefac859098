"""The Merkle tree over a shard's blocks. Layer 2, pure.

A leaf is the plain BLAKE3 of a block, so that BLAKE3's own tree proves any 1 KiB of it. An inner node is
BLAKE3 in key-derivation mode over left || right, a domain of its own, so no block can pass for a node. A row
of an odd number of nodes hands its last node up unchanged; the root of one leaf is that leaf. The number of
leaves is never taken from a proof: the segment manifest fixes it, which makes the root unambiguous.
"""

from __future__ import annotations

from node.crypto.hashing import HASH_BYTES, Context, blake3_256, derive
from node.errors import CryptoError, ProtocolError
from node.ports import Buffer


def leaf_of(block: Buffer) -> bytes:
    """The leaf of a block: its plain BLAKE3."""
    return blake3_256(block)


def shard_root(leaves: Buffer) -> bytes:
    """The root over concatenated 32-byte leaves. Raises `ProtocolError` unless some are given."""
    row = _split(leaves)
    while len(row) > 1:
        row = _next_row(row)
    return row[0]


def check_leaves(leaves: Buffer, *, leaf_count: int, root: bytes) -> None:
    """Accept a leaf list only if it is the one under `root`.

    Raises:
        ProtocolError: not `leaf_count` leaves.
        CryptoError: another root.
    """
    if len(leaves) != leaf_count * HASH_BYTES:
        raise ProtocolError(f"a leaf list of {len(leaves)} bytes where {leaf_count} leaves are due")
    if shard_root(leaves) != root:
        raise CryptoError("the leaf list does not have the shard's root")


def leaf_path(leaves: Buffer, leaf_index: int) -> bytes:
    """The concatenated siblings, from the leaf up, that prove one leaf. Raises `IndexError`."""
    row = _split(leaves)
    if not 0 <= leaf_index < len(row):
        raise IndexError(f"leaf {leaf_index} of {len(row)}")
    path = b""
    while len(row) > 1:
        sibling = leaf_index ^ 1
        if sibling < len(row):
            path += row[sibling]
        row = _next_row(row)
        leaf_index //= 2
    return path


def root_of_path(leaf: bytes, leaf_index: int, *, leaf_count: int, path: bytes) -> bytes:
    """The root that `path` leads to from a leaf. Raises `ProtocolError` if its length is off."""
    if not 0 <= leaf_index < leaf_count:
        raise ProtocolError(f"leaf {leaf_index} of {leaf_count}")
    node, offset = leaf, 0
    while leaf_count > 1:
        if leaf_index ^ 1 < leaf_count:
            sibling = path[offset : offset + HASH_BYTES]
            if len(sibling) != HASH_BYTES:
                raise ProtocolError("the path of a leaf is too short")
            offset += HASH_BYTES
            node = _inner(sibling, node) if leaf_index & 1 else _inner(node, sibling)
        leaf_index //= 2
        leaf_count = (leaf_count + 1) // 2
    if offset != len(path):
        raise ProtocolError("the path of a leaf is too long")
    return node


def _split(leaves: Buffer) -> list[bytes]:
    if not leaves or len(leaves) % HASH_BYTES:
        raise ProtocolError(f"{len(leaves)} bytes are no list of leaves")
    data = bytes(leaves)
    return [data[offset : offset + HASH_BYTES] for offset in range(0, len(data), HASH_BYTES)]


def _next_row(row: list[bytes]) -> list[bytes]:
    above = [_inner(row[index], row[index + 1]) for index in range(0, len(row) - 1, 2)]
    if len(row) % 2:
        above.append(row[-1])
    return above


def _inner(left: bytes, right: bytes) -> bytes:
    return derive(Context.MERKLE_NODE, left + right)
