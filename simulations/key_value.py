"""Tables in memory with transactions, that share a disk's crash point. Outside the layers.

A commit is one step of the disk: a crash before it leaves the old tables, one after it the new ones. What a
transaction sees is a snapshot, as LMDB gives it.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from node.errors import StoreError
from node.ports import ReadTransaction, WriteTransaction
from simulations.disk import FakeDisk

T = TypeVar("T")

KEY_BYTES_MAX = 511
_ITEM_BYTES = 16  # what a page spends on an item beside key and value, roughly LMDB's

_Table = dict[bytes, bytes]


class _Transaction:
    def __init__(self, tables: dict[str, _Table]) -> None:
        self.tables = tables
        self.changed: set[str] = set()
        self.is_open = True
        self.grown_bytes = 0
        self._sorted: dict[str, list[bytes]] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._table(table).get(key)

    def scan(self, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        position = max(prefix, start)
        while True:
            content = self._table(table)
            if table not in self._sorted:
                self._sorted[table] = sorted(content)
            keys = self._sorted[table]
            at = bisect.bisect_left(keys, position)
            if at == len(keys) or not keys[at].startswith(prefix):
                return
            key = keys[at]
            yield key, content[key]
            position = key + b"\0"  # found anew: the table may have changed

    def count(self, table: str) -> int:
        return len(self._table(table))

    def put(self, table: str, key: bytes, value: bytes) -> None:
        if not 1 <= len(key) <= KEY_BYTES_MAX:
            raise StoreError(f"the index failed: a key of {len(key)} bytes")
        content = self._own(table)
        before = content.get(key)
        if before is None:
            self.grown_bytes += len(key) + len(value) + _ITEM_BYTES
            if table in self._sorted:
                bisect.insort(self._sorted[table], bytes(key))
        else:
            self.grown_bytes += len(value) - len(before)
        content[bytes(key)] = bytes(value)

    def delete(self, table: str, key: bytes) -> bool:
        if key not in self._table(table):
            return False
        self.grown_bytes -= len(key) + len(self._own(table).pop(key)) + _ITEM_BYTES
        if table in self._sorted:
            keys = self._sorted[table]
            del keys[bisect.bisect_left(keys, key)]
        return True

    def _table(self, table: str) -> _Table:
        if not self.is_open:
            raise StoreError("the index failed: the transaction is over")
        return self.tables.get(table, {})

    def _own(self, table: str) -> _Table:
        """The table as this transaction's own copy."""
        content = self._table(table)
        if table not in self.changed:
            self.changed.add(table)
            content = self.tables[table] = dict(content)
        return content


class FakeKeyValue:
    """`KeyValue` in memory; open it again with `reopened` after a crash of its disk."""

    def __init__(self, disk: FakeDisk | None = None) -> None:
        self._disk = disk or FakeDisk()
        self._tables: dict[str, _Table] = {}
        self._writing = threading.RLock()
        self._local = threading.local()
        self._is_open = True
        self._allocated_bytes = 0
        self._disk.other_allocated.append(self._allocated)

    @contextmanager
    def view(self) -> Iterator[ReadTransaction]:
        """A snapshot."""
        self._check_open()
        transaction = _Transaction(dict(self._tables))
        self._local.views = getattr(self._local, "views", 0) + 1
        try:
            yield transaction
        finally:
            self._local.views -= 1
            transaction.is_open = False

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        """Run `change` and commit."""
        if getattr(self._local, "views", 0):
            raise StoreError("an update inside a view could wait for itself")
        with self._writing:
            self._check_open()
            transaction = _Transaction(dict(self._tables))
            try:
                result = change(transaction)
            finally:
                transaction.is_open = False
            self._disk.step()
            self._allocated_bytes += transaction.grown_bytes
            self._tables = transaction.tables
            self._disk.step()
            self._disk.changed()
            return result

    def close(self) -> None:
        """Idempotent."""
        self._is_open = False

    def reopened(self) -> FakeKeyValue:
        """The same tables in a new process."""
        self._disk.other_allocated.remove(self._allocated)
        again = FakeKeyValue(self._disk)
        again._tables = self._tables
        again._measure()
        self._is_open = False
        return again

    def raw_content(self) -> bytes:
        """All keys and values, to search in."""
        return b"\0".join(part for table in self._tables.values() for item in table.items() for part in item)

    def lose_everything(self) -> None:
        """As if somebody had deleted the files."""
        self._tables = {}
        self._measure()

    def _allocated(self) -> int:
        return self._allocated_bytes

    def _measure(self) -> None:
        self._allocated_bytes = sum(map(_table_bytes, self._tables.values()))

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreError("the index is closed")


def _table_bytes(table: _Table) -> int:
    return sum(map(len, table)) + sum(map(len, table.values())) + _ITEM_BYTES * len(table)
