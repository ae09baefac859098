"""The index of a donor's store: tables that follow from the log, record by record. Layer 3, over `KeyValue`.

Invariants:
- The index is a function of the log: live commits, the scan after a crash and the rebuild all go through
  `IndexWriter.apply`. Applying a record again, or its copy made by a compaction, changes nothing.
- A shard is there as long as one of its leases; attachments and rosters as long as a shard of their segment.
- `packs` holds the live bytes of every pack: what a compaction would have to copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from node import limits, wire
from node.chunks.store.shard_log import ALIGN_BYTES, Location, Position, Record, RecordKind
from node.errors import StoreError
from node.ports import ReadTransaction, WriteTransaction
from node.units import LeaseId, SegmentId

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

_LOCATION = struct.Struct(">III")  # pack, offset in units of ALIGN_BYTES, payload bytes
_POSITION = struct.Struct(">QQ")
_U64 = struct.Struct(">Q")
_PUT_SLOT = struct.Struct(">QH")
_SHARD = struct.Struct(">QHQ")
_CARRIER = struct.Struct(">I12s")
_EXPIRED_TO = struct.Struct(">QQ12s")
_QUARANTINE = struct.Struct(">Q12s")


class LeaseFields(NamedTuple):
    """A lease as records carry it."""

    lease_id: LeaseId
    data: bytes
    expires_s: int
    payer: bytes


class CommitShard(NamedTuple):
    """A shard as a COMMIT record carries it."""

    slot: int
    shard_index: int
    leaves: bytes
    lease: LeaseFields


class CommitFields(NamedTuple):
    """The payload of a COMMIT record. `epoch` is the sequence of the put that brought the segment's first
    shard, since when one was held without a break: attachments of an earlier time are not for this one."""

    segment_id: SegmentId
    epoch: int
    manifest: bytes
    shards: tuple[CommitShard, ...]


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


BlocksOf = Callable[[int, int], Sequence[BlockPlace]]
"""The blocks of (sequence of a put, slot) in order of their index, gaps left out."""


def shard_key(segment_id: bytes, shard_index: int) -> bytes:
    """Key of a shard in `SHARDS`."""
    return segment_id + bytes([shard_index])


def pack_location(location: Location) -> bytes:
    """12 bytes for a location."""
    return _LOCATION.pack(location.pack_id, location.offset // ALIGN_BYTES, location.length)


def unpack_location(data: bytes) -> Location:
    """The inverse of `pack_location`."""
    pack_id, units, length = _LOCATION.unpack(data)
    return Location(pack_id, units * ALIGN_BYTES, length)


def encode_commit(commit: CommitFields) -> bytes:
    """Payload of a COMMIT record."""
    shards: list[wire.Value] = [[s.slot, s.shard_index, s.leaves, *s.lease] for s in commit.shards]
    return wire.encode([commit.segment_id, commit.epoch, commit.manifest, shards])


def decode_commit(payload: bytes) -> CommitFields:
    """The inverse of `encode_commit`; the record's hash has vouched for the bytes."""
    segment_id, epoch, manifest, shards = wire.decode(payload, size_max=limits.STORE_RECORD_BYTES_MAX)
    assert isinstance(segment_id, bytes)
    assert isinstance(epoch, int)
    assert isinstance(manifest, bytes)
    found = []
    for item in wire.expect_list(shards):
        slot, shard_index, leaves, *lease = wire.expect_list(item, count=7)
        assert isinstance(slot, int)
        assert isinstance(shard_index, int)
        assert isinstance(leaves, bytes)
        found.append(CommitShard(slot, shard_index, leaves, _lease_fields(lease)))
    return CommitFields(SegmentId(segment_id), epoch, manifest, tuple(found))


def encode_lease(segment_id: SegmentId, shard_index: int, lease: LeaseFields) -> bytes:
    """Payload of a LEASE record."""
    return wire.encode([segment_id, shard_index, *lease])


def decode_lease(payload: bytes) -> tuple[SegmentId, int, LeaseFields]:
    """The inverse of `encode_lease`."""
    segment_id, shard_index, *lease = wire.decode(payload, size_max=limits.STORE_RECORD_BYTES_MAX)
    assert isinstance(segment_id, bytes)
    assert isinstance(shard_index, int)
    return SegmentId(segment_id), shard_index, _lease_fields(lease)


def encode_end(lease_id: LeaseId, carrier: int, expires_s: int) -> bytes:
    """Payload of an END record: that lease, as that record carried it, is over."""
    return struct.pack(">16sQQ", lease_id, carrier, expires_s)


def decode_end(payload: bytes) -> tuple[LeaseId, int, int]:
    """The inverse of `encode_end`."""
    lease_id, carrier, expires_s = struct.unpack(">16sQQ", payload)
    return LeaseId(lease_id), carrier, expires_s


def encode_object(segment_id: SegmentId, scope: bytes, epoch: int, data: bytes) -> bytes:
    """Payload of an OBJECT record; its kind is the record's slot."""
    return segment_id + scope + _U64.pack(epoch) + data


def decode_object(payload: bytes) -> tuple[SegmentId, bytes, int, bytes]:
    """The inverse of `encode_object`."""
    return SegmentId(payload[:32]), payload[32:64], _U64.unpack(payload[64:72])[0], payload[72:]


def encode_quarantine(key: bytes, put: int) -> bytes:
    """Payload of a QUARANTINE record: the shard at `key`, as that put brought it, is corrupt."""
    return key + _U64.pack(put)


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
        data = self._view.get(CARRIERS, _U64.pack(sequence))
        if data is None:
            return None
        references, location = _CARRIER.unpack(data)
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
        return LeaseEntry(SegmentId(segment_id), shard_index, carrier, _lease_fields(lease))

    def lost(self) -> Iterator[LeaseEntry]:
        """Leases of shards whose packs are gone, in order of id."""
        for _, data in self._view.scan(LOST):
            segment_id, shard_index, carrier, *lease = wire.decode(
                data, size_max=limits.STORE_RECORD_BYTES_MAX
            )
            assert isinstance(segment_id, bytes)
            assert isinstance(shard_index, int)
            assert isinstance(carrier, int)
            yield LeaseEntry(SegmentId(segment_id), shard_index, carrier, _lease_fields(lease))

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
        (sequence,) = _U64.unpack(data[:8])
        return ObjectEntry(sequence, unpack_location(data[8:20]), SegmentId(data[20:52]))

    def expired_to(self) -> ExpiredTo:
        """The latest EXPIRY record."""
        data = self._view.get(META, EXPIRED_TO_KEY)
        if data is None:
            return ExpiredTo(-1, 0, None)
        now_s, sequence, location = _EXPIRED_TO.unpack(data)
        return ExpiredTo(now_s, sequence, unpack_location(location))

    def expired(self, now_s: int) -> Iterator[LeaseEntry]:
        """Leases that expire by `now_s`, the oldest first."""
        for key, _ in self._view.scan(EXPIRY):
            if _U64.unpack(key[:8])[0] > now_s:
                return
            entry = self.lease(key[8:])
            if entry is not None:
                yield entry

    def end_location(self, expires_s: int, sequence: int) -> Location | None:
        """Where an END record stands that is still needed."""
        data = self._view.get(ENDS, _U64.pack(expires_s) + _U64.pack(sequence))
        return None if data is None else unpack_location(data)

    def key_of_put(self, put: int, slot: int) -> bytes | None:
        """The shard that a put's slot became."""
        return self._view.get(PUTS, _PUT_SLOT.pack(put, slot))

    def quarantine_location(self, key: bytes) -> Location | None:
        """Where the record stands that quarantined a shard; None also where a rebuild found it incomplete."""
        data = self._view.get(QUARANTINED, key)
        location = unpack_location(data[8:]) if data else None
        return location if location and location.pack_id else None

    def position(self, key: bytes) -> Position:
        """`SYNCED_KEY` or `SCAN_FROM_KEY`."""
        data = self._view.get(META, key)
        return Position(*_POSITION.unpack(data)) if data else Position(0, 0)

    def sequence(self) -> int:
        """The highest sequence number given out when the index was last written."""
        data = self._view.get(META, SEQUENCE_KEY)
        return int(_U64.unpack(data)[0]) if data else 0

    def live_bytes(self) -> dict[int, int]:
        """Live bytes of every pack."""
        return {int(_U64.unpack(key)[0]): int(_U64.unpack(value)[0]) for key, value in self._view.scan(PACKS)}


class IndexWriter(IndexReader):
    """Applies records to the tables; `finish` writes the live bytes of the packs concerned."""

    def __init__(self, transaction: WriteTransaction) -> None:
        super().__init__(transaction)
        self._transaction = transaction
        self._changes: dict[int, int] = {}

    def finish(self) -> dict[int, int]:
        """Write the live bytes that changed, and return them by pack."""
        new = {}
        for pack_id, change in self._changes.items():
            key = _U64.pack(pack_id)
            old = self._transaction.get(PACKS, key)
            new[pack_id] = (_U64.unpack(old)[0] if old else 0) + change
            if new[pack_id] < 0:
                raise StoreError(f"the index counts less than nothing in pack {pack_id}")
            self._transaction.put(PACKS, key, _U64.pack(new[pack_id]))
        self._changes.clear()
        return new

    def set_positions(self, *, synced: Position, scan_from: Position, sequence: int) -> None:
        """Remember how far the log is indexed, and where a scan after a crash begins."""
        self._transaction.put(META, SYNCED_KEY, _POSITION.pack(*synced))
        self._transaction.put(META, SCAN_FROM_KEY, _POSITION.pack(*scan_from))
        self._transaction.put(META, SEQUENCE_KEY, _U64.pack(sequence))

    def apply(self, record: Record, location: Location, blocks_of: BlocksOf) -> None:
        """Apply a record that was appended (or found behind the indexed end after a crash)."""
        payload = bytes(record.payload)
        if record.kind is RecordKind.COMMIT:
            self.apply_commit(record.sequence, decode_commit(payload), location, blocks_of)
        elif record.kind is RecordKind.LEASE:
            segment_id, shard_index, lease = decode_lease(payload)
            if self._transaction.get(SHARDS, shard_key(segment_id, shard_index)) is not None:
                self.add_lease(record.sequence, segment_id, shard_index, lease, location)
        elif record.kind is RecordKind.END:
            self.apply_end(record.sequence, payload, location)
        elif record.kind is RecordKind.EXPIRY:
            self.apply_expiry(record.sequence, payload, location)
        elif record.kind is RecordKind.OBJECT:
            self.apply_object(record, payload, location)
        elif record.kind is RecordKind.QUARANTINE:
            self.apply_quarantine(payload, location)

    def apply_commit(
        self, sequence: int, commit: CommitFields, location: Location, blocks_of: BlocksOf
    ) -> None:
        """Add the shards of a put and their leases: all, or nothing if a block of one is missing."""
        if self.carrier(sequence) is not None:
            return
        found = {shard.slot: blocks_of(sequence, shard.slot) for shard in commit.shards}
        if not all(is_whole(found[shard.slot], shard.leaves) for shard in commit.shards):
            return
        for shard in commit.shards:
            self.add_shard(sequence, commit, shard, location, found[shard.slot])
            self.add_lease(sequence, commit.segment_id, shard.shard_index, shard.lease, location)

    def add_shard(
        self,
        put: int,
        commit: CommitFields,
        shard: CommitShard,
        location: Location,
        blocks: Sequence[BlockPlace],
    ) -> None:
        """Add a shard, or replace a quarantined one; where a healthy one stays, these bytes are dead."""
        key = shard_key(commit.segment_id, shard.shard_index)
        existing = self.shard(key)
        if existing is not None:
            if not self.is_quarantined(key):
                return
            self._forget_blocks(key, existing)
        places = tuple(block.location for block in blocks)
        entry = ShardEntry(put, shard.slot, commit.epoch, places)
        self._transaction.put(SHARDS, key, _pack_shard(entry))
        self._transaction.put(PUTS, _PUT_SLOT.pack(put, shard.slot), key)
        self._reference(put, location)
        for place in places:
            self._count(place, +1)

    def add_lost_shard(self, put: int, commit: CommitFields, shard: CommitShard, location: Location) -> None:
        """Note a shard whose blocks are not all there, unless another copy is: quarantined, not forgotten."""
        key = shard_key(commit.segment_id, shard.shard_index)
        if self.shard(key) is None:
            self.add_shard(put, commit, shard, location, ())
            self._transaction.put(QUARANTINED, key, _QUARANTINE.pack(put, bytes(_LOCATION.size)))

    def add_lease(
        self, carrier: int, segment_id: SegmentId, shard_index: int, lease: LeaseFields, location: Location
    ) -> None:
        """Add a lease that the record at `location` carries; one already there stays as it is."""
        if self._transaction.get(LEASES, lease.lease_id) is not None:
            return
        value = wire.encode([segment_id, shard_index, carrier, *lease])
        self._transaction.put(LEASES, lease.lease_id, value)
        self._transaction.put(SHARD_LEASES, shard_key(segment_id, shard_index) + lease.lease_id, b"")
        self._transaction.put(EXPIRY, _U64.pack(lease.expires_s) + lease.lease_id, b"")
        self._reference(carrier, location)

    def apply_end(self, sequence: int, payload: bytes, location: Location) -> None:
        """End one lease, and remember the record until the lease would have expired anyway."""
        lease_id, carrier, expires_s = decode_end(payload)
        entry = self.lease(lease_id)
        if entry is not None and entry.carrier == carrier:
            self.drop_lease(entry)
            self.keep_end(expires_s, sequence, location)

    def keep_end(self, expires_s: int, sequence: int, location: Location) -> None:
        """Count an END record as live."""
        key = _U64.pack(expires_s) + _U64.pack(sequence)
        if self._transaction.get(ENDS, key) is None:
            self._transaction.put(ENDS, key, pack_location(location))
            self._count(location, +1)

    def apply_expiry(self, sequence: int, payload: bytes, location: Location) -> None:
        """Let time reach the record's; the leases that it ends are dropped by `sweep_expired`."""
        (now_s,) = _U64.unpack(payload)
        old = self.expired_to()
        if sequence <= old.sequence:
            return
        if old.location is not None:
            self._count(old.location, -1)
        self._transaction.put(
            META, EXPIRED_TO_KEY, _EXPIRED_TO.pack(now_s, sequence, pack_location(location))
        )
        self._count(location, +1)

    def sweep_expired(self, limit: int) -> int:
        """Drop up to `limit` leases that the latest EXPIRY record ended; how many."""
        marker = self.expired_to()
        dropped = 0
        for entry in self.expired(marker.now_s):
            if dropped == limit:
                return dropped
            if entry.carrier < marker.sequence:
                self.drop_lease(entry)
                dropped += 1
        for key, value in self._transaction.scan(ENDS):
            expires_s, sequence = struct.unpack(">QQ", key)
            if expires_s > marker.now_s or dropped == limit:
                break
            if sequence < marker.sequence:
                self._transaction.delete(ENDS, key)
                self._count(unpack_location(value), -1)
                dropped += 1
        return dropped

    def drop_lease(self, entry: LeaseEntry) -> None:
        """Take a lease out of the tables, and its shard with the last one."""
        key = shard_key(entry.segment_id, entry.shard_index)
        lease = entry.lease
        self._transaction.delete(LEASES, lease.lease_id)
        self._transaction.delete(SHARD_LEASES, key + lease.lease_id)
        self._transaction.delete(EXPIRY, _U64.pack(lease.expires_s) + lease.lease_id)
        self._dereference(entry.carrier)
        if not self.lease_count(key):
            self.drop_shard(key)

    def drop_shard(self, key: bytes) -> None:
        """Take a shard out of the tables; with a segment's last one its attachments and roster go too."""
        shard = self.shard(key)
        if shard is None:
            return
        self._forget_blocks(key, shard)
        self._transaction.delete(SHARDS, key)
        segment_id = SegmentId(key[:32])
        if any(True for _ in self._transaction.scan(SHARDS, segment_id)):
            return
        for link, _ in list(self._transaction.scan(SEGMENT_OBJECTS, segment_id)):
            self._transaction.delete(SEGMENT_OBJECTS, link)
            held = self.object(link[32:64], link[64])
            if held is not None:
                self._transaction.delete(OBJECTS, link[32:])
                self._count(held.location, -1)

    def apply_object(self, record: Record, payload: bytes, location: Location) -> None:
        """Set an attachment or roster of a segment that is held; a later record wins."""
        segment_id, scope, epoch, _ = decode_object(payload)
        held = self.object(scope, record.slot)
        if held is not None and held.sequence >= record.sequence:
            return
        if self.epoch_of(segment_id) != epoch:
            return
        key = scope + bytes([record.slot])
        if held is not None:
            self._count(held.location, -1)
            self._transaction.delete(SEGMENT_OBJECTS, held.segment_id + key)
        value = _U64.pack(record.sequence) + pack_location(location) + segment_id
        self._transaction.put(OBJECTS, key, value)
        self._transaction.put(SEGMENT_OBJECTS, segment_id + key, b"")
        self._count(location, +1)

    def apply_quarantine(self, payload: bytes, location: Location) -> None:
        """Mark a shard as corrupt and give its blocks up; its leases stay on record."""
        key, put = payload[:33], _U64.unpack(payload[33:])[0]
        shard = self.shard(key)
        if shard is None or shard.put != put or self.is_quarantined(key):
            return
        for place in shard.blocks:
            self._count(place, -1)
        self._transaction.put(SHARDS, key, _pack_shard(replace(shard, blocks=())))
        self._transaction.put(QUARANTINED, key, _QUARANTINE.pack(put, pack_location(location)))
        self._count(location, +1)

    def move(self, record: Record, old: Location, new: Location) -> bool:
        """Point to the copy at `new` of a record that lives at `old`; False if it does not live there."""
        if live_location(self, record) != old:
            return False
        key: bytes | None
        payload = bytes(record.payload)
        if record.kind is RecordKind.BLOCK:
            key = self.key_of_put(record.sequence, record.slot)
            shard = self.shard(key) if key else None
            assert key is not None
            assert shard is not None
            blocks = list(shard.blocks)
            blocks[record.block_index] = new
            self._transaction.put(SHARDS, key, _pack_shard(replace(shard, blocks=tuple(blocks))))
        elif record.kind in (RecordKind.COMMIT, RecordKind.LEASE):
            carrier = self.carrier(record.sequence)
            assert carrier is not None
            self._put_carrier(record.sequence, carrier[0], new)
        elif record.kind is RecordKind.END:
            _, _, expires_s = decode_end(payload)
            key = _U64.pack(expires_s) + _U64.pack(record.sequence)
            self._transaction.put(ENDS, key, pack_location(new))
        elif record.kind is RecordKind.EXPIRY:
            value = payload + _U64.pack(record.sequence) + pack_location(new)
            self._transaction.put(META, EXPIRED_TO_KEY, value)
        elif record.kind is RecordKind.OBJECT:
            segment_id, scope, _, _ = decode_object(payload)
            value = _U64.pack(record.sequence) + pack_location(new) + segment_id
            self._transaction.put(OBJECTS, scope + bytes([record.slot]), value)
        else:
            self._transaction.put(QUARANTINED, payload[:33], payload[33:41] + pack_location(new))
        self._count(old, -1)
        self._count(new, +1)
        return True

    def forget_pack(self, pack_id: int) -> None:
        """Count a deleted pack no longer."""
        self._transaction.delete(PACKS, _U64.pack(pack_id))

    def _forget_blocks(self, key: bytes, shard: ShardEntry) -> None:
        location = self.quarantine_location(key)
        if location is not None:
            self._count(location, -1)
        self._transaction.delete(QUARANTINED, key)
        for place in shard.blocks:
            self._count(place, -1)
        self._transaction.delete(PUTS, _PUT_SLOT.pack(shard.put, shard.slot))
        self._dereference(shard.put)

    def _reference(self, sequence: int, location: Location) -> None:
        carrier = self.carrier(sequence)
        if carrier is None:
            self._put_carrier(sequence, 1, location)
            self._count(location, +1)
        else:
            self._put_carrier(sequence, carrier[0] + 1, carrier[1])

    def _dereference(self, sequence: int) -> None:
        carrier = self.carrier(sequence)
        if carrier is None:
            return
        references, location = carrier
        if references > 1:
            self._put_carrier(sequence, references - 1, location)
        else:
            self._transaction.delete(CARRIERS, _U64.pack(sequence))
            self._count(location, -1)

    def _put_carrier(self, sequence: int, references: int, location: Location) -> None:
        value = _CARRIER.pack(references, pack_location(location))
        self._transaction.put(CARRIERS, _U64.pack(sequence), value)

    def _count(self, location: Location, sign: int) -> None:
        change = sign * location.record_bytes
        self._changes[location.pack_id] = self._changes.get(location.pack_id, 0) + change


def is_whole(blocks: Sequence[BlockPlace], leaves: bytes) -> bool:
    """Whether these are all blocks that the leaves name."""
    return b"".join(block.leaf for block in blocks) == leaves


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


def _lease_fields(items: Sequence[wire.Value]) -> LeaseFields:
    lease_id, data, expires_s, payer = items
    assert isinstance(lease_id, bytes)
    assert isinstance(data, bytes)
    assert isinstance(expires_s, int)
    assert isinstance(payer, bytes)
    return LeaseFields(LeaseId(lease_id), data, expires_s, payer)


def _pack_shard(shard: ShardEntry) -> bytes:
    return _SHARD.pack(shard.put, shard.slot, shard.epoch) + b"".join(map(pack_location, shard.blocks))


def _unpack_shard(data: bytes) -> ShardEntry:
    put, slot, epoch = _SHARD.unpack_from(data)
    places = data[_SHARD.size :]
    blocks = tuple(
        Location(pack_id, units * ALIGN_BYTES, length)
        for pack_id, units, length in _LOCATION.iter_unpack(places)
    )
    return ShardEntry(put, slot, epoch, blocks)
