"""What a mount needs from outside: the node that fetches, and who asks. Layer 0.

`NodeError`s raised here reach a program as an error number and a person as a line of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from node.errors import NodeError


class ReadInterruptedError(NodeError):
    """Whoever asked has been interrupted, or the mount ends."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What the node says of a file; `index` is a folder's, encoded (node/chunks/folder.py)."""

    hash: str
    name: str
    size_bytes: int
    created_s: int | None
    stripe_bytes: int
    index: bytes | None


class ByteStream(Protocol):
    """Bytes of a file on their way."""

    def read(self, count: int) -> bytes:
        """Exactly `count` of them, in order. Raises `NodeError`."""
        ...


class Source(Protocol):
    """The node of this machine. Every call blocks, and may be made by several threads at once."""

    def open(self, link: str) -> Opened:
        """Find out what a link, or the hash of one of my files, stands for. Raises `NodeError`."""
        ...

    def stream(self, link: str, first: int, stop: int) -> AbstractContextManager[ByteStream]:
        """Bytes [first, stop) of the file; leaving the context ends the fetching. Raises `NodeError`."""
        ...

    def own_files(self) -> Sequence[tuple[str, str, int, int]]:
        """(hash, name, bytes, created) of all my files. Raises `NodeError`."""
        ...


Interrupted = Callable[[], bool]
"""Whether the program that waits for an answer does not want it any more."""
Note = Callable[[str], None]
"""Says a line to the person who mounted."""
