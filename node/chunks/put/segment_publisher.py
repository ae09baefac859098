"""Tells the holders of placed segments of each other, several segments at a time. Layer 4.

Telling one segment at a time would cost each holder two syncs and each announcer a lookup and a stream to
every node near the key, a segment: at 3/10 as much work as the blocks themselves.

Invariants: a segment is done (in the journal) only after its holders were told and it was announced; `flush`
leaves none waiting; what waits is bounded by `BATCH_SEGMENTS` and the segments in flight. A crash before
leaves segments whose leases are in the journal: the same put tells them again, and sends nothing. Source:
design.md, section 4 (put, steps 5 to 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.chunks.client import HolderClient
from node.chunks.put import journal as records
from node.chunks.put.journal_queue import JournalQueue
from node.chunks.put.publish import Announcements, SegmentNews, publish_segments, tell_segments
from node.chunks.put.segment_upload import PlacedSegment
from node.ports import Clock
from node.records.repair import RepairGrant

BATCH_SEGMENTS: Final = 16
"""Told together: 670 MB of file at 10/30."""


class SegmentPublisher:
    """Gathers placed segments of one put. Needs no task of its own."""

    def __init__(
        self,
        client: HolderClient,
        clock: Clock,
        journal: JournalQueue,
        grant_of: Callable[[PlacedSegment], RepairGrant],
    ) -> None:
        self._client = client
        self._clock = clock
        self._journal = journal
        self._grant_of = grant_of
        self._waiting: list[PlacedSegment] = []

    async def add(self, segment: PlacedSegment) -> None:
        """Take one; with enough of them, returns once all are told. Raises `StoreError`."""
        self._waiting.append(segment)
        if len(self._waiting) >= BATCH_SEGMENTS:
            await self.flush()

    async def flush(self) -> None:
        """Tell all that wait, and have them announced. Raises `StoreError`."""
        batch, self._waiting = self._waiting, []
        if batch:
            await publish_segments(self._client, self._clock, self._news(batch))
            await self._note_done(batch)

    async def tell_rest(self) -> Announcements:
        """Tell all that wait; who is to announce what, before `end_rest`."""
        return await tell_segments(self._client, self._clock, self._news(self._waiting))

    async def end_rest(self) -> None:
        """What `tell_rest` told is announced. Raises `StoreError`."""
        batch, self._waiting = self._waiting, []
        if batch:
            await self._note_done(batch)

    def _news(self, batch: Sequence[PlacedSegment]) -> list[SegmentNews]:
        return [
            SegmentNews(
                segment.manifest.segment_id, segment.leases, segment.contacts, self._grant_of(segment)
            )
            for segment in batch
        ]

    async def _note_done(self, batch: Sequence[PlacedSegment]) -> None:
        await self._journal.append(
            *(records.SegmentDone(each.segment_index, each.manifest.segment_id) for each in batch)
        )
