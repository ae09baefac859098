"""One file on its way to a person's disk: a partial file, what resumes it, and its final name. Layer 3.

Bytes are written in order into `NAME.cairn-part` beside the target; `NAME.cairn-resume` says what they are
the beginning of, how many there are, and their BLAKE3. Invariants: a partial file is only continued after its
bytes gave that hash again; nothing stands under the final name before it is complete; an existing name
is replaced only with `force`, and a symbolic link there is replaced, never followed; every file is opened
below a descriptor of its folder, without following links.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from blake3 import blake3

from node import limits, wire
from node.errors import OutputExistsError, ProtocolError, StoreError, StoreFullError, UsageError
from node.ports import Buffer

PART_SUFFIX: Final = ".cairn-part"
RESUME_SUFFIX: Final = ".cairn-resume"
RESUME_TAG: Final = "cairn/resume"
RESUME_VERSION: Final = 1
READ_BYTES: Final = 1024 * 1024

_NO_LINKS_HERE: Final = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Output(Protocol):
    """Where the bytes of a get go, in order. Synchronous: call it through `Offload`."""

    @property
    def done_bytes(self) -> int:
        """How many bytes stand on disk, those of an earlier call included; the next write goes there."""
        ...

    def write(self, data: Buffer) -> None:
        """Append. Raises `StoreFullError`, `StoreError`."""
        ...

    def read_back(self, position: int, count: int) -> bytes:
        """Bytes that stand on disk, fewer where somebody cut them off. Raises `StoreError`."""
        ...

    def checkpoint(self) -> None:
        """Make what was written so far resumable."""
        ...

    def finish(self) -> Path:
        """Give the complete output its final name. Raises `OutputExistsError`."""
        ...

    def close(self) -> None:
        """Leave a partial output resumable, or none where it holds no byte; after `finish`, nothing.

        Idempotent.
        """
        ...

    def discard(self) -> None:
        """Leave nothing: what was written is the beginning of something refused. Raises `StoreError`."""
        ...


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a partial output is: `done_bytes` of `length` bytes of `identity`, with their hash."""

    identity: bytes
    length: int
    done_bytes: int
    prefix_hash: bytes

    def encode(self) -> bytes:
        """The content of the resume file."""
        return wire.encode(
            [RESUME_TAG, RESUME_VERSION, self.identity, self.length, self.done_bytes, self.prefix_hash]
        )

    @classmethod
    def decode(cls, data: bytes) -> ResumePoint:
        """Raises `ProtocolError`."""
        values = wire.expect_list(wire.decode(data, size_max=limits.RESUME_POINT_BYTES_MAX), count=6)
        if values[:2] != [RESUME_TAG, RESUME_VERSION]:
            raise ProtocolError("not a resume point that this program knows")
        length = wire.expect_int(values[3], low=0, high=2**63 - 1)
        return cls(
            wire.expect_bytes(values[2]),
            length,
            wire.expect_int(values[4], low=0, high=length),
            wire.expect_bytes(values[5], size=32),
        )


def choose_target(output: Path, name: str) -> Path:
    """The final path: `output`, or `name` (already checked safe) inside it if it is a folder."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(output).st_mode)
    except OSError:
        is_folder = False
    return output / name if is_folder else output


def check_target_free(target: Path, *, force: bool) -> None:
    """Raises `OutputExistsError` where something stands and is not to be replaced, `UsageError`."""
    if not target.parent.is_dir():
        if target.parent.exists():
            raise UsageError(f"{target.parent} is not a folder: choose another path with -o")
        raise UsageError(f"there is no folder {target.parent}: make it first")
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"can't write to {target}: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise UsageError(f"{target} is no file: choose another path with -o, or write to stdout with `-o -`")
    if not force:
        raise OutputExistsError(f"{target} exists already: choose another name with -o, or say --force")
    if stat.S_ISDIR(mode):
        raise OutputExistsError(f"{target} is a folder: choose another name with -o")


def side_names(name: str) -> tuple[str, str]:
    """Names of the partial output and of its resume file; long names are cut, with a hash of the whole."""
    stem = name
    if len(os.fsencode(name)) > limits.NAME_BYTES_MAX - len(RESUME_SUFFIX):
        stem = name[:40] + "-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return stem + PART_SUFFIX, stem + RESUME_SUFFIX


@contextlib.contextmanager
def disk_errors(what: object) -> Iterator[None]:
    """Turn the system's errors into ours. `what` names the output."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFullError(
                f"the disk under {what} is full: free some space, then say the same again"
            ) from error
        raise StoreError(f"can't write {what}: {error.strerror}") from error


class FileOutput:
    """A single file. See `Output`."""

    def __init__(
        self, target: Path, *, identity: bytes, length: int, force: bool = False, executable: bool = False
    ) -> None:
        """Begin, or go on with a partial file of the same `identity` and `length`.

        Raises:
            OutputExistsError: `target` exists and `force` is false.
            UsageError: there is no such folder, or another get is writing the same output.
            StoreError: the disk.
        """
        check_target_free(target, force=force)
        self._target = target
        self._force = force
        self._identity = identity
        self._length = length
        self._part, self._resume = side_names(target.name)
        self._hasher = blake3()
        self._done_bytes = 0
        self._file = -1
        with disk_errors(target):
            self._folder = open_folder(target.parent)
            try:
                self._file = _open_part(self._folder, self._part, target, file_mode(executable))
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
        with disk_errors(self._target):
            write_all(self._file, data)
        self._hasher.update(data)
        self._done_bytes += len(data)

    def read_back(self, position: int, count: int) -> bytes:
        """As `Output` says."""
        with disk_errors(self._target):
            return read_at(self._file, position, count)

    def checkpoint(self) -> None:
        """As `Output` says."""
        point = ResumePoint(self._identity, self._length, self._done_bytes, self._hasher.digest())
        with disk_errors(self._target):
            os.fdatasync(self._file)
            save_resume_point(self._folder, self._resume, point)

    def finish(self) -> Path:
        """As `Output` says."""
        assert self._done_bytes == self._length
        with disk_errors(self._target):
            os.fsync(self._file)
            publish(self._folder, self._part, self._target, force=self._force)
            remove_resume_point(self._folder, self._resume)
            os.fsync(self._folder)
        self._close_descriptors()
        return self._target

    def close(self) -> None:
        """As `Output` says."""
        if self._file < 0:
            return
        try:
            if self._done_bytes:
                self.checkpoint()
            else:
                self._unlink()
        finally:
            self._close_descriptors()

    def discard(self) -> None:
        """As `Output` says."""
        with disk_errors(self._target):
            self._unlink()
        self._close_descriptors()

    def _unlink(self) -> None:
        unlink_if_there(self._folder, self._part)
        remove_resume_point(self._folder, self._resume)

    def _recover(self) -> None:
        point = load_resume_point(self._folder, self._resume)
        if (
            point is not None
            and (point.identity, point.length) == (self._identity, self._length)
            and _hash_prefix(self._file, point.done_bytes, self._hasher) == point.prefix_hash
        ):
            self._done_bytes = point.done_bytes
        else:
            self._hasher = blake3()
        os.ftruncate(self._file, self._done_bytes)
        os.lseek(self._file, self._done_bytes, os.SEEK_SET)

    def _close_descriptors(self) -> None:
        for descriptor in (self._file, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._folder = -1


def open_folder(path: Path) -> int:
    """A descriptor of an existing folder; links in the person's own path are followed."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def lock(descriptor: int, target: Path) -> None:
    """Keep other gets away from a partial output. Raises `UsageError`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UsageError(
            f"{target} is being fetched already: wait for that, or choose another name"
        ) from error


def write_all(descriptor: int, data: Buffer) -> None:
    """Write all of `data` at the descriptor's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_at(descriptor: int, position: int, count: int) -> bytes:
    """Up to `count` bytes from `position`: fewer only at the end."""
    parts = []
    while count and (data := os.pread(descriptor, count, position)):
        parts.append(data)
        position += len(data)
        count -= len(data)
    return b"".join(parts)


def save_resume_point(folder: int, name: str, point: ResumePoint) -> None:
    """Replace the resume file atomically."""
    temporary = name + "~"
    unlink_if_there(folder, temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        write_all(descriptor, point.encode())
        os.fsync(descriptor)
    except OSError:
        unlink_if_there(folder, temporary)  # the one before it stays, and is right
        raise
    finally:
        os.close(descriptor)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def remove_resume_point(folder: int, name: str) -> None:
    """Remove the resume file, and what a crash may have left of its replacement."""
    unlink_if_there(folder, name)
    unlink_if_there(folder, name + "~")


def load_resume_point(folder: int, name: str) -> ResumePoint | None:
    """The resume point, or None where there is none that can be used."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return ResumePoint.decode(os.read(descriptor, limits.RESUME_POINT_BYTES_MAX + 1))
    except ProtocolError:
        return None
    finally:
        os.close(descriptor)


def publish(folder: int, part: str, target: Path, *, force: bool) -> None:
    """Give a partial file its final name. Raises `OutputExistsError`."""
    if force:
        os.rename(part, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        try:
            os.link(part, target.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS_HERE:
                raise
            # A file system without hard links: take the name first, then replace what we made ourselves.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(target.name, flags, 0o600, dir_fd=folder))
            os.rename(part, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            os.unlink(part, dir_fd=folder)
    except FileExistsError as error:
        raise OutputExistsError(
            f"{target} appeared meanwhile: choose another name with -o, or say --force; nothing is lost"
        ) from error


def file_mode(executable: bool) -> int:
    """The mode to make a file with; the umask takes its part away."""
    return 0o777 if executable else 0o666


def _open_part(folder: int, part: str, target: Path, mode: int) -> int:
    """The partial file, open and locked. Whatever else stands under that name is taken away."""
    try:
        state = os.stat(part, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            os.unlink(part, dir_fd=folder)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(part, flags, mode, dir_fd=folder)
    try:
        lock(descriptor, target)
    except UsageError:
        os.close(descriptor)
        raise
    return descriptor


def _hash_prefix(descriptor: int, count: int, hasher: blake3) -> bytes:
    """The hash of the first `count` bytes, left in `hasher`; of fewer where the file is shorter."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    while count:
        data = os.read(descriptor, min(count, READ_BYTES))
        if not data:
            break
        hasher.update(data)
        count -= len(data)
    digest: bytes = hasher.digest()
    return digest


def unlink_if_there(folder: int, name: str) -> None:
    """Remove a file or link below a folder."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
