"""What the records of a donor's log say, but for blocks: payloads as bytes and as tuples. Layer 3.

Byte by byte: docs/formats/packs.md; frozen: tests/vectors/pack_records.json. The hash of a record has vouched
for its bytes before they are decoded here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from node import limits, wire
from node.units import LeaseId, SegmentId

_U64 = struct.Struct(">Q")


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
        found.append(CommitShard(slot, shard_index, leaves, lease_fields(lease)))
    return CommitFields(SegmentId(segment_id), epoch, manifest, tuple(found))


def encode_lease(segment_id: SegmentId, shard_index: int, lease: LeaseFields) -> bytes:
    """Payload of a LEASE record."""
    return wire.encode([segment_id, shard_index, *lease])


def decode_lease(payload: bytes) -> tuple[SegmentId, int, LeaseFields]:
    """The inverse of `encode_lease`."""
    segment_id, shard_index, *lease = wire.decode(payload, size_max=limits.STORE_RECORD_BYTES_MAX)
    assert isinstance(segment_id, bytes)
    assert isinstance(shard_index, int)
    return SegmentId(segment_id), shard_index, lease_fields(lease)


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


def lease_fields(items: Sequence[wire.Value]) -> LeaseFields:
    """A lease from the four fields that a record, or the index, has of it."""
    lease_id, data, expires_s, payer = items
    assert isinstance(lease_id, bytes)
    assert isinstance(data, bytes)
    assert isinstance(expires_s, int)
    assert isinstance(payer, bytes)
    return LeaseFields(LeaseId(lease_id), data, expires_s, payer)
