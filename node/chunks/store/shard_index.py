"""The index of a donor's store: tables that follow from the log, record by record. Layer 3, over `KeyValue`.

Invariants:
- The index is a function of the log: live commits, the scan after a crash and the rebuild all go through
  `IndexWriter.apply`. Applying a record again, or its copy made by a compaction, changes nothing.
- A shard is there as long as one of its leases; attachments and rosters as long as a shard of their segment.
- `packs` holds the live bytes of every pack: what a compaction would have to copy.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from node import limits, wire
from node.chunks.store.log_payloads import LeaseFields, decode_end, lease_fields
from node.chunks.store.shard_log import ALIGN_BYTES, Location, Position, Record, RecordKind
from node.ports import ReadTransaction
from node.units import SegmentId

META = "store.meta"
SHARDS = "store.shards"  # segment id, shard index -> ShardEntry
PUTS = "store.puts"  # sequence of a put, slot -> key in SHARDS
CARRIERS = "store.carriers"  # sequence of a COMMIT or LEASE record -> references, location
LEASES = "store.leases"  # lease id -> LeaseEntry
SHARD_LEASES = "store.shard_leases"  # segment id, shard index, lease id -> empty
EXPIRY = "store.expiry"  # expiry, lease id -> empty
ENDS = "store.ends"  # expiry, sequence of an END record -> location
OBJECTS = "store.objects"  # scope, kind -> ObjectEntry
SEGMENT_OBJECTS = "store.segment_objects"  # segment id, scope, kind -> empty
QUARANTINED = "store.quarantined"  # segment id, shard index -> sequence of its put, location of the record
PACKS = "store.packs"  # pack -> live bytes
REBUILD = "store.rebuild"  # work table of a rebuild
LOST = "store.lost"  # lease id -> as in LEASES: leases of shards whose packs are gone
TABLES = (
    META, SHARDS, PUTS, CARRIERS, LEASES, SHARD_LEASES, EXPIRY, ENDS, OBJECTS, SEGMENT_OBJECTS, QUARANTINED,
    PACKS, REBUILD, LOST,
)  # fmt: skip

FORMAT_KEY = b"format"
SALT_KEY = b"salt"
SYNCED_KEY = b"synced"
SCAN_FROM_KEY = b"scan_from"
SEQUENCE_KEY = b"sequence"
EXPIRED_TO_KEY = b"expired_to"
FORMAT = b"1"

ROSTER_KIND = 0  # the object kind of a segment's roster; its scope is the segment id
GRANT_KIND = 4  # the object kind of a segment's repair grant; its scope is the segment id

LOCATION = struct.Struct(">III")  # pack, offset in units of ALIGN_BYTES, payload bytes
POSITION = struct.Struct(">QQ")
U64 = struct.Struct(">Q")
PUT_SLOT = struct.Struct(">QH")
SHARD_ENTRY = struct.Struct(">QHQ")
CARRIER_ENTRY = struct.Struct(">I12s")
EXPIRED_TO_ENTRY = struct.Struct(">QQ12s")
QUARANTINE_ENTRY = struct.Struct(">Q12s")


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """Where a shard's blocks stand; none when it is quarantined."""

    put: int
    slot: int
    epoch: int
    blocks: tuple[Location, ...]


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """A lease, its shard, and the record that carries it."""

    segment_id: SegmentId
    shard_index: int
    carrier: int
    lease: LeaseFields


class ObjectEntry(NamedTuple):
    """Where an attachment or a roster stands."""

    sequence: int
    location: Location
    segment_id: SegmentId


class ExpiredTo(NamedTuple):
    """The latest EXPIRY record: leases of earlier records that expire by `now_s` are over."""

    now_s: int
    sequence: int
    location: Location | None


class BlockPlace(NamedTuple):
    """A block in the log, with the hash that its header states."""

    location: Location
    leaf: bytes


def shard_key(segment_id: bytes, shard_index: int) -> bytes:
    """Key of a shard in `SHARDS`."""
    return segment_id + bytes([shard_index])


def pack_location(location: Location) -> bytes:
    """12 bytes for a location."""
    return LOCATION.pack(location.pack_id, location.offset // ALIGN_BYTES, location.length)


def unpack_location(data: bytes) -> Location:
    """The inverse of `pack_location`."""
    pack_id, units, length = LOCATION.unpack(data)
    return Location(pack_id, units * ALIGN_BYTES, length)


class IndexReader:
    """Typed access to the tables in one transaction."""

    def __init__(self, view: ReadTransaction) -> None:
        self._view = view

    def shard(self, key: bytes) -> ShardEntry | None:
        """The shard at a key of `SHARDS`."""
        data = self._view.get(SHARDS, key)
        return None if data is None else _unpack_shard(data)

    def shards_of(self, segment_id: bytes) -> list[int]:
        """Indexes of a segment's shards, quarantined ones included."""
        return [key[32] for key, _ in self._view.scan(SHARDS, segment_id)]

    def epoch_of(self, segment_id: bytes) -> int | None:
        """Since which put the segment has been held; None if it is not."""
        for _, data in self._view.scan(SHARDS, segment_id):
            return _unpack_shard(data).epoch
        return None

    def is_quarantined(self, key: bytes) -> bool:
        """Whether the shard at `key` had a bad block."""
        return self._view.get(QUARANTINED, key) is not None

    def carrier(self, sequence: int) -> tuple[int, Location] | None:
        """References to a COMMIT or LEASE record, and where it stands."""
        data = self._view.get(CARRIERS, U64.pack(sequence))
        if data is None:
            return None
        references, location = CARRIER_ENTRY.unpack(data)
        return references, unpack_location(location)

    def lease(self, lease_id: bytes) -> LeaseEntry | None:
        """A lease by its id."""
        data = self._view.get(LEASES, lease_id)
        if data is None:
            return None
        segment_id, shard_index, carrier, *lease = wire.decode(data, size_max=limits.STORE_RECORD_BYTES_MAX)
        assert isinstance(segment_id, bytes)
        assert isinstance(shard_index, int)
        assert isinstance(carrier, int)
        return LeaseEntry(SegmentId(segment_id), shard_index, carrier, lease_fields(lease))

    def lost(self) -> Iterator[LeaseEntry]:
        """Leases of shards whose packs are gone, in order of id."""
        for _, data in self._view.scan(LOST):
            segment_id, shard_index, carrier, *lease = wire.decode(
                data, size_max=limits.STORE_RECORD_BYTES_MAX
            )
            assert isinstance(segment_id, bytes)
            assert isinstance(shard_index, int)
            assert isinstance(carrier, int)
            yield LeaseEntry(SegmentId(segment_id), shard_index, carrier, lease_fields(lease))

    def leases_of(self, prefix: bytes) -> list[LeaseEntry]:
        """Leases of a segment (its id) or of a shard (its key)."""
        found = [self.lease(key[33:]) for key, _ in self._view.scan(SHARD_LEASES, prefix)]
        return [entry for entry in found if entry is not None]

    def lease_count(self, key: bytes) -> int:
        """Number of leases of a shard."""
        return sum(1 for _ in self._view.scan(SHARD_LEASES, key))

    def object(self, scope: bytes, kind: int) -> ObjectEntry | None:
        """An attachment or roster."""
        data = self._view.get(OBJECTS, scope + bytes([kind]))
        if data is None:
            return None
        (sequence,) = U64.unpack(data[:8])
        return ObjectEntry(sequence, unpack_location(data[8:20]), SegmentId(data[20:52]))

    def expired_to(self) -> ExpiredTo:
        """The latest EXPIRY record."""
        data = self._view.get(META, EXPIRED_TO_KEY)
        if data is None:
            return ExpiredTo(-1, 0, None)
        now_s, sequence, location = EXPIRED_TO_ENTRY.unpack(data)
        return ExpiredTo(now_s, sequence, unpack_location(location))

    def expired(self, now_s: int) -> Iterator[LeaseEntry]:
        """Leases that expire by `now_s`, the oldest first."""
        for key, _ in self._view.scan(EXPIRY):
            if U64.unpack(key[:8])[0] > now_s:
                return
            entry = self.lease(key[8:])
            if entry is not None:
                yield entry

    def end_location(self, expires_s: int, sequence: int) -> Location | None:
        """Where an END record stands that is still needed."""
        data = self._view.get(ENDS, U64.pack(expires_s) + U64.pack(sequence))
        return None if data is None else unpack_location(data)

    def key_of_put(self, put: int, slot: int) -> bytes | None:
        """The shard that a put's slot became."""
        return self._view.get(PUTS, PUT_SLOT.pack(put, slot))

    def quarantine_location(self, key: bytes) -> Location | None:
        """Where the record stands that quarantined a shard; None also where a rebuild found it incomplete."""
        data = self._view.get(QUARANTINED, key)
        location = unpack_location(data[8:]) if data else None
        return location if location and location.pack_id else None

    def position(self, key: bytes) -> Position:
        """`SYNCED_KEY` or `SCAN_FROM_KEY`."""
        data = self._view.get(META, key)
        return Position(*POSITION.unpack(data)) if data else Position(0, 0)

    def sequence(self) -> int:
        """The highest sequence number given out when the index was last written."""
        data = self._view.get(META, SEQUENCE_KEY)
        return int(U64.unpack(data)[0]) if data else 0

    def live_bytes(self) -> dict[int, int]:
        """Live bytes of every pack."""
        return {int(U64.unpack(key)[0]): int(U64.unpack(value)[0]) for key, value in self._view.scan(PACKS)}


def live_location(reader: IndexReader, record: Record) -> Location | None:
    """Where the index has the living copy of a record; None if it is dead."""
    payload = bytes(record.payload)
    if record.kind is RecordKind.BLOCK:
        key = reader.key_of_put(record.sequence, record.slot)
        shard = reader.shard(key) if key else None
        if shard is None or record.block_index >= len(shard.blocks):
            return None
        return shard.blocks[record.block_index]
    if record.kind in (RecordKind.COMMIT, RecordKind.LEASE):
        carrier = reader.carrier(record.sequence)
        return carrier[1] if carrier else None
    if record.kind is RecordKind.END:
        return reader.end_location(decode_end(payload)[2], record.sequence)
    if record.kind is RecordKind.EXPIRY:
        marker = reader.expired_to()
        return marker.location if marker.sequence == record.sequence else None
    if record.kind is RecordKind.OBJECT:
        held = reader.object(payload[32:64], record.slot)
        return held.location if held and held.sequence == record.sequence else None
    return reader.quarantine_location(payload[:33])


def places_in_order(found: Mapping[int, BlockPlace]) -> list[BlockPlace]:
    """Blocks by index as a list; cut at the first gap."""
    return [found[index] for index in range(len(found)) if index in found]


def pack_shard(shard: ShardEntry) -> bytes:
    """Value of a shard in `SHARDS`."""
    return SHARD_ENTRY.pack(shard.put, shard.slot, shard.epoch) + b"".join(map(pack_location, shard.blocks))


def _unpack_shard(data: bytes) -> ShardEntry:
    put, slot, epoch = SHARD_ENTRY.unpack_from(data)
    places = data[SHARD_ENTRY.size :]
    blocks = tuple(
        Location(pack_id, units * ALIGN_BYTES, length)
        for pack_id, units, length in LOCATION.iter_unpack(places)
    )
    return ShardEntry(put, slot, epoch, blocks)
