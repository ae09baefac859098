"""What is mounted: a file, a folder, or the list of mine, opened when first needed. Layer 4; threads.

Invariants: what a node says of a file is checked again here (names, lengths) before anything is shown; a file
is opened once, however many ask; at most `VOLUMES_MAX` folders' indexes of a list are in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from node.chunks.folder import FolderEntry, FolderIndex
from node.chunks.names import safe_name
from node.errors import NodeError, OwnerInconsistentError, ProtocolError
from node.mount.content import Content
from node.mount.ports import Note, Source
from node.mount.tree import ROOT_INODE, Attributes, Listed, OwnFile, PackedTree, inode_of, named

VOLUMES_MAX = 32
REFRESH_S = 1.0
"""How old the list of mine may be when somebody looks at it."""
FAILED_S = 15.0
"""For so long a file that could not be opened is not asked for again."""
LOOKERS = 4
"""Threads that find out what the files of a list are, once it was listed."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or folder of the swarm, opened."""

    name: str
    content: Content
    modified_s: int
    tree: PackedTree | None

    @classmethod
    def open(cls, source: Source, link: str, *, modified_s: int) -> Volume:
        """`modified_s` is for what has no known age. Raises `NodeError`."""
        opened = source.open(link)
        if opened.size_bytes < 0 or opened.stripe_bytes < 1:
            raise OwnerInconsistentError("the file has no possible length")
        tree = None
        if opened.index is not None:
            try:
                index = FolderIndex.decode(opened.index)
            except ProtocolError as error:
                raise OwnerInconsistentError(f"the folder's index is damaged: {error}") from error
            if index.packed_bytes != opened.size_bytes:
                raise OwnerInconsistentError("the folder's index and the file have different lengths")
            tree = PackedTree(index)
        content = Content(link, opened.hash, opened.size_bytes, opened.stripe_bytes)
        created_s = modified_s if opened.created_s is None else opened.created_s
        return cls(safe_name(opened.name), content, created_s, tree)

    def attributes(self, path: str) -> Attributes:
        """Of a path in it; "" is itself. Raises `FileNotFoundError`, `NotADirectoryError`."""
        entry = self._entry(path)
        inode = inode_of(self.content.hash, path)
        if entry is None:
            return Attributes(inode, True, 0, self.modified_s)
        return Attributes(inode, False, entry.byte_count, self.modified_s, entry.executable)

    def level(self, path: str) -> Iterator[Listed]:
        """The names in a folder. Raises `FileNotFoundError`, `NotADirectoryError`."""
        if self._entry(path) is not None or self.tree is None:
            raise NotADirectoryError(path)
        prefix = f"{path}/" if path else ""
        for name, entry in self.tree.level(path):
            yield Listed(name, inode_of(self.content.hash, prefix + name), entry is None)

    def part(self, path: str) -> tuple[int, int]:
        """Where the file at `path` stands in the content: its start and its length.

        Raises `FileNotFoundError`, `NotADirectoryError`, `IsADirectoryError`.
        """
        entry = self._entry(path)
        if entry is None:
            raise IsADirectoryError(path)
        return entry.offset, entry.byte_count

    def _entry(self, path: str) -> FolderEntry | None:
        """The file at `path`, None for a folder."""
        if self.tree is None:
            if path:
                raise NotADirectoryError(path)
            return FolderEntry(self.name, 0, self.content.length)
        found = self.tree.find(path)
        if found is False:
            raise FileNotFoundError(path)
        return None if found is True else found


class Root(Protocol):
    """What stands at the mount point; a `path` is never empty, and has no slash at its ends."""

    is_fixed: bool
    """Whether it never changes: then the kernel may keep what it knows."""

    def place(self, path: str) -> tuple[Volume, str]:
        """The volume that `path` leads into, and the path in it. Raises `OSError`, `NodeError`."""
        ...

    def attributes(self, path: str) -> Attributes:
        """Raises `OSError`, `NodeError`."""
        ...

    def root_attributes(self) -> Attributes:
        """Of the mount point itself."""
        ...

    def level(self) -> Iterator[Listed]:
        """The names at the mount point."""
        ...

    def totals(self) -> tuple[int, int]:
        """Bytes and files, for `df`."""
        ...

    def has_changed(self, path: str) -> bool:
        """Whether the path ever stood for something else while it was mounted."""
        ...


class LinkRoot:
    """One link: a folder's own files, or a folder with the one file in it."""

    is_fixed = True

    def __init__(self, volume: Volume) -> None:
        self.volume = volume

    def place(self, path: str) -> tuple[Volume, str]:
        """See `Root`."""
        if self.volume.tree is not None:
            return self.volume, path
        first, _, rest = path.partition("/")
        if first != self.volume.name:
            raise FileNotFoundError(path)
        return self.volume, rest

    def attributes(self, path: str) -> Attributes:
        """See `Root`."""
        volume, inner = self.place(path)
        return volume.attributes(inner)

    def root_attributes(self) -> Attributes:
        """See `Root`."""
        return Attributes(ROOT_INODE, True, 0, self.volume.modified_s)

    def level(self) -> Iterator[Listed]:
        """See `Root`."""
        if self.volume.tree is not None:
            yield from self.volume.level("")
        else:
            yield Listed(self.volume.name, inode_of(self.volume.content.hash), False)

    def totals(self) -> tuple[int, int]:
        """See `Root`."""
        return self.volume.content.length, 1 if self.volume.tree is None else len(self.volume.tree)

    def has_changed(self, path: str) -> bool:
        """See `Root`."""
        return False


class ListRoot:
    """All my files, as the list of mine has them now."""

    is_fixed = False

    def __init__(self, source: Source, clock_s: Callable[[], float], note: Note, *, modified_s: int) -> None:
        """`clock_s` only ever goes forward. Raises `NodeError` where the list can't be had."""
        self._source = source
        self._clock_s = clock_s
        self._note = note
        self._modified_s = modified_s
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._files: dict[str, OwnFile] = {}
        self._changed_names: set[str] = set()
        self._is_folder: dict[str, bool] = {}
        """By hash, of all that were looked at."""
        self._volumes: OrderedDict[str, Volume] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._failed: dict[str, tuple[NodeError, float]] = {}
        self._lookers = 0
        self._fetched_s = clock_s()
        self._take(source.own_files())

    def place(self, path: str) -> tuple[Volume, str]:
        """See `Root`."""
        first, _, rest = path.partition("/")
        return self._volume(self._file(first)), rest

    def attributes(self, path: str) -> Attributes:
        """See `Root`."""
        first, _, rest = path.partition("/")
        file = self._file(first)
        with self._lock:
            is_folder = self._is_folder.get(file.hash)
        if is_folder is None:
            is_folder = self._volume(file).tree is not None
        if is_folder and rest:
            return self._volume(file).attributes(rest)
        if rest:
            raise NotADirectoryError(path)
        size_bytes = 0 if is_folder else file.size_bytes
        return Attributes(inode_of(file.hash), is_folder, size_bytes, file.created_s)

    def root_attributes(self) -> Attributes:
        """See `Root`."""
        self._refresh()
        with self._lock:
            newest = max((file.created_s for file in self._files.values()), default=self._modified_s)
        return Attributes(ROOT_INODE, True, 0, newest)

    def level(self) -> Iterator[Listed]:
        """See `Root`."""
        self._refresh()
        with self._lock:
            found = [
                Listed(name, inode_of(file.hash), self._is_folder.get(file.hash))
                for name, file in self._files.items()
            ]
            unknown = [file for file in self._files.values() if file.hash not in self._is_folder]
            if unknown and not self._lookers:
                self._lookers = LOOKERS
                for _ in range(LOOKERS):
                    threading.Thread(target=self._look_at, args=(unknown,), daemon=True).start()
        yield from found

    def totals(self) -> tuple[int, int]:
        """See `Root`."""
        self._refresh()
        with self._lock:
            return sum(file.size_bytes for file in self._files.values()), len(self._files)

    def has_changed(self, path: str) -> bool:
        """See `Root`."""
        with self._lock:
            return path.partition("/")[0] in self._changed_names

    def _file(self, name: str) -> OwnFile:
        self._refresh()
        with self._lock:
            file = self._files.get(name)
        if file is None:
            raise FileNotFoundError(name)
        return file

    def _refresh(self) -> None:
        """Ask for the list again if it is old; where nobody answers, the old one stands."""
        with self._refreshing:
            if self._clock_s() - self._fetched_s < REFRESH_S:
                return
            try:
                files = self._source.own_files()
            except NodeError as error:
                self._note(f"the list of files is as it was: {error}")
            else:
                self._take(files)
            self._fetched_s = self._clock_s()

    def _take(self, files: object) -> None:
        assert isinstance(files, (list, tuple))
        new = named(OwnFile(*each) for each in files)
        with self._lock:
            for name, file in self._files.items():
                now = new.get(name)
                if now is None or now.hash != file.hash:
                    self._changed_names.add(name)
            self._files = new
            hashes = {file.hash for file in new.values()}
            for table in (self._is_folder, self._volumes, self._failed, self._opening):
                for gone in [key for key in table if key not in hashes]:
                    del table[gone]

    def _volume(self, file: OwnFile) -> Volume:
        """A file, opened. Raises `NodeError`."""
        with self._lock:
            opening = self._opening.setdefault(file.hash, threading.Lock())
        with opening:
            with self._lock:
                volume = self._volumes.get(file.hash)
                failed = self._failed.get(file.hash)
                if volume is not None:
                    self._volumes.move_to_end(file.hash)
            if volume is not None:
                return volume
            if failed is not None and self._clock_s() < failed[1]:
                raise failed[0]
            try:
                volume = Volume.open(self._source, file.hash, modified_s=file.created_s)
            except NodeError as error:
                with self._lock:
                    self._failed[file.hash] = error, self._clock_s() + FAILED_S
                raise
            with self._lock:
                self._failed.pop(file.hash, None)
                self._is_folder[file.hash] = volume.tree is not None
                self._volumes[file.hash] = volume
                while len(self._volumes) > VOLUMES_MAX:
                    self._volumes.popitem(last=False)
            return volume

    def _look_at(self, unknown: list[OwnFile]) -> None:
        """One of the threads that share a list of files to open."""
        try:
            while True:
                with self._lock:
                    if not unknown:
                        return
                    file = unknown.pop(0)
                try:
                    self._volume(file)
                except NodeError:
                    continue  # said when somebody asks for it
        finally:
            with self._lock:
                self._lookers -= 1
