"""Changes of a donor's index, record by record of its log. Layer 3, over `KeyValue`.

Part of node/chunks/store/shard_index.py, which has the tables and the invariants.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

from node import wire
from node.chunks.store.log_payloads import (
    CommitFields,
    CommitShard,
    LeaseFields,
    decode_commit,
    decode_end,
    decode_lease,
    decode_object,
)
from node.chunks.store.shard_index import (
    CARRIER_ENTRY,
    CARRIERS,
    ENDS,
    EXPIRED_TO_ENTRY,
    EXPIRED_TO_KEY,
    EXPIRY,
    LEASES,
    LOCATION,
    META,
    OBJECTS,
    PACKS,
    POSITION,
    PUT_SLOT,
    PUTS,
    QUARANTINE_ENTRY,
    QUARANTINED,
    SCAN_FROM_KEY,
    SEGMENT_OBJECTS,
    SEQUENCE_KEY,
    SHARD_LEASES,
    SHARDS,
    SYNCED_KEY,
    U64,
    BlockPlace,
    IndexReader,
    LeaseEntry,
    ShardEntry,
    live_location,
    pack_location,
    pack_shard,
    shard_key,
    unpack_location,
)
from node.chunks.store.shard_log import Location, Position, Record, RecordKind
from node.errors import StoreError
from node.ports import WriteTransaction
from node.units import SegmentId

BlocksOf = Callable[[int, int], Sequence[BlockPlace]]
"""The blocks of (sequence of a put, slot) in order of their index, gaps left out."""


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
            key = U64.pack(pack_id)
            old = self._transaction.get(PACKS, key)
            new[pack_id] = (U64.unpack(old)[0] if old else 0) + change
            if new[pack_id] < 0:
                raise StoreError(f"the index counts less than nothing in pack {pack_id}")
            self._transaction.put(PACKS, key, U64.pack(new[pack_id]))
        self._changes.clear()
        return new

    def set_positions(self, *, synced: Position, scan_from: Position, sequence: int) -> None:
        """Remember how far the log is indexed, and where a scan after a crash begins."""
        self._transaction.put(META, SYNCED_KEY, POSITION.pack(*synced))
        self._transaction.put(META, SCAN_FROM_KEY, POSITION.pack(*scan_from))
        self._transaction.put(META, SEQUENCE_KEY, U64.pack(sequence))

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
        self._transaction.put(SHARDS, key, pack_shard(entry))
        self._transaction.put(PUTS, PUT_SLOT.pack(put, shard.slot), key)
        self._reference(put, location)
        for place in places:
            self._count(place, +1)

    def add_lost_shard(self, put: int, commit: CommitFields, shard: CommitShard, location: Location) -> None:
        """Note a shard whose blocks are not all there, unless another copy is: quarantined, not forgotten."""
        key = shard_key(commit.segment_id, shard.shard_index)
        if self.shard(key) is None:
            self.add_shard(put, commit, shard, location, ())
            self._transaction.put(QUARANTINED, key, QUARANTINE_ENTRY.pack(put, bytes(LOCATION.size)))

    def add_lease(
        self, carrier: int, segment_id: SegmentId, shard_index: int, lease: LeaseFields, location: Location
    ) -> None:
        """Add a lease that the record at `location` carries; one already there stays as it is."""
        if self._transaction.get(LEASES, lease.lease_id) is not None:
            return
        value = wire.encode([segment_id, shard_index, carrier, *lease])
        self._transaction.put(LEASES, lease.lease_id, value)
        self._transaction.put(SHARD_LEASES, shard_key(segment_id, shard_index) + lease.lease_id, b"")
        self._transaction.put(EXPIRY, U64.pack(lease.expires_s) + lease.lease_id, b"")
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
        key = U64.pack(expires_s) + U64.pack(sequence)
        if self._transaction.get(ENDS, key) is None:
            self._transaction.put(ENDS, key, pack_location(location))
            self._count(location, +1)

    def apply_expiry(self, sequence: int, payload: bytes, location: Location) -> None:
        """Let time reach the record's; the leases that it ends are dropped by `sweep_expired`."""
        (now_s,) = U64.unpack(payload)
        old = self.expired_to()
        if sequence <= old.sequence:
            return
        if old.location is not None:
            self._count(old.location, -1)
        self._transaction.put(
            META, EXPIRED_TO_KEY, EXPIRED_TO_ENTRY.pack(now_s, sequence, pack_location(location))
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
        self._transaction.delete(EXPIRY, U64.pack(lease.expires_s) + lease.lease_id)
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
        value = U64.pack(record.sequence) + pack_location(location) + segment_id
        self._transaction.put(OBJECTS, key, value)
        self._transaction.put(SEGMENT_OBJECTS, segment_id + key, b"")
        self._count(location, +1)

    def apply_quarantine(self, payload: bytes, location: Location) -> None:
        """Mark a shard as corrupt and give its blocks up; its leases stay on record."""
        key, put = payload[:33], U64.unpack(payload[33:])[0]
        shard = self.shard(key)
        if shard is None or shard.put != put or self.is_quarantined(key):
            return
        for place in shard.blocks:
            self._count(place, -1)
        self._transaction.put(SHARDS, key, pack_shard(replace(shard, blocks=())))
        self._transaction.put(QUARANTINED, key, QUARANTINE_ENTRY.pack(put, pack_location(location)))
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
            self._transaction.put(SHARDS, key, pack_shard(replace(shard, blocks=tuple(blocks))))
        elif record.kind in (RecordKind.COMMIT, RecordKind.LEASE):
            carrier = self.carrier(record.sequence)
            assert carrier is not None
            self._put_carrier(record.sequence, carrier[0], new)
        elif record.kind is RecordKind.END:
            _, _, expires_s = decode_end(payload)
            key = U64.pack(expires_s) + U64.pack(record.sequence)
            self._transaction.put(ENDS, key, pack_location(new))
        elif record.kind is RecordKind.EXPIRY:
            value = payload + U64.pack(record.sequence) + pack_location(new)
            self._transaction.put(META, EXPIRED_TO_KEY, value)
        elif record.kind is RecordKind.OBJECT:
            segment_id, scope, _, _ = decode_object(payload)
            value = U64.pack(record.sequence) + pack_location(new) + segment_id
            self._transaction.put(OBJECTS, scope + bytes([record.slot]), value)
        else:
            self._transaction.put(QUARANTINED, payload[:33], payload[33:41] + pack_location(new))
        self._count(old, -1)
        self._count(new, +1)
        return True

    def forget_pack(self, pack_id: int) -> None:
        """Count a deleted pack no longer."""
        self._transaction.delete(PACKS, U64.pack(pack_id))

    def _forget_blocks(self, key: bytes, shard: ShardEntry) -> None:
        location = self.quarantine_location(key)
        if location is not None:
            self._count(location, -1)
        self._transaction.delete(QUARANTINED, key)
        for place in shard.blocks:
            self._count(place, -1)
        self._transaction.delete(PUTS, PUT_SLOT.pack(shard.put, shard.slot))
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
            self._transaction.delete(CARRIERS, U64.pack(sequence))
            self._count(location, -1)

    def _put_carrier(self, sequence: int, references: int, location: Location) -> None:
        value = CARRIER_ENTRY.pack(references, pack_location(location))
        self._transaction.put(CARRIERS, U64.pack(sequence), value)

    def _count(self, location: Location, sign: int) -> None:
        change = sign * location.record_bytes
        self._changes[location.pack_id] = self._changes.get(location.pack_id, 0) + change


def is_whole(blocks: Sequence[BlockPlace], leaves: bytes) -> bool:
    """Whether these are all blocks that the leaves name."""
    return b"".join(block.leaf for block in blocks) == leaves
