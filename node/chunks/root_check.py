"""Whether the roots in a segment manifest are those of its stripes, for who reads them all. Layer 2, pure.

The stripe hashes pin what a stripe shows; the roots pin which blocks count as its shards. An owner who lies
may sign roots of other blocks: readers of some shards would get the file, readers of others nothing, and no
holder is at fault. So every reader of a whole segment makes every block again and compares all roots: all of
them fail, whichever shards they read. Invariants: a block that was read under its leaf is not hashed again;
memory is one 32-byte leaf a block of the segment, and 2 MiB of blocks. Source: design.md, section 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from node.chunks.erasure import CodingEngine
from node.chunks.geometry import BLOCK_BYTES
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of, shard_root
from node.crypto.hashing import HASH_BYTES
from node.errors import OwnerInconsistentError
from node.ports import Buffer
from node.units import MIB

_PARITY_AT_ONCE: Final = 2 * MIB // BLOCK_BYTES
"""Parity blocks that are made in one call."""


class RootCheck:
    """Collects the leaves of a segment's stripes, in any order. One thread at a time."""

    def __init__(self, engine: CodingEngine, manifest: SegmentManifest) -> None:
        self._engine = engine
        self._manifest = manifest
        self._stripe_count = manifest.geometry.stripe_count
        self._columns = [
            bytearray(self._stripe_count * HASH_BYTES) for _ in range(manifest.code.total_shards)
        ]
        self._read: list[set[int]] = [
            set() for _ in self._columns
        ]  # by shard: stripes whose leaf is not noted
        self._seen: set[int] = set()
        self._scratch = bytearray()

    @property
    def is_complete(self) -> bool:
        """Whether every stripe was added."""
        return len(self._seen) == self._stripe_count

    def add(self, stripe_index: int, data: Sequence[memoryview], read: Collection[int]) -> None:
        """Note a stripe, given its data blocks. They follow from the blocks of the `read` shards, each of
        which was compared with its leaf under the root. Raises `IndexError`."""
        for shard_index, block in self._blocks(stripe_index, data, read):
            self._note(shard_index, stripe_index, leaf_of(block))
        for shard_index in read:
            self._read[shard_index].add(stripe_index)
        self._seen.add(stripe_index)

    def add_leaves(self, stripe_index: int, leaves: Buffer) -> None:
        """Note a stripe that was made again from its plaintext: the concatenated leaves, by shard."""
        assert len(leaves) == len(self._columns) * HASH_BYTES
        for shard_index in range(len(self._columns)):
            self._note(shard_index, stripe_index, leaves[shard_index * HASH_BYTES :][:HASH_BYTES])
        self._seen.add(stripe_index)

    def check(self, leaf_lists: Mapping[int, bytes]) -> None:
        """Compare all roots, once every stripe was added.

        `leaf_lists` are by shard, one of each that was read, and were checked under their roots.
        Raises `OwnerInconsistentError`: a root is not that of the shard.
        """
        assert self.is_complete
        for shard_index, column in enumerate(self._columns):
            read = self._read[shard_index]
            if len(read) == self._stripe_count:
                continue
            for stripe_index in read:
                span = slice(stripe_index * HASH_BYTES, (stripe_index + 1) * HASH_BYTES)
                column[span] = leaf_lists[shard_index][span]
            if shard_root(column) != self._manifest.root(shard_index):
                raise OwnerInconsistentError(
                    f"the root of shard {shard_index} is not that of the file's bytes: whoever put the file "
                    "stored it damaged"
                )

    def _blocks(
        self, stripe_index: int, data: Sequence[memoryview], read: Collection[int]
    ) -> Iterator[tuple[int, Buffer]]:
        """The blocks that were not read, each valid until the next one is asked for."""
        code, block_bytes = self._manifest.code, self._manifest.geometry.block_bytes(stripe_index)
        for shard_index, block in enumerate(data):
            if shard_index not in read:
                yield shard_index, block
        sources = dict(enumerate(data))
        for first in range(code.data_shards, code.total_shards, _PARITY_AT_ONCE):
            # The same rows for every stripe, read ones included: engines keep tables by rows.
            rows = range(first, min(first + _PARITY_AT_ONCE, code.total_shards))
            if all(shard_index in read for shard_index in rows):
                continue
            if len(self._scratch) < len(rows) * block_bytes:
                self._scratch = bytearray(len(rows) * block_bytes)
            view = memoryview(self._scratch)
            made = {row: view[at * block_bytes : (at + 1) * block_bytes] for at, row in enumerate(rows)}
            self._engine.rebuild(code, sources, made)
            yield from ((row, block) for row, block in made.items() if row not in read)

    def _note(self, shard_index: int, stripe_index: int, leaf: Buffer) -> None:
        self._columns[shard_index][stripe_index * HASH_BYTES : (stripe_index + 1) * HASH_BYTES] = leaf
