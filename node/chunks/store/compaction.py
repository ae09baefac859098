"""Gives dead bytes back: copies what lives out of a pack, then deletes the pack. Layer 3.

Invariants:
- Copies are durable before the index points to them; the index points to them, durably, before the pack goes.
  A crash anywhere leaves at worst a second copy, which is dead.
- The cap holds throughout: a pack is taken only if all that lives in it fits the headroom.
- A pack that a put in progress writes to, and the last one, are left alone.
- A corrupt block is never copied: its shard is quarantined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from node.chunks.store.index_writer import IndexWriter
from node.chunks.store.shard_index import IndexReader, live_location
from node.chunks.store.shard_log import HEADER_BYTES, Location, Record, RecordKind
from node.chunks.store.shard_writer import StoreWriter
from node.errors import CorruptBlockError

DEAD_SHARE = 4  # a pack is worth copying when a quarter of it is dead
URGENT_DEAD_SHARE = 16  # and a sixteenth, when room is short
SHRINKING_DEAD_SHARE = 64  # and less, while there is more than a lowered cap allows
OVERSIZE_PERCENT = 125  # of a pack: those of a larger cap than today's are copied into smaller ones then
ACTIVE_DEAD_BYTES = 64 * 1024  # in the last pack at least this: records of deletions alone don't start a copy
RECORDS_PER_STEP = 4_096  # looked at in one step, however little is copied


class Compactor:
    """One pack at a time, in steps."""

    def __init__(self, writer: StoreWriter, quarantine: Callable[[bytes], None]) -> None:
        """`quarantine` takes the key of a shard whose block is corrupt."""
        self._writer = writer
        self._quarantine = quarantine
        self._victim = 0
        self._offset = HEADER_BYTES
        self._stuck: set[int] = set()

    def step(self, byte_limit: int, *, urgent: bool) -> bool:
        """Copy about `byte_limit` live bytes, or delete a pack; whether anything was done.

        Raises `StoreError`. The caller holds the writer's commit lock.
        """
        if self._victim not in self._writer.log.sizes() or not self._may_copy(self._victim):
            self._victim, self._offset = self._choose(urgent=urgent), HEADER_BYTES
        if not self._victim:
            return False
        if self._writer.live_bytes().get(self._victim, 0):
            copies, corrupt, is_end = self._gather(byte_limit)
            for key in corrupt:
                self._quarantine(key)
            self._copy(copies)
            if not is_end:
                return True
        if self._writer.live_bytes().get(self._victim, 0):
            # Something that the index needs can't be read any more: keep the pack, look at others.
            self._stuck.add(self._victim)
        else:
            self._writer.forget_pack(self._victim)
        self._victim = 0
        return True

    def _choose(self, *, urgent: bool) -> int:
        """The pack with the most dead bytes that is worth it and may be copied; 0 if none."""
        writer = self._writer
        sizes, live, pinned = writer.log.sizes(), writer.live_bytes(), writer.pinned_bytes()
        dead = {pack_id: size - HEADER_BYTES - live.get(pack_id, 0) for pack_id, size in sizes.items()}
        shrinks = writer.excess_bytes() > 0
        share = SHRINKING_DEAD_SHARE if shrinks else URGENT_DEAD_SHARE if urgent else DEAD_SHARE
        for pack_id in sorted(dead, key=lambda pack_id: (-dead[pack_id], pack_id)):
            if dead[pack_id] <= 0:
                break
            if pack_id in pinned or pack_id in self._stuck or not self._may_copy(pack_id):
                continue
            if pack_id == writer.log.active_pack:
                if dead[pack_id] < ACTIVE_DEAD_BYTES or dead[pack_id] * share < sizes[pack_id]:
                    continue
                writer.log.seal_active()
                return pack_id
            if dead[pack_id] * share >= sizes[pack_id]:
                return pack_id
        return self._oversize(sizes, pinned) if shrinks or urgent else 0

    def _oversize(self, sizes: Mapping[int, int], pinned: Mapping[int, int]) -> int:
        """A pack so large that the room to copy it one day would take much of a lowered cap; 0 if none."""
        log = self._writer.log
        if not self._writer.budget.cap_bytes:
            return 0  # no pack will ever be begun again
        for pack_id in sorted(sizes):
            is_large = sizes[pack_id] * 100 > OVERSIZE_PERCENT * log.pack_bytes
            if not is_large or pack_id in pinned or pack_id in self._stuck:
                continue
            if self._may_copy(pack_id):
                if pack_id == log.active_pack:
                    log.seal_active()
                return pack_id
        return 0

    def _may_copy(self, pack_id: int) -> bool:
        live = self._writer.live_bytes().get(pack_id, 0)
        with self._writer.state:
            use = self._writer.pack_use()
            return not live or self._writer.budget.has_headroom(live, use, shrinks=True)

    def _gather(self, byte_limit: int) -> tuple[list[tuple[Record, Location]], set[bytes], bool]:
        """Live records from the cursor on, shards found corrupt, and whether the pack's end was reached."""
        log = self._writer.log
        copies: list[tuple[Record, Location]] = []
        corrupt: set[bytes] = set()
        seen = copied = 0
        with (
            self._writer.key_values.view() as view,
            closing(log.walk(self._victim, self._offset, verify_from=2**62)) as walk,
        ):
            reader = IndexReader(view)
            for location, record in walk:
                if copied >= byte_limit or seen >= RECORDS_PER_STEP:
                    self._offset = location.offset
                    return copies, corrupt, False
                seen += 1
                if live_location(reader, record) != location:
                    continue
                try:
                    copies.append((log.read(location), location))
                    copied += location.record_bytes
                except CorruptBlockError:
                    key = reader.key_of_put(record.sequence, record.slot)
                    if record.kind is RecordKind.BLOCK and key is not None:
                        corrupt.add(key)
        return copies, corrupt, True

    def _copy(self, copies: list[tuple[Record, Location]]) -> None:
        if not copies:
            return
        writer = self._writer
        with writer.state:
            places = writer.log.append([record for record, _ in copies])
            end = writer.log.end()

        def move(index: IndexWriter) -> None:
            for (record, old), new in zip(copies, places, strict=True):
                index.move(record, old, new)

        with writer.stopping_on_failure():
            writer.log.sync()
            writer.apply(move, end=end)
