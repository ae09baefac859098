"""A folder on the real disk, and the lock that makes one process its only user. Layer 3, over `os`.

Files are 0600 in folders of 0700; no open follows a symbolic link at its last step (the folders above belong
to the node alone). What `replace`, `rename` and `delete` return from is durable: the folder was synced too
(ext4 and XFS may otherwise forget a name that was created before a power cut).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import TracebackType

from node.errors import StoreError, StoreFullError, StoreInUseError
from node.ports import Buffer

FOLDER_MODE = 0o700
FILE_MODE = 0o600
LOCK_NAME = "lock"
_STAT_BLOCK_BYTES = 512  # POSIX: st_blocks counts these, whatever the file system's own block
_TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """Turn the system's errors into the store's, in words."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"{doing}: the disk is full ({reason}); free some space on it") from error
        raise StoreError(f"{doing}: {reason}") from error


class DiskFile:
    """`OpenFile` over a file descriptor."""

    def __init__(self, descriptor: int, label: str) -> None:
        """Takes over `descriptor`; `label` names the file in errors."""
        self._descriptor = descriptor
        self._label = label

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end of the file. Raises `StoreError`."""
        with _disk_errors(f"cannot read {self._label}"):
            data = os.pread(self._open(), count, offset)
            if len(data) == count or not data:
                return data
            parts = [data]  # a signal or a network file system may cut a read short
            read = len(data)
            while read < count and (data := os.pread(self._open(), count - read, offset + read)):
                parts.append(data)
                read += len(data)
            return b"".join(parts)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write all of `data`. Not durable before `sync`. Raises `StoreFullError`, `StoreError`."""
        with _disk_errors(f"cannot write {self._label}"):
            rest = memoryview(data).cast("B")
            while rest:
                written = os.pwrite(self._open(), rest, offset)
                offset += written
                rest = rest[written:]

    def sync(self) -> None:
        """Make every earlier write of this file durable. Raises `StoreError`."""
        with _disk_errors(f"cannot sync {self._label}"):
            os.fdatasync(self._open())

    def truncate(self, size: int) -> None:
        """Cut or extend to `size` bytes. Raises `StoreError`."""
        with _disk_errors(f"cannot truncate {self._label}"):
            os.ftruncate(self._open(), size)

    def size(self) -> int:
        """Length in bytes. Raises `StoreError`."""
        with _disk_errors(f"cannot examine {self._label}"):
            return os.fstat(self._open()).st_size

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor < 0:
            raise StoreError(f"{self._label} is closed")
        return self._descriptor


class DiskFiles:
    """`Files` below one folder of the real disk. Thread-safe."""

    def __init__(self, root: Path) -> None:
        """Use the folder `root`, made if missing. Raises `StoreError`."""
        self._root = root
        self._replacing = threading.Lock()
        with _disk_errors(f"cannot use the folder {root}"):
            root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    @property
    def root(self) -> Path:
        """The folder itself, for adapters that take a path (LMDB, sockets)."""
        return self._root

    def open(self, path: PurePath, *, create: bool = False) -> DiskFile:
        """Open for reading and writing. Raises `StoreError` (missing without `create`, a symbolic link)."""
        target = self._locate(path)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with _disk_errors(f"cannot open {path}"):
            if create:
                self._make_folder(target.parent)
                flags |= os.O_CREAT
            return DiskFile(os.open(target, flags, FILE_MODE), str(path))

    def replace(self, path: PurePath, data: bytes, *, mode: int = FILE_MODE) -> None:
        """Set the whole content atomically and durably. Raises `StoreFullError`, `StoreError`."""
        target = self._locate(path)
        # One name a target: a crash leaves at most one such file, and the next replace takes it over.
        temporary = target.with_name(f".{target.name}{_TEMPORARY_SUFFIX}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._replacing, _disk_errors(f"cannot write {path}"):
            self._make_folder(target.parent)
            file = DiskFile(os.open(temporary, flags, mode), str(path))
            try:
                os.fchmod(file._open(), mode)  # the file may be left from before, or cut by the umask
                file.write_at(0, data)
                file.sync()
                temporary.rename(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            finally:
                file.close()
            _sync_folder(target.parent)

    def read(self, path: PurePath) -> bytes | None:
        """The whole content, or None if there is no such file. Raises `StoreError`."""
        target = self._locate(path)
        with _disk_errors(f"cannot read {path}"):
            try:
                descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

    def rename(self, old: PurePath, new: PurePath) -> None:
        """Durable rename, over an existing file too. Raises `StoreError`."""
        source, target = self._locate(old), self._locate(new)
        with _disk_errors(f"cannot rename {old}"):
            self._make_folder(target.parent)
            source.rename(target)
            _sync_folder(target.parent)
            if source.parent != target.parent:
                _sync_folder(source.parent)

    def delete(self, path: PurePath) -> None:
        """Remove a file durably; no error if it is missing. Raises `StoreError`."""
        target = self._locate(path)
        with _disk_errors(f"cannot delete {path}"):
            try:
                target.unlink()
            except FileNotFoundError:
                return
            _sync_folder(target.parent)

    def list(self, folder: PurePath) -> Sequence[str]:
        """Sorted names of the files in a folder; empty if it is missing. Raises `StoreError`."""
        target = self._locate(folder)
        with _disk_errors(f"cannot list {folder}"):
            try:
                with os.scandir(target) as entries:
                    return sorted(
                        entry.name
                        for entry in entries
                        if entry.is_file(follow_symlinks=False) and not _is_temporary(entry.name)
                    )
            except FileNotFoundError:
                return []

    def sync_folder(self, folder: PurePath) -> None:
        """Make created and removed names in a folder durable. Raises `StoreError`."""
        target = self._locate(folder)
        with _disk_errors(f"cannot sync {folder}"):
            _sync_folder(target)

    def allocated_bytes(self) -> int:
        """Bytes of disk allocated below this folder, it included (blocks, not lengths). `StoreError`."""
        with _disk_errors("cannot measure the folder"):
            return _allocated(str(self._root))

    def free_bytes(self) -> int:
        """Bytes the file system still offers this process. Raises `StoreError`."""
        with _disk_errors("cannot measure the disk"):
            figures = os.statvfs(self._root)
            return figures.f_bavail * figures.f_frsize

    def _locate(self, path: PurePath) -> Path:
        if path.is_absolute() or ".." in path.parts:
            raise StoreError(f"{path} is not below the node's folder")
        return self._root / path

    def _make_folder(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(mode=FOLDER_MODE, exist_ok=True)
            _sync_folder(new.parent)


class HomeLock:
    """Holds a home folder for this process alone; the system lets go of it even after SIGKILL."""

    def __init__(self, home: Path) -> None:
        """Take the lock. Raises `StoreInUseError` where another process has it, `StoreError`."""
        with _disk_errors(f"cannot use the folder {home}"):
            home.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(home / LOCK_NAME, flags, FILE_MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            self._descriptor = -1
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StoreError(f"cannot lock {home}: {error.strerror}") from error
            raise StoreInUseError(
                f"another cairn process uses {home}: stop it, or choose another folder with --home"
            ) from error

    def release(self) -> None:
        """Let go. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> HomeLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _allocated(folder: str) -> int:
    total = os.stat(folder).st_blocks * _STAT_BLOCK_BYTES
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    total += _allocated(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_blocks * _STAT_BLOCK_BYTES
            except FileNotFoundError:
                continue  # removed since it was listed: it takes no space now
    return total
