"""A store on a simulated disk with a model beside it, for tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from node.chunks.store.shard_index import IndexReader, live_location
from node.chunks.store.shard_store import AttachmentKind, IncomingPut, PutShard, ShardStore, StoredLease
from node.units import FileHash, LeaseId, SegmentId
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import SeededEntropy

CAP_BYTES = 17 << 20

# Blocks of a shard in each segment: nothing but the smallest, several, and enough to fill packs.
GEOMETRY = ((64,), (6400, 6400, 64), (65_472,) * 6, (65_472, 65_472, 128))


def segment(number: int) -> SegmentId:
    return SegmentId(hashlib.sha256(b"segment %d" % number).digest())


def file_hash(number: int) -> FileHash:
    return FileHash(hashlib.sha256(b"file %d" % number).digest())


def manifest(number: int) -> bytes:
    return b"manifest of %d " % number * 50


def block(number: int, shard_index: int, block_index: int) -> bytes:
    size = GEOMETRY[number % len(GEOMETRY)][block_index]
    return hashlib.shake_128(b"%d/%d/%d" % (number, shard_index, block_index)).digest(size)


def blocks(number: int, shard_index: int) -> list[tuple[int, bytes]]:
    return [
        (index, block(number, shard_index, index)) for index in range(len(GEOMETRY[number % len(GEOMETRY)]))
    ]


def lease(number: int, expires_s: int = 1000) -> StoredLease:
    return StoredLease(LeaseId(number.to_bytes(16, "big")), b"signed %d" % number, expires_s, b"payer" * 6)


def begin(store: ShardStore, number: int, shard_indexes: list[int]) -> IncomingPut:
    sizes = GEOMETRY[number % len(GEOMETRY)]
    reservation = store.reserve(
        sum(sizes) * len(shard_indexes),
        block_count=len(sizes) * len(shard_indexes),
        shard_count=len(shard_indexes),
    )
    return store.begin_put(reservation, len(shard_indexes))


def put(store: ShardStore, number: int, leases: dict[int, StoredLease]) -> None:
    """Put shards of a segment, each under a lease."""
    incoming = begin(store, number, list(leases))
    try:
        for slot, index in enumerate(leases):
            incoming.append(slot, blocks(number, index))
        shards = [PutShard(slot, index, leases[index]) for slot, index in enumerate(leases)]
        incoming.commit(segment(number), manifest(number), shards)
    finally:
        incoming.abort()


@dataclass
class Model:
    """What the store must show."""

    leases: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    """Lease number: segment number, shard index, expiry."""
    attachments: dict[tuple[int, AttachmentKind], bytes] = field(default_factory=dict)
    rosters: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Model:
        return Model(dict(self.leases), dict(self.attachments), dict(self.rosters))

    def shards(self) -> set[tuple[int, int]]:
        return {(number, index) for number, index, _ in self.leases.values()}

    def drop(self, lease_numbers: list[int]) -> None:
        for number in lease_numbers:
            del self.leases[number]
        held = {number for number, _ in self.shards()}
        self.attachments = {key: data for key, data in self.attachments.items() if key[0] in held}
        self.rosters = {number: data for number, data in self.rosters.items() if number in held}


class World:
    """Disk, tables and store."""

    def __init__(self, cap_bytes: int = CAP_BYTES) -> None:
        self.cap_bytes = cap_bytes
        self.disk = FakeDisk()
        self.tables = FakeKeyValue(self.disk)
        self.highest_bytes = 0
        self.disk.watch = self._watch
        self.entropy = SeededEntropy("store")
        self.store = self._opened()

    def _watch(self, allocated_bytes: int) -> None:
        self.highest_bytes = max(self.highest_bytes, allocated_bytes)
        assert allocated_bytes <= self.cap_bytes

    def _opened(self) -> ShardStore:
        return ShardStore(self.disk, self.tables, self.entropy, cap_bytes=self.cap_bytes)

    def reopen(self) -> None:
        """Open what is on the disk, as a new process."""
        self.tables = self.tables.reopened()
        self.store = self._opened()

    def shown(self, numbers: range) -> Model:
        """What the store shows of these segments; every block is read and compared."""
        model = Model()
        for number in numbers:
            indexes = self.store.shards_of(segment(number))
            for index in indexes:
                for block_index, data in blocks(number, index):
                    assert self.store.read_block(segment(number), index, block_index) == data
                leaves = self.store.leaves(segment(number), index)
                assert leaves is not None
                assert len(leaves) == 32 * len(blocks(number, index))
            if indexes:
                assert self.store.segment_manifest(segment(number)) == manifest(number)
            lost = {index for segment_id, index in self.store.quarantined() if segment_id == segment(number)}
            for held in self.store.leases(segment(number)):
                if held.shard_index in lost:
                    continue
                lease_number = int.from_bytes(held.lease.lease_id, "big")
                assert held.lease == lease(lease_number, held.lease.expires_s)
                model.leases[lease_number] = (number, held.shard_index, held.lease.expires_s)
            assert {index for n, index, _ in model.leases.values() if n == number} == set(indexes)
            for kind in AttachmentKind:
                attachment = self.store.attachment(file_hash(number), kind)
                if attachment is not None:
                    model.attachments[number, kind] = attachment
            roster = self.store.roster(segment(number))
            if roster is not None:
                model.rosters[number] = roster
        return model

    def check_accounts(self) -> None:
        """Live bytes as counted equal those found by looking at every record."""
        log = self.store._log
        counted: dict[int, int] = {}
        with self.tables.view() as view:
            reader = IndexReader(view)
            for pack_id in log.sizes():
                for location, record in log.walk(pack_id, verify_from=2**62):
                    if live_location(reader, record) == location:
                        counted[pack_id] = counted.get(pack_id, 0) + location.record_bytes
            live = {pack_id: count for pack_id, count in reader.live_bytes().items() if count}
        assert counted == live
        assert {k: v for k, v in self.store._writer.live_bytes().items() if v} == live
