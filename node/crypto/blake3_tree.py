"""Proofs that 1 KiB belongs to bytes known by their plain BLAKE3. Layer 1, pure.

BLAKE3 is itself a Merkle tree over 1 KiB chunks; the package does not expose its chaining values, so they
are computed here: with numpy, one lane a chunk, to prove and to verify many, and on plain integers, five
times as fast for a single lane, to verify one. A proof is the chunk and its siblings' chaining values; its
shape follows from the length alone. Source: BLAKE3 paper, section 2 (compression 2.2, chunks 2.4, tree 2.5).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from node.crypto.hashing import HASH_BYTES
from node.errors import CryptoError
from node.ports import Buffer

CHUNK_BYTES = 1024
_BLOCK_BYTES = 64
_BLOCKS_A_CHUNK = CHUNK_BYTES // _BLOCK_BYTES
_ROUNDS = 7
_LANES_WORTH_IT = 6
"""From so many single lanes on numpy is faster than plain integers."""
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT = 1, 2, 4, 8

Words = npt.NDArray[np.uint32]
"""Words by lanes: shape (8, lanes) is a chaining value a lane, (16, lanes) a block a lane."""

_MASK = 0xFFFF_FFFF
_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_IV_COLUMN: Words = np.array(_IV, dtype=np.uint32)[:, None]
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
"""The state words that each mixing step of a round takes: four columns, four diagonals."""


def _orders() -> list[list[int]]:
    """The order of a block's words in each round: the permutations in between, folded together."""
    orders = [list(range(16))]
    for _ in range(_ROUNDS - 1):
        orders.append([orders[-1][index] for index in _PERMUTATION])
    return orders


_STEPS = [
    (*quarter, order[2 * position], order[2 * position + 1])
    for order in _orders()
    for position, quarter in enumerate(_QUARTERS)
]
"""One lane: all 56 mixing steps, as the places of a, b, c, d in the state and of x, y in the block."""
_LANE_STEPS = [[np.array(order[start : start + 8 : 2]) for start in (0, 1, 8, 9)] for order in _orders()]
"""Many lanes: for each round the places in the block of x and y of all columns, then of all diagonals."""
_CHAINING_VALUE, _BLOCK = struct.Struct("<8I"), struct.Struct("<16I")
_LEFT_1, _LEFT_2, _LEFT_3 = (np.roll(np.arange(4), -turn) for turn in (1, 2, 3))


def chunk_count(length: int) -> int:
    """How many chunks `length` bytes have; nothing at all still has one."""
    return max(1, -(-length // CHUNK_BYTES))


def chunk_proof(data: Buffer, chunk_index: int) -> tuple[bytes, bytes]:
    """Chunk `chunk_index` of `data` and the 32-byte siblings on its way to the root, lowest first, joined."""
    view = memoryview(data).cast("B")
    assert 0 <= chunk_index < chunk_count(len(view))
    chunk = bytes(view[chunk_index * CHUNK_BYTES : (chunk_index + 1) * CHUNK_BYTES])
    path = bytearray()
    index, level = chunk_index, _chunk_values(view)
    while (count := level.shape[1]) > 1:
        sibling = index ^ 1
        if sibling < count:
            path += _as_bytes(level[:, sibling])
        index, level = index // 2, _next_level(level)
    return chunk, bytes(path)


def chunk_proofs(items: Sequence[tuple[Buffer, int]]) -> list[tuple[bytes, bytes]]:
    """`chunk_proof` of many (data, chunk index): data of one length share their lanes.

    64 full blocks in one call take a quarter of the time of 64 calls, and 20 MB.
    """
    proofs: list[tuple[bytes, bytes]] = [(b"", b"")] * len(items)
    by_length: dict[int, list[int]] = {}
    for position, (data, _) in enumerate(items):
        by_length.setdefault(len(data), []).append(position)
    for length, positions in by_length.items():
        views = [memoryview(items[position][0]).cast("B") for position in positions]
        indexes = [items[position][1] for position in positions]
        assert all(0 <= index < chunk_count(length) for index in indexes)
        paths = _paths(views, indexes, length) if length > CHUNK_BYTES else [b""] * len(views)
        for position, view, index, path in zip(positions, views, indexes, paths, strict=True):
            proofs[position] = bytes(view[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]), path
    return proofs


@dataclass(frozen=True, slots=True)
class ChunkClaim:
    """The arguments of `verify_chunk`."""

    root: bytes
    length: int
    chunk_index: int
    chunk: bytes
    path: bytes


def verify_chunks(claims: Sequence[ChunkClaim]) -> list[bool]:
    """Whether `verify_chunk` would accept each; many at once are much faster than one by one."""
    held = [False] * len(claims)
    groups: dict[tuple[int, int], list[int]] = {}
    for position, claim in enumerate(claims):
        if _has_right_shape(claim):
            groups.setdefault((claim.length, len(claim.chunk)), []).append(position)
    for positions in groups.values():
        group = [claims[position] for position in positions]
        verify = _hold if len(group) >= _LANES_WORTH_IT else _hold_singly
        for position, is_held in zip(positions, verify(group), strict=True):
            held[position] = is_held
    return held


def verify_chunk(root: bytes, length: int, chunk_index: int, chunk: bytes, path: bytes) -> None:
    """Check that `chunk` is chunk `chunk_index` of the `length` bytes whose plain BLAKE3 is `root`.

    A proof shows the chunk and its index; that `length` is exact only the proof of the last chunk shows.

    Raises:
        CryptoError: it is not, or the proof has the wrong shape.
    """
    count = chunk_count(length)
    if not 0 <= chunk_index < count:
        raise CryptoError(f"no chunk {chunk_index} in {length} bytes")
    if len(chunk) != min(CHUNK_BYTES, length - chunk_index * CHUNK_BYTES):
        raise CryptoError("a chunk of the wrong length")
    if len(path) != HASH_BYTES * path_length(length, chunk_index):
        raise CryptoError("a chunk's path of the wrong length")
    value = _one_chunk(chunk, chunk_index, _ROOT if count == 1 else 0)
    index, taken = chunk_index, 0
    while count > 1:
        if index ^ 1 < count:
            sibling = _CHAINING_VALUE.unpack_from(path, taken)
            taken += HASH_BYTES
            pair = (*sibling, *value) if index & 1 else (*value, *sibling)
            value = _compress_one(_IV, pair, 0, _BLOCK_BYTES, _PARENT | (_ROOT if count == 2 else 0))
        index, count = index // 2, -(-count // 2)
    if not hmac.compare_digest(_CHAINING_VALUE.pack(*value), root):
        raise CryptoError("a chunk that does not belong to its hash")


def path_length(length: int, chunk_index: int) -> int:
    """How many siblings the proof of one chunk of `length` bytes has."""
    index, count, siblings = chunk_index, chunk_count(length), 0
    while count > 1:
        siblings += index ^ 1 < count
        index, count = index // 2, -(-count // 2)
    return siblings


def tree_hash(data: Buffer) -> bytes:
    """Plain BLAKE3 by way of this tree: equal to the package's, much slower; for tests."""
    view = memoryview(data).cast("B")
    level = _chunk_values(view)
    while level.shape[1] > 1:
        level = _next_level(level)
    return _as_bytes(level)


def _chunk_values(view: memoryview) -> Words:
    """The chaining value of every chunk; the hash itself where there is only one."""
    if len(view) <= CHUNK_BYTES:
        return _as_column(_one_chunk(bytes(view), 0, _ROOT))
    return _all_values([view], len(view))[:, 0, :]


def _all_values(views: Sequence[memoryview], length: int) -> Words:
    """The chaining values of every chunk of several data of one length over 1 KiB: (8, data, chunks)."""
    full_count, rest_bytes = divmod(length, CHUNK_BYTES)
    full = np.stack([_words(view[: full_count * CHUNK_BYTES]) for view in views])
    lanes = full.reshape(len(views) * full_count, _BLOCKS_A_CHUNK, 16).transpose(1, 2, 0)
    counters = np.tile(np.arange(full_count, dtype=np.uint32), len(views))
    values = _chunks(lanes, counters, CHUNK_BYTES).reshape(8, len(views), full_count)
    if not rest_bytes:
        return values
    rests = [bytes(view[full_count * CHUNK_BYTES :]) for view in views]
    return np.concatenate([values, _rest_values(rests, full_count)[:, :, None]], axis=2)


def _rest_values(rests: Sequence[bytes], chunk_index: int) -> Words:
    """The chaining value of the last, short chunk of each."""
    if len(rests) < _LANES_WORTH_IT:
        return np.concatenate([_as_column(_one_chunk(rest, chunk_index, 0)) for rest in rests], axis=1)
    return _equal_chunks(rests, np.full(len(rests), chunk_index, dtype=np.uint32))


def _equal_chunks(chunks: Sequence[bytes], counters: Words, root_flag: int = 0) -> Words:
    """The chaining values of chunks of one length."""
    size = len(chunks[0])
    block_count = max(1, -(-size // _BLOCK_BYTES))
    padded = b"".join(chunk.ljust(block_count * _BLOCK_BYTES, b"\0") for chunk in chunks)
    lanes = _words(padded).reshape(len(chunks), block_count, 16).transpose(1, 2, 0)
    return _chunks(lanes, counters, size, root_flag)


def _chunks(blocks: Words, counters: Words, size: int, root_flag: int = 0) -> Words:
    """Chaining values of chunks of `size` bytes, from blocks of shape (blocks, 16, lanes)."""
    value = np.repeat(_IV_COLUMN, blocks.shape[2], axis=1)
    last = blocks.shape[0] - 1
    for position in range(last + 1):
        flags = _CHUNK_START * (position == 0) | (_CHUNK_END | root_flag) * (position == last)
        block_bytes = size - position * _BLOCK_BYTES if position == last else _BLOCK_BYTES
        value = _compress(value, np.ascontiguousarray(blocks[position]), counters, block_bytes, flags)
    return value


def _paths(views: Sequence[memoryview], indexes: Sequence[int], length: int) -> list[bytes]:
    """The siblings on the way of one chunk of each, lowest first, joined."""
    paths = [bytearray() for _ in views]
    places = list(indexes)
    level = _all_values(views, length)
    while (count := level.shape[2]) > 1:
        for lane, place in enumerate(places):
            if place ^ 1 < count:
                paths[lane] += _as_bytes(level[:, lane, place ^ 1])
            places[lane] = place // 2
        level = _next_levels(level)
    return [bytes(path) for path in paths]


def _next_levels(level: Words) -> Words:
    """`_next_level` of several trees of one shape: (8, trees, nodes)."""
    trees, count = level.shape[1], level.shape[2]
    paired = count - count % 2
    pairs = np.concatenate([level[:, :, 0:paired:2], level[:, :, 1:paired:2]]).reshape(16, -1)
    parents = _parents(pairs, _ROOT if count == 2 else 0).reshape(8, trees, paired // 2)
    return np.concatenate([parents, level[:, :, paired:]], axis=2) if paired < count else parents


def _has_right_shape(claim: ChunkClaim) -> bool:
    return (
        0 <= claim.chunk_index < chunk_count(claim.length)
        and len(claim.chunk) == min(CHUNK_BYTES, claim.length - claim.chunk_index * CHUNK_BYTES)
        and len(claim.path) == HASH_BYTES * path_length(claim.length, claim.chunk_index)
        and len(claim.root) == HASH_BYTES
    )


def _hold_singly(claims: Sequence[ChunkClaim]) -> list[bool]:
    held = []
    for claim in claims:
        try:
            verify_chunk(claim.root, claim.length, claim.chunk_index, claim.chunk, claim.path)
            held.append(True)
        except CryptoError:
            held.append(False)
    return held


def _hold(claims: Sequence[ChunkClaim]) -> list[bool]:
    """Claims of one length and one chunk length, each of the right shape, a lane each."""
    count = chunk_count(claims[0].length)
    places = np.array([claim.chunk_index for claim in claims], dtype=np.uint32)
    values = _equal_chunks([claim.chunk for claim in claims], places, _ROOT if count == 1 else 0)
    taken = np.zeros(len(claims), dtype=np.int64)
    while count > 1:
        climbing = np.flatnonzero((places ^ np.uint32(1)) < count)
        if not len(climbing):
            places, count = places // np.uint32(2), -(-count // 2)
            continue
        siblings = np.stack(
            [_words(claims[lane].path[taken[lane] : taken[lane] + HASH_BYTES]) for lane in climbing.tolist()],
            axis=1,
        )
        taken[climbing] += HASH_BYTES
        is_right = (places[climbing] & np.uint32(1)).astype(bool)
        own = values[:, climbing]
        pairs = np.concatenate([np.where(is_right, siblings, own), np.where(is_right, own, siblings)])
        values[:, climbing] = _parents(pairs, _ROOT if count == 2 else 0)
        places, count = places // np.uint32(2), -(-count // 2)
    return [hmac.compare_digest(_as_bytes(values[:, lane]), claim.root) for lane, claim in enumerate(claims)]


def _one_chunk(chunk: bytes, chunk_index: int, root_flag: int) -> Sequence[int]:
    """The chaining value of one chunk of any length up to 1 KiB; `root_flag` joins its last block."""
    block_count = max(1, -(-len(chunk) // _BLOCK_BYTES))
    padded = chunk.ljust(block_count * _BLOCK_BYTES, b"\0")
    value: Sequence[int] = _IV
    for position, block in enumerate(_BLOCK.iter_unpack(padded)):
        is_last = position == block_count - 1
        size = len(chunk) - position * _BLOCK_BYTES if is_last else _BLOCK_BYTES
        flags = _CHUNK_START * (position == 0) | (_CHUNK_END | root_flag) * is_last
        value = _compress_one(value, block, chunk_index, size, flags)
    return value


def _compress_one(
    value: Sequence[int], block: Sequence[int], counter: int, size: int, flags: int
) -> Sequence[int]:
    """The compression function of section 2.2, cut to a chaining value."""
    v = [*value, *_IV[:4], counter, 0, size, flags]
    for a, b, c, d, x, y in _STEPS:
        va = (v[a] + v[b] + block[x]) & _MASK
        vd = v[d] ^ va
        vd = (vd >> 16 | vd << 16) & _MASK
        vc = (v[c] + vd) & _MASK
        vb = v[b] ^ vc
        vb = (vb >> 12 | vb << 20) & _MASK
        va = (va + vb + block[y]) & _MASK
        vd ^= va
        v[d] = vd = (vd >> 8 | vd << 24) & _MASK
        v[c] = vc = (vc + vd) & _MASK
        vb ^= vc
        v[a], v[b] = va, (vb >> 7 | vb << 25) & _MASK
    return [v[index] ^ v[index + 8] for index in range(8)]


def _next_level(level: Words) -> Words:
    """Parents of neighbours; an odd one out goes up as it is. The last pair of all makes the root."""
    count = level.shape[1]
    paired = count - count % 2
    pairs = np.concatenate([level[:, 0:paired:2], level[:, 1:paired:2]])
    parents = _parents(pairs, _ROOT if count == 2 else 0)
    return np.concatenate([parents, level[:, paired:]], axis=1) if paired < count else parents


def _parents(pairs: Words, root_flag: int) -> Words:
    """Chaining values of parent nodes whose two children stand below each other in `pairs`."""
    lanes = pairs.shape[1]
    value = np.repeat(_IV_COLUMN, lanes, axis=1)
    return _compress(value, pairs, np.zeros(lanes, dtype=np.uint32), _BLOCK_BYTES, _PARENT | root_flag)


def _compress(value: Words, block: Words, counters: Words, size: int, flags: int) -> Words:
    """The same on every lane. Counters stay below 2^32 here and above: that is 4 TiB of data."""
    lanes = block.shape[1]
    a, b = value[:4], value[4:]
    c = np.repeat(_IV_COLUMN[:4], lanes, axis=1)
    d = np.empty((4, lanes), dtype=np.uint32)
    d[0], d[1], d[2], d[3] = counters, 0, size, flags
    for column_x, column_y, diagonal_x, diagonal_y in _LANE_STEPS:
        a, b, c, d = _mix(a, b, c, d, block[column_x], block[column_y])
        b, c, d = b[_LEFT_1], c[_LEFT_2], d[_LEFT_3]
        a, b, c, d = _mix(a, b, c, d, block[diagonal_x], block[diagonal_y])
        b, c, d = b[_LEFT_3], c[_LEFT_2], d[_LEFT_1]
    return np.concatenate([a ^ c, b ^ d])


def _mix(a: Words, b: Words, c: Words, d: Words, x: Words, y: Words) -> tuple[Words, Words, Words, Words]:
    """The quarter-round G on four columns of every lane at once."""
    a = a + b + x
    d = _rotate(d ^ a, 16)
    c = c + d
    b = _rotate(b ^ c, 12)
    a = a + b + y
    d = _rotate(d ^ a, 8)
    c = c + d
    b = _rotate(b ^ c, 7)
    return a, b, c, d


def _rotate(words: Words, bits: int) -> Words:
    """Rotate right."""
    return (words >> np.uint32(bits)) | (words << np.uint32(32 - bits))


def _words(data: Buffer) -> Words:
    return np.frombuffer(data, dtype="<u4").astype(np.uint32)


def _as_bytes(value: Words) -> bytes:
    return value.astype("<u4").tobytes()


def _as_column(value: Sequence[int]) -> Words:
    return np.array(value, dtype=np.uint32)[:, None]
