"""A source of bytes that the test has in memory, whose node the test can take away."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from node.errors import NoDaemonError, NodeError, NotFoundError, TransferInterruptedError
from node.mount.ports import Opened

STRIPE = 1_000


class MemorySource:
    """Files by link; a link is its own hash."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = files or {}
        self.folders: dict[str, bytes] = {}
        """The encoded index of each link that is a folder."""
        self.listed: list[tuple[str, str, int, int]] = []
        self.failure: NodeError | None = None
        """What every call ends with, until it is taken away."""
        self.is_gone = False
        self.may_send = threading.Event()
        """Cleared: a stream waits before its next bytes."""
        self.may_send.set()
        self.asked: list[tuple[int, int]] = []
        self.sent_bytes = 0
        self.opened: list[str] = []
        self.open_streams = 0
        self.lock = threading.Lock()

    def open(self, link: str) -> Opened:
        self._check()
        self.opened.append(link)
        if link not in self.files:
            raise NotFoundError("nobody has it")
        return Opened(link, f"name of {link}", len(self.files[link]), None, STRIPE, self.folders.get(link))

    def own_files(self) -> Sequence[tuple[str, str, int, int]]:
        self._check()
        return list(self.listed)

    @contextmanager
    def stream(self, link: str, first: int, stop: int) -> Iterator[MemoryStream]:
        self._check()
        assert 0 <= first < stop <= len(self.files[link])
        with self.lock:
            self.asked.append((first, stop))
            self.open_streams += 1
        try:
            yield MemoryStream(self, self.files[link][first:stop])
        finally:
            with self.lock:
                self.open_streams -= 1

    def _check(self) -> None:
        if self.is_gone:
            raise NoDaemonError("no node runs")
        if self.failure is not None:
            raise self.failure


class MemoryStream:
    """Some of a file, in order."""

    def __init__(self, source: MemorySource, data: bytes) -> None:
        self._source = source
        self._data = data
        self._position = 0

    def read(self, count: int) -> bytes:
        self._source.may_send.wait()
        if self._source.is_gone:
            raise TransferInterruptedError("the node stopped")
        if self._source.failure is not None:
            raise self._source.failure
        piece = self._data[self._position : self._position + count]
        assert len(piece) == count
        self._position += count
        with self._source.lock:
            self._source.sent_bytes += count
        return piece
