"""All roots of a segment, from any way of reading it: honest ones hold, each other one is found."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.chunks.coding_engines import best_engine
from node.chunks.geometry import Code, FileGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.pipeline import EncodedStripe, SegmentBuilder, SegmentCodec
from node.chunks.root_check import RootCheck
from node.crypto.hashing import HASH_BYTES
from node.crypto.sealing import FileKeys, Suite
from node.errors import OwnerInconsistentError
from node.units import OwnerKey
from tests.chunks.planting import content_of

KEYS = FileKeys.derive(bytes(32))


class Segment:
    """An honest segment, with all its blocks."""

    def __init__(self, code: Code, stripes: int) -> None:
        content = content_of((stripes - 1) * code.stripe_plaintext_bytes + 10)
        file = FileGeometry.of(len(content), code)
        self.codec = SegmentCodec.of(file, 0, keys=KEYS, suite=Suite.XCHACHA20_POLY1305, engine=best_engine())
        self.stripes: list[EncodedStripe] = []
        builder = SegmentBuilder(self.codec.geometry)
        for stripe in range(stripes):
            start = stripe * code.stripe_plaintext_bytes
            made = self.codec.encode(stripe, content[start : start + code.stripe_plaintext_bytes])
            builder.add(stripe, made.leaves, made.stripe_hash)
            self.stripes.append(made)
        self.leaf_lists = {shard: builder.shard_leaves(shard) for shard in range(code.total_shards)}
        self.manifest = builder.build(OwnerKey(bytes(32)), bytes(16))

    def with_other_root(self, shard_index: int) -> SegmentManifest:
        roots = bytearray(self.manifest.roots)
        roots[shard_index * HASH_BYTES] ^= 1
        return replace(self.manifest, roots=bytes(roots))

    def check(self, manifest: SegmentManifest, chance: Random, *, remade: int = 0) -> None:
        """Read every stripe from other shards, in any order, the first `remade` ones from plaintext."""
        code = manifest.code
        roots = RootCheck(best_engine(), manifest)
        read: set[int] = set()
        order = list(range(len(self.stripes)))
        chance.shuffle(order)
        for stripe in order:
            assert not roots.is_complete
            made = self.stripes[stripe]
            if stripe < remade:
                roots.add_leaves(stripe, made.leaves)
                continue
            shards = chance.sample(range(code.total_shards), code.data_shards)
            read |= set(shards)
            blocks = {shard: made.blocks[shard] for shard in shards}
            self.codec.decode(stripe, blocks, stripe_hash=made.stripe_hash, roots=roots)
        roots.check({shard: self.leaf_lists[shard] for shard in read})


SEGMENTS = {code: Segment(code, 3) for code in (Code(1, 1), Code(1, 3), Code(3, 5), Code(2, 70))}


@given(st.sampled_from(list(SEGMENTS.values())), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_honest_roots_hold_whichever_shards_were_read(segment: Segment, remade: int, chance: Random) -> None:
    segment.check(segment.manifest, chance, remade=remade)


@pytest.mark.parametrize("segment", SEGMENTS.values(), ids=lambda segment: str(segment.manifest.code))
def test_another_root_is_found_whichever_shard_has_it(segment: Segment) -> None:
    """Unless every block of the shard was read: then its leaf list was refused under the root before."""
    for shard_index in range(segment.manifest.code.total_shards):
        with pytest.raises(OwnerInconsistentError, match=f"shard {shard_index} "):
            segment.check(segment.with_other_root(shard_index), Random(shard_index), remade=1)
