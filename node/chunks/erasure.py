"""What an erasure-coding engine does. Layer 2, pure.

Systematic Reed-Solomon over GF(2^8) with zfec's matrix: shards 0 to `data_shards - 1` are the data itself.
Any two engines give the same bytes (data-plane.md), so the engine is no part of a format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from node.chunks.geometry import Code
from node.errors import ProtocolError
from node.ports import Buffer

WritableBuffer = bytearray | memoryview


class CodingEngine(Protocol):
    """Encodes and rebuilds blocks. Thread-safe; holds no reference to a buffer after a call."""

    @property
    def name(self) -> str:
        """The engine and where it was found, for `cairn status`."""
        ...

    def encode(self, code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """Fill the `parity_shards` buffers of `parity` from the `data_shards` blocks of `data`.

        All have one length. Raises `ProtocolError` if numbers or lengths don't fit the code.
        """
        ...

    def rebuild(self, code: Code, blocks: Mapping[int, Buffer], wanted: Mapping[int, WritableBuffer]) -> None:
        """Fill `wanted` (by shard index, data or parity) from `data_shards` of `blocks` (by shard index).

        Blocks beyond `data_shards` are left aside: data first, then the lowest indices. All have one length.
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
    if len(lengths) != 1 or 0 in lengths:
        raise ProtocolError("the blocks of a stripe must have one length")
    return lengths.pop()
