"""A disk in memory that forgets what was not synced, tears writes, rots and fills up. Outside the layers.

A crash keeps, of what was not synced, exactly what a rule says: the first so many operations, the last of
them torn, or any subset. Real disks do all of these; a file system may also lose the name of a new file, or
extend a file before the bytes arrive.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from node.errors import StoreError, StoreFullError
from node.ports import Buffer

BLOCK_BYTES = 4096  # allocation, as common file systems have it
SECTOR_BYTES = 512  # what a disk writes whole or not at all


class SimulatedCrash(BaseException):
    """The power is gone. Not an `Exception`: no code may mistake it for an error that it handles."""


@dataclass(slots=True)
class _Change:
    """One unsynced operation on a file: bytes at an offset, or a new length."""

    offset: int
    data: bytes | None

    def without_sectors(self, is_lost: Callable[[int], bool], old: bytearray) -> _Change:
        """The change as it reaches a disk that loses some of its sectors."""
        if self.data is None:
            return self
        data = bytearray(self.data)
        for at in range(0, len(data), SECTOR_BYTES):
            if is_lost(at // SECTOR_BYTES):
                before = old[self.offset + at : self.offset + at + SECTOR_BYTES]
                size = min(SECTOR_BYTES, len(data) - at)
                data[at : at + size] = before.ljust(size, b"\0")[:size]
        return _Change(self.offset, bytes(data))

    def apply(self, content: bytearray, *, keep_bytes: int | None = None) -> None:
        if self.data is None:
            if self.offset <= len(content):
                del content[self.offset :]
            else:
                content.extend(bytes(self.offset - len(content)))
            return
        data = self.data if keep_bytes is None else self.data[:keep_bytes]
        if self.offset > len(content):
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : self.offset + len(data)] = data


@dataclass(slots=True)
class _File:
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    is_named: bool = False  # whether its name would survive


class FakeDisk:
    """`Files` in memory. One thread at a time."""

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.operations = 0
        self.read_bytes = 0
        self.crash_at: int | None = None
        """Number of the operation before which the power goes."""
        self.fail_syncs = False
        self.is_gone = False
        """Unplugged: nothing is read or written until it is False again; what was written is still there."""
        self.is_read_only = False
        self.watch: Callable[[int], None] | None = None
        """Told the allocated bytes after every change."""
        self.other_allocated: list[Callable[[], int]] = []
        self.generation = 0
        self._files: dict[PurePath, _File] = {}
        self._unsynced: list[tuple[_File, _Change]] = []

    # --- Files --------------------------------------------------------------------------------------

    def open(self, path: PurePath, *, create: bool = False) -> FakeFile:
        """Open for reading and writing."""
        path = _checked(path)
        self.check_there()
        if path not in self._files:
            if not create:
                raise StoreError(f"cannot open {path}: no such file")
            self.step()
            self._files[path] = _File()
        return FakeFile(self, self._files[path], str(path))

    def replace(self, path: PurePath, data: bytes, *, mode: int = 0o600) -> None:
        """Set the whole content atomically and durably."""
        path = _checked(path)
        self.step()
        self._check_room(len(data))
        self._files[path] = _File(bytearray(data), bytearray(data), is_named=True)
        self.changed()

    def read(self, path: PurePath) -> bytes | None:
        """The whole content, or None."""
        self.check_there()
        file = self._files.get(_checked(path))
        return None if file is None else bytes(file.content)

    def rename(self, old: PurePath, new: PurePath) -> None:
        """Durable rename."""
        old, new = _checked(old), _checked(new)
        self.step()
        if old not in self._files:
            raise StoreError(f"cannot rename {old}: no such file")
        self._files[new] = self._files.pop(old)
        self._files[new].is_named = True

    def delete(self, path: PurePath) -> None:
        """Remove durably."""
        self.step()
        self._files.pop(_checked(path), None)
        self.changed()

    def list(self, folder: PurePath) -> Sequence[str]:
        """Sorted names of the files in a folder."""
        folder = _checked(folder)
        self.check_there()
        return sorted(path.name for path in self._files if path.parent == folder)

    def sync_folder(self, folder: PurePath) -> None:
        """Make names durable."""
        folder = _checked(folder)
        self.step()
        for path, file in self._files.items():
            if path.parent == folder:
                file.is_named = True

    def allocated_bytes(self) -> int:
        """Bytes of disk in use, what shares the disk included."""
        self.check_there()
        files = sum(_rounded(len(file.content)) for file in self._files.values())
        return files + sum(allocated() for allocated in self.other_allocated)

    def free_bytes(self) -> int:
        """What is left of the capacity."""
        capacity = 2**50 if self.capacity_bytes is None else self.capacity_bytes
        return max(0, capacity - self.allocated_bytes())

    # --- faults -------------------------------------------------------------------------------------

    def unsynced_count(self) -> int:
        """How many changes a crash could lose."""
        return len(self._unsynced)

    def crash(
        self,
        kept: int | Callable[[int], bool] = 0,
        *,
        torn_bytes: int | None = None,
        is_lost: Callable[[int], bool] | None = None,
    ) -> None:
        """The power goes and comes back.

        `kept`: how many of the unsynced changes survive, oldest first, or a rule by number (any subset).
        `torn_bytes`: of the last one that survives, only so many bytes do.
        `is_lost`: whether a sector, by its number in its write, is lost though its write survives.
        """
        is_kept = kept if callable(kept) else lambda number: number < kept
        survivors = [number for number in range(len(self._unsynced)) if is_kept(number)]
        for number in survivors:
            file, change = self._unsynced[number]
            torn = torn_bytes if number == survivors[-1] else None
            if is_lost is not None:
                change = change.without_sectors(is_lost, file.durable)
            change.apply(file.durable, keep_bytes=torn)
            file.is_named = True  # bytes that survive under no name would be out of reach: the harder case
        self._unsynced.clear()
        self._files = {path: file for path, file in self._files.items() if file.is_named}
        for file in self._files.values():
            file.content = bytearray(file.durable)
        self.generation += 1
        self.crash_at = None

    def crash_randomly(self, source: random.Random) -> None:
        """A crash that keeps a prefix, a subset, or all but a few sectors of what was not synced."""
        count = len(self._unsynced)
        if source.random() < 0.3:
            self.crash(count, is_lost=lambda sector: source.random() < 0.05)
            return
        torn = source.choice([None, SECTOR_BYTES * source.randrange(0, 129)])
        if source.random() < 0.5:
            self.crash(source.randrange(count + 1), torn_bytes=torn)
        else:
            kept = {number for number in range(count) if source.random() < 0.5}
            self.crash(lambda number: number in kept, torn_bytes=torn)

    def flip_bit(self, path: PurePath, offset: int, bit: int = 0) -> None:
        """Rot."""
        file = self._files[path]
        file.content[offset] ^= 1 << bit
        if offset < len(file.durable):
            file.durable[offset] ^= 1 << bit

    def paths(self) -> tuple[PurePath, ...]:
        """All files, in order of their paths."""
        return tuple(sorted(self._files))

    def raw_content(self) -> bytes:
        """Everything that is written, to search in."""
        return b"\0".join(bytes(file.content) for file in self._files.values())

    def length(self, path: PurePath) -> int:
        """Length of a file."""
        return len(self._files[path].content)

    # --- for the files and whatever shares the disk -------------------------------------------------

    def step(self) -> None:
        """Count an operation; the power may go before it."""
        if self.crash_at is not None and self.operations >= self.crash_at:
            raise SimulatedCrash
        self.check_there()
        if self.is_read_only:
            raise StoreError("cannot write: read-only file system")
        self.operations += 1

    def check_there(self) -> None:
        """Raises `StoreError` while the disk is gone."""
        if self.is_gone:
            raise StoreError("cannot reach the disk: input/output error")

    def changed(self) -> None:
        """Tell the watcher."""
        if self.watch is not None:
            self.watch(self.allocated_bytes())

    def write(self, file: _File, change: _Change) -> None:
        """Apply a change that a crash may lose."""
        self.step()
        end = change.offset + len(change.data or b"")
        self._check_room(_rounded(end) - _rounded(len(file.content)))
        change.apply(file.content)
        self._unsynced.append((file, change))
        self.changed()

    def sync(self, file: _File) -> None:
        """Make a file's changes durable."""
        self.step()
        if self.fail_syncs:
            raise StoreError("cannot sync: input/output error")
        file.durable = bytearray(file.content)
        self._unsynced = [entry for entry in self._unsynced if entry[0] is not file]

    def _check_room(self, byte_count: int) -> None:
        if self.capacity_bytes is not None and byte_count > self.free_bytes():
            raise StoreFullError("cannot write: the disk is full; free some space on it")


class FakeFile:
    """`OpenFile` on a `FakeDisk`; of no use after a crash."""

    def __init__(self, disk: FakeDisk, file: _File, label: str) -> None:
        self._disk = disk
        self._file: _File | None = file
        self._label = label
        self._generation = disk.generation

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes."""
        data = bytes(self._usable().content[offset : offset + count])
        self._disk.read_bytes += len(data)
        return data

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data`, not durably."""
        self._disk.write(self._usable(), _Change(offset, bytes(data)))

    def sync(self) -> None:
        """Make earlier writes durable."""
        self._disk.sync(self._usable())

    def truncate(self, size: int) -> None:
        """Cut or extend, not durably."""
        self._disk.write(self._usable(), _Change(size, None))

    def size(self) -> int:
        """Length in bytes."""
        return len(self._usable().content)

    def close(self) -> None:
        """Idempotent."""
        self._file = None

    def _usable(self) -> _File:
        self._disk.check_there()
        if self._file is None or self._generation != self._disk.generation:
            raise StoreError(f"{self._label} is closed")
        return self._file


def _rounded(byte_count: int) -> int:
    return -(-byte_count // BLOCK_BYTES) * BLOCK_BYTES


def _checked(path: PurePath) -> PurePath:
    if path.is_absolute() or ".." in path.parts:
        raise StoreError(f"{path} is not below the node's folder")
    return PurePath(path)
