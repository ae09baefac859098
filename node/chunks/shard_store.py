"""What a donor keeps: shards in append-only packs under a hard cap. Layer 3. (API skeleton: bodies follow.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from node.ports import Buffer, Entropy, Files, KeyValue
from node.units import FileHash, LeaseId, SegmentId


class AttachmentKind(IntEnum):
    """What holders of segment 0 keep beside it."""

    FILE_MANIFEST = 1
    SEGMENT_MANIFESTS = 2
    PLACEMENT = 3


@dataclass(frozen=True, slots=True)
class StoredLease:
    """A lease as the store sees it: `data` is the signed record, opaque here."""

    lease_id: LeaseId
    data: bytes
    expires_s: int
    payer: bytes


@dataclass(frozen=True, slots=True)
class CommittedShard:
    """One shard of a put: the blocks appended to `slot` become shard `shard_index`, under `leases` (>= 1)."""

    slot: int
    shard_index: int
    leases: tuple[StoredLease, ...]


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease and the shard it is for."""

    segment_id: SegmentId
    shard_index: int
    lease: StoredLease


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The store at a glance; bytes are bytes of disk."""

    cap_bytes: int
    used_bytes: int
    reserved_bytes: int
    free_bytes: int
    shards: int
    leases: int
    packs: int
    dead_bytes: int
    quarantined: int


class Reservation:
    """Room promised to one put, in memory only: void at restart."""

    def release(self) -> None:
        """Give back what was not used. Idempotent."""
        raise NotImplementedError


class IncomingPut:
    """Blocks on their way in; nothing of it is visible before `commit`."""

    def append(self, slot: int, blocks: Sequence[tuple[int, Buffer]]) -> None:
        """Append (block index, block) pairs to a slot. Raises ProtocolError, StoreFullError, StoreError."""
        raise NotImplementedError

    def leaves(self, slot: int) -> bytes:
        """BLAKE3 of each block in order of index, 32 bytes each, concatenated. ProtocolError on a gap."""
        raise NotImplementedError

    def commit(self, segment_id: SegmentId, manifest: bytes, shards: Sequence[CommittedShard]) -> None:
        """Make blocks, manifest and leases durable and visible, all or nothing; releases the reservation."""
        raise NotImplementedError

    def abort(self) -> None:
        """Forget the blocks and release the reservation. Idempotent; nothing after a commit."""
        raise NotImplementedError


class ShardStore:
    """Every method is short, synchronous and thread-safe: services call them through `Offload`."""

    @classmethod
    def open(cls, files: Files, key_values: KeyValue, entropy: Entropy, *, cap_bytes: int) -> ShardStore:
        """Open the packs below `files` (the node's home: all of it counts against the cap) and recover."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent; leaves `key_values` open."""
        raise NotImplementedError

    def statistics(self) -> StoreStatistics:
        raise NotImplementedError

    def set_cap(self, cap_bytes: int) -> None:
        """Grow or shrink; below what is used, nothing more is accepted."""
        raise NotImplementedError

    def reserve(self, byte_count: int, *, block_count: int, shard_count: int = 1) -> Reservation:
        """Room for `block_count` blocks of `byte_count` bytes together. Raises StoreFullError with numbers."""
        raise NotImplementedError

    def begin_put(self, reservation: Reservation, shard_count: int) -> IncomingPut:
        """Start a put into slots 0 to shard_count - 1; it takes over the reservation."""
        raise NotImplementedError

    def has_shard(self, segment_id: SegmentId, shard_index: int) -> bool:
        raise NotImplementedError

    def shards_of(self, segment_id: SegmentId) -> tuple[int, ...]:
        """Indexes of the shards held and not quarantined."""
        raise NotImplementedError

    def segment_manifest(self, segment_id: SegmentId) -> bytes | None:
        raise NotImplementedError

    def leaves(self, segment_id: SegmentId, shard_index: int) -> bytes | None:
        raise NotImplementedError

    def read_block(self, segment_id: SegmentId, shard_index: int, block_index: int) -> bytes:
        """Raises NotFoundError, CorruptBlockError (and quarantines the shard), StoreError."""
        raise NotImplementedError

    def segments(self, start: bytes = b"", *, limit: int = 1000) -> list[SegmentId]:
        """Segments with a servable shard, in order, from `start` on; resume from last id + b'\\0'."""
        raise NotImplementedError

    def set_attachment(
        self, segment_id: SegmentId, file_hash: FileHash, kind: AttachmentKind, data: bytes
    ) -> None:
        """Keep `data` while a lease of segment 0, `segment_id`, lives. NotFoundError without the segment."""
        raise NotImplementedError

    def attachment(self, file_hash: FileHash, kind: AttachmentKind) -> bytes | None:
        raise NotImplementedError

    def lease(self, lease_id: LeaseId) -> HeldLease | None:
        raise NotImplementedError

    def leases(self, segment_id: SegmentId) -> list[HeldLease]:
        raise NotImplementedError

    def add_lease(self, segment_id: SegmentId, shard_index: int, lease: StoredLease) -> None:
        """A further lease on a shard held; idempotent by lease id. NotFoundError, StoreFullError."""
        raise NotImplementedError

    def end_lease(self, lease_id: LeaseId) -> bool:
        """End a lease durably; whether it was there. The shard goes with its last lease."""
        raise NotImplementedError

    def expire(self, now_s: int) -> int:
        """End all leases with expires_s <= now_s; how many."""
        raise NotImplementedError

    def roster(self, segment_id: SegmentId) -> bytes | None:
        raise NotImplementedError

    def merge_roster(self, segment_id: SegmentId, merge: Callable[[bytes | None], bytes]) -> None:
        """Replace the roster by merge(old), atomically; `merge` may run more than once."""
        raise NotImplementedError

    def compact(self, byte_limit: int) -> bool:
        """Copy up to `byte_limit` live bytes out of a pack with too many dead; whether more is to do."""
        raise NotImplementedError

    def scrub(self, cursor: bytes, *, block_limit: int) -> bytes | None:
        """Verify up to `block_limit` blocks from `cursor` on (b'' = start); the next cursor, None at the end."""
        raise NotImplementedError

    def quarantined(self) -> Iterator[tuple[SegmentId, int]]:
        """Shards with a bad block: lost, to be repaired elsewhere."""
        raise NotImplementedError
