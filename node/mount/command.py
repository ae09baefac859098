"""The command `cairn mount`: checks, mounts, says so, and waits for the end. Layer 5.

Invariants: what can be said before anything is mounted is said then, as an error of one line; however the
command ends, short of SIGKILL, nothing stays mounted; SIGKILL leaves a dead mount that the next command on
the same folder takes off.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from node.daemon.home import Home
from node.errors import ConfigError, NodeError
from node.mount import fuse
from node.mount.content import Contents
from node.mount.files import MountedFiles
from node.mount.mount_point import checked_mount_point, require_device, unmount
from node.mount.node_source import NodeSource
from node.mount.ports import Note
from node.mount.volumes import LinkRoot, ListRoot, Root, Volume

MINE = "mine"
_END_WAIT_S = 5.0
"""For programs that are reading to get their answers, once it is unmounted."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What to mount, and where."""

    link: str
    """A link, the hash of a file of mine, or `mine`."""
    folder: str
    password: str | None
    allow_other: bool


@dataclass(frozen=True, slots=True)
class Mounted:
    """What is mounted now."""

    folder: str
    name: str | None
    """Of a link's file or folder; None for the list of mine."""
    count: int
    size_bytes: int


def run_mount(home: Home, options: MountOptions, on_mounted: Callable[[Mounted], None], note: Note) -> None:
    """Mount until a signal or somebody else unmounts it.

    Raises `UsageError`, `ConfigError`, and what opening the link raises.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.ERROR)
    folder, was_stale = checked_mount_point(options.folder)
    if was_stale:
        note(f"the mount that a killed process left on {folder} has been taken off")
    require_device(allow_other=options.allow_other)
    fuse.require_library()
    root = _root(NodeSource(home, options.password), options.link, note)
    contents = Contents(root.source, time.monotonic)
    files = MountedFiles(root.root, contents)
    session = _Session(files, folder, allow_other=options.allow_other, note=note)
    size_bytes, count = files.totals()
    session.run(lambda: on_mounted(Mounted(folder, root.name, count, size_bytes)))


@dataclass(frozen=True, slots=True)
class _Chosen:
    source: NodeSource
    root: Root
    name: str | None


def _root(source: NodeSource, link: str, note: Note) -> _Chosen:
    now_s = int(time.time())
    if link == MINE:
        return _Chosen(source, ListRoot(source, time.monotonic, note, modified_s=now_s), None)
    volume = Volume.open(source, link, modified_s=now_s)
    return _Chosen(source, LinkRoot(volume), volume.name)


class _Session:
    """The life of one mount: libfuse on a thread of its own, signals on the main one."""

    def __init__(self, files: MountedFiles, folder: str, *, allow_other: bool, note: Note) -> None:
        self._files = files
        self._folder = folder
        self._allow_other = allow_other
        self._note = note
        self._happened = threading.Condition()
        self._is_mounted = False
        self._is_over = False
        self._is_stopped = False
        self._failure: NodeError | None = None

    def run(self, on_mounted: Callable[[], None]) -> None:
        """Mount, say so, wait for the end, unmount."""
        server = threading.Thread(target=self._serve, daemon=True)
        with _signals(self._stop):
            try:
                with _libfuse_words() as words:
                    server.start()
                    self._wait(lambda: self._is_mounted or self._is_over or self._is_stopped)
                    said = words()
                if self._is_over and not self._is_mounted:
                    reason = said or str(self._failure or "FUSE did not say why")
                    raise ConfigError(f"can't mount on {self._folder}: {reason}")
                if not self._is_stopped:
                    on_mounted()
                    self._wait(lambda: self._is_over or self._is_stopped)
            finally:
                self._files.stop()
                if not self._is_over and not unmount(self._folder):
                    self._note(f"{self._folder} is still mounted: `umount -l {self._folder}` takes it off")
                server.join(_END_WAIT_S)
        if server.is_alive():
            # A program still holds a file open. The kernel answers it when this process is gone; libfuse's
            # threads must not meet an interpreter that is being taken down.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        if self._failure is not None and not self._is_stopped:
            raise self._failure

    def _serve(self) -> None:
        try:
            owner = fuse.Owner(os.geteuid(), os.getegid())
            fuse.serve(
                self._files,
                self._folder,
                owner=owner,
                allow_other=self._allow_other,
                on_mounted=lambda: self._set("_is_mounted"),
                note=self._note,
            )
        except NodeError as error:
            self._failure = error
        finally:
            self._set("_is_over")

    def _set(self, what: str) -> None:
        with self._happened:
            setattr(self, what, True)
            self._happened.notify_all()

    def _stop(self) -> None:
        self._is_stopped = True  # from a signal handler, which may not take a lock

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._happened:
            while not condition():
                self._happened.wait(0.2)


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the mount. libfuse leaves signals alone that somebody handles."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    before = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _libfuse_words() -> Iterator[Callable[[], str]]:
    """While libfuse mounts, what it and its helper write on stderr is kept for the error's one line."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as words:
        stderr = os.dup(2)
        os.dup2(words.fileno(), 2)

        def said() -> str:
            words.seek(0)
            return " ".join(words.read(4096).decode(errors="replace").split())

        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
