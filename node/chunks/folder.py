"""Folders: many files packed into one byte stream, and the index that finds them again. Layer 2, pure.

Entries are packed without gaps in the order of their paths' UTF-8 bytes, so offsets follow from lengths and
can't overlap; one index has one encoding. Empty folders, links and special files have no place in it.
The encoding is in columns (all paths, all lengths, all flags): a small file costs its path and 8 bytes.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node import limits, wire
from node.chunks.names import folded, safe_entry_path
from node.errors import NotFoundError, ProtocolError, UnsafeNameError, UsageError

FOLDER_MAGIC: Final = "cairn/folder"
FORMAT_VERSION: Final = 1
_SIZE: Final = struct.Struct(">Q")
_PACKED_BYTES_MAX: Final = 2**63 - 1  # what an offset in a file may be


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One file of a folder: bytes `offset` to `offset + byte_count` of the packed stream."""

    path: str
    offset: int
    byte_count: int
    executable: bool = False

    @property
    def stop(self) -> int:
        """Where the next entry begins."""
        return self.offset + self.byte_count


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """All entries, in packing order. Made by `plan` or `decode`, which check them."""

    entries: tuple[FolderEntry, ...]

    @classmethod
    def plan(cls, files: Iterable[tuple[str, int, bool]]) -> FolderIndex:
        """The index of (relative POSIX path, bytes, executable), the same whatever order they come in.

        Raises `UnsafeNameError` for paths that can't be given to others, `UsageError` for too many files.
        """
        listed = list(files)
        if len(listed) > limits.FOLDER_ENTRIES_MAX:
            raise UsageError(
                f"the folder has {len(listed)} files, and at most {limits.FOLDER_ENTRIES_MAX} fit: "
                "put it in parts, or as an archive"
            )
        for path, _, _ in listed:
            safe_entry_path(path)  # before sorting: a path must have UTF-8
        return _laid_out(sorted(listed, key=lambda item: item[0].encode()))

    @classmethod
    def decode(cls, data: bytes) -> FolderIndex:
        """The index in `data`. Raises `ProtocolError`, `UnsafeNameError`."""
        fields = wire.decode(data, size_max=limits.FOLDER_INDEX_FILE_BYTES_MAX)
        if len(fields) != 6 or fields[:2] != [FOLDER_MAGIC, FORMAT_VERSION] or fields[1] is True:
            raise ProtocolError("not a folder index of a version that this program knows")
        count = wire.expect_int(fields[2], low=0, high=limits.FOLDER_ENTRIES_MAX)
        joined = wire.expect_str(fields[3], bytes_max=limits.FOLDER_INDEX_FILE_BYTES_MAX)
        sizes = wire.expect_bytes(fields[4], size=count * _SIZE.size)
        flags = wire.expect_bytes(fields[5], size=-(-count // 8))
        if joined.count("\0") != max(0, count - 1) or (joined and not count):
            raise ProtocolError("the columns of a folder index do not have one length")
        if count % 8 and flags[-1] >> count % 8:
            raise ProtocolError("a folder index has flags beyond its last file")
        if not count:
            return cls(())
        return _laid_out([
            (path, byte_count, bool(flags[index // 8] >> index % 8 & 1))
            for index, (path, (byte_count,)) in enumerate(
                zip(joined.split("\0"), _SIZE.iter_unpack(sizes), strict=True)
            )
        ])  # fmt: skip

    def encode(self) -> bytes:
        """The canonical encoding. Raises `UsageError` if it is over the 16 MiB that a reader accepts."""
        flags = bytearray(-(-len(self.entries) // 8))
        for index, entry in enumerate(self.entries):
            flags[index // 8] |= entry.executable << index % 8
        encoded = wire.encode([
            FOLDER_MAGIC,
            FORMAT_VERSION,
            len(self.entries),
            "\0".join(entry.path for entry in self.entries),
            b"".join(_SIZE.pack(entry.byte_count) for entry in self.entries),
            bytes(flags),
        ])  # fmt: skip
        if len(encoded) > limits.FOLDER_INDEX_FILE_BYTES_MAX:
            raise UsageError("the folder's paths are too long together: put it in parts, or as an archive")
        return encoded

    @property
    def packed_bytes(self) -> int:
        """Length of the packed stream."""
        return self.entries[-1].stop if self.entries else 0

    def entry(self, path: str) -> FolderEntry:
        """The entry at `path`. Raises `NotFoundError`."""
        key = path.encode(errors="surrogatepass")
        index = bisect.bisect_left(self.entries, key, key=_sort_key)
        if index == len(self.entries) or _sort_key(self.entries[index]) != key:
            raise NotFoundError(f"the folder has no file {path[:200]!a}: `cairn ls LINK` lists them")
        return self.entries[index]

    def below(self, folder: str) -> Sequence[FolderEntry]:
        """The entries in `folder` at any depth ("" is all of them). Raises `NotFoundError` for none."""
        if not folder:
            return self.entries
        prefix = folder.rstrip("/").encode(errors="surrogatepass") + b"/"
        start = bisect.bisect_left(self.entries, prefix, key=_sort_key)
        stop = bisect.bisect_left(self.entries, prefix[:-1] + b"0", key=_sort_key)  # "0" follows "/"
        if start == stop:
            raise NotFoundError(f"the folder has no folder {folder[:200]!a}: `cairn ls LINK` lists its files")
        return self.entries[start:stop]


def _sort_key(entry: FolderEntry) -> bytes:
    return entry.path.encode()


def _laid_out(files: Sequence[tuple[str, int, bool]]) -> FolderIndex:
    """Offsets for files in packing order. Raises `ProtocolError`, `UnsafeNameError`."""
    entries: list[FolderEntry] = []
    offset, previous = 0, b""
    for path, byte_count, executable in files:
        key = safe_entry_path(path).encode()
        if key == previous:
            raise UnsafeNameError(f"the path {path[:60]!a} is refused: it stands twice in the folder")
        if key < previous:
            raise ProtocolError("the paths of a folder index are not in order")
        entries.append(FolderEntry(path, offset, byte_count, executable))
        offset, previous = offset + byte_count, key
        if byte_count < 0 or offset > _PACKED_BYTES_MAX:
            raise ProtocolError("the lengths of a folder index are out of range")
    _refuse_collisions(entries)
    return FolderIndex(tuple(entries))


def _refuse_collisions(entries: Sequence[FolderEntry]) -> None:
    """No two files may land on one path where case or composition is ignored, nor a file on a folder."""
    taken: dict[str, str] = {}
    for entry in entries:
        other = taken.setdefault(folded(entry.path), entry.path)
        if other is not entry.path:
            raise UnsafeNameError(
                f"the paths {other[:60]!a} and {entry.path[:60]!a} are refused together: "
                "many disks take them for one"
            )
    folders: set[str] = set()
    for path, original in taken.items():
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            if parent in taken:
                raise UnsafeNameError(
                    f"the path {original[:60]!a} is refused: {taken[parent][:60]!a} is a file"
                )
            folders.add(parent)
            parent = parent.rpartition("/")[0]
