"""Folders: many files packed into one byte stream, and the index that finds them again. Layer 2, pure.

Entries are packed without gaps in the order of their paths' UTF-8 bytes, so offsets follow from lengths and
can't overlap; one index has one encoding. Empty folders, links and special files have no place in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One file of a folder: bytes `offset` to `offset + byte_count` of the packed stream."""

    path: str
    offset: int
    byte_count: int
    executable: bool


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """All entries, in packing order. Made by `plan` or `decode` only."""

    entries: tuple[FolderEntry, ...]

    @classmethod
    def plan(cls, files: Iterable[tuple[str, int, bool]]) -> FolderIndex:
        """The index of (relative POSIX path, bytes, executable) in packing order, whatever order they come in.

        Raises `UnsafeNameError` for a path that can't be given to others, `UsageError` for too many.
        """
        raise NotImplementedError

    @classmethod
    def decode(cls, data: bytes) -> FolderIndex:
        """The index in `data`. Raises `ProtocolError`, `UnsafeNameError`."""
        raise NotImplementedError

    def encode(self) -> bytes:
        """The canonical encoding."""
        raise NotImplementedError

    @property
    def packed_bytes(self) -> int:
        """Length of the packed stream."""
        raise NotImplementedError

    def entry(self, path: str) -> FolderEntry:
        """The entry at `path`. Raises `NotFoundError`."""
        raise NotImplementedError

    def below(self, folder: str) -> Sequence[FolderEntry]:
        """The entries in `folder` ("" is all of them). Raises `NotFoundError` where there is none."""
        raise NotImplementedError
