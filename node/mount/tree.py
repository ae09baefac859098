"""Folders as trees, and names for a list of files: what stands where below the mount point. Layer 2, pure.

A folder's index is sorted by the bytes of its paths, so a level of the tree is found by bisection and nothing
is built beside it: a folder of 100,000 files costs its index and no more. Paths reach here decoded with
`surrogateescape`; an index has no such names, so what is not UTF-8 is simply not found.

Invariants: every name that leaves here was checked by node/chunks/names.py (the index by its decoder); no two
entries of a level have one name; an inode number depends on the content and the path alone.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from node import limits
from node.chunks.folder import FolderEntry, FolderIndex
from node.chunks.names import safe_name
from node.crypto.hashing import blake3_256
from node.errors import UnsafeNameError

ROOT_INODE: Final = 1
_INODES_RESERVED: Final = 16
"""Below these are the kernel's and the mount's own."""
_SUFFIX_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class Attributes:
    """What `stat` says of one path."""

    inode: int
    is_folder: bool
    size_bytes: int
    modified_s: int
    is_executable: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A name in a folder."""

    name: str
    inode: int
    is_folder: bool | None
    """None where that takes a look at the file itself."""


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A file of the list of mine."""

    hash: str
    name: str
    size_bytes: int
    created_s: int


class PackedTree:
    """The tree of a folder's index."""

    def __init__(self, index: FolderIndex) -> None:
        self._entries = index.entries

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, path: str) -> FolderEntry | bool:
        """The file at `path`; True for a folder ("" is the root), False for nothing."""
        if not path:
            return True
        key = _bytes(path)
        at = self._first(key)
        if at < len(self._entries) and _key(self._entries[at]) == key:
            return self._entries[at]
        below = self._first(key + b"/")
        return below < len(self._entries) and _key(self._entries[below]).startswith(key + b"/")

    def level(self, path: str) -> Iterator[tuple[str, FolderEntry | None]]:
        """The names in the folder `path`, each with its file, or None for a folder, in order."""
        prefix = _bytes(path) + b"/" if path else b""
        skip = len(prefix.decode(errors="surrogateescape"))
        at = self._first(prefix)
        while at < len(self._entries):
            entry = self._entries[at]
            if not _key(entry).startswith(prefix):
                return
            name, slash, _ = entry.path[skip:].partition("/")
            if slash:
                yield name, None
                at = self._first(prefix + name.encode() + b"0", at)  # "0" follows "/"
            else:
                yield name, entry
                at += 1

    def _first(self, key: bytes, low: int = 0) -> int:
        return bisect.bisect_left(self._entries, key, low, key=_key)


def inode_of(content: str, path: str = "") -> int:
    """The number of a path in a content (its hash as text): the same in every mount, on every machine."""
    digest = blake3_256(content.encode() + b"\0" + _bytes(path))
    return max(int.from_bytes(digest[:8], "big") >> 1, _INODES_RESERVED)  # some programs take it as signed


def named(files: Iterable[OwnFile]) -> dict[str, OwnFile]:
    """The files under names that are safe and different.

    Of several with one name the oldest keeps it, so that a new one renames none; the others get the end of
    their hash. So does one whose name is unsafe: the list comes from a machine that may have had other rules.
    """
    by_name: dict[str, OwnFile] = {}
    later: list[OwnFile] = []
    for file in sorted(files, key=lambda each: (each.created_s, each.hash)):
        if not _is_safe(file.name) or by_name.setdefault(file.name, file) is not file:
            later.append(file)
    for file in later:
        name = _with_hash(file.name, file.hash) if _is_safe(file.name) else file.hash
        by_name[name if name not in by_name and _is_safe(name) else file.hash] = file
    return by_name


def _with_hash(name: str, file_hash: str) -> str:
    """`film.mp4` as `film (3jq7x2ab).mp4`, cut to what a name may have."""
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    suffix = f" ({file_hash[-_SUFFIX_CHARS:]}){dot}{ending}"
    room = limits.NAME_BYTES_MAX - len(suffix.encode())
    return stem.encode()[: max(room, 0)].decode(errors="ignore") + suffix


def _is_safe(name: str) -> bool:
    try:
        safe_name(name)
    except UnsafeNameError:
        return False
    return True


def _bytes(path: str) -> bytes:
    return path.encode(errors="surrogateescape")


def _key(entry: FolderEntry) -> bytes:
    return entry.path.encode()
