"""Frozen bytes of the pack format. `python -m tests.vectors.pack_records` prints the file anew.

A difference means that stores on people's disks could no longer be read: it needs a new record version.
"""

from __future__ import annotations

import json

from node.chunks.store.log_payloads import (
    CommitFields,
    CommitShard,
    LeaseFields,
    encode_commit,
    encode_end,
    encode_lease,
    encode_object,
    encode_quarantine,
)
from node.chunks.store.shard_index import shard_key
from node.chunks.store.shard_log import RecordKind, new_record, pack_header, pack_record
from node.units import LeaseId, SegmentId

SALT = bytes(range(32))


def make_vectors() -> dict[str, str]:
    """Name and hexadecimal bytes of a pack's header and one record of each kind."""
    segment_id = SegmentId(b"\xaa" * 32)
    lease = LeaseFields(LeaseId(b"\x11" * 16), b"signed lease", 1_800_000_000, b"\x22" * 32)
    commit = CommitFields(segment_id, 5, b"manifest", (CommitShard(0, 29, b"\x33" * 32, lease),))
    payloads = {
        RecordKind.BLOCK: b"block bytes",
        RecordKind.COMMIT: encode_commit(commit),
        RecordKind.LEASE: encode_lease(segment_id, 29, lease),
        RecordKind.END: encode_end(lease.lease_id, 5, lease.expires_s),
        RecordKind.EXPIRY: (1_800_000_001).to_bytes(8, "big"),
        RecordKind.OBJECT: encode_object(segment_id, b"\x44" * 32, 5, b"attachment"),
        RecordKind.QUARANTINE: encode_quarantine(shard_key(segment_id, 29), 5),
    }
    vectors = {"pack header": pack_header(1, SALT).hex()}
    for kind, payload in payloads.items():
        record = new_record(kind, 5 + kind, payload, slot=1, block_index=2)
        vectors[kind.name.lower()] = b"".join(pack_record(record, SALT)).hex()
    return vectors


if __name__ == "__main__":
    print(json.dumps(make_vectors(), indent=1))
