"""The journal of one put: enough to go on after a kill, and never to seal twice. Layer 3, over Files.

Append-only. A record is 4 bytes of length, 8 bytes of BLAKE3 over the rest, and one canonical array; a torn
tail is cut off at the next start. Invariants: every append is durable before it returns; the file key is
here, so the file has mode 0600 in the node's home and goes when the put ends; memory is bounded by the
segments in flight, not by the file: what a segment was made of is forgotten once it is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final, NewType

from node import limits, wire
from node.chunks.messages import PutId
from node.crypto.hashing import blake3_256
from node.errors import StoreError
from node.ports import Files, OpenFile
from node.tagged import Table, array, integer, text, up_to
from node.units import Contact, FileHash, Multiaddr, PeerId, SegmentId

FOLDER: Final = PurePath("puts")
VERSION: Final = 1
_HEADER_BYTES: Final = 12
_READ_BYTES: Final = 1024 * 1024

JournalName = NewType("JournalName", str)


@dataclass(frozen=True, slots=True)
class PutStarted:
    """The first record. `fingerprint` identifies the source's content as far as stat can."""

    version: int
    file_key: bytes
    owner_salt: bytes
    source: str
    fingerprint: bytes
    size_bytes: int
    data_shards: int
    total_shards: int
    name: str
    created_s: int


@dataclass(frozen=True, slots=True)
class IndexStored:
    """The folder's index was put as a file of its own."""

    file_hash: FileHash
    file_key: bytes
    index_bytes: int


@dataclass(frozen=True, slots=True)
class StripesMade:
    """Hashes of consecutive stripes, durable before a byte of them leaves."""

    segment_index: int
    first_stripe: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class PutOpened:
    """A holder is asked to take these shards."""

    segment_index: int
    put_id: PutId
    peer_id: PeerId
    addresses: tuple[str, ...]
    shard_indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SegmentMade:
    """The manifest, durable before any holder is asked to close."""

    segment_index: int
    manifest: bytes


@dataclass(frozen=True, slots=True)
class PutClosing:
    """The owner's halves of the leases that a holder is asked to countersign."""

    segment_index: int
    put_id: PutId
    leases: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PutClosed:
    """The countersigned leases."""

    segment_index: int
    put_id: PutId
    leases: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PutDropped:
    """The holder failed; another one takes the shards."""

    segment_index: int
    put_id: PutId


@dataclass(frozen=True, slots=True)
class SegmentDone:
    """Enough shards are placed, and the holders know of each other."""

    segment_index: int
    segment_id: SegmentId


Record = (
    PutStarted | IndexStored | StripesMade | PutOpened | SegmentMade | PutClosing | PutClosed | PutDropped
    | SegmentDone
)  # fmt: skip

_SEGMENT: Final = integer(0, limits.SEGMENTS_MAX)
_SHARDS: Final = limits.TOTAL_SHARDS_MAX
_INDEXES: Final = array(integer(0, _SHARDS), high=_SHARDS)
_LEASES: Final = array(up_to(limits.LEASE_BYTES_MAX), high=_SHARDS)
TABLE: Final = Table[Record]({
    "put": (
        PutStarted,
        (
            integer(0, 255), up_to(32), up_to(16), text(16_384), up_to(32), integer(0, 2**63 - 1),
            integer(0, _SHARDS), integer(0, _SHARDS), text(limits.NAME_BYTES_MAX),
            integer(0, limits.RECORD_TIME_S_MAX),
        ),
    ),
    "index": (IndexStored, (up_to(32), up_to(32), integer(0, limits.FOLDER_INDEX_FILE_BYTES_MAX))),
    "stripes": (
        StripesMade,
        (_SEGMENT, integer(0, limits.SEGMENT_STRIPES), up_to(32 * limits.SEGMENT_STRIPES)),
    ),
    "opened": (
        PutOpened,
        (
            _SEGMENT, up_to(16), up_to(64),
            array(text(limits.ADDRESS_BYTES_MAX), high=limits.PLACEMENT_ADDRESSES_MAX), _INDEXES,
        ),
    ),
    "made": (SegmentMade, (_SEGMENT, up_to(limits.SEGMENT_MANIFEST_BYTES_MAX))),
    "closing": (PutClosing, (_SEGMENT, up_to(16), _LEASES)),
    "closed": (PutClosed, (_SEGMENT, up_to(16), _LEASES)),
    "dropped": (PutDropped, (_SEGMENT, up_to(16))),
    "done": (SegmentDone, (_SEGMENT, up_to(32))),
}, noun="journal record")  # fmt: skip
_RECORD_BYTES_MAX: Final = 256 * 1024  # 255 leases of 512 bytes are 130 KB


@dataclass(slots=True)
class PutState:
    """One put to one holder. `asked` and `leases` are empty until it closes."""

    put_id: PutId
    contact: Contact
    shard_indexes: tuple[int, ...]
    asked: tuple[bytes, ...] = ()
    leases: tuple[bytes, ...] = ()
    dropped: bool = False


@dataclass(slots=True)
class SegmentState:
    """One segment in flight."""

    stripe_hashes: dict[int, bytes] = field(default_factory=dict)
    manifest: bytes | None = None
    puts: dict[PutId, PutState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DoneSegment:
    """What is remembered of a segment that needs nothing more."""

    segment_id: SegmentId
    holders: dict[int, PeerId]
    """Holder by shard index."""


class Journal:
    """One put's journal, open. Thread-safe; synchronous: services call it through `Offload`."""

    def __init__(self, files: Files, name: JournalName) -> None:
        """Use `create` or `load`."""
        self.name = name
        self._files = files
        self._path = FOLDER / name
        self._lock = threading.Lock()
        self._file: OpenFile | None = None
        self._end = 0
        self._started: PutStarted | None = None
        self.index: IndexStored | None = None
        self.segments: dict[int, SegmentState] = {}
        self.done: dict[int, DoneSegment] = {}
        self.contacts: dict[PeerId, Contact] = {}

    @classmethod
    def create(cls, files: Files, name: JournalName, started: PutStarted) -> Journal:
        """A new journal, durable, in the place of any old one of that name."""
        journal = cls(files, name)
        files.delete(journal._path)
        journal._file = files.open(journal._path, create=True)
        journal.append(started)
        files.sync_folder(FOLDER)
        return journal

    @classmethod
    def load(cls, files: Files, name: JournalName) -> Journal | None:
        """The journal of that name, a torn tail cut off; None if there is none that began."""
        journal = cls(files, name)
        if name not in files.list(FOLDER):
            return None
        journal._file = files.open(journal._path)
        for record, end in journal._scan():
            journal._apply(record)
            journal._end = end
        if journal._started is None or journal._started.version != VERSION:
            journal.delete()
            return None
        journal._file.truncate(journal._end)
        journal._file.sync()
        return journal

    @property
    def started(self) -> PutStarted:
        """The first record."""
        assert self._started is not None
        return self._started

    def append(self, *records: Record) -> None:
        """Make records durable, then part of the state. Raises `StoreError`."""
        data = b"".join(_frame(record) for record in records)
        with self._lock:
            if self._file is None:
                raise StoreError("the journal of this put is closed")
            self._file.write_at(self._end, data)
            self._file.sync()
            self._end += len(data)
            for record in records:
                self._apply(record)

    def segment(self, segment_index: int) -> SegmentState:
        """What is known of a segment that is not done."""
        with self._lock:
            return self.segments.setdefault(segment_index, SegmentState())

    def records(self) -> Iterator[Record]:
        """All records from the start, in order, without keeping them. Nothing may be appended meanwhile."""
        for record, _ in self._scan():
            yield record

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def delete(self) -> None:
        """The put is over. Idempotent."""
        self.close()
        self._files.delete(self._path)

    def _apply(self, record: Record) -> None:
        match record:
            case PutStarted():
                self._started = record
            case IndexStored():
                self.index = record
            case SegmentDone():
                self._finish(record)
            case _:
                state = self.segments.setdefault(record.segment_index, SegmentState())
                self._apply_to_segment(state, record)

    def _apply_to_segment(self, state: SegmentState, record: Record) -> None:
        match record:
            case StripesMade(first_stripe=first, hashes=hashes):
                for offset in range(0, len(hashes), 32):
                    state.stripe_hashes[first + offset // 32] = hashes[offset : offset + 32]
            case PutOpened():
                addresses = tuple(Multiaddr(address) for address in record.addresses)
                contact = Contact(record.peer_id, addresses)
                self.contacts[record.peer_id] = contact
                state.puts[record.put_id] = PutState(record.put_id, contact, record.shard_indexes)
            case SegmentMade(manifest=manifest):
                state.manifest = manifest
            case PutClosing() if record.put_id in state.puts:
                state.puts[record.put_id].asked = record.leases
            case PutClosed() if record.put_id in state.puts:
                state.puts[record.put_id].leases = record.leases
            case PutDropped() if record.put_id in state.puts:
                state.puts[record.put_id].dropped = True
            case _:
                pass

    def _finish(self, record: SegmentDone) -> None:
        state = self.segments.pop(record.segment_index, SegmentState())
        holders = {
            shard_index: put.contact.peer_id
            for put in state.puts.values()
            if put.leases and not put.dropped
            for shard_index in put.shard_indexes
        }
        self.done[record.segment_index] = DoneSegment(record.segment_id, holders)

    def _scan(self) -> Iterator[tuple[Record, int]]:
        """Records with the offset behind each, up to the first that is torn."""
        file = self._file
        if file is None:
            raise StoreError("the journal of this put is closed")
        offset, size = 0, file.size()
        buffer, buffer_start = b"", 0
        while offset + _HEADER_BYTES <= size:
            header = file.read_at(offset, _HEADER_BYTES)
            length = int.from_bytes(header[:4], "big")
            if length > _RECORD_BYTES_MAX or offset + _HEADER_BYTES + length > size:
                return
            start = offset + _HEADER_BYTES
            if not (buffer_start <= start and start + length <= buffer_start + len(buffer)):
                buffer, buffer_start = file.read_at(start, max(length, _READ_BYTES)), start
            body = buffer[start - buffer_start : start - buffer_start + length]
            if blake3_256(body)[:8] != header[4:]:
                return
            offset = start + length
            yield TABLE.decode(wire.decode(body, size_max=_RECORD_BYTES_MAX)), offset


def names(files: Files) -> Sequence[JournalName]:
    """All unfinished puts."""
    return [JournalName(name) for name in files.list(FOLDER)]


def _frame(record: Record) -> bytes:
    body = wire.encode(TABLE.encode(record))
    return len(body).to_bytes(4, "big") + blake3_256(body)[:8] + body
