"""Stripes that were read lately, within a bound. Layer 2, pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class BlockCache:
    """Least recently used first out; what was just put stays, however long it is. Not thread-safe."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._blocks: OrderedDict[Hashable, bytes] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: Hashable) -> bytes | None:
        """The block, which is young again."""
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
        return block

    def put(self, key: Hashable, block: bytes) -> None:
        """Keep it, in the place of older ones."""
        old = self._blocks.pop(key, None)
        self.used_bytes += len(block) - (0 if old is None else len(old))
        self._blocks[key] = block
        while self.used_bytes > self._bytes_max and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self.used_bytes -= len(oldest)
