"""A put on its way into a donor's store: blocks first, all of it or nothing at its commit. Layer 3.

Invariants: nothing of a put is visible before `commit`; a block comes once, and is charged to the put's
reservation before it is written; a put that ends gives back what it did not use. Thread-safe. The order of
writes is the store writer's (node/chunks/store/shard_writer.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from node import limits
from node.chunks.store.log_payloads import CommitFields, CommitShard, LeaseFields, encode_commit
from node.chunks.store.shard_index import BlockPlace, IndexReader, places_in_order
from node.chunks.store.shard_log import Location, Position, Record, RecordKind, new_record, record_bytes
from node.chunks.store.shard_writer import Charge, Mutation, Reservation, StoreWriter
from node.errors import ProtocolError
from node.ports import Buffer
from node.units import SegmentId


@dataclass(frozen=True, slots=True)
class PutShard:
    """What becomes of a slot: the shard and its first lease."""

    slot: int
    shard_index: int
    lease: LeaseFields


class _PutState(Enum):
    OPEN = "open"
    COMMITTING = "committing"
    OVER = "over"


class IncomingPut:
    """Blocks on their way in; nothing of it is visible before `commit`. Thread-safe."""

    def __init__(self, writer: StoreWriter, reservation: Reservation, slot_count: int) -> None:
        self._writer = writer
        self._reservation = reservation
        self._slots: list[dict[int, BlockPlace]] = [{} for _ in range(slot_count)]
        self._state = _PutState.OPEN
        self.sequence = writer.new_sequence()
        self.first: Position | None = None
        writer.register(self)

    def append(self, slot: int, blocks: Sequence[tuple[int, Buffer]]) -> None:
        """Append (block index, block) pairs to a slot: many at once is one write.

        Raises:
            ProtocolError: an index twice or out of range, no such slot, more than was reserved, put is over.
            StoreFullError: the disk itself is full.
            StoreError: another fault of the disk.
        """
        if not 0 <= slot < len(self._slots):
            raise ProtocolError(f"no slot {slot} in this put")
        records = []
        for index, block in blocks:
            if not 0 <= index < limits.SEGMENT_STRIPES or not 0 < len(block) <= limits.BLOCK_BYTES:
                raise ProtocolError(f"block {index} of {len(block)} bytes is not part of a shard")
            records.append(new_record(RecordKind.BLOCK, self.sequence, block, slot=slot, block_index=index))
        with self._writer.state:
            self._check_open()
            self._writer.check_usable()
            places = self._slots[slot]
            if len({index for index, _ in blocks} - places.keys()) < len(records):
                raise ProtocolError("a block that was sent before")
            self._reservation.spend(sum(record_bytes(len(record.payload)) for record in records))
            locations = self._writer.append(records)
            for record, location in zip(records, locations, strict=True):
                places[record.block_index] = BlockPlace(location, record.payload_hash)
            if self.first is None and locations:
                self.first = Position(locations[0].pack_id, locations[0].offset)

    def leaves(self, slot: int) -> bytes:
        """BLAKE3 of each block in order, 32 bytes each. Raises `ProtocolError` where one is missing."""
        if not 0 <= slot < len(self._slots):
            raise ProtocolError(f"no slot {slot} in this put")
        with self._writer.state:
            found = self._slots[slot]
            places = places_in_order(found)
            if len(places) != len(found) or not places:
                raise ProtocolError(f"blocks of slot {slot} are missing")
            return b"".join(place.leaf for place in places)

    def commit(self, segment_id: SegmentId, manifest: bytes, shards: Sequence[PutShard]) -> None:
        """Make blocks, manifest and leases durable and visible, all or nothing, and end the put.

        A shard that is held already keeps its bytes and gains the lease; a quarantined one is replaced.

        Raises:
            ProtocolError: sizes out of bounds, blocks missing, a lease id that another shard has. The put
                stays open.
            StoreError: the disk failed.
        """
        self._check_commit(segment_id, manifest, shards)
        with self._writer.state:
            self._check_open()
            commit_shards = tuple(
                CommitShard(s.slot, s.shard_index, self.leaves(s.slot), s.lease) for s in shards
            )
            self._state = _PutState.COMMITTING

        def prepare(reader: IndexReader) -> list[Record]:
            for shard in shards:
                check_lease(reader, segment_id, shard.shard_index, shard.lease)
            epoch = reader.epoch_of(segment_id)
            fields = CommitFields(
                segment_id, self.sequence if epoch is None else epoch, manifest, commit_shards
            )
            return [new_record(RecordKind.COMMIT, self.sequence, encode_commit(fields))]

        touches = frozenset([segment_id, *(shard.lease.lease_id for shard in shards)])
        try:
            self._writer.mutate(Mutation(touches, prepare, Charge.RESERVED, self._reservation, self))
        except BaseException:
            self._state = _PutState.OPEN
            raise
        self._end()

    def abort(self) -> None:
        """Forget the blocks and release the reservation. Idempotent; nothing once a commit is under way."""
        with self._writer.state:
            if self._state is _PutState.OPEN:
                self._end()

    def locations(self) -> Iterator[Location]:
        """Where its blocks stand."""
        for slot in self._slots:
            for place in slot.values():
                yield place.location

    def places(self, slot: int) -> list[BlockPlace]:
        """Blocks of a slot in order."""
        return places_in_order(self._slots[slot]) if slot < len(self._slots) else []

    def _check_commit(self, segment_id: SegmentId, manifest: bytes, shards: Sequence[PutShard]) -> None:
        if len(segment_id) != 32 or len(manifest) > limits.SEGMENT_MANIFEST_BYTES_MAX:
            raise ProtocolError("not a segment id, or a manifest over its limit")
        for shard in shards:
            if not 0 <= shard.shard_index < limits.TOTAL_SHARDS_MAX:
                raise ProtocolError(f"{shard.shard_index} is not the index of a shard")
            check_lease_fields(shard.lease)
        slots, indexes = {s.slot for s in shards}, {s.shard_index for s in shards}
        if not shards or min(len(slots), len(indexes)) < len(shards):
            raise ProtocolError("a slot or a shard twice, or none")
        if len({shard.lease.lease_id for shard in shards}) < len(shards):
            raise ProtocolError("one lease id for two shards")

    def _check_open(self) -> None:
        if self._state is not _PutState.OPEN:
            raise ProtocolError("the put is over")

    def _end(self) -> None:
        with self._writer.state:
            self._state = _PutState.OVER
            self._writer.unregister(self)
            self._reservation.release()


def check_lease_fields(lease: LeaseFields) -> None:
    """Raises `ProtocolError` for sizes out of bounds."""
    if len(lease.lease_id) != 16 or not 0 <= lease.expires_s <= limits.EXPIRY_S_MAX:
        raise ProtocolError("not a lease id, or an expiry beyond any calendar")
    if len(lease.data) > limits.STORED_LEASE_BYTES_MAX or len(lease.payer) > limits.PAYER_BYTES_MAX:
        raise ProtocolError("a lease or a payer over its limit")


def check_lease(reader: IndexReader, segment_id: SegmentId, shard_index: int, lease: LeaseFields) -> bool:
    """Whether the shard has this lease already. Raises `ProtocolError` if another shard has its id."""
    held = reader.lease(lease.lease_id)
    if held is None:
        return False
    if (held.segment_id, held.shard_index) != (segment_id, shard_index):
        raise ProtocolError("this lease id belongs to another shard")
    return True
