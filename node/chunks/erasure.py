"""What an erasure-coding engine does, and the matrix algebra behind it. Layer 2, pure.

Systematic Reed-Solomon over GF(2^8) (polynomial 0x11d) with zfec's matrix: shards 0 to `data_shards - 1` are
the data itself. Any two engines give the same bytes, so the engine is no part of a format.
Source: Rizzo, "Effective erasure codes for reliable computer communication protocols", 1997 (the matrix).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from node import limits
from node.chunks.geometry import Code
from node.errors import ProtocolError
from node.ports import Buffer

WritableBuffer = bytearray | memoryview
Matrix = NDArray[np.uint8]

_POLYNOMIAL: Final = 0x11D


class CodingEngine(Protocol):
    """Encodes and rebuilds blocks. Thread-safe; holds no reference to a buffer after a call."""

    @property
    def name(self) -> str:
        """The engine and where it was found, for `cairn status`."""
        ...

    def encode(self, code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Fill the `parity_shards` buffers of `parity` from the `data_shards` blocks of `data`.

        All have one length, a multiple of 64. Raises `ProtocolError` if numbers or lengths don't fit.
        """
        ...

    def rebuild(self, code: Code, blocks: Mapping[int, Buffer], wanted: Mapping[int, WritableBuffer]) -> None:
        """Fill `wanted` (by shard index, data or parity) from `data_shards` of `blocks` (by shard index).

        Blocks beyond `data_shards` are left aside: data first, then the lowest indices. All have one
        length, a multiple of 64.
        Raises `ProtocolError` for too few blocks, an index outside the code, or lengths that differ.
        """
        ...


def check_encode(code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> int:
    """The common block length. Raises `ProtocolError` if `encode` can't take these buffers."""
    if len(data) != code.data_shards or len(parity) != code.parity_shards:
        raise ProtocolError(f"{len(data)} + {len(parity)} blocks do not make a stripe at {code}")
    return _one_length([*data, *parity])


def choose_sources(
    code: Code, blocks: Mapping[int, Buffer], wanted: Mapping[int, WritableBuffer]
) -> tuple[int, ...]:
    """The `data_shards` lowest indices of `blocks`. Raises `ProtocolError` if `rebuild` can't take these."""
    if len(blocks) < code.data_shards:
        raise ProtocolError(f"{len(blocks)} blocks of a stripe where {code.data_shards} are needed")
    for index in (*blocks, *wanted):
        if not 0 <= index < code.total_shards:
            raise ProtocolError(f"shard index {index} outside the code {code}")
    sources = tuple(sorted(blocks)[: code.data_shards])
    _one_length([*(blocks[index] for index in sources), *wanted.values()])
    return sources


def _one_length(buffers: Sequence[Buffer]) -> int:
    lengths = {len(buffer) for buffer in buffers}
    length = lengths.pop()
    if lengths or not length or length % limits.BLOCK_ALIGN_BYTES:
        raise ProtocolError("the blocks of a stripe must have one length, a multiple of 64 bytes")
    return length


def rebuild_matrix(generator: Matrix, sources: Sequence[int], wanted: Sequence[int]) -> Matrix:
    """The rows that make the `wanted` shards from the `sources`.

    `generator` has a row a shard and a column a data shard; `sources` are as many as its columns. Raises
    `ProtocolError` if the sources don't determine the data (no subset of zfec's matrix is like that).
    """
    return multiply(generator[list(wanted)], invert(generator[list(sources)]))


def multiply(left: Matrix, right: Matrix) -> Matrix:
    """The product of two matrices over GF(2^8)."""
    product = np.zeros((left.shape[0], right.shape[1]), dtype=np.uint8)
    for inner in range(left.shape[1]):
        product ^= _products()[left[:, inner, None], right[None, inner, :]]
    return product


def invert(matrix: Matrix) -> Matrix:
    """The inverse of a square matrix over GF(2^8), by Gauss-Jordan. Raises `ProtocolError` if singular."""
    size = matrix.shape[0]
    work = np.concatenate([matrix, np.eye(size, dtype=np.uint8)], axis=1)
    for column in range(size):
        pivot = column + int(np.argmax(work[column:, column] != 0))
        if not work[pivot, column]:
            raise ProtocolError("these shards do not determine the data")
        work[[column, pivot]] = work[[pivot, column]]
        inverse = int(np.argmax(_products()[work[column, column]] == 1))
        work[column] = _products()[inverse, work[column]]
        factors = work[:, column].copy()
        factors[column] = 0
        work ^= _products()[factors[:, None], work[None, column, :]]
    return np.ascontiguousarray(work[:, size:])


@cache
def _products() -> Matrix:
    """The multiplication table of GF(2^8): 64 KiB, made once."""
    table = np.zeros((256, 256), dtype=np.uint8)
    row: NDArray[np.uint16] = np.arange(256, dtype=np.uint16)  # x times every value, for x = 1, 2, 4, ...
    for bit in range(8):
        for value in range(1 << bit, 2 << bit):
            table[value] = table[value ^ (1 << bit)] ^ row.astype(np.uint8)
        row = ((row << 1) ^ np.where(row & 0x80, _POLYNOMIAL, 0)).astype(np.uint16)
    return table
