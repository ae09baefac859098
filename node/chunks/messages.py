"""The messages of `/cairn/shards/1`: a table from tags to fields, each with its bound. Layer 2, pure.

A stream carries requests one after another until its opener closes it. A request is one message; its reply
is one message, sometimes followed by what the table below names:

| request | then, from the opener | reply | then, from the holder |
|---|---|---|---|
| OfferRequest | | OfferReply | |
| PutOpen, PutResume | Block frames, no reply to each | PutAccepted | |
| PutClose | a body: leases with the owner's half, their charges | Body | leases with both halves |
| PutAbort | | Done | |
| LeaseQuery | | Body | leases |
| Renew | a body: further leases with the owner's half, their charges | Body | leases with both halves |
| Attach | a body: the attachment | Done | |
| RosterMerge | a body: leases | Done | |
| GiveGrant | | Done | |
| Announce, Release | | Done | |
| GetManifest | | ManifestReply | |
| GetAttachment, GetRoster | | Body | the attachment, leases |
| GetGrant | | GrantReply | |
| GetShard | | ShardReply | |
| ReadBlocks | | one Block frame or BlockMissing an index, in the order asked | |
| Prove | | as ReadBlocks with one index | |
| Served | | none | |

A body is raw frames with header [offset], in order, `body_bytes` in all. A Block frame has header
[slot, block index] while putting and [shard index, block index] while reading. Declining is an error frame
(node/framing.py) with one of the codes below, which ends the stream. Invariant: every field is bounded
before anything is allocated for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NewType

from node import limits, tagged, wire
from node.errors import ProtocolError
from node.tagged import Table, array, exactly, integer, text, up_to
from node.units import FileHash, LeaseId, SegmentId
from node.wire import Value

PROTOCOL: Final = "/cairn/shards/1"

PutId = NewType("PutId", bytes)
"""Random name that a putter gives to one put of some shards to one holder, 16 bytes."""

REFUSED_NOT_A_DONOR: Final = "not_a_donor"
REFUSED_FULL: Final = "full"
REFUSED_BUSY: Final = "busy"
REFUSED_UNKNOWN: Final = "unknown"
REFUSED_INVALID: Final = "invalid"
REFUSED_MISSING: Final = "missing"
REFUSED_CORRUPT: Final = "corrupt"
REFUSED_SUSPENDED: Final = "suspended"
"""The disk of the donor failed, for now: as if it were offline."""
REFUSED_CREDIT: Final = "credit"

ATTACHED_PLACEMENT: Final = "placement"
ATTACHED_MANIFEST: Final = "manifest"
ATTACHED_BUNDLE: Final = "bundle"
ATTACHMENT_BYTES_MAX: Final = {
    ATTACHED_PLACEMENT: limits.PLACEMENT_BYTES_MAX,
    ATTACHED_MANIFEST: limits.FILE_MANIFEST_BYTES_MAX,
    ATTACHED_BUNDLE: limits.SEGMENT_BUNDLE_BYTES_MAX,
}
"""Kinds of attachment; the placement comes first, since the owner's signature on it admits the others."""


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """Would you keep this much? `payer` is the device certificate of whoever pays, b"" without one."""

    wanted_bytes: int
    shard_count: int
    payer: bytes = b""


@dataclass(frozen=True, slots=True)
class OfferReply:
    """A signed `Offer` record, and the most micro-credits that leases of the payer may come to now."""

    record: bytes
    credit: int = limits.CREDIT_MICRO_MAX


@dataclass(frozen=True, slots=True)
class PutOpen:
    """Reserve room for some shards of one segment; slot i is shard `shard_indexes[i]`.

    `payer` is the device certificate of the account that pays for leases of `lease_days` at `rate`.
    """

    put_id: PutId
    data_shards: int
    total_shards: int
    block_bytes: int
    last_block_bytes: int
    stripe_count: int
    shard_indexes: tuple[int, ...]
    lease_days: int = 30
    rate: int = 0
    payer: bytes = b""

    @property
    def shard_bytes(self) -> int:
        """Block bytes of one shard."""
        return (self.stripe_count - 1) * self.block_bytes + self.last_block_bytes

    def block_size(self, block_index: int) -> int:
        """Bytes of the block at an index."""
        return self.last_block_bytes if block_index == self.stripe_count - 1 else self.block_bytes


@dataclass(frozen=True, slots=True)
class PutResume:
    """Go on with an unfinished put of this peer's, after a lost connection."""

    put_id: PutId


@dataclass(frozen=True, slots=True)
class PutAccepted:
    """The next block index that the holder expects, a slot each."""

    next_blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PutClose:
    """All blocks are sent: here are the manifest and the owner's half of a lease a slot, as the body."""

    put_id: PutId
    manifest: bytes
    body_bytes: int


@dataclass(frozen=True, slots=True)
class PutAbort:
    """Forget this put and free what it reserved."""

    put_id: PutId


@dataclass(frozen=True, slots=True)
class LeaseQuery:
    """Which of these leases did you countersign? Asked when the reply to a close was lost."""

    segment_id: SegmentId
    lease_ids: tuple[LeaseId, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """Further leases on shards of this segment that you hold, with the owner's half, as the body.

    Whoever pays may renew; `payer` is the device certificate of the account that does.
    """

    segment_id: SegmentId
    body_bytes: int
    payer: bytes = b""


@dataclass(frozen=True, slots=True)
class Attach:
    """Keep this with segment 0 of the file; the body is the attachment."""

    kind: str
    file_hash: FileHash
    segment_id: SegmentId
    body_bytes: int


@dataclass(frozen=True, slots=True)
class RosterMerge:
    """Leases of other holders of a segment that you hold, as the body."""

    segment_id: SegmentId
    body_bytes: int


@dataclass(frozen=True, slots=True)
class GiveGrant:
    """The owner's `RepairGrant` for a segment that you hold."""

    segment_id: SegmentId
    record: bytes


@dataclass(frozen=True, slots=True)
class Announce:
    """Provide these in the DHT now, and answer when it is done."""

    file_hashes: tuple[FileHash, ...]
    segment_ids: tuple[SegmentId, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Signed `Release` records, each ending one lease."""

    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GetManifest:
    """The manifest of a segment that you hold a shard of."""

    segment_id: SegmentId


@dataclass(frozen=True, slots=True)
class ManifestReply:
    """The encoded segment manifest, and which of its shards this holder keeps."""

    manifest: bytes
    shard_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GetAttachment:
    """What is attached to the file's segment 0."""

    kind: str
    file_hash: FileHash


@dataclass(frozen=True, slots=True)
class GetRoster:
    """All leases of a segment that you know."""

    segment_id: SegmentId


@dataclass(frozen=True, slots=True)
class GetGrant:
    """The owner's grant for a segment, as far as you have it."""

    segment_id: SegmentId


@dataclass(frozen=True, slots=True)
class GrantReply:
    """A `RepairGrant` record."""

    record: bytes


@dataclass(frozen=True, slots=True)
class GetShard:
    """The leaf list of one shard."""

    segment_id: SegmentId
    shard_index: int


@dataclass(frozen=True, slots=True)
class ShardReply:
    """The shard's leaves, 32 bytes a block, in order; the lease to name in receipts, b"" for none."""

    leaves: bytes
    lease_id: bytes = b""


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """Send these blocks of a shard, in this order."""

    segment_id: SegmentId
    shard_index: int
    block_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prove:
    """Show that you have this block: version 1 answers with the whole block."""

    segment_id: SegmentId
    shard_index: int
    block_index: int


@dataclass(frozen=True, slots=True)
class Served:
    """A `ServeReceipt` for blocks of this stream; nothing is answered."""

    record: bytes


@dataclass(frozen=True, slots=True)
class BlockMissing:
    """In place of a block: why it can't be served (`REFUSED_MISSING` or `REFUSED_CORRUPT`)."""

    block_index: int
    code: str


@dataclass(frozen=True, slots=True)
class Body:
    """A reply whose content follows as a body."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """Done; `count` is how many (leases ended, roster entries known, peers that took an announcement)."""

    count: int


Message = (
    OfferRequest | OfferReply | PutOpen | PutResume | PutAccepted | PutClose | PutAbort | LeaseQuery | Renew
    | Attach | RosterMerge | Announce | Release | GetManifest | ManifestReply | GetAttachment | GetRoster
    | GetShard | ShardReply | ReadBlocks | Prove | BlockMissing | Body | Done | GiveGrant | GetGrant
    | GrantReply | Served
)  # fmt: skip


def _kind(value: Value) -> object:
    kind = wire.expect_str(value, bytes_max=16)
    if kind not in ATTACHMENT_BYTES_MAX:
        raise ProtocolError("no such kind of attachment")
    return kind


_ID = exactly(32)
_PUT_ID = exactly(16)
_SHARD = integer(0, limits.TOTAL_SHARDS_MAX - 1)
_SHARD_COUNT = integer(1, limits.TOTAL_SHARDS_MAX)
_BLOCK = integer(0, limits.SEGMENT_STRIPES - 1)
_BLOCK_BYTES = integer(limits.BLOCK_ALIGN_BYTES, limits.BLOCK_BYTES)
_LEASES_BODY = integer(0, limits.LEASES_BODY_BYTES_MAX)
_PAYER = up_to(limits.DEVICE_CERT_BYTES_MAX)

_CODE = text(limits.ERROR_CODE_BYTES_MAX)

TABLE: Final = Table[Message](
    {
        "offer?": (OfferRequest, (integer(0, 2**48), _SHARD_COUNT, _PAYER)),
        "offer": (OfferReply, (up_to(limits.RECORD_BYTES_MAX), integer(0, limits.CREDIT_MICRO_MAX))),
        "put": (
            PutOpen,
            (
                _PUT_ID,
                _SHARD_COUNT,
                _SHARD_COUNT,
                _BLOCK_BYTES,
                _BLOCK_BYTES,
                integer(1, limits.SEGMENT_STRIPES),
                array(_SHARD, low=1, high=limits.TOTAL_SHARDS_MAX),
                integer(1, limits.LEASE_DAYS_MAX),
                integer(0, limits.RATE_MICRO_MAX),
                _PAYER,
            ),
        ),
        "resume": (PutResume, (_PUT_ID,)),
        "accepted": (
            PutAccepted,
            (array(integer(0, limits.SEGMENT_STRIPES), low=1, high=limits.TOTAL_SHARDS_MAX),),
        ),
        "close": (PutClose, (_PUT_ID, up_to(limits.SEGMENT_MANIFEST_BYTES_MAX), _LEASES_BODY)),
        "abort": (PutAbort, (_PUT_ID,)),
        "leases?": (LeaseQuery, (_ID, array(exactly(16), low=1, high=limits.TOTAL_SHARDS_MAX))),
        "renew": (Renew, (_ID, _LEASES_BODY, _PAYER)),
        "attach": (Attach, (_kind, _ID, _ID, integer(1, limits.FILE_MANIFEST_BYTES_MAX))),
        "roster+": (RosterMerge, (_ID, _LEASES_BODY)),
        "grant+": (GiveGrant, (_ID, up_to(limits.REPAIR_GRANT_BYTES_MAX))),
        "announce": (
            Announce,
            (array(_ID, high=limits.ANNOUNCE_KEYS_MAX), array(_ID, high=limits.ANNOUNCE_KEYS_MAX)),
        ),
        "release": (
            Release,
            (array(up_to(limits.RECORD_BYTES_MAX), low=1, high=limits.RELEASES_PER_MESSAGE_MAX),),
        ),
        "manifest?": (GetManifest, (_ID,)),
        "manifest": (
            ManifestReply,
            (up_to(limits.SEGMENT_MANIFEST_BYTES_MAX), array(_SHARD, high=limits.TOTAL_SHARDS_MAX)),
        ),
        "attachment?": (GetAttachment, (_kind, _ID)),
        "roster?": (GetRoster, (_ID,)),
        "grant?": (GetGrant, (_ID,)),
        "grant": (GrantReply, (up_to(limits.REPAIR_GRANT_BYTES_MAX),)),
        "shard?": (GetShard, (_ID, _SHARD)),
        "shard": (ShardReply, (up_to(32 * limits.SEGMENT_STRIPES), up_to(16))),
        "read": (ReadBlocks, (_ID, _SHARD, array(_BLOCK, low=1, high=limits.SEGMENT_STRIPES))),
        "prove": (Prove, (_ID, _SHARD, _BLOCK)),
        "served": (Served, (up_to(limits.SERVE_RECEIPT_BYTES_MAX),)),
        "no_block": (BlockMissing, (_BLOCK, _CODE)),
        "body": (Body, (integer(0, limits.FILE_MANIFEST_BYTES_MAX),)),
        "done": (Done, (integer(0, 2**32),)),
    }
)

encode, decode = TABLE.encode, TABLE.decode


def encode_block_header(slot: int, block_index: int) -> Value:
    """Header of a Block frame."""
    return [slot, block_index]


def decode_block_header(header: Sequence[Value]) -> tuple[int, int]:
    """(slot or shard index, block index) of a Block frame. Raises `ProtocolError`."""
    wire.expect_list(list(header), count=2)
    slot = wire.expect_int(header[0], low=0, high=limits.TOTAL_SHARDS_MAX - 1)
    return slot, wire.expect_int(header[1], low=0, high=limits.SEGMENT_STRIPES - 1)


def pack_charged(leases: Sequence[bytes], charges: Sequence[bytes]) -> bytes:
    """A body of leases, and of a charge for each or none at all."""
    return wire.encode([list(leases), list(charges)])


def unpack_charged(body: bytes, *, count_max: int) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Leases and charges of a body. Raises `ProtocolError`."""
    parts = wire.expect_list(wire.decode(body, size_max=limits.LEASES_BODY_BYTES_MAX), count=2)
    leases, charges = (
        tuple(
            wire.expect_bytes(item, size_max=limits.RECORD_BYTES_MAX)
            for item in wire.expect_list(part, count_max=count_max)
        )
        for part in parts
    )
    if charges and len(charges) != len(leases):
        raise ProtocolError("a charge for each lease, or none")
    return leases, charges


def unpack_records(body: bytes, *, count_max: int) -> tuple[bytes, ...]:
    """The records of a body. Raises `ProtocolError`."""
    return tagged.unpack_records(
        body,
        size_max=limits.LEASES_BODY_BYTES_MAX,
        count_max=count_max,
        record_bytes_max=limits.RECORD_BYTES_MAX,
    )
