"""What a put reads: a file, a folder packed into one stream, or bytes. Layer 3, over the file system.

Sources lie outside the node's home, so the `Files` port is not for them. Invariants: memory is bounded,
whatever the source; nothing is read through a symbolic link inside a folder; a file that is not the one that
was scanned (length, time, inode) ends the put with `FileChangedError`, as does one that is too short.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from node import limits, wire
from node.chunks.folder import FolderIndex
from node.chunks.names import safe_name
from node.crypto.hashing import blake3_256
from node.errors import FileChangedError, UnsafeNameError, UsageError

_OPEN_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_NOTES_MAX: Final = 20
_MEDIA_TYPES: Final = mimetypes.MimeTypes()  # the tables of Python alone: the same answer on every machine


class Reader(Protocol):
    """Bytes at offsets. Used by one thread at a time."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises `FileChangedError`."""
        ...

    def check_unchanged(self) -> None:
        """Raises `FileChangedError` if what was read is no longer what stands there."""
        ...

    def close(self) -> None:
        """Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """One thing to put. `path` is absolute."""

    path: Path
    name: str
    size_bytes: int
    fingerprint: bytes
    """Hash over lengths, times and inodes: another one means other content, the same one means nothing."""
    media_type: str
    folder: FolderIndex | None
    notes: tuple[str, ...]
    reader: Reader


def open_source(path: Path, *, name: str | None = None) -> Source:
    """The source at `path`, scanned; the caller closes its reader.

    Raises:
        UsageError: missing, unreadable, no file or folder, or too many files.
        UnsafeNameError: a name in it can't be given to others.
    """
    path = Path(os.path.abspath(path))
    chosen = safe_name(name if name is not None else path.name)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            return _open_folder(path, chosen)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path} is neither a file nor a folder")
        reader = FileReader(path)
        if reader.has_more():
            reader.close()
            raise UsageError(f"{path} holds more than its length says: copy it, and put the copy")
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    media_type = _MEDIA_TYPES.guess_type(chosen)[0] or ""
    return Source(path, chosen, reader.size_bytes, reader.fingerprint, media_type, None, (), reader)


def bytes_source(name: str, data: bytes) -> Source:
    """Bytes in memory as a source."""
    return Source(Path(name), name, len(data), blake3_256(data), "", None, (), BytesReader(data))


class BytesReader:
    """Reads from memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes."""
        return self._data[offset : offset + count]

    def check_unchanged(self) -> None:
        """Memory does not change."""

    def close(self) -> None:
        """Nothing to close."""


class FileReader:
    """Reads one file through one descriptor."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`. A link on the command line itself is followed: the person named it."""
        self._path = path
        self._descriptor: int | None = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        self._status = os.fstat(self._descriptor)
        self.size_bytes = self._status.st_size

    @property
    def fingerprint(self) -> bytes:
        """Of length, time and inode."""
        return blake3_256(wire.encode(_identity(self._status)))

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises `FileChangedError`."""
        assert self._descriptor is not None
        return _read_exactly(self._descriptor, offset, count, str(self._path))

    def has_more(self) -> bool:
        """Whether bytes follow the end: files of /proc say that they are empty. Raises `OSError`."""
        assert self._descriptor is not None
        return bool(os.pread(self._descriptor, 1, self.size_bytes))

    def check_unchanged(self) -> None:
        """Raises `FileChangedError`."""
        try:
            now = self._path.stat()
        except OSError as error:
            raise _changed(str(self._path)) from error
        if _identity(now) != _identity(self._status):
            raise _changed(str(self._path))

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class FolderReader:
    """Reads a folder's packed stream; one file is open at a time."""

    def __init__(self, root: Path, index: FolderIndex, identities: dict[str, list[int]]) -> None:
        self._root = root
        self._index = index
        self._identities = identities
        self._position = 0
        self._open: tuple[str, int] | None = None

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises `FileChangedError`."""
        parts = []
        self._seek(offset)
        entries = self._index.entries
        while count:
            if self._position >= len(entries):
                raise _changed(str(self._root))
            entry = entries[self._position]
            take = min(count, entry.stop - offset)
            if take > 0:
                parts.append(
                    _read_exactly(self._descriptor(entry.path), offset - entry.offset, take, entry.path)
                )
                offset += take
                count -= take
            if offset >= entry.stop:
                self._position += 1
        return b"".join(parts)

    def check_unchanged(self) -> None:
        """Raises `FileChangedError`."""
        for path, identity in self._identities.items():
            try:
                status = os.lstat(self._root / path)
            except OSError as error:
                raise _changed(path) from error
            if _identity(status) != identity:
                raise _changed(path)

    def close(self) -> None:
        """Idempotent."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def _seek(self, offset: int) -> None:
        """Put `_position` at the entry with the byte at `offset`."""
        entries = self._index.entries
        self._position = max(0, bisect_right(entries, offset, key=lambda entry: entry.offset) - 1)

    def _descriptor(self, path: str) -> int:
        if self._open is not None and self._open[0] == path:
            return self._open[1]
        self.close()
        try:
            descriptor = os.open(self._root / path, _OPEN_FLAGS)
        except OSError as error:
            raise _changed(path) from error
        self._open = (path, descriptor)
        if _identity(os.fstat(descriptor)) != self._identities[path]:
            raise _changed(path)
        return descriptor


def _open_folder(root: Path, name: str) -> Source:
    identities: dict[str, list[int]] = {}
    files: list[tuple[str, int, bool]] = []
    notes: list[str] = []
    for path, status in _walk(root, root, 1):
        if not stat.S_ISREG(status.st_mode):
            kind = "link" if stat.S_ISLNK(status.st_mode) else "special file"
            notes.append(f"skipped the {kind} {path}")
            continue
        if len(files) >= limits.FOLDER_ENTRIES_MAX:
            raise UsageError(f"{root} has more than {limits.FOLDER_ENTRIES_MAX} files: put it in parts")
        identities[path] = _identity(status)
        files.append((path, status.st_size, bool(status.st_mode & 0o111)))
    if len(notes) > _NOTES_MAX:
        notes = [*notes[:_NOTES_MAX], f"and {len(notes) - _NOTES_MAX} more"]
    index = FolderIndex.plan(files)
    fingerprint = blake3_256(b"".join(wire.encode([path, *identities[path]]) for path in sorted(identities)))
    reader = FolderReader(root, index, identities)
    return Source(root, name, index.packed_bytes, fingerprint, "", index, tuple(notes), reader)


def _walk(root: Path, folder: Path, level: int) -> Iterator[tuple[str, os.stat_result]]:
    """(relative POSIX path, status) of all that is no folder, links not followed."""
    if level > limits.ENTRY_LEVELS_MAX:
        raise UnsafeNameError(f"{folder} lies more than {limits.ENTRY_LEVELS_MAX} levels deep")
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(root, Path(entry.path), level + 1)
            else:
                yield Path(entry.path).relative_to(root).as_posix(), status


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read_exactly(descriptor: int, offset: int, count: int, label: str) -> bytes:
    parts = []
    while count:
        try:
            part = os.pread(descriptor, count, offset)
        except OSError as error:
            raise UsageError(f"can't read {label}: {error.strerror}") from error
        if not part:
            raise _changed(label)
        parts.append(part)
        offset += len(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _changed(label: str) -> FileChangedError:
    return FileChangedError(f"{label} changed while it was put: put it again once nothing writes to it")
