"""What happened in a world, as one running hash and a short memory.

Every byte that travels between nodes and every act of the world goes into the hash with its virtual time and
place, so two runs with one digest did the same. The last lines are kept for whoever reads a failure.
"""

from __future__ import annotations

import struct
from collections import Counter, deque

import trio
from blake3 import blake3

_REMEMBERED_LINES = 400
_SEND = struct.Struct("<Bdiii")


class Trace:
    """The events of one world, in order."""

    def __init__(self, *, remembered_lines: int = _REMEMBERED_LINES) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: deque[str] = deque(maxlen=remembered_lines)
        self._hash = blake3()

    def note(self, kind: str, text: str = "") -> None:
        """Something that a reader of a failure wants to see."""
        line = f"{trio.current_time():12.3f} {kind} {text}"
        self.counts[kind] += 1
        self.lines.append(line)
        self._hash.update(line.encode())

    def sent(self, sender: int, receiver: int, data: bytes) -> None:
        """Bytes left one node for another; only the hash and a counter keep them."""
        self.counts["sent"] += 1
        self._hash.update(_SEND.pack(1, trio.current_time(), sender, receiver, len(data)))
        self._hash.update(data)

    def digest(self) -> str:
        """The hash over all events so far, in hex."""
        return str(self._hash.hexdigest(32))
