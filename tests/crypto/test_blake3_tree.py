"""The numpy tree against the blake3 package, and what its proofs refuse."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from node.crypto.blake3_tree import (
    CHUNK_BYTES,
    ChunkClaim,
    chunk_count,
    chunk_proof,
    chunk_proofs,
    path_length,
    tree_hash,
    verify_chunk,
    verify_chunks,
)
from node.errors import CryptoError

LENGTHS = [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5000, 65_472, 65_536, 65_537, 300_000]


def sample(length: int) -> bytes:
    return random.Random(length).randbytes(length)


@pytest.mark.parametrize("length", [*LENGTHS, 1 << 20])
def test_the_tree_equals_the_package(length: int) -> None:
    data = sample(length)
    assert tree_hash(data) == blake3(data).digest()


@given(st.integers(0, 40_000))
@settings(max_examples=30)
def test_the_tree_equals_the_package_at_any_length(length: int) -> None:
    data = sample(length)
    assert tree_hash(memoryview(data)) == blake3(data).digest()


@pytest.mark.parametrize("length", LENGTHS)
def test_every_kind_of_chunk_proves(length: int) -> None:
    data = sample(length)
    root = blake3(data).digest()
    count = chunk_count(length)
    for index in {0, count // 3, count // 2, max(0, count - 2), count - 1}:
        chunk, path = chunk_proof(bytearray(data), index)
        assert chunk == data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
        assert len(path) == 32 * path_length(length, index)
        verify_chunk(root, length, index, chunk, path)


def test_a_block_needs_six_siblings() -> None:
    assert {path_length(65_472, index) for index in range(64)} == {6}
    assert path_length(1024, 0) == 0


@given(length=st.integers(1, 9_000), data=st.data())
@settings(max_examples=40)
def test_a_changed_proof_is_refused(length: int, data: st.DataObject) -> None:
    content = sample(length)
    index = data.draw(st.integers(0, chunk_count(length) - 1))
    chunk, path = chunk_proof(content, index)
    proof = bytearray(chunk + path)
    proof[data.draw(st.integers(0, len(proof) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CryptoError):
        verify_chunk(
            blake3(content).digest(), length, index, bytes(proof[: len(chunk)]), bytes(proof[len(chunk) :])
        )


def test_a_proof_holds_only_at_its_place_in_the_tree() -> None:
    content = bytes(4096)  # four equal chunks: only their counters tell them apart
    root = blake3(content).digest()
    chunk, path = chunk_proof(content, 1)
    verify_chunk(root, 4096, 1, chunk, path)
    for length, index in [(1024, 0), (4096, 0), (4096, 2), (4096, 3), (8192, 1)]:
        with pytest.raises(CryptoError):
            verify_chunk(root, length, index, chunk, path)


@pytest.mark.parametrize(("length", "index"), [(4096, 4), (4096, -1), (0, 1)])
def test_a_chunk_outside_is_refused(length: int, index: int) -> None:
    with pytest.raises(CryptoError, match="no chunk"):
        verify_chunk(bytes(32), length, index, b"", b"")


def test_shapes_are_checked_before_hashing() -> None:
    content = sample(2048)
    root = blake3(content).digest()
    chunk, path = chunk_proof(content, 0)
    with pytest.raises(CryptoError, match="chunk of the wrong length"):
        verify_chunk(root, 2048, 0, chunk + b"\0", path)
    with pytest.raises(CryptoError, match="path of the wrong length"):
        verify_chunk(root, 2048, 0, chunk, path + bytes(32))
    with pytest.raises(CryptoError, match="path of the wrong length"):
        verify_chunk(root, 2048, 0, chunk, path[:-1])
    with pytest.raises(CryptoError, match="does not belong"):
        verify_chunk(root[:31], 2048, 0, chunk, path)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0, 100, 1024, 1500, 4096, 5000, 65_472]), st.integers(0, 2**16)),
                max_size=24))  # fmt: skip
def test_many_at_once_are_as_one_by_one(wanted: list[tuple[int, int]]) -> None:
    items = [
        (random.Random(f"{number} {length}").randbytes(length), place % chunk_count(length))
        for number, (length, place) in enumerate(wanted)
    ]
    proofs = chunk_proofs(items)
    assert proofs == [chunk_proof(data, index) for data, index in items]
    claims = [
        ChunkClaim(blake3(data).digest(), len(data), index, chunk, path)
        for (data, index), (chunk, path) in zip(items, proofs, strict=True)
    ]
    assert verify_chunks(claims) == [True] * len(claims)


@settings(max_examples=40)
@given(st.integers(0, 30), st.sampled_from(["root", "chunk", "path", "chunk_index", "length"]), st.data())
def test_one_false_claim_among_many_is_found(number: int, field: str, data: st.DataObject) -> None:
    length = data.draw(st.sampled_from([4096, 5000, 65_472]))
    claims = []
    for lane in range(31):
        content, index = random.Random(lane).randbytes(length), lane % chunk_count(length)
        claims.append(ChunkClaim(blake3(content).digest(), length, index, *chunk_proof(content, index)))
    value = getattr(claims[number], field)
    other: object = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, bytes) and data.draw(st.booleans()):
        other = value[:-1]
    claims[number] = replace(claims[number], **{field: other})  # type: ignore[arg-type]
    expected = []
    for claim in claims:
        try:
            verify_chunk(claim.root, claim.length, claim.chunk_index, claim.chunk, claim.path)
            expected.append(True)
        except CryptoError:
            expected.append(False)
    assert verify_chunks(claims) == expected
    # That `length` is exact only the proof of the last chunk shows.
    assert expected.count(False) == 1 or field == "length"
