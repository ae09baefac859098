"""Sealing, coding and hashing stripes, and back; and what a malicious owner can't do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.coding_engines import ZfecEngine, best_engine
from node.chunks.geometry import BLOCK_BYTES, SEGMENT_STRIPES, Code, FileGeometry, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import check_leaves, leaf_of, shard_root
from node.chunks.pipeline import (
    WORK_BYTES,
    BufferPool,
    SegmentBuilder,
    SegmentCodec,
    check_rebuilt,
    rebuild_blocks,
    stripes_per_call,
)
from node.crypto.hashing import HASH_BYTES, blake3_256
from node.crypto.sealing import FileKeys, Suite
from node.errors import CryptoError, FileChangedError, OwnerInconsistentError, ProtocolError
from node.ports import Buffer
from node.units import OwnerKey
from tests.chunks.strategies import codes, law, noise

OWNER, SALT = OwnerKey(noise(32, "owner")), noise(16, "salt")
KEYS = FileKeys.derive(noise(32, "key"))
CODE = Code(3, 7)

Shards = dict[int, list[bytes]]
"""By shard index, the blocks by stripe."""


def codec_of(file: FileGeometry, segment_index: int = 0, pool: BufferPool | None = None) -> SegmentCodec:
    return SegmentCodec.of(
        file,
        segment_index,
        keys=KEYS,
        suite=Suite.XCHACHA20_POLY1305,
        engine=best_engine(),
        pool=pool,
    )


def stored(plaintext: bytes, code: Code) -> tuple[SegmentManifest, Shards]:
    """One segment as an honest owner stores it."""
    codec = codec_of(FileGeometry.of(len(plaintext), code))
    builder = SegmentBuilder(codec.geometry)
    shards: Shards = {index: [] for index in range(code.total_shards)}
    for index in range(codec.geometry.stripe_count):
        start = index * code.stripe_plaintext_bytes
        stripe = codec.encode(index, plaintext[start : start + code.stripe_plaintext_bytes])
        builder.add(index, stripe.leaves, stripe.stripe_hash)
        for shard_index, block in enumerate(stripe.blocks):
            shards[shard_index].append(bytes(block))
    return builder.build(OWNER, SALT), shards


def read(manifest: SegmentManifest, shards: Shards, chosen: Iterable[int]) -> bytes:
    """A reader: checks leaf lists against roots and blocks against leaves, then decodes what it chose."""
    codec = codec_of(FileGeometry.of(manifest.geometry.plaintext_bytes, manifest.code))
    chosen = list(chosen)
    leaves = {index: b"".join(map(leaf_of, shards[index])) for index in chosen}
    for index in chosen:
        check_leaves(leaves[index], leaf_count=manifest.geometry.stripe_count, root=manifest.root(index))
    result = b""
    for stripe_index in range(manifest.geometry.stripe_count):
        blocks: dict[int, Buffer] = {index: shards[index][stripe_index] for index in chosen}
        for index, block in blocks.items():
            assert leaf_of(block) == leaves[index][stripe_index * HASH_BYTES :][:HASH_BYTES]
        stripe_hash = manifest.stripe_hash(stripe_index)
        result += codec.decode(stripe_index, blocks, stripe_hash=stripe_hash)
    return result


@law(60)
@given(codes(data_max=8, parity_max=12), st.data())
def test_any_data_shards_give_back_what_was_put(code: Code, data: st.DataObject) -> None:
    full = code.stripe_plaintext_bytes
    size = data.draw(
        st.sampled_from([0, 1, 47, 48, 64 * code.data_shards - 16, 5_000, full, full + 1, 2 * full])
    )
    plaintext = noise(size)
    manifest, shards = stored(plaintext, code)
    for shard_index, blocks in shards.items():
        assert sum(map(len, blocks)) == manifest.geometry.shard_bytes
        assert shard_root(b"".join(map(leaf_of, blocks))) == manifest.root(shard_index)
    chosen = data.draw(st.permutations(range(code.total_shards)))
    assert read(manifest, shards, chosen[: code.data_shards]) == plaintext
    extra = data.draw(st.integers(code.data_shards, code.total_shards))
    assert read(manifest, shards, chosen[:extra]) == plaintext
    with pytest.raises(ProtocolError):
        read(manifest, shards, chosen[: code.data_shards - 1])


def test_the_same_bytes_with_either_engine() -> None:
    fast = codec_of(FileGeometry.of(1_000, CODE))
    slow = dataclasses.replace(fast, engine=ZfecEngine())
    ours, theirs = fast.encode(0, noise(1_000)), slow.encode(0, noise(1_000))
    assert [bytes(block) for block in ours.blocks] == [bytes(block) for block in theirs.blocks]
    assert ours.leaves == theirs.leaves


def test_a_last_stripe_is_bound_to_its_place() -> None:
    """The same stripe under another index, segment, or without the last-stripe flag does not open."""
    file = FileGeometry.of(CODE.segment_plaintext_bytes + 500, CODE)
    codec = codec_of(file, 1)
    stripe = codec.encode(0, noise(500))
    blocks: dict[int, Buffer] = dict(enumerate(stripe.blocks))
    assert codec.decode(0, blocks, stripe_hash=stripe.stripe_hash) == noise(500)
    longer = FileGeometry.of(CODE.segment_plaintext_bytes + CODE.stripe_plaintext_bytes + 500, CODE)
    others = [
        (dataclasses.replace(codec, is_last_segment=False), 0),
        (SegmentCodec.of(file, 1, keys=FileKeys.derive(bytes(32)), suite=Suite(1), engine=codec.engine), 0),
        (dataclasses.replace(codec, key=codec_of(file, 0).key), 0),
        (codec_of(longer, 1), 1),
    ]
    for other, index in others:
        with pytest.raises(OwnerInconsistentError):
            other.decode(index, blocks, stripe_hash=stripe.stripe_hash)


def test_a_stripe_made_again_must_be_the_same() -> None:
    codec = codec_of(FileGeometry.of(5_000, CODE))
    before = codec.encode(0, noise(5_000))
    again = codec.encode(0, bytearray(noise(5_000)), recorded_hash=before.stripe_hash)
    assert again.leaves == before.leaves
    with pytest.raises(FileChangedError):
        codec.encode(0, noise(5_000, "edited"), recorded_hash=before.stripe_hash)
    for size in (4_999, 5_001, 0):
        with pytest.raises(FileChangedError):
            codec.encode(0, noise(size))
    with pytest.raises(IndexError):
        codec.encode(1, b"")


def test_a_builder_takes_stripes_in_any_order_and_never_two_versions() -> None:
    plaintext = noise(2 * CODE.stripe_plaintext_bytes + 9)
    manifest, _ = stored(plaintext, CODE)
    codec = codec_of(FileGeometry.of(len(plaintext), CODE))
    builder = SegmentBuilder(codec.geometry)
    full = CODE.stripe_plaintext_bytes
    for index in (2, 0):
        stripe = codec.encode(index, plaintext[index * full : (index + 1) * full])
        builder.add(index, stripe.leaves, stripe.stripe_hash)
        builder.add(index, stripe.leaves, stripe.stripe_hash)
        assert builder.recorded_hash(index) == stripe.stripe_hash
    assert builder.recorded_hash(1) is None
    assert not builder.is_complete
    with pytest.raises(ProtocolError):
        builder.build(OWNER, SALT)
    with pytest.raises(ProtocolError):
        builder.shard_leaves(0)
    with pytest.raises(FileChangedError):
        builder.add(0, stripe.leaves, noise(32))
    with pytest.raises(FileChangedError):
        builder.add(0, noise(32 * 7), stripe.stripe_hash)
    with pytest.raises(IndexError):
        builder.add(3, stripe.leaves, stripe.stripe_hash)
    with pytest.raises(ProtocolError):
        builder.add(1, stripe.leaves[:-32], stripe.stripe_hash)
    stripe = codec.encode(1, plaintext[full : 2 * full])
    builder.add(1, stripe.leaves, stripe.stripe_hash)
    assert builder.build(OWNER, SALT) == manifest
    with pytest.raises(IndexError):
        builder.shard_leaves(7)


@law(30)
@given(st.data())
def test_missing_shards_are_rebuilt_without_a_key(data: st.DataObject) -> None:
    plaintext = noise(CODE.stripe_plaintext_bytes + 3_000)
    manifest, shards = stored(plaintext, CODE)
    order = data.draw(st.permutations(range(CODE.total_shards)))
    kept, lost = order[:3], order[3 : data.draw(st.integers(3, 7))]
    rebuilt: Shards = {index: [] for index in lost}
    for stripe_index in range(manifest.geometry.stripe_count):
        blocks: Mapping[int, Buffer] = {index: shards[index][stripe_index] for index in kept}
        made = rebuild_blocks(best_engine(), manifest, stripe_index, blocks, lost)
        assert set(made) == set(lost)
        for index, block in made.items():
            rebuilt[index].append(bytes(block))
    for index in lost:
        assert rebuilt[index] == shards[index]
        check_rebuilt(manifest, index, b"".join(map(leaf_of, rebuilt[index])))
        with pytest.raises(OwnerInconsistentError):
            check_rebuilt(manifest, index, b"".join(map(leaf_of, shards[(index + 1) % 7])))


def test_rebuilding_refuses_what_does_not_fit() -> None:
    manifest, shards = stored(noise(100), CODE)
    blocks: dict[int, Buffer] = {index: shards[index][0] for index in range(3)}
    for given_blocks, wanted in (
        ({0: blocks[0], 1: blocks[1]}, [2]),
        (blocks | {2: bytes(128)}, [3]),
        (blocks, [7]),
        (blocks, [-1]),
    ):
        with pytest.raises(ProtocolError):
            rebuild_blocks(best_engine(), manifest, 0, given_blocks, wanted)
    with pytest.raises(IndexError):
        rebuild_blocks(best_engine(), manifest, 1, blocks, [3])
    with pytest.raises(OwnerInconsistentError):
        rebuild_blocks(best_engine(), manifest, 0, blocks | {1: bytes(64)}, [3])


def resigned(manifest: SegmentManifest, shards: Shards) -> SegmentManifest:
    """A manifest whose roots are those of `shards`, whatever they hold: the malicious owner's."""
    roots = (shard_root(b"".join(map(leaf_of, shards[index]))) for index in sorted(shards))
    return dataclasses.replace(manifest, roots=b"".join(roots))


@law(60)
@given(st.data())
def test_no_subset_of_shards_shows_another_content(data: st.DataObject) -> None:
    """The owner mixes the shards of two files under roots of her making, each verified on its own.

    A reader gets the content that the stripe hashes pin, or an error that names the owner: never the other.
    """
    size = data.draw(st.sampled_from([0, 10, 3_000, CODE.stripe_plaintext_bytes + 1]))
    first, second = noise(size, "first"), noise(size, "second")
    manifest, one = stored(first, CODE)
    _, other = stored(second, CODE)
    from_other = data.draw(st.sets(st.integers(0, 6), min_size=1))
    mixed = {index: other[index] if index in from_other else one[index] for index in range(7)}
    forged = resigned(manifest, mixed)
    chosen = data.draw(st.permutations(range(7)))[: data.draw(st.integers(3, 7))]
    decisive = sorted(chosen)[:3]
    if any(mixed[index] != one[index] for index in decisive):
        with pytest.raises(OwnerInconsistentError):
            read(forged, mixed, chosen)
    else:
        assert read(forged, mixed, chosen) == first


@law(40)
@given(st.data())
def test_two_manifests_with_inconsistent_roots_fail_every_reader(data: st.DataObject) -> None:
    """One set of stripe hashes belongs to no codeword of either set of shards: no subset reads anything."""
    first, second = noise(3_000, "first"), noise(3_000, "second")
    manifest, one = stored(first, CODE)
    other_manifest, other = stored(second, CODE)
    mixed = {index: one[index] if index % 2 else other[index] for index in range(7)}
    pinned = data.draw(st.sampled_from([noise(32), blake3_256(b"".join(mixed[i][0] for i in (0, 1, 2)))]))
    chosen = data.draw(st.permutations(range(7)))[: data.draw(st.integers(3, 7))]
    for base in (manifest, other_manifest):
        forged = resigned(dataclasses.replace(base, stripe_hashes=pinned), mixed)
        with pytest.raises(OwnerInconsistentError):
            read(forged, mixed, chosen)


def test_readers_of_manifests_that_swap_their_roots_fail_at_the_first_leaf_list() -> None:
    first, one = stored(noise(3_000, "first"), CODE)
    second, other = stored(noise(3_000, "second"), CODE)
    for manifest, shards in (
        (dataclasses.replace(first, roots=second.roots), one),
        (dataclasses.replace(second, roots=first.roots), other),
    ):
        for start in range(5):
            with pytest.raises(CryptoError):
                read(manifest, shards, range(start, start + 3))


def test_a_repairer_finds_an_inconsistent_owner_and_blames_no_holder() -> None:
    manifest, one = stored(noise(3_000, "first"), CODE)
    _, other = stored(noise(3_000, "second"), CODE)
    mixed = one | {6: other[6]}
    forged = resigned(manifest, mixed)
    blocks: dict[int, Buffer] = {index: mixed[index][0] for index in range(3)}
    made = rebuild_blocks(best_engine(), forged, 0, blocks, [6])
    with pytest.raises(OwnerInconsistentError):
        check_rebuilt(forged, 6, leaf_of(made[6]))
    with pytest.raises(OwnerInconsistentError):
        rebuild_blocks(best_engine(), forged, 0, {index: mixed[index][0] for index in (1, 2, 6)}, [0])


def test_buffers_are_used_again_only_when_nobody_looks() -> None:
    pool = BufferPool(buffers_max=2)
    codec = codec_of(FileGeometry.of(5_000, CODE), pool=pool)
    stripe = codec.encode(0, noise(5_000))
    expected = [bytes(block) for block in stripe.blocks]
    held = stripe.blocks[6][10:20]
    stripe.release()
    assert pool.idle_count == 0
    codec.encode(0, noise(5_000)).release()
    assert pool.idle_count == 1
    again = codec.encode(0, noise(5_000))
    assert pool.idle_count == 0
    assert [bytes(block) for block in again.blocks] == expected
    assert held == expected[6][10:20]
    again.release()
    again.release()
    assert pool.idle_count == 1


def test_a_pool_is_bounded_and_holds_one_size() -> None:
    pool = BufferPool(buffers_max=2)
    for _ in range(5):
        pool.give(bytearray(64))
    assert pool.idle_count == 2
    assert len(pool.take(128)) == 128
    assert pool.idle_count == 2
    pool.give(bytearray(128))
    pool.give(bytearray())
    assert pool.idle_count == 1
    assert len(pool.take(128)) == 128
    assert pool.idle_count == 0


def test_dirty_buffers_leave_no_trace() -> None:
    """Padding is zero and parity is right although the buffer held another stripe before."""
    pool = BufferPool(buffers_max=1)
    pool.give(bytearray(b"\xff" * (CODE.total_shards * 64)))
    codec = codec_of(FileGeometry.of(10, CODE), pool=pool)
    dirty, clean = codec.encode(0, noise(10)), dataclasses.replace(codec, pool=None).encode(0, noise(10))
    assert pool.idle_count == 0
    assert list(map(bytes, dirty.blocks)) == list(map(bytes, clean.blocks))
    assert bytes(dirty.blocks[0])[26:] == bytes(38)


def test_plaintext_is_decoded_into_a_buffer_of_the_caller() -> None:
    full = CODE.stripe_plaintext_bytes
    codec = codec_of(FileGeometry.of(full + 100, CODE))
    buffer = bytearray(b"\xff" * codec.decode_buffer_bytes)
    for index, plaintext in ((0, noise(full)), (1, noise(100))):
        stripe = codec.encode(index, plaintext)
        for subset in ((0, 1, 2), (4, 5, 6)):
            blocks: dict[int, Buffer] = {shard: bytes(stripe.blocks[shard]) for shard in subset}
            view = codec.decode(index, blocks, stripe_hash=stripe.stripe_hash, buffer=buffer)
            assert view == plaintext
            assert view.obj is buffer
            assert view.readonly


def test_work_is_handed_out_in_pieces_of_about_2_mib() -> None:
    for code in (Code(1, 1), Code(2, 6), Code(10, 30), Code(100, 255)):
        stripe_bytes = code.total_shards * BLOCK_BYTES
        count = stripes_per_call(code)
        assert count == 1 or WORK_BYTES / 2 < count * stripe_bytes <= WORK_BYTES


def test_a_full_segment_has_its_stripes() -> None:
    code = Code(1, 2)
    manifest, shards = stored(noise(code.segment_plaintext_bytes), code)
    assert manifest.geometry == SegmentGeometry(code, code.segment_plaintext_bytes)
    assert len(shards[1]) == SEGMENT_STRIPES == len(manifest.stripe_hashes) // 32
    whole: Sequence[bytes] = shards[1]
    assert all(len(block) == BLOCK_BYTES for block in whole)
