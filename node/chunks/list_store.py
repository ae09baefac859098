"""The list of files on this machine: which row is carried by what, and the root seen last. Layer 3, over the
KeyValue port.

The rows themselves are the catalogue's. A row's *carrier* says where the network has it: in a part (its file
hash), in the root (`IN_ROOT`), or nowhere yet (`CHANGED`). Invariants: a row that the network lacks is
`CHANGED`, whatever happened in between; a part is only called read once all of its rows are in; a root is
saved before its parts are read, so that a crash never makes a part look superfluous.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from node import limits, wire
from node.chunks.catalogue import (
    CARRIERS_TABLE,
    CHANGED,
    FILES_TABLE,
    VERSIONS_TABLE,
    RowVersion,
    decode_entry,
    drop_rows,
    note_change,
    row_version,
    set_version,
)
from node.chunks.file_list import ListPart, ListRow, wins
from node.errors import ProtocolError
from node.ports import KeyValue, ReadTransaction, WriteTransaction
from node.units import FileHash

META_TABLE: Final = "list_meta"
IN_ROOT: Final = b"\xff" * 32
"""The carrier of a row that stands in the root."""
_ROOT: Final = b"root"
_WANTED: Final = b"wanted"
_PAGE_ROWS: Final = 500
_META_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class KnownPart:
    """A part of the root seen last, and whether its rows are in the catalogue."""

    part: ListPart
    is_read: bool


@dataclass(frozen=True, slots=True)
class KnownRoot:
    """The root seen last: its sequence (0 before the first), the value that the DHT has, and its parts."""

    sequence: int = 0
    pointer: bytes = b""
    parts: tuple[KnownPart, ...] = ()

    @property
    def unread(self) -> tuple[ListPart, ...]:
        """Parts whose rows are not in the catalogue yet."""
        return tuple(known.part for known in self.parts if not known.is_read)


class ListStore:
    """The state of the list. Synchronous and short; services call it through `Offload`."""

    def __init__(self, key_values: KeyValue) -> None:
        self._key_values = key_values

    # --- what is known ------------------------------------------------------------------------------

    def root(self) -> KnownRoot:
        """The root seen last."""
        with self._key_values.view() as view:
            data = view.get(META_TABLE, _ROOT)
        return KnownRoot() if data is None else _decode_root(data)

    def is_wanted(self) -> bool:
        """Whether this home was restored from words, and its list has not been found yet."""
        with self._key_values.view() as view:
            return view.get(META_TABLE, _WANTED) is not None

    def want(self, *, forget: bool = False) -> None:
        """Note, durably, that the list of another machine is to be looked for.

        `forget`: what was known belongs to another account, which has no file here any more.
        """

        def change(transaction: WriteTransaction) -> None:
            transaction.put(META_TABLE, _WANTED, b"\x01")
            if forget:
                transaction.delete(META_TABLE, _ROOT)
                for table in (VERSIONS_TABLE, CARRIERS_TABLE):
                    for key in [key for key, _ in transaction.scan(table)]:
                        transaction.delete(table, key)

        self._key_values.update(change)

    def has_changes(self) -> bool:
        """Whether the network lacks a row."""
        return bool(self._carried(CHANGED, limit=1))

    def has_files(self) -> bool:
        """Whether there is any file."""
        with self._key_values.view() as view:
            return view.count(FILES_TABLE) > 0

    def rows(self, carriers: Iterable[bytes], *, limit: int) -> list[ListRow]:
        """Up to `limit` rows of these carriers; rows that are of no use any more are `forget`'s."""
        found: list[ListRow] = []
        with self._key_values.view() as view:
            for carrier in carriers:
                for key, _ in islice(view.scan(CARRIERS_TABLE, prefix=carrier), limit - len(found)):
                    row = _row(view, FileHash(key[32:]))
                    if row is not None:
                        found.append(row)
        return found

    def live_counts(self) -> Mapping[FileHash, int]:
        """How many rows each part that was read still carries."""
        with self._key_values.view() as view:
            return {
                known.part.file_hash: sum(1 for _ in view.scan(CARRIERS_TABLE, prefix=known.part.file_hash))
                for known in self._root_in(view).parts
                if known.is_read
            }

    # --- changes ------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Give every file that has none a version: those of a home from before there was a list."""
        for keys in self._pages(FILES_TABLE):

            def change(transaction: WriteTransaction, keys: Sequence[bytes] = keys) -> None:
                for key in keys:
                    file_hash = FileHash(key)
                    row = transaction.get(FILES_TABLE, key)
                    if row is None or row_version(transaction, file_hash) is not None:
                        continue
                    if not decode_entry(file_hash, row).is_list:
                        note_change(transaction, file_hash, until_s=0)

            self._key_values.update(change)

    def forget(self, *, now_s: int) -> None:
        """Drop removals that count no more."""
        for keys in self._pages(VERSIONS_TABLE):

            def change(transaction: WriteTransaction, keys: Sequence[bytes] = keys) -> None:
                for key in keys:
                    known = row_version(transaction, FileHash(key))
                    if known is not None and 0 < known.until_s <= now_s:
                        transaction.delete(VERSIONS_TABLE, key)
                        transaction.delete(CARRIERS_TABLE, known.carrier + key)

            if any(True for key in keys if self._is_over(FileHash(key), now_s)):
                self._key_values.update(change)

    def published(self, root: KnownRoot, carried: Mapping[bytes, Sequence[tuple[FileHash, int]]]) -> None:
        """Save a root that the network has now; `carried` has (file, version) by carrier.

        A row that changed since then has another version: it stays `CHANGED`.
        """

        def change(transaction: WriteTransaction) -> None:
            for carrier, rows in carried.items():
                for file_hash, version in rows:
                    known = row_version(transaction, file_hash)
                    if known is not None and known.version == version:
                        set_version(transaction, file_hash, replace(known, carrier=carrier))
            transaction.put(META_TABLE, _ROOT, _encode_root(root))

        self._key_values.update(change)

    def adopt(self, root: KnownRoot, rows: Sequence[ListRow]) -> None:
        """Save a root of another device, with the rows that stand in it.

        What the network lacks by it is `CHANGED` until its parts, read next, prove otherwise.
        """
        stay = {known.part.file_hash for known in root.parts}

        def change(transaction: WriteTransaction) -> None:
            lost = [IN_ROOT, *(known.part.file_hash for known in self._root_in(transaction).parts)]
            for carrier in lost:
                if carrier in stay:
                    continue
                for key in [key for key, _ in transaction.scan(CARRIERS_TABLE, prefix=carrier)]:
                    known = row_version(transaction, FileHash(key[32:]))
                    assert known is not None
                    set_version(transaction, FileHash(key[32:]), replace(known, carrier=CHANGED))
            for row in rows:
                _merge(transaction, row, IN_ROOT)
            transaction.put(META_TABLE, _ROOT, _encode_root(root))

        self._key_values.update(change)

    def merge_part_rows(self, part: FileHash, rows: Sequence[ListRow]) -> None:
        """Take in rows of a part."""

        def change(transaction: WriteTransaction) -> None:
            for row in rows:
                _merge(transaction, row, part)

        self._key_values.update(change)

    def part_read(self, part: FileHash) -> None:
        """All rows of a part are in."""

        def change(transaction: WriteTransaction) -> None:
            root = self._root_in(transaction)
            parts = tuple(
                replace(known, is_read=known.is_read or known.part.file_hash == part) for known in root.parts
            )
            transaction.put(META_TABLE, _ROOT, _encode_root(replace(root, parts=parts)))

        self._key_values.update(change)

    def found(self) -> None:
        """The list that was wanted is here, as far as it can be read."""
        self._key_values.update(lambda transaction: transaction.delete(META_TABLE, _WANTED))

    # --- within -------------------------------------------------------------------------------------

    def _carried(self, carrier: bytes, *, limit: int) -> list[FileHash]:
        with self._key_values.view() as view:
            return [FileHash(key[32:]) for key, _ in islice(view.scan(CARRIERS_TABLE, prefix=carrier), limit)]

    def _is_over(self, file_hash: FileHash, now_s: int) -> bool:
        with self._key_values.view() as view:
            known = row_version(view, file_hash)
        return known is not None and 0 < known.until_s <= now_s

    def _pages(self, table: str) -> Iterator[list[bytes]]:
        start = b""
        while True:
            with self._key_values.view() as view:
                keys = [key for key, _ in islice(view.scan(table, start=start), _PAGE_ROWS)]
            if keys:
                yield keys
            if len(keys) < _PAGE_ROWS:
                return
            start = keys[-1] + b"\0"

    @staticmethod
    def _root_in(view: ReadTransaction) -> KnownRoot:
        data = view.get(META_TABLE, _ROOT)
        return KnownRoot() if data is None else _decode_root(data)


def _row(view: ReadTransaction, file_hash: FileHash) -> ListRow | None:
    known = row_version(view, file_hash)
    if known is None:
        return None
    data = view.get(FILES_TABLE, file_hash)
    return ListRow(file_hash, known.version, known.until_s, data)


def _merge(transaction: WriteTransaction, row: ListRow, carrier: bytes) -> None:
    """Take in a row that `carrier` has, unless a newer one is here."""
    mine = _row(transaction, row.file_hash)
    if mine is not None and mine != row and not wins(row, mine):
        return
    if mine is None or mine != row:
        if row.data is None:
            drop_rows(transaction, row.file_hash)
        else:
            decode_entry(row.file_hash, row.data)  # what this program can't read is not written down
            transaction.put(FILES_TABLE, row.file_hash, row.data)
    set_version(transaction, row.file_hash, RowVersion(row.version, row.until_s, carrier))


def _encode_root(root: KnownRoot) -> bytes:
    return wire.encode(
        [
            root.sequence,
            root.pointer,
            [
                [known.part.file_hash, known.part.file_key, known.part.rows, known.is_read]
                for known in root.parts
            ],
        ]
    )


def _decode_root(data: bytes) -> KnownRoot:
    sequence, pointer, parts = wire.expect_list(wire.decode(data, size_max=_META_BYTES_MAX), count=3)
    known = []
    for part in wire.expect_list(parts):
        file_hash, file_key, rows, is_read = wire.expect_list(part, count=4)
        known.append(
            KnownPart(
                ListPart(
                    FileHash(wire.expect_bytes(file_hash, size=32)),
                    wire.expect_bytes(file_key, size=32),
                    wire.expect_int(rows, low=0, high=2**32),
                ),
                is_read is True,
            )
        )
    if not isinstance(sequence, int):
        raise ProtocolError("a saved root without its sequence")
    return KnownRoot(
        sequence, wire.expect_bytes(pointer, size_max=limits.LIST_POINTER_BYTES_MAX), tuple(known)
    )
