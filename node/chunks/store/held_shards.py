"""What a donor keeps, as whoever reads it sees it. Layer 3.

Invariants: a block leaves only if it still has its hash; one that has not costs its shard, for good; what a
compaction moves meanwhile is found again. Part of node/chunks/store/shard_store.py, which changes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from node.chunks.store.log_payloads import CommitFields, LeaseFields, decode_commit, decode_object
from node.chunks.store.shard_index import (
    GRANT_KIND,
    LOST,
    QUARANTINED,
    ROSTER_KIND,
    SEGMENT_OBJECTS,
    SHARDS,
    IndexReader,
    LeaseEntry,
    shard_key,
)
from node.chunks.store.shard_log import Location, Record, ShardLog
from node.errors import CorruptBlockError, NotFoundError, StoreError
from node.ports import KeyValue
from node.units import FileHash, LeaseId, SegmentId

StoredLease = LeaseFields
"""A lease as the store sees it: lease id, signed record, expiry, payer."""

_READ_ATTEMPTS = 4  # a compaction may move a block between looking it up and reading it


class AttachmentKind(IntEnum):
    """What holders of segment 0 keep beside it. Never renumbered; `ROSTER_KIND`, `GRANT_KIND` are taken."""

    FILE_MANIFEST = 1
    SEGMENT_MANIFESTS = 2
    PLACEMENT = 3


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease and the shard that it is for."""

    segment_id: SegmentId
    shard_index: int
    lease: StoredLease


class HeldShards(ABC):
    """Reads of one store. Short, synchronous and thread-safe."""

    def __init__(self, key_values: KeyValue) -> None:
        self._key_values = key_values
        self._log: ShardLog

    @abstractmethod
    def _quarantine(self, key: bytes) -> None:
        """Give up the shard at a key of the index: a block of it has changed."""

    def has_shard(self, segment_id: SegmentId, shard_index: int) -> bool:
        """Whether the shard is held and not quarantined."""
        return shard_index in self.shards_of(segment_id)

    def shards_of(self, segment_id: SegmentId) -> tuple[int, ...]:
        """Indexes of a segment's shards that are held and not quarantined."""
        with self._key_values.view() as view:
            reader = IndexReader(view)
            return tuple(
                index
                for index in reader.shards_of(segment_id)
                if not reader.is_quarantined(shard_key(segment_id, index))
            )

    def segment_manifest(self, segment_id: SegmentId) -> bytes | None:
        """The segment's manifest, None if nothing of the segment is held."""
        for index in self.shards_of(segment_id):
            commit = self._commit_of(segment_id, index)
            if commit is not None:
                return commit.manifest
        return None

    def promised_manifest(self, segment_id: SegmentId) -> bytes | None:
        """The segment's manifest, also where all its shards are quarantined: they were promised."""
        with self._key_values.view() as view:
            indexes = IndexReader(view).shards_of(segment_id)
        for index in indexes:
            commit = self._commit_of(segment_id, index)
            if commit is not None:
                return commit.manifest
        return None

    def leaves(self, segment_id: SegmentId, shard_index: int) -> bytes | None:
        """BLAKE3 of each of the shard's blocks, 32 bytes each, in order."""
        commit = self._commit_of(segment_id, shard_index) if self.has_shard(segment_id, shard_index) else None
        if commit is None:
            return None
        return next(shard.leaves for shard in commit.shards if shard.shard_index == shard_index)

    def read_block(self, segment_id: SegmentId, shard_index: int, block_index: int) -> bytes:
        """A block, with the hash it came with.

        Raises:
            NotFoundError: the shard is not held, was quarantined, or has no such block.
            CorruptBlockError: the block has changed; the shard is quarantined now.
            StoreError: the disk failed.
        """
        key = shard_key(segment_id, shard_index)

        def locate(reader: IndexReader) -> tuple[Location, int] | None:
            shard = reader.shard(key)
            if shard is None or not 0 <= block_index < len(shard.blocks):
                return None
            return shard.blocks[block_index], shard.put

        record = self._read_moving(key, locate)
        if record is None:
            raise NotFoundError(f"block {block_index} of shard {shard_index} is not held here")
        return bytes(record.payload)

    def segments(self, start: bytes = b"", *, limit: int = 1000) -> list[SegmentId]:
        """Up to `limit` segments with a shard to serve, in order of id, from `start` on.

        Go on from the last one + b"\\0"; fewer than `limit` are the last ones.
        """
        found: list[SegmentId] = []
        with self._key_values.view() as view:
            reader = IndexReader(view)
            # Behind a segment id come its shards: \xff is no index of one.
            for key, _ in view.scan(SHARDS, start=start[:32] + b"\xff" if len(start) > 32 else start):
                segment_id = SegmentId(key[:32])
                if (found and found[-1] == segment_id) or reader.is_quarantined(key):
                    continue
                if len(found) == limit:
                    break
                found.append(segment_id)
        return found

    def quarantined(self) -> list[tuple[SegmentId, int]]:
        """Shards with a bad block: lost here, to be made again elsewhere."""
        with self._key_values.view() as view:
            return [(SegmentId(key[:32]), key[32]) for key, _ in view.scan(QUARANTINED)]

    def has_losses(self) -> bool:
        """Whether a shard that was promised is lost. In O(1)."""
        with self._key_values.view() as view:
            return view.count(QUARANTINED) + view.count(LOST) > 0

    def losses(self) -> list[HeldLease]:
        """The leases of shards that are lost here: quarantined, gone with their packs, or given up."""
        with self._key_values.view() as view:
            reader = IndexReader(view)
            quarantined = [
                held_lease(entry) for key, _ in view.scan(QUARANTINED) for entry in reader.leases_of(key)
            ]
            gone = [entry for entry in reader.lost() if reader.lease(entry.lease.lease_id) is None]
            return [*quarantined, *map(held_lease, gone)]

    def holds(self, name: bytes) -> bool:
        """Whether a shard of the segment, or the manifest of the file, of this id is held."""
        if self.shards_of(SegmentId(name)):
            return True
        with self._key_values.view() as view:
            return IndexReader(view).object(name, AttachmentKind.FILE_MANIFEST) is not None

    def attachment(self, file_hash: FileHash, kind: AttachmentKind) -> bytes | None:
        """An attachment, or None. Raises `CorruptBlockError`."""
        return self._object(file_hash, kind)

    def attached_files(self, segment_id: SegmentId) -> list[FileHash]:
        """The files whose manifest is attached to a segment."""
        with self._key_values.view() as view:
            names = [
                key[32:64]
                for key, _ in view.scan(SEGMENT_OBJECTS, segment_id)
                if key[64] == AttachmentKind.FILE_MANIFEST
            ]
        return [FileHash(name) for name in names]

    def roster(self, segment_id: SegmentId) -> bytes | None:
        """The segment's roster, or None. Raises `CorruptBlockError`."""
        return self._object(segment_id, ROSTER_KIND)

    def grant(self, segment_id: SegmentId) -> bytes | None:
        """The owner's repair grant for a segment, or None. Raises `CorruptBlockError`."""
        return self._object(segment_id, GRANT_KIND)

    def lease(self, lease_id: LeaseId) -> HeldLease | None:
        """A lease by its id."""
        with self._key_values.view() as view:
            entry = IndexReader(view).lease(lease_id)
        return None if entry is None else held_lease(entry)

    def leases(self, segment_id: SegmentId) -> list[HeldLease]:
        """All leases of a segment's shards, those of quarantined ones included."""
        with self._key_values.view() as view:
            return [held_lease(entry) for entry in IndexReader(view).leases_of(segment_id)]

    def _commit_of(self, segment_id: SegmentId, shard_index: int) -> CommitFields | None:
        key = shard_key(segment_id, shard_index)

        def locate(reader: IndexReader) -> tuple[Location, int] | None:
            shard = reader.shard(key)
            carrier = reader.carrier(shard.put) if shard else None
            return (carrier[1], shard.put) if carrier and shard else None

        try:
            record = self._read_moving(key, locate)
        except CorruptBlockError:
            return None  # the shard is quarantined: without its leaves it is of no use
        return None if record is None else decode_commit(bytes(record.payload))

    def _read_moving(
        self, key: bytes, locate: Callable[[IndexReader], tuple[Location, int] | None]
    ) -> Record | None:
        """Read what `locate` finds, again where it has moved; quarantine the shard `key` if it is corrupt."""
        failed_at: Location | None = None
        for _ in range(_READ_ATTEMPTS):
            with self._key_values.view() as view:
                found = locate(IndexReader(view))
            if found is None:
                return None
            location, sequence = found
            try:
                record = self._log.read(location)
                if record.sequence != sequence:
                    raise CorruptBlockError(f"another record stands at {location.offset}")
                return record
            except CorruptBlockError:
                if failed_at == location:
                    self._quarantine(key)
                    raise
                failed_at = location
            except StoreError:
                if failed_at == location:
                    raise
                failed_at = location
        raise StoreError("a block moved faster than it could be read")

    def _object_at(self, location: Location) -> bytes:
        return decode_object(bytes(self._log.read(location).payload))[-1]

    def _object(self, scope: bytes, kind: int) -> bytes | None:
        for attempt in range(_READ_ATTEMPTS):
            with self._key_values.view() as view:
                held = IndexReader(view).object(scope, kind)
            if held is None:
                return None
            try:
                return self._object_at(held.location)
            except StoreError:
                if attempt == _READ_ATTEMPTS - 1:
                    raise
        return None


def held_lease(entry: LeaseEntry) -> HeldLease:
    """An entry of the index, as others see it."""
    return HeldLease(entry.segment_id, entry.shard_index, entry.lease)
