"""How a store comes back: scan what the index has not seen, or rebuild the index from the packs. Layer 3.

Invariants:
- A clean start reads no record: the index knows where it and the log end.
- After a crash the packs are read from the oldest block that no commit had claimed. Up to the indexed end
  they are known to be durable and only headers are read; behind it every hash is checked, since any part of
  an unsynced write may be missing. A commit with a block missing is dropped: nobody was told of it.
- A rebuild can't tell a commit that was torn from one whose blocks have rotted: it keeps either as
  quarantined, since a promise may hang on it.
- Leases whose packs are gone or cut are written down before the index that still knows them goes: somebody
  relies on them, and has to be told.
- A rebuild is the same fold over all packs, made independent of their order, which compactions change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from node.chunks.store.index_writer import BlocksOf, IndexWriter, is_whole
from node.chunks.store.log_payloads import decode_commit, decode_end, decode_lease
from node.chunks.store.shard_index import (
    FORMAT,
    FORMAT_KEY,
    LEASES,
    LOST,
    META,
    REBUILD,
    SALT_KEY,
    SCAN_FROM_KEY,
    SHARDS,
    SYNCED_KEY,
    TABLES,
    BlockPlace,
    IndexReader,
    pack_location,
    places_in_order,
    shard_key,
    unpack_location,
)
from node.chunks.store.shard_log import (
    HEADER_BYTES,
    Location,
    Position,
    Record,
    RecordKind,
    ShardLog,
    packs_missing,
)
from node.errors import StoreError
from node.ports import KeyValue, WriteTransaction
from node.units import LeaseId

T = TypeVar("T")

SEQUENCE_GAP = 2**20  # numbers that a lost tail may have used: more than one index commit ever covers
_BATCH = 200
_ALWAYS = 2**62
_WORK_KEY = struct.Struct(">BQHI")


def recover(log: ShardLog, key_values: KeyValue) -> int:
    """Bring the index up to the end of the log; the highest sequence number in use. Raises `StoreError`."""
    sizes = log.sizes()
    with key_values.view() as view:
        reader = IndexReader(view)
        is_known = view.get(META, FORMAT_KEY) == FORMAT
        synced, scan_from = reader.position(SYNCED_KEY), reader.position(SCAN_FROM_KEY)
        sequence = reader.sequence()
        live = reader.live_bytes()
    lost = [pack_id for pack_id, byte_count in live.items() if byte_count and pack_id not in sizes]
    if lost and not sizes and not log.is_given_up:
        # All at once is no rot: rebuilding would forget every promise, and a disk comes back.
        raise StoreError(
            f"{packs_missing(len(lost))} If they are lost for good, say so with an empty file `packs/lost`: "
            "co-holders are told then"
        )
    is_cut = synced.pack_id in sizes and sizes[synced.pack_id] < synced.offset
    if is_known and (lost or is_cut):
        _note_lost(key_values, {pack_id: sizes.get(pack_id, 0) for pack_id in (*lost, synced.pack_id)})
    if not is_known or lost or sizes.get(synced.pack_id, 0) < synced.offset:
        sequence = _Rebuild(log, key_values).run()
        if lost and log.is_given_up:
            log.forget_given_up()
        return sequence
    gone = [pack_id for pack_id in live if pack_id not in sizes]
    if not gone and log.end() == synced == scan_from:
        return sequence
    return _replay(log, key_values, synced=synced, scan_from=scan_from, sequence=sequence, gone=gone)


def _note_lost(key_values: KeyValue, ends: Mapping[int, int]) -> None:
    """Write down the leases of shards of which a block or the commit stood behind these packs' `ends`."""
    start = b""
    while True:
        with key_values.view() as view:
            reader = IndexReader(view)
            keys = [key for key, _ in islice(view.scan(SHARDS, start=start), _BATCH)]
            noted = {
                entry.lease.lease_id: view.get(LEASES, entry.lease.lease_id)
                for key in keys
                if _stands_behind(reader, key, ends)
                for entry in reader.leases_of(key)
            }

        def put(transaction: WriteTransaction, noted: dict[LeaseId, bytes | None] = noted) -> None:
            for lease_id, data in noted.items():
                if data is not None:
                    transaction.put(LOST, lease_id, data)

        if noted:
            key_values.update(put)
        if len(keys) < _BATCH:
            return
        start = keys[-1] + b"\0"


def _stands_behind(reader: IndexReader, key: bytes, ends: Mapping[int, int]) -> bool:
    shard = reader.shard(key)
    if shard is None:
        return False

    def is_gone(place: Location) -> bool:
        return place.pack_id in ends and place.offset + place.record_bytes > ends[place.pack_id]

    carrier = reader.carrier(shard.put)
    return any(is_gone(block) for block in shard.blocks) or (carrier is not None and is_gone(carrier[1]))


def _settle_lost(key_values: KeyValue) -> None:
    """After a rebuild: what is here after all, or is known as quarantined, is not among the lost."""
    start = b""
    while True:
        with key_values.view() as view:
            keys = [key for key, _ in islice(view.scan(LOST, start=start), _BATCH)]
            found = [key for key in keys if view.get(LEASES, key) is not None]

        def drop(transaction: WriteTransaction, found: list[bytes] = found) -> None:
            for key in found:
                transaction.delete(LOST, key)

        if found:
            key_values.update(drop)
        if len(keys) < _BATCH:
            return
        start = keys[-1] + b"\0"


def _replay(
    log: ShardLog,
    key_values: KeyValue,
    *,
    synced: Position,
    scan_from: Position,
    sequence: int,
    gone: list[int],
) -> int:
    blocks: dict[tuple[int, int], dict[int, BlockPlace]] = {}
    news: list[tuple[Record, Location]] = []
    end = max(synced, Position(log.active_pack, 0))
    for pack_id in sorted(pack_id for pack_id in log.sizes() if pack_id >= scan_from.pack_id):
        start = scan_from.offset if pack_id == scan_from.pack_id else HEADER_BYTES
        verify_from = synced.offset if pack_id == synced.pack_id else _ALWAYS * (pack_id < synced.pack_id)
        for location, record in log.walk(pack_id, start, verify_from=verify_from):
            sequence = max(sequence, record.sequence)
            end = max(end, Position(pack_id, location.end))
            if record.kind is RecordKind.BLOCK:
                found = blocks.setdefault((record.sequence, record.slot), {})
                found[record.block_index] = BlockPlace(location, record.payload_hash)
            elif (pack_id, location.offset) >= synced:
                news.append((record, location))

    def blocks_of(put: int, slot: int) -> list[BlockPlace]:
        return places_in_order(blocks.get((put, slot), {}))

    for location in _broken_commits(key_values, news, blocks_of):
        log.void(location)  # a later rebuild would take it for a shard that has rotted
    log.cut(end)  # syncs too: what a killed process wrote is in the system's cache at best
    sequence += SEQUENCE_GAP

    def apply(transaction: WriteTransaction) -> None:
        writer = IndexWriter(transaction)
        for record, location in news:
            writer.apply(record, location, blocks_of)
        writer.finish()
        for pack_id in gone:
            writer.forget_pack(pack_id)
        writer.set_positions(synced=log.end(), scan_from=log.end(), sequence=sequence)

    key_values.update(apply)
    return sequence


def _broken_commits(
    key_values: KeyValue, news: list[tuple[Record, Location]], blocks_of: BlocksOf
) -> list[Location]:
    """Commits behind the indexed end that lack a block: the power went before they were acknowledged."""
    broken = []
    with key_values.view() as view:
        reader = IndexReader(view)
        for record, location in news:
            if record.kind is RecordKind.COMMIT and reader.carrier(record.sequence) is None:
                commit = decode_commit(bytes(record.payload))
                found = ((blocks_of(record.sequence, shard.slot), shard.leaves) for shard in commit.shards)
                if not all(is_whole(places, leaves) for places, leaves in found):
                    broken.append(location)
    return broken


class _Rebuild:
    """Makes the index anew. The work table holds every record's place; the log's order does not matter."""

    def __init__(self, log: ShardLog, key_values: KeyValue) -> None:
        self._log = log
        self._key_values = key_values
        self._expired_to = -1
        self._expired_sequence = 0
        self._expiry: tuple[Record, Location] | None = None

    def run(self) -> int:
        """Rebuild; the highest sequence number in use."""
        self._wipe(table for table in TABLES if table != LOST)
        sequence = self._collect() + SEQUENCE_GAP
        # The newest whole copy of a shard counts: an older one may have been quarantined, or be half gone.
        self._fold(reversed(self._work(RecordKind.COMMIT)), self._add_shards)
        self._fold(reversed(self._work(RecordKind.COMMIT)), self._add_lost_shards)
        self._fold(self._work(RecordKind.COMMIT), self._add_commit_leases)
        self._fold(self._work(RecordKind.LEASE), self._add_lease)
        self._drop_unleased()  # before attachments: a shard of an earlier epoch would let its own back in
        self._fold(self._work(RecordKind.END), self._keep_end)
        self._fold(self._work(RecordKind.OBJECT), self._apply)
        self._fold(self._work(RecordKind.QUARANTINE), self._apply)
        self._wipe((REBUILD,))

        def finish(transaction: WriteTransaction) -> None:
            writer = IndexWriter(transaction)
            if self._expiry is not None:
                record, location = self._expiry
                writer.apply_expiry(record.sequence, bytes(record.payload), location)
                writer.finish()
            writer.set_positions(synced=self._log.end(), scan_from=self._log.end(), sequence=sequence)
            transaction.put(META, SALT_KEY, self._log.salt)
            transaction.put(META, FORMAT_KEY, FORMAT)

        self._key_values.update(finish)
        _settle_lost(self._key_values)
        return sequence

    def _collect(self) -> int:
        """Fill the work table; the highest sequence number seen."""
        sequence = 0
        sizes = self._log.sizes()
        end = Position(self._log.active_pack, HEADER_BYTES)
        for pack_id in sorted(sizes):
            # Only the last pack can be torn: every other one was synced before its successor began.
            verify_from = HEADER_BYTES if pack_id == self._log.active_pack else _ALWAYS
            for batch in _batches(self._log.walk(pack_id, verify_from=verify_from), _BATCH):
                sequence = max(sequence, *(record.sequence for _, record in batch))
                end = max(end, Position(pack_id, batch[-1][0].end))
                self._note(batch)
        self._log.cut(end)
        return sequence

    def _note(self, batch: list[tuple[Location, Record]]) -> None:
        entries = []
        for location, record in batch:
            key = _WORK_KEY.pack(record.kind, record.sequence, record.slot, record.block_index)
            entries.append((key, pack_location(location) + record.payload_hash))
            if record.kind is RecordKind.END:
                lease_id, carrier, _ = decode_end(bytes(record.payload))
                entries.append((_ended_key(lease_id, carrier), b""))
            elif record.kind is RecordKind.EXPIRY and record.sequence > self._expired_sequence:
                self._expired_sequence = record.sequence
                self._expired_to = int.from_bytes(record.payload, "big")
                self._expiry = (record, location)

        def put(transaction: WriteTransaction) -> None:
            for key, value in entries:
                transaction.put(REBUILD, key, value)

        self._key_values.update(put)

    def _work(self, kind: RecordKind) -> list[Location]:
        """Places of all records of a kind, by sequence."""
        with self._key_values.view() as view:
            return [unpack_location(value[:12]) for _, value in view.scan(REBUILD, bytes([kind]))]

    def _fold(
        self,
        locations: Iterable[Location],
        step: Callable[[IndexWriter, WriteTransaction, Record, Location], None],
    ) -> None:
        for batch in _batches(iter(locations), _BATCH):
            found = [(self._log.read(location), location) for location in batch]

            def change(transaction: WriteTransaction, found: list[tuple[Record, Location]] = found) -> None:
                writer = IndexWriter(transaction)
                for record, location in found:
                    step(writer, transaction, record, location)
                writer.finish()

            self._key_values.update(change)

    def _add_shards(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        commit = decode_commit(bytes(record.payload))
        for shard in commit.shards:
            prefix = _WORK_KEY.pack(RecordKind.BLOCK, record.sequence, shard.slot, 0)[:-4]
            blocks = [
                BlockPlace(unpack_location(value[:12]), value[12:])
                for _, value in transaction.scan(REBUILD, prefix)
            ]
            if is_whole(blocks, shard.leaves):
                writer.add_shard(record.sequence, commit, shard, location, blocks)

    def _add_lost_shards(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        commit = decode_commit(bytes(record.payload))
        for shard in commit.shards:
            writer.add_lost_shard(record.sequence, commit, shard, location)

    def _add_commit_leases(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        commit = decode_commit(bytes(record.payload))
        for shard in commit.shards:
            key = shard_key(commit.segment_id, shard.shard_index)
            if writer.shard(key) and not self._is_over(
                transaction, record, shard.lease.lease_id, shard.lease.expires_s
            ):
                writer.add_lease(record.sequence, commit.segment_id, shard.shard_index, shard.lease, location)

    def _add_lease(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        segment_id, shard_index, lease = decode_lease(bytes(record.payload))
        if writer.shard(shard_key(segment_id, shard_index)) and not self._is_over(
            transaction, record, lease.lease_id, lease.expires_s
        ):
            writer.add_lease(record.sequence, segment_id, shard_index, lease, location)

    def _keep_end(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        expires_s = decode_end(bytes(record.payload))[2]
        if expires_s > self._expired_to or record.sequence > self._expired_sequence:
            writer.keep_end(expires_s, record.sequence, location)

    def _apply(
        self, writer: IndexWriter, transaction: WriteTransaction, record: Record, location: Location
    ) -> None:
        writer.apply(record, location, lambda put, slot: ())

    def _is_over(
        self, transaction: WriteTransaction, carrier: Record, lease_id: LeaseId, expires_s: int
    ) -> bool:
        if expires_s <= self._expired_to and carrier.sequence < self._expired_sequence:
            return True
        return transaction.get(REBUILD, _ended_key(lease_id, carrier.sequence)) is not None

    def _drop_unleased(self) -> None:
        start = b""
        while True:
            with self._key_values.view() as view:
                keys = [key for key, _ in islice(view.scan(SHARDS, start=start), _BATCH)]
            if not keys:
                return

            def drop(transaction: WriteTransaction, keys: list[bytes] = keys) -> None:
                writer = IndexWriter(transaction)
                for key in keys:
                    if not writer.lease_count(key):
                        writer.drop_shard(key)
                writer.finish()

            self._key_values.update(drop)
            start = keys[-1] + b"\0"

    def _wipe(self, tables: Iterable[str]) -> None:
        for table in tables:
            while True:
                with self._key_values.view() as view:
                    keys = [key for key, _ in islice(view.scan(table), 20 * _BATCH)]
                if not keys:
                    break

                def delete(
                    transaction: WriteTransaction, table: str = table, keys: list[bytes] = keys
                ) -> None:
                    if table != META:
                        transaction.delete(META, FORMAT_KEY)  # half an index is none
                    for key in keys:
                        transaction.delete(table, key)

                self._key_values.update(delete)


def _ended_key(lease_id: LeaseId, carrier: int) -> bytes:
    return b"\0" + lease_id + carrier.to_bytes(8, "big")


def _batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(items, size)):
        yield batch
