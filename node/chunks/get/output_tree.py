"""A folder on its way to a person's disk: many files written from one packed stream. Layer 3.

The tree grows in `NAME.cairn-part/` beside the target and is renamed when complete. Invariants: those of
`output`; and every folder of a path is opened below the one before it, without following links,
so that nothing outside the tree is ever written; every file is created exclusively. What resumes is a
beginning of the packed stream, checked by its hash.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from blake3 import blake3

from node.chunks.folder import FolderEntry
from node.chunks.get.output import (
    READ_BYTES,
    ResumePoint,
    check_target_free,
    disk_errors,
    file_mode,
    load_resume_point,
    lock,
    open_folder,
    read_at,
    remove_resume_point,
    save_resume_point,
    side_names,
    unlink_if_there,
    write_all,
)
from node.errors import OutputExistsError
from node.ports import Buffer

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeOutput:
    """A folder. See `Output`; positions count bytes of the packed stream."""

    def __init__(
        self, target: Path, entries: Sequence[FolderEntry], *, identity: bytes, force: bool = False
    ) -> None:
        """Begin, or go on with a partial tree of the same `identity`.

        `entries` have checked paths and lie without gaps from offset 0. With `force` an existing folder
        keeps its other files; those of the same name are replaced.

        Raises:
            OutputExistsError: `target` exists and `force` is false, or it is no folder.
            UsageError: there is no folder to make it in, or another get is writing it.
            StoreError: the disk.
        """
        self._into_existing = force and _is_folder(target)
        if not self._into_existing:
            check_target_free(target, force=force)
        self._force = force
        self._target = target
        self._entries = entries
        self._identity = identity
        self._length = entries[-1].stop if entries else 0
        self._part, self._resume = side_names(target.name)
        self._hasher = blake3()
        self._done_bytes = 0
        self._next = 0  # the entry being written
        self._file = -1
        self._root = -1
        self._tree = _Tree(-1)
        with disk_errors(target):
            self._parent = open_folder(target.parent)
            try:
                self._root = _open_root(self._parent, self._part)
                lock(self._root, target)
                self._tree = _Tree(self._root)
                self._recover()
            except BaseException:
                self._close_descriptors()
                raise

    @property
    def done_bytes(self) -> int:
        """As `Output` says."""
        return self._done_bytes

    def write(self, data: Buffer) -> None:
        """As `Output` says."""
        view = memoryview(data)
        with disk_errors(self._target):
            while view:
                entry = self._entry_at_position()
                part = view[: entry.stop - self._done_bytes]
                write_all(self._file, part)
                self._hasher.update(part)
                self._done_bytes += len(part)
                view = view[len(part) :]

    def read_back(self, position: int, count: int) -> bytes:
        """As `Output` says."""
        parts = []
        with disk_errors(self._target):
            first = bisect.bisect_right(self._entries, position, key=lambda entry: entry.stop)
            for entry in itertools.islice(self._entries, first, None):
                start, stop = max(position, entry.offset), min(position + count, entry.stop)
                if start >= stop:
                    break
                parts.append(self._tree.read(entry, start - entry.offset, stop - start))
        return b"".join(parts)

    def checkpoint(self) -> None:
        """As `Output` says. Files are not synced: what a crash took is found by the hash."""
        point = ResumePoint(self._identity, self._length, self._done_bytes, self._hasher.digest())
        with disk_errors(self._target):
            save_resume_point(self._parent, self._resume, point)

    def finish(self) -> Path:
        """As `Output` says."""
        assert self._done_bytes == self._length
        with disk_errors(self._target):
            self._close_file()
            while self._next < len(self._entries):  # empty files at the end
                self._begin_entry()
            self._tree.close()
            if self._into_existing:
                self._merge()
            else:
                self._publish()
            remove_resume_point(self._parent, self._resume)
        self._close_descriptors()
        return self._target

    def close(self) -> None:
        """As `Output` says."""
        if self._root < 0:
            return
        try:
            if self._done_bytes:
                self.checkpoint()
            else:
                remove_resume_point(self._parent, self._resume)
                with contextlib.suppress(OSError):  # not empty: of another file, or of empty ones
                    os.rmdir(self._part, dir_fd=self._parent)
        finally:
            self._close_descriptors()

    def discard(self) -> None:
        """As `Output` says."""
        with disk_errors(self._target):
            self._tree.close()
            shutil.rmtree(self._part, dir_fd=self._parent)  # below descriptors, past no link
            remove_resume_point(self._parent, self._resume)
        self._close_descriptors()

    # --- writing ----------------------------------------------------------------------------------------

    def _entry_at_position(self) -> FolderEntry:
        """The entry that the next byte belongs to, open; empty files before it are made on the way."""
        if self._file >= 0 and self._entries[self._next].stop > self._done_bytes:
            return self._entries[self._next]
        self._close_file()
        while True:
            entry = self._entries[self._next]
            if entry.stop > self._done_bytes:
                self._file = self._tree.create(entry)
                return entry
            self._begin_entry()

    def _begin_entry(self) -> None:
        """Make the next entry, which is empty, and go past it."""
        os.close(self._tree.create(self._entries[self._next]))
        self._next += 1

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._next += 1

    def _recover(self) -> None:
        point = load_resume_point(self._parent, self._resume)
        if point is None or (point.identity, point.length) != (self._identity, self._length):
            return
        hasher = blake3()
        for entry in self._entries:
            if entry.offset >= point.done_bytes:
                break
            self._tree.hash_into(hasher, entry, min(entry.byte_count, point.done_bytes - entry.offset))
        if hasher.digest() != point.prefix_hash:
            return
        self._hasher = hasher
        self._done_bytes = point.done_bytes
        while self._next < len(self._entries) and self._entries[self._next].stop <= point.done_bytes:
            if not self._entries[self._next].byte_count:
                os.close(self._tree.create(self._entries[self._next]))
            self._next += 1
        if self._next < len(self._entries) and self._entries[self._next].offset < point.done_bytes:
            entry = self._entries[self._next]
            self._file = self._tree.reopen(entry, point.done_bytes - entry.offset)

    # --- the final name ---------------------------------------------------------------------------------

    def _publish(self) -> None:
        name = self._target.name
        if self._force:
            unlink_if_there(self._parent, name)  # a file or a link: folders are merged into
        try:
            os.mkdir(name, dir_fd=self._parent)  # takes the name, or fails where something has it
        except FileExistsError as error:
            raise OutputExistsError(
                f"{self._target} appeared meanwhile: choose another name with -o; nothing is lost"
            ) from error
        os.rename(self._part, name, src_dir_fd=self._parent, dst_dir_fd=self._parent)

    def _merge(self) -> None:
        """Move every file into the existing folder, replacing those of the same name."""
        target = os.open(self._target.name, _FOLDER_FLAGS, dir_fd=self._parent)
        try:
            into, out_of = _Tree(target), _Tree(self._root)
            for entry in self._entries:
                folder, name = _split(entry.path)
                os.rename(name, name, src_dir_fd=out_of.folder(folder), dst_dir_fd=into.folder(folder))
            into.close()
            out_of.close()
            self._remove_folders()
            os.rmdir(self._part, dir_fd=self._parent)
        finally:
            os.close(target)

    def _remove_folders(self) -> None:
        """Remove the folders of the partial tree, which are empty now, the deepest first."""
        folders = {_split(entry.path)[0] for entry in self._entries}
        for folder in list(folders):
            while folder := _split(folder)[0]:
                folders.add(folder)
        for folder in sorted(folders - {""}, key=lambda path: -path.count("/")):
            os.rmdir(folder, dir_fd=self._root)

    def _close_descriptors(self) -> None:
        self._tree.close()
        for descriptor in (self._file, self._root, self._parent):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._root = self._parent = -1


class _Tree:
    """Files below one folder, each opened step by step from its descriptor."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = ""
        self._folder = -1

    def folder(self, path: str) -> int:
        """A descriptor of a folder of the tree, made if missing; valid until the next call."""
        if not path:
            return self._root
        if path == self._path and self._folder >= 0:
            return self._folder
        self.close()
        current = os.dup(self._root)
        for name in path.split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=current)
            try:
                below = os.open(name, _FOLDER_FLAGS, dir_fd=current)
            finally:
                os.close(current)
            current = below
        self._path, self._folder = path, current
        return current

    def create(self, entry: FolderEntry) -> int:
        """A new file, open for writing; what an earlier attempt left there is removed."""
        path, name = _split(entry.path)
        folder = self.folder(path)
        unlink_if_there(folder, name)
        return os.open(name, _NEW_FILE_FLAGS, file_mode(entry.executable), dir_fd=folder)

    def reopen(self, entry: FolderEntry, count: int) -> int:
        """A file of which `count` bytes were found good, open for writing after them."""
        path, name = _split(entry.path)
        descriptor = os.open(
            name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.folder(path)
        )
        os.ftruncate(descriptor, count)
        os.lseek(descriptor, count, os.SEEK_SET)
        return descriptor

    def hash_into(self, hasher: blake3, entry: FolderEntry, count: int) -> None:
        """Feed the first `count` bytes of a file, as `read` gives them."""
        for position in range(0, count, READ_BYTES):
            data = self.read(entry, position, min(READ_BYTES, count - position))
            if not data:
                break
            hasher.update(data)

    def read(self, entry: FolderEntry, position: int, count: int) -> bytes:
        """Bytes of a file; fewer where it is missing, shorter, or not a plain file."""
        path, name = _split(entry.path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(name, flags, dir_fd=self.folder(path))
        except OSError:
            return b""
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
                return b""
            return read_at(descriptor, position, count)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the cached folder."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def _is_folder(target: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(target).st_mode)
    except OSError:
        return False


def _open_root(parent: int, part: str) -> int:
    """The folder of the partial tree; a file or link of that name is removed."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, dir_fd=parent)
    try:
        return os.open(part, _FOLDER_FLAGS, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    os.unlink(part, dir_fd=parent)
    os.mkdir(part, dir_fd=parent)
    return os.open(part, _FOLDER_FLAGS, dir_fd=parent)
