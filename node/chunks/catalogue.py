"""My files: what this account put, where it is and until when. Layer 3, over the KeyValue port.

Three tables: files by hash; segments with their leases by hash and index, so that no row grows with the
file; holders with their addresses by hash. A file shows in `files` only when everything about it is there.
Beside them stands, for each file, the version of its row and what carries that row in the network: the list
that brings the files back on another machine is made from it (node/chunks/list_store.py). Every change of a
file's row gives it a new version in the same transaction, so that none is ever missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from node import limits, wire
from node.chunks.roster import merge_leases
from node.ports import KeyValue, ReadTransaction, WriteTransaction
from node.records.base import expect_peer_id
from node.records.lease import Lease
from node.units import Contact, FileHash, Multiaddr, OwnerKey, SegmentId
from node.wire import Value

FILES_TABLE: Final = "files"
SEGMENTS_TABLE: Final = "file_segments"
HOLDERS_TABLE: Final = "file_holders"
VERSIONS_TABLE: Final = "list_rows"
"""File hash -> version, until when a removal counts, carrier."""
CARRIERS_TABLE: Final = "list_carriers"
"""Carrier, file hash -> empty."""
CHANGED: Final = bytes(32)
"""The carrier of a row that the network does not have yet."""
REMOVALS_TABLE: Final = "file_removals"
"""File hash -> until when holders that were away may come back with its shards."""
_ROW_BYTES_MAX: Final = 16 * 1024
_SEGMENT_ROW_BYTES_MAX: Final = limits.LEASES_BODY_BYTES_MAX
_PAGE_ROWS: Final = 1_000
_TIME_MAX: Final = limits.RECORD_TIME_S_MAX
_FIELDS: Final = 13
_FIELDS_BEFORE_LISTS: Final = 11


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One file. `link` is the text with its key; the home folder is private."""

    file_hash: FileHash
    link: str
    name: str
    size_bytes: int
    data_shards: int
    total_shards: int
    segments: int
    created_s: int
    expires_s: int
    owner_salt: bytes
    index_hash: FileHash | None = None
    """The file that keeps a large folder's index; renewed and released together with this one."""
    is_index: bool = False
    """Whether this is such a file: `ls` leaves it out."""
    is_list: bool = False
    """Whether this is a part of the list of files itself: neither `ls` nor the list shows it."""
    renews: bool = False
    """Whether this node renews its leases by itself, before they end."""

    @property
    def is_shown(self) -> bool:
        """Whether it is a file that a person put."""
        return not self.is_index and not self.is_list


@dataclass(frozen=True, slots=True)
class CatalogueSegment:
    """Where one segment was put, as of then (and renewals since)."""

    segment_index: int
    segment_id: SegmentId
    leases: tuple[Lease, ...]


class Catalogue:
    """The table of my files. Synchronous and short; services call it through `Offload`."""

    def __init__(self, key_values: KeyValue, *, network: str) -> None:
        self._key_values = key_values
        self._network = network
        self.on_change: Callable[[], None] | None = None
        """Called, in whatever thread, after a file came, went or lasts until another day."""

    def add(self, entry: CatalogueEntry, contacts: Sequence[Contact]) -> None:
        """Add or replace a file, durably; `contacts` are its holders' last known addresses."""

        def change(transaction: WriteTransaction) -> None:
            for contact in contacts:
                addresses = list(contact.addresses[: limits.PLACEMENT_ADDRESSES_MAX])
                key = entry.file_hash + contact.peer_id
                transaction.put(HOLDERS_TABLE, key, wire.encode(addresses))
            transaction.put(FILES_TABLE, entry.file_hash, encode_entry(entry))
            if not entry.is_list:
                note_change(transaction, entry.file_hash, until_s=0)

        self._key_values.update(change)
        self._say_changed()

    def add_segments(self, file_hash: FileHash, segments: Sequence[CatalogueSegment]) -> None:
        """Add or replace segments, durably."""

        def change(transaction: WriteTransaction) -> None:
            for segment in segments:
                row = wire.encode([segment.segment_id, [lease.encode() for lease in segment.leases]])
                transaction.put(SEGMENTS_TABLE, _segment_key(file_hash, segment.segment_index), row)

        self._key_values.update(change)

    def get(self, file_hash: FileHash) -> CatalogueEntry | None:
        """One file."""
        with self._key_values.view() as view:
            row = view.get(FILES_TABLE, file_hash)
        return None if row is None else decode_entry(file_hash, row)

    def entries(self, start: bytes = b"") -> Iterator[CatalogueEntry]:
        """All files, indexes of large folders and parts of the list included, in order of hash from `start`
        on; a page in memory at a time."""
        while True:
            with self._key_values.view() as view:
                page = [
                    decode_entry(FileHash(key), row)
                    for key, row in islice(view.scan(FILES_TABLE, start=start), _PAGE_ROWS)
                ]
            yield from page
            if len(page) < _PAGE_ROWS:
                return
            start = page[-1].file_hash + b"\0"

    def files(self) -> Sequence[CatalogueEntry]:
        """All files, newest first; indexes of large folders and parts of the list are left out."""
        shown = (entry for entry in self.entries() if entry.is_shown)
        return sorted(shown, key=lambda entry: (-entry.created_s, entry.file_hash))

    def segments(self, file_hash: FileHash) -> Iterator[CatalogueSegment]:
        """The segments of a file, in order; none is kept in memory."""
        index = 0
        while True:
            with self._key_values.view() as view:
                row = view.get(SEGMENTS_TABLE, _segment_key(file_hash, index))
            if row is None:
                return
            yield self._segment(index, row)
            index += 1

    def segment(self, file_hash: FileHash, index: int) -> CatalogueSegment | None:
        """One segment of a file."""
        with self._key_values.view() as view:
            row = view.get(SEGMENTS_TABLE, _segment_key(file_hash, index))
        return None if row is None else self._segment(index, row)

    def begin_removal(self, file_hash: FileHash, until_s: int) -> None:
        """Note that a file is to go, durably, as holders that are away have not heard of it; it is renewed no
        more.

        Files that are not in the catalogue, or not any more, may be noted as well.
        """

        def change(transaction: WriteTransaction) -> bool:
            transaction.put(REMOVALS_TABLE, file_hash, wire.encode([until_s]))
            row = transaction.get(FILES_TABLE, file_hash)
            entry = None if row is None else decode_entry(file_hash, row)
            if entry is None or not entry.renews:
                return False
            transaction.put(FILES_TABLE, file_hash, encode_entry(replace(entry, renews=False)))
            if not entry.is_list:
                note_change(transaction, file_hash, until_s=0)
            return True

        if self._key_values.update(change):
            self._say_changed()

    def end_removal(self, file_hash: FileHash) -> None:
        """It is gone everywhere, or is to stay after all."""
        if file_hash in self.removals():
            self._key_values.update(lambda transaction: transaction.delete(REMOVALS_TABLE, file_hash))

    def removals(self) -> dict[FileHash, int]:
        """Files that are to go, each with the time until which holders may have something of it."""
        with self._key_values.view() as view:
            return {
                FileHash(key): wire.expect_int(until_s, low=0, high=_TIME_MAX)
                for key, row in view.scan(REMOVALS_TABLE)
                for until_s in wire.expect_list(wire.decode(row, size_max=_ROW_BYTES_MAX), count=1)
            }

    def learn_leases(
        self, file_hash: FileHash, index: int, news: Sequence[Lease], owner_key: OwnerKey
    ) -> None:
        """Take verified leases of a segment in, durably. `owner_key` is the file's. No error for a file that
        is not there."""

        def change(transaction: WriteTransaction) -> None:
            key = _segment_key(file_hash, index)
            row = transaction.get(SEGMENTS_TABLE, key)
            if row is None:
                return
            known = self._segment(index, row)
            leases = merge_leases(
                [*known.leases, *(lease for lease in news if lease.segment_id == known.segment_id)], owner_key
            )
            new = wire.encode([known.segment_id, [lease.encode() for lease in leases]])
            if new != row:
                transaction.put(SEGMENTS_TABLE, key, new)

        self._key_values.update(change)

    def learn_holders(self, file_hash: FileHash, contacts: Sequence[Contact]) -> None:
        """Remember where further holders of a file are, durably. No error for a file that is not there."""

        def change(transaction: WriteTransaction) -> None:
            if transaction.get(FILES_TABLE, file_hash) is None:
                return
            for contact in contacts:
                addresses = list(contact.addresses[: limits.PLACEMENT_ADDRESSES_MAX])
                transaction.put(HOLDERS_TABLE, file_hash + contact.peer_id, wire.encode(addresses))

        self._key_values.update(change)

    def holders(self, file_hash: FileHash) -> Sequence[Contact]:
        """Holders of a file with their last known addresses."""
        with self._key_values.view() as view:
            rows = list(view.scan(HOLDERS_TABLE, prefix=file_hash))
        return [
            Contact(
                expect_peer_id(key[len(file_hash) :]),
                tuple(
                    Multiaddr(wire.expect_str(address, bytes_max=limits.ADDRESS_BYTES_MAX))
                    for address in wire.decode(row, size_max=_ROW_BYTES_MAX)
                ),
            )
            for key, row in rows
        ]

    def set_expiry(self, file_hash: FileHash, expires_s: int) -> None:
        """After a renewal. No error for a file that is not there."""

        def change(transaction: WriteTransaction) -> None:
            row = transaction.get(FILES_TABLE, file_hash)
            if row is not None:
                entry = decode_entry(file_hash, row)
                if entry.expires_s == expires_s:
                    return
                transaction.put(FILES_TABLE, file_hash, encode_entry(replace(entry, expires_s=expires_s)))
                if not entry.is_list:
                    note_change(transaction, file_hash, until_s=0)

        self._key_values.update(change)
        self._say_changed()

    def remove(self, file_hash: FileHash) -> None:
        """Forget a file. No error for one that is not there."""

        def change(transaction: WriteTransaction) -> None:
            row = transaction.get(FILES_TABLE, file_hash)
            if row is not None:
                entry = decode_entry(file_hash, row)
                if not entry.is_list:
                    note_change(transaction, file_hash, until_s=entry.expires_s + limits.LIST_REMOVAL_KEPT_S)
            drop_rows(transaction, file_hash)

        self._key_values.update(change)
        self._say_changed()

    def _say_changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _segment(self, index: int, row: bytes) -> CatalogueSegment:
        segment_id, leases = wire.expect_list(wire.decode(row, size_max=_SEGMENT_ROW_BYTES_MAX), count=2)
        return CatalogueSegment(
            index,
            SegmentId(wire.expect_bytes(segment_id, size=32)),
            tuple(
                Lease.decode(wire.expect_bytes(lease), network=self._network)
                for lease in wire.expect_list(leases)
            ),
        )


def note_change(transaction: WriteTransaction, file_hash: FileHash, *, until_s: int) -> None:
    """Give a file's row its next version, which the network does not have yet.

    `until_s` is until when a removal counts, 0 for a file that is there.
    """
    known = row_version(transaction, file_hash)
    set_version(
        transaction, file_hash, RowVersion(1 if known is None else known.version + 1, until_s, CHANGED)
    )


@dataclass(frozen=True, slots=True)
class RowVersion:
    """The version of a file's row, until when a removal counts, and what carries the row in the network."""

    version: int
    until_s: int
    carrier: bytes


def row_version(view: ReadTransaction, file_hash: FileHash) -> RowVersion | None:
    """What is known of a file's row; None for one that never was."""
    data = view.get(VERSIONS_TABLE, file_hash)
    if data is None:
        return None
    version, until_s, carrier = wire.expect_list(wire.decode(data, size_max=_ROW_BYTES_MAX), count=3)
    return RowVersion(
        wire.expect_int(version, low=1, high=2**53),
        wire.expect_int(until_s, low=0, high=_TIME_MAX),
        wire.expect_bytes(carrier, size=32),
    )


def set_version(transaction: WriteTransaction, file_hash: FileHash, row: RowVersion) -> None:
    """Replace what is known of a file's row."""
    known = row_version(transaction, file_hash)
    if known is not None:
        transaction.delete(CARRIERS_TABLE, known.carrier + file_hash)
    transaction.put(CARRIERS_TABLE, row.carrier + file_hash, b"")
    transaction.put(VERSIONS_TABLE, file_hash, wire.encode([row.version, row.until_s, row.carrier]))


def drop_rows(transaction: WriteTransaction, file_hash: FileHash) -> None:
    """Delete a file with its segments and holders; its version stays."""
    transaction.delete(FILES_TABLE, file_hash)
    for table in (SEGMENTS_TABLE, HOLDERS_TABLE):
        for key in [key for key, _ in transaction.scan(table, prefix=file_hash)]:
            transaction.delete(table, key)


def _segment_key(file_hash: FileHash, index: int) -> bytes:
    return file_hash + index.to_bytes(4, "big")


def encode_entry(entry: CatalogueEntry) -> bytes:
    """A row of the table of files."""
    values: list[Value] = [
        entry.link, entry.name, entry.size_bytes, entry.data_shards, entry.total_shards, entry.segments,
        entry.created_s, entry.expires_s, entry.owner_salt, entry.index_hash, entry.is_index,
        entry.is_list, entry.renews,
    ]  # fmt: skip
    return wire.encode(values)


def decode_entry(file_hash: FileHash, row: bytes) -> CatalogueEntry:
    """The inverse of `encode_entry`. Raises `ProtocolError`."""
    values = wire.decode(row, size_max=_ROW_BYTES_MAX)
    if len(values) == _FIELDS_BEFORE_LISTS:  # written before there was a list: nothing renewed by itself
        values += [False, False]
    wire.expect_list(values, count=_FIELDS)
    index_hash = values[9]
    return CatalogueEntry(
        file_hash=file_hash,
        link=wire.expect_str(values[0], bytes_max=limits.LINK_CHARS_MAX),
        name=wire.expect_str(values[1], bytes_max=limits.NAME_BYTES_MAX),
        size_bytes=wire.expect_int(values[2], low=0, high=2**63),
        data_shards=wire.expect_int(values[3], low=1, high=limits.TOTAL_SHARDS_MAX),
        total_shards=wire.expect_int(values[4], low=1, high=limits.TOTAL_SHARDS_MAX),
        segments=wire.expect_int(values[5], low=1, high=limits.SEGMENTS_MAX),
        created_s=wire.expect_int(values[6], low=0, high=_TIME_MAX),
        expires_s=wire.expect_int(values[7], low=0, high=_TIME_MAX),
        owner_salt=wire.expect_bytes(values[8], size=16),
        index_hash=None if index_hash is None else FileHash(wire.expect_bytes(index_hash, size=32)),
        is_index=values[10] is True,
        is_list=values[11] is True,
        renews=values[12] is True,
    )
