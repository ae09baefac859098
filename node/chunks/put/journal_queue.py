"""Group commit for a put's journal: who comes while records are being synced shares the next sync. Layer 4.

All holders of a segment open at once, and close at once; each journals before it does. One thread and one
sync serve all who wait.

Invariants: when `append` returns, its records are durable; one caller's records stay together and in order; a
caller that is cancelled before its records are being written takes them back. Needs no task of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from node.chunks.put.journal import Journal, Record
from node.errors import NodeError
from node.ports import Offload


class _Waiting:
    __slots__ = ("error", "is_done", "records")

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.is_done = False
        self.error: NodeError | None = None


class JournalQueue:
    """Appends to one journal, off the loop."""

    def __init__(self, journal: Journal, offload: Offload) -> None:
        self._journal = journal
        self._offload = offload
        self._waiting: list[_Waiting] = []
        self._lock = trio.Lock()

    async def append(self, *records: Record) -> None:
        """Make records durable, then part of the journal's state. Raises `StoreError`."""
        own = _Waiting(records)
        self._waiting.append(own)
        try:
            async with self._lock:
                if not own.is_done:
                    await self._write_all()
        except trio.Cancelled:
            if own in self._waiting:
                self._waiting.remove(own)
            raise
        if own.error is not None:
            raise own.error

    async def _write_all(self) -> None:
        batch, self._waiting = self._waiting, []
        records = [record for each in batch for record in each.records]
        try:
            await self._offload.run(lambda: self._journal.append(*records))
        except NodeError as error:
            for each in batch:
                each.error = error
        except BaseException:
            self._waiting[:0] = batch  # cancelled before it started: the next in line takes over
            raise
        for each in batch:
            each.is_done = True
