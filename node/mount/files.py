"""The file system: paths, handles and bytes, as its adapter to the kernel asks for them. Layer 4; threads.

Invariant: everything is read-only; a failure is said once to the person and as an error number to the
program.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

from node.mount.content import Content, Contents
from node.mount.ports import Interrupted
from node.mount.tree import Attributes, Listed
from node.mount.volumes import Root


class MountedFiles:
    """What `node.mount.fuse` mounts."""

    def __init__(self, root: Root, contents: Contents) -> None:
        self._root = root
        self._contents = contents
        self._lock = threading.Lock()
        self._handles: dict[int, tuple[Content, int, int]] = {}
        self._numbers = itertools.count(1)

    @property
    def is_fixed(self) -> bool:
        """Whether what a path stands for never changes."""
        return self._root.is_fixed

    def attributes(self, path: str) -> Attributes:
        """Of an absolute path. Raises `OSError`, `NodeError`."""
        path = path.strip("/")
        return self._root.attributes(path) if path else self._root.root_attributes()

    def level(self, path: str) -> Iterator[Listed]:
        """The names in a folder. Raises `OSError`, `NodeError`."""
        path = path.strip("/")
        if not path:
            return self._root.level()
        volume, inner = self._root.place(path)
        return volume.level(inner)

    def open(self, path: str) -> int:
        """A handle to read a file by. Raises `OSError`, `NodeError`."""
        path = path.strip("/")
        if not path:
            raise IsADirectoryError("/")
        volume, inner = self._root.place(path)
        start, length = volume.part(inner)
        self._contents.use(volume.content)
        with self._lock:
            handle = next(self._numbers)
            self._handles[handle] = volume.content, start, length
        return handle

    def may_keep(self, path: str) -> bool:
        """Whether what the kernel remembers of a path's bytes is true."""
        return not self._root.has_changed(path.strip("/"))

    def read(self, handle: int, offset: int, size: int, interrupted: Interrupted) -> bytes:
        """At most `size` bytes; fewer only at the end. Raises `OSError`, `NodeError`."""
        with self._lock:
            content, start, length = self._handles[handle]
        first = min(offset, length)
        stop = min(offset + size, length)
        return self._contents.read(content, start + first, start + stop, interrupted)

    def release(self, handle: int) -> None:
        """A handle is closed."""
        with self._lock:
            content, _, _ = self._handles.pop(handle)
        self._contents.leave(content)

    def totals(self) -> tuple[int, int]:
        """Bytes and files in all. Raises `NodeError`."""
        return self._root.totals()

    def stop(self) -> None:
        """Answer whoever waits, with an error."""
        self._contents.stop()
