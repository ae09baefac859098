"""The log of a donor's store: append-only pack files of self-describing records. Layer 3, over `Files`.

A record is a 64-byte header and a payload, padded to 64 bytes; a full block with its header is exactly
64 KiB. The header carries the BLAKE3 of the payload, which for a block is its Merkle leaf, and ends in a
BLAKE3 of itself, keyed by the store's salt: a search for records behind a damaged place can't be led astray
by bytes that a peer chose. Byte by byte: docs/formats; frozen: tests/vectors/pack_records.json.

Invariants:
- A pack is synced before its successor exists, so that only the last one can be torn.
- Nothing is overwritten, except by a recovery, what was never acknowledged.
- Numbers of packs and sequences of records only grow.
The idea that the log is the truth and the index a cache is storj's (`storagenode/hashstore`).
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import PurePath
from typing import NamedTuple

from blake3 import blake3

from node import limits
from node.errors import CorruptBlockError, StoreError
from node.ports import Buffer, Files, OpenFile
from node.units import MIB

PACK_FOLDER = PurePath("packs")
PACK_SUFFIX = ".pack"
GIVEN_UP = PACK_FOLDER / "lost"
PACK_MAGIC = b"CairnPk1"
RECORD_MAGIC = b"CrnR"
RECORD_VERSION = 1
ALIGN_BYTES = 64
SALT_BYTES = 32
OPEN_PACKS_MAX = 64

_PACK_HEADER = struct.Struct(">8sQ32s16s")
_RECORD_HEADER = struct.Struct(">4sBBHIQI32s8s")
_CHECK_AT = 56
_SEARCH_BYTES = 1 * MIB
HEADER_BYTES = _RECORD_HEADER.size
assert _PACK_HEADER.size == HEADER_BYTES == ALIGN_BYTES


class RecordKind(IntEnum):
    """What a record says. Never renumbered."""

    BLOCK = 1
    COMMIT = 2
    LEASE = 3
    END = 4
    EXPIRY = 5
    OBJECT = 6
    QUARANTINE = 7


_KINDS = frozenset(int(kind) for kind in RecordKind)


class Location(NamedTuple):
    """Where a record stands: pack, offset of its header, bytes of its payload. Packs order as written."""

    pack_id: int
    offset: int
    length: int

    @property
    def record_bytes(self) -> int:
        """Bytes of the pack that the record takes."""
        return record_bytes(self.length)

    @property
    def end(self) -> int:
        """Offset behind the record."""
        return self.offset + self.record_bytes


class Position(NamedTuple):
    """A place between records."""

    pack_id: int
    offset: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record to append, or its header as found (then `payload` is empty for a block that was not read)."""

    kind: RecordKind
    sequence: int
    payload: Buffer
    payload_hash: bytes
    slot: int = 0
    block_index: int = 0


def record_bytes(payload_bytes: int) -> int:
    """Bytes of a pack that a record with such a payload takes."""
    return HEADER_BYTES + -(-payload_bytes // ALIGN_BYTES) * ALIGN_BYTES


def new_record(
    kind: RecordKind, sequence: int, payload: Buffer, *, slot: int = 0, block_index: int = 0
) -> Record:
    """A record with the hash of its payload."""
    return Record(kind, sequence, payload, blake3(payload).digest(), slot, block_index)


def pack_record(record: Record, salt: bytes) -> list[Buffer]:
    """The parts of a record on disk: header, payload, padding."""
    length = len(record.payload)
    head = _RECORD_HEADER.pack(
        RECORD_MAGIC,
        record.kind,
        RECORD_VERSION,
        record.slot,
        record.block_index,
        record.sequence,
        length,
        record.payload_hash,
        b"",
    )[:_CHECK_AT]
    header = head + blake3(head, key=salt).digest(8)
    padding = -length % ALIGN_BYTES
    return [header, record.payload, bytes(padding)] if padding else [header, record.payload]


def unpack_header(header: bytes, salt: bytes) -> tuple[Record, int] | None:
    """The record, without payload, that a header announces, and the payload's length; None if it is none."""
    if len(header) != HEADER_BYTES or header[:4] != RECORD_MAGIC:
        return None
    if blake3(header[:_CHECK_AT], key=salt).digest(8) != header[_CHECK_AT:]:
        return None
    _, kind, version, slot, block_index, sequence, length, payload_hash, _ = _RECORD_HEADER.unpack(header)
    if version != RECORD_VERSION or kind not in _KINDS or length > limits.STORE_RECORD_BYTES_MAX:
        return None
    return Record(RecordKind(kind), sequence, b"", payload_hash, slot, block_index), length


def pack_header(pack_id: int, salt: bytes) -> bytes:
    """The first 64 bytes of a pack."""
    head = PACK_MAGIC + struct.pack(">Q", pack_id) + salt
    return head + bytes(blake3(head).digest(16))


def salt_of_header(header: bytes) -> bytes | None:
    """The store's salt as a pack's header carries it; None if the header is damaged."""
    if (
        len(header) != HEADER_BYTES
        or header[:8] != PACK_MAGIC
        or blake3(header[:48]).digest(16) != header[48:]
    ):
        return None
    return header[16:48]


def pack_path(pack_id: int) -> PurePath:
    """A pack's file below the home."""
    return PACK_FOLDER / f"{pack_id:08x}{PACK_SUFFIX}"


def packs_missing(count: int) -> StoreError:
    """What a person reads when the packs are not there."""
    packs = "a pack is" if count == 1 else f"{count} packs are"
    return StoreError(f"{packs} missing below {PACK_FOLDER}: is the disk mounted that they are on?")


class ShardLog:
    """All packs of one store. Thread-safe: appends exclude each other; reads and syncs run beside them."""

    def __init__(self, files: Files, *, salt: bytes, salt_is_known: bool, pack_bytes: int) -> None:
        """Open the packs. `salt` is the index's, else a new one for a store without any pack.

        Raises:
            StoreError: packs exist, the index does not know the salt, and no pack has a readable header.
        """
        self._files = files
        self._lock = threading.RLock()
        self._pool = _OpenPacks(files)
        self.pack_bytes = pack_bytes
        self._sizes: dict[int, int] = {}
        salts = [salt] if salt_is_known else []
        for name in files.list(PACK_FOLDER):
            if not name.endswith(PACK_SUFFIX):
                continue
            pack_id = int(name.removesuffix(PACK_SUFFIX), 16)
            with self._pool.using(pack_id) as file:
                self._sizes[pack_id] = file.size()
                if not salts:
                    found = salt_of_header(file.read_at(0, HEADER_BYTES))
                    salts = [found] if found else []
        if not salts and any(size > HEADER_BYTES for size in self._sizes.values()):
            raise StoreError(
                f"no pack below {PACK_FOLDER} has a readable header: is it another program's folder?"
            )
        self._salt = salts[0] if salts else salt
        self._active = max(self._sizes, default=0)

    @property
    def active_pack(self) -> int:
        """The pack that grows; 0 before the first."""
        return self._active

    @property
    def salt(self) -> bytes:
        """The key of every header check of this store."""
        return self._salt

    def sizes(self) -> dict[int, int]:
        """Bytes of each pack."""
        with self._lock:
            return dict(self._sizes)

    @property
    def is_given_up(self) -> bool:
        """Whether a person said that packs which are missing won't come back."""
        return GIVEN_UP.name in self._files.list(PACK_FOLDER)

    def forget_given_up(self) -> None:
        """Their loss is known from now on."""
        self._files.delete(GIVEN_UP)

    def check_there(self) -> None:
        """Raises `StoreError` unless every pack is still in its folder: another disk may be mounted there, or
        none."""
        names = set(self._files.list(PACK_FOLDER))
        with self._lock:
            missing = [pack_id for pack_id in self._sizes if pack_path(pack_id).name not in names]
        if missing:
            raise packs_missing(len(missing))

    def end(self) -> Position:
        """Where the next record goes, unless a new pack begins."""
        with self._lock:
            return Position(self._active, self._sizes.get(self._active, 0))

    def append(self, records: Sequence[Record]) -> list[Location]:
        """Append in order, with one write for what is contiguous. Not durable before `sync`.

        Raises:
            StoreFullError: the disk is full. What was written stays behind the end and is overwritten.
            StoreError: another fault, or a record larger than a pack.
        """
        locations: list[Location] = []
        parts: list[Buffer] = []
        with self._lock:
            start = offset = self._sizes.get(self._active, 0)
            for record in records:
                size = record_bytes(len(record.payload))
                if size > self.pack_bytes - HEADER_BYTES:
                    raise StoreError(f"a record of {size} bytes does not fit a pack of {self.pack_bytes}")
                if not self._active or offset + size > self.pack_bytes:
                    self._write(start, parts)
                    self._begin_pack()
                    parts = []
                    start = offset = HEADER_BYTES
                locations.append(Location(self._active, offset, len(record.payload)))
                parts += pack_record(record, self._salt)
                offset += size
            self._write(start, parts)
        return locations

    def sync(self) -> None:
        """Make every record appended before this call durable. Raises `StoreError`."""
        with self._lock:
            active = self._active
        if active:
            with self._pool.using(active) as file:
                file.sync()

    def read(self, location: Location) -> Record:
        """The record at `location`, its header and payload checked.

        Raises:
            CorruptBlockError: the bytes there are no longer that record.
            StoreError: the pack is missing, or the disk failed.
        """
        with self._pool.using(location.pack_id) as file:
            data = file.read_at(location.offset, HEADER_BYTES + location.length)
        found = unpack_header(data[:HEADER_BYTES], self._salt)
        payload = memoryview(data)[HEADER_BYTES:]
        if found is None or found[1] != len(payload) or blake3(payload).digest() != found[0].payload_hash:
            raise CorruptBlockError(f"bytes at {location.offset} of pack {location.pack_id} have changed")
        return replace(found[0], payload=bytes(payload))

    def walk(
        self, pack_id: int, start: int = HEADER_BYTES, *, verify_from: int
    ) -> Generator[tuple[Location, Record], None, None]:
        """Whole records of a pack in order, from offset `start` on; what is damaged is passed over.

        The payload of a block is read and checked only from offset `verify_from` on (and never returned);
        every other payload always is.
        """
        offset = max(start, HEADER_BYTES)
        with self._pool.using(pack_id) as file:
            size = file.size()
            while offset + HEADER_BYTES <= size:
                found = unpack_header(file.read_at(offset, HEADER_BYTES), self._salt)
                if found is None or offset + record_bytes(found[1]) > size:
                    offset = self._next_candidate(file, offset + ALIGN_BYTES, size)
                    continue
                record, length = found
                location = Location(pack_id, offset, length)
                if record.kind is not RecordKind.BLOCK:
                    payload = file.read_at(offset + HEADER_BYTES, length)
                    if blake3(payload).digest() == record.payload_hash:
                        yield location, replace(record, payload=payload)
                elif offset < verify_from or (
                    blake3(file.read_at(offset + HEADER_BYTES, length)).digest() == record.payload_hash
                ):
                    yield location, record
                offset = location.end

    def void(self, location: Location) -> None:
        """After a crash: make a record that nobody was told of none. Durable with the next `sync`."""
        with self._lock, self._pool.using(location.pack_id) as file:
            file.write_at(location.offset, bytes(HEADER_BYTES))

    def cut(self, end: Position) -> None:
        """After a crash: end the last pack at `end`, durably."""
        with self._lock:
            if not self._active:
                return
            assert end.pack_id == self._active
            with self._pool.using(self._active) as file:
                if file.size() < HEADER_BYTES or salt_of_header(file.read_at(0, HEADER_BYTES)) is None:
                    file.write_at(0, pack_header(self._active, self._salt))
                size = max(end.offset, HEADER_BYTES)
                if file.size() != size:
                    file.truncate(size)
                file.sync()
                self._sizes[self._active] = size

    def remove(self, pack_id: int) -> None:
        """Delete a pack durably."""
        with self._lock:
            assert pack_id != self._active
            self._pool.forget(pack_id)
            self._files.delete(pack_path(pack_id))
            self._sizes.pop(pack_id, None)

    def seal_active(self) -> None:
        """Let the next record begin a new pack."""
        with self._lock:
            if self._active and self._sizes[self._active] > HEADER_BYTES:
                self._begin_pack()

    def close(self) -> None:
        """Close every file. Idempotent."""
        self._pool.close()

    def _write(self, start: int, parts: list[Buffer]) -> None:
        if parts:
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            with self._pool.using(self._active) as file:
                file.write_at(start, data)
            self._sizes[self._active] = start + len(data)

    def _begin_pack(self) -> None:
        if self._active:
            self.check_there()  # a new pack must not land on whatever lies under an unmounted disk
        self.sync()
        pack_id = self._active + 1
        with self._pool.using(pack_id, create=True) as file:
            file.write_at(0, pack_header(pack_id, self._salt))
            file.sync()
        self._files.sync_folder(PACK_FOLDER)
        self._sizes[pack_id] = HEADER_BYTES
        self._active = pack_id

    @staticmethod
    def _next_candidate(file: OpenFile, offset: int, size: int) -> int:
        """The next aligned offset with a record's magic, or `size`."""
        while offset < size:
            window = file.read_at(offset, _SEARCH_BYTES)
            at = window.find(RECORD_MAGIC)
            while at >= 0:
                if at % ALIGN_BYTES == 0:
                    return offset + at
                at = window.find(RECORD_MAGIC, at + 1)
            offset += _SEARCH_BYTES
        return size


class _OpenPacks:
    """Open packs, the least used closed first, none while somebody works with it. Thread-safe."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._users: dict[int, int] = {}
        self._unwanted: dict[int, OpenFile] = {}

    @contextmanager
    def using(self, pack_id: int, *, create: bool = False) -> Iterator[OpenFile]:
        """The open pack. Raises `StoreError`."""
        with self._lock:
            file = self._open.get(pack_id)
            if file is None:
                file = self._open[pack_id] = self._files.open(pack_path(pack_id), create=create)
            self._open.move_to_end(pack_id)
            self._users[pack_id] = self._users.get(pack_id, 0) + 1
            self._shrink(OPEN_PACKS_MAX)
        try:
            yield file
        finally:
            with self._lock:
                self._users[pack_id] -= 1
                if not self._users[pack_id]:
                    del self._users[pack_id]
                    if pack_id in self._unwanted:
                        self._unwanted.pop(pack_id).close()

    def forget(self, pack_id: int) -> None:
        """Keep the pack no longer; whoever reads it now reads on."""
        with self._lock:
            file = self._open.pop(pack_id, None)
            if file is None:
                return
            if pack_id in self._users:
                self._unwanted[pack_id] = file
            else:
                file.close()

    def close(self) -> None:
        """Close all."""
        with self._lock:
            for file in [*self._open.values(), *self._unwanted.values()]:
                file.close()
            self._open.clear()
            self._unwanted.clear()

    def _shrink(self, count: int) -> None:
        for pack_id in list(self._open):
            if len(self._open) <= count:
                break
            if pack_id not in self._users:
                self._open.pop(pack_id).close()
