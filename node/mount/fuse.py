"""The kernel's side of a mount, through libfuse. Layer 3: the only import of `mfusepy`.

`mfusepy` loads libfuse when it is imported, so it is imported when there is something to mount. libfuse calls
on threads of its own; each call is answered here, with an error number whatever happens.

Invariants: the kernel mounts it read-only and checks the modes itself; what is kept about paths is kept for
good only where they never change; the mount table names no link. Source: libfuse 2.9 and 3, `fuse.h`.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, Protocol, TypeVar

from node import limits
from node.errors import ConfigError, NodeError, UsageError, WrongPassphraseError
from node.mount.ports import Interrupted, Note, ReadInterruptedError
from node.mount.tree import Attributes, Listed

_logger = logging.getLogger(__name__)

MISSING: Final = (
    "mounting needs FUSE: install the Debian packages with `apt-get install fuse3 libfuse3-3`, "
    "and the Python part with `pip install 'cairn[mount]'`"
)
_FIXED_S: Final = 3600  # seconds the kernel may keep what never changes
_CHANGING_S: Final = 1  # and what does
_THREADS_MAX: Final = 64  # reads that wait for the network at once; those of libfuse are 10
_BLOCK_BYTES: Final = 4096
_READ_HINT_BYTES: Final = 128 * 1024  # what `cp` and `cat` should ask for at once

T = TypeVar("T")


class Files(Protocol):
    """What is mounted; paths are absolute. Every call raises `OSError` and `NodeError`."""

    @property
    def is_fixed(self) -> bool:
        """Whether what a path stands for never changes."""
        ...

    def attributes(self, path: str) -> Attributes:
        """Of a path."""
        ...

    def level(self, path: str) -> Iterator[Listed]:
        """The names in a folder."""
        ...

    def open(self, path: str) -> int:
        """A handle."""
        ...

    def may_keep(self, path: str) -> bool:
        """Whether the kernel's copy of a path's bytes is still right."""
        ...

    def read(self, handle: int, offset: int, size: int, interrupted: Interrupted) -> bytes:
        """Bytes of a handle."""
        ...

    def release(self, handle: int) -> None:
        """A handle is closed."""
        ...

    def totals(self) -> tuple[int, int]:
        """Bytes and files."""
        ...


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose the files are said to be."""

    uid: int
    gid: int


def require_library() -> None:
    """Raises `ConfigError` where libfuse or its Python part is missing."""
    _library()


def serve(
    files: Files, folder: str, *, owner: Owner, allow_other: bool, on_mounted: Callable[[], None], note: Note
) -> None:
    """Mount `files` on `folder` and answer the kernel until it is unmounted.

    Not on the main thread: there libfuse would take over the signals. Raises `ConfigError` where it can't be
    mounted; why is on file descriptor 2, where libfuse writes it.
    """
    mfusepy = _library()
    keep_s = _FIXED_S if files.is_fixed else _CHANGING_S
    options: dict[str, Any] = {
        "fsname": "cairn",
        "subtype": "cairn",
        "ro": True,
        "default_permissions": True,
        "use_ino": True,
        "attr_timeout": keep_s,
        "entry_timeout": keep_s,
        "negative_timeout": keep_s if files.is_fixed else 0,
        "allow_other": allow_other,
    }
    if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) >= (3, 12):
        options["max_threads"] = _THREADS_MAX
    operations = _Operations(files, owner, mfusepy, on_mounted, note)
    try:
        mfusepy.FUSE(operations, folder, raw_fi=True, foreground=True, **options)
    except RuntimeError as error:
        raise ConfigError(f"FUSE ended with status {error}") from error


def _library() -> Any:
    try:
        import mfusepy
    except (
        ImportError,
        OSError,
        AttributeError,
    ) as error:  # the last two: no libfuse, or one that is too old
        raise ConfigError(f"{MISSING} ({error})") from error
    return mfusepy


def _answered(call: Callable[..., T]) -> Callable[..., T]:
    """An operation whose every error becomes a number that the kernel knows."""

    @wraps(call)
    def answer(self: _Operations, *arguments: Any) -> T:
        try:
            return call(self, *arguments)
        except FileNotFoundError:
            raise OSError(errno.ENOENT, "") from None
        except NotADirectoryError:
            raise OSError(errno.ENOTDIR, "") from None
        except IsADirectoryError:
            raise OSError(errno.EISDIR, "") from None
        except NodeError as error:
            raise OSError(self.failed(arguments[0], error), "") from None
        except OSError as error:
            raise OSError(error.errno or errno.EIO, "") from None
        except Exception as error:  # the boundary to C code: a bug is one failed call
            _logger.exception("internal error in %s", call.__name__)
            raise OSError(errno.EIO, "") from error

    return answer


class _Operations:
    """libfuse's operations by name; those that are not here are refused by libfuse or the kernel."""

    use_ns = True

    def __init__(
        self, files: Files, owner: Owner, mfusepy: Any, on_mounted: Callable[[], None], note: Note
    ) -> None:
        self._files = files
        self._owner = owner
        self._is_interrupted: Interrupted = mfusepy._libfuse.fuse_interrupted
        self._on_mounted = on_mounted
        self._note = note
        self._said = ""

    def init(self, _path: str) -> None:
        """The kernel has mounted it."""
        self._on_mounted()

    @_answered
    def getattr(self, path: str, _handle: object = None) -> Mapping[str, int]:
        """`stat`."""
        found = self._files.attributes(path)
        if found.is_folder:
            mode, links = stat.S_IFDIR | 0o555, 2
        else:
            mode, links = stat.S_IFREG | (0o555 if found.is_executable else 0o444), 1
        time_ns = found.modified_s * 10**9
        return {
            "st_mode": mode,
            "st_ino": found.inode,
            "st_nlink": links,
            "st_uid": self._owner.uid,
            "st_gid": self._owner.gid,
            "st_size": found.size_bytes,
            "st_blocks": -(-found.size_bytes // 512),
            "st_blksize": _READ_HINT_BYTES,
            "st_mtime": time_ns,
            "st_ctime": time_ns,
            "st_atime": time_ns,
        }

    @_answered
    def opendir(self, path: str) -> int:
        """A folder is read by its path."""
        return 0

    @_answered
    def releasedir(self, _path: str, _handle: int) -> int:
        """Nothing was kept."""
        return 0

    @_answered
    def readdir(self, path: str, _handle: int) -> list[tuple[str, dict[str, int], int]]:
        """The names in a folder; libfuse copies each as it comes."""
        types = {True: stat.S_IFDIR, False: stat.S_IFREG, None: 0}
        here = self._files.attributes(path).inode
        above = self._files.attributes(path.rpartition("/")[0] or "/").inode
        own = [(name, {"st_mode": stat.S_IFDIR, "st_ino": n}, 0) for name, n in ((".", here), ("..", above))]
        return own + [
            (each.name, {"st_mode": types[each.is_folder], "st_ino": each.inode}, 0)
            for each in self._files.level(path)
        ]

    @_answered
    def open(self, path: str, info: Any) -> int:
        """Open to read; the kernel refuses everything else."""
        if info.flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "")
        info.fh = self._files.open(path)
        info.keep_cache = self._files.may_keep(path)
        return 0

    @_answered
    def read(self, _path: str, size: int, offset: int, info: Any) -> bytes:
        """Bytes of an open file."""
        data = self._files.read(info.fh, offset, size, lambda: bool(self._is_interrupted()))
        self._said = ""
        return data

    @_answered
    def release(self, _path: str, info: Any) -> int:
        """Close."""
        self._files.release(info.fh)
        return 0

    @_answered
    def statfs(self, _path: str) -> Mapping[str, int]:
        """`df`: full, since nothing can be added."""
        size_bytes, count = self._files.totals()
        return {
            "f_bsize": _BLOCK_BYTES,
            "f_frsize": _BLOCK_BYTES,
            "f_blocks": -(-size_bytes // _BLOCK_BYTES),
            "f_bfree": 0,
            "f_bavail": 0,
            "f_files": count,
            "f_ffree": 0,
            "f_favail": 0,
            "f_namemax": limits.NAME_BYTES_MAX,
        }

    def failed(self, path: str, error: NodeError) -> int:
        """The number for an error, which is said to the person unless it was the last thing said."""
        if isinstance(error, ReadInterruptedError):
            return errno.EINTR
        text = "".join(each if each.isprintable() else "?" for each in f"{path.strip('/') or '/'}: {error}")
        if text != self._said:
            self._said = text
            self._note(text)
        return errno.EACCES if isinstance(error, (UsageError, WrongPassphraseError)) else errno.EIO
