"""Whose turn it is to announce what is held here, week by week. Layer 4.

A segment has many holders, and five announcers are enough: those with the smallest H(segment id, week,
holder) of the roster. Every week the choice is another one, so the work goes round, and records that named
holders now dead are followed by records of living ones. Who announces segment 0 announces its file too.
Records of last week's announcers outlive the change by their two days, so nothing is hidden meanwhile.

Invariants: what is announced is held; memory is one page of segments. Source: design.md, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from node.chunks.roster import ANNOUNCERS, WEEK_S, announcers, newest_holders
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.hashing import MULTIHASH_PREFIX, multihash
from node.ports import Clock, Directory, Offload
from node.units import DAY_S, PeerId, SegmentId

PAGE_SEGMENTS: Final = 256
PAGE_KEYS: Final = 1024


@dataclass(slots=True)
class _Turns:
    """Keys to announce from now on, and keys that are others' turn."""

    ours: list[bytes] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)


class AnnouncingTurns:
    """Takes and hands over turns for all segments that a holder keeps."""

    def __init__(
        self,
        *,
        store: ShardStore,
        rosters: Rosters,
        directory: Directory,
        peer_id: PeerId,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._store = store
        self._rosters = rosters
        self._directory = directory
        self._peer_id = peer_id
        self._clock = clock
        self._offload = offload

    @property
    def week(self) -> int:
        """The number of this week: turns change with it."""
        return self._clock.now_s() // WEEK_S

    async def change(self) -> int:
        """Go through everything held, announce what is this node's turn and stop what is not.

        Returns the number of keys announced. Raises `StoreError`.
        """
        announced = 0
        start: bytes = b""
        while True:
            segment_ids = await self._offload.run(partial(self._store.segments, start, limit=PAGE_SEGMENTS))
            turns = await self._offload.run(partial(self._turns, segment_ids))
            if turns.ours:
                await self._directory.provide(turns.ours)
            if turns.others:
                await self._directory.stop_providing(turns.others)
            announced += len(turns.ours)
            if len(segment_ids) < PAGE_SEGMENTS:
                return announced
            start = segment_ids[-1] + b"\0"

    async def drop_gone(self) -> int:
        """Stop announcing what is held no longer: it expired, rotted, or went just before a crash.

        Returns the number of keys. Raises `StoreError`.
        """
        dropped = 0
        after: bytes | None = None
        while keys := self._directory.provided(after=after, limit=PAGE_KEYS):
            gone = await self._offload.run(partial(self._gone, keys))
            if gone:
                await self._directory.stop_providing(gone)
            dropped += len(gone)
            after = keys[-1]
        return dropped

    def _gone(self, keys: Sequence[bytes]) -> list[bytes]:
        return [key for key in keys if not self._store.holds(key.removeprefix(MULTIHASH_PREFIX))]

    def _turns(self, segment_ids: list[SegmentId]) -> _Turns:
        turns = _Turns()
        now_s = self._clock.now_s()
        for segment_id in segment_ids:
            holders = newest_holders(self._rosters.known_leases(segment_id), today=now_s // DAY_S)
            is_ours = self._peer_id in announcers(segment_id, holders, now_s=now_s)[:ANNOUNCERS]
            keys = [multihash(name) for name in (segment_id, *self._store.attached_files(segment_id))]
            (turns.ours if is_ours else turns.others).extend(keys)
        return turns
