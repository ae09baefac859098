"""`KeyValue` over LMDB. Layer 3, over py-lmdb.

Invariants:
- No write map: a stray write in this process can't reach the file.
- Values leave a transaction as copies. py-lmdb 3.0.0 keeps a memoryview readable after its transaction, when
  its page may hold something else already.
- The map grows only while no transaction is open. py-lmdb 3.0.0 allows `set_mapsize` under an open read
  transaction, which then reads unmapped memory. The map starts small: its size is address space, never disk.
- One write at a time, from any thread; a commit has reached the disk when `update` returns.
- A file that was cut is filled up when it is opened: a read behind its end would be the end of the process.
  What turns out to be no page is told as damage, and noted beside the file for the next start.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from node.errors import DamagedStoreError, StoreError, StoreFullError
from node.ports import ReadTransaction, WriteTransaction
from node.units import KIB, MIB

T = TypeVar("T")

INITIAL_MAP_BYTES = 1 * MIB
MAP_GROWTH_BYTES_MAX = 256 * MIB
TABLES_MAX = 64
READERS_MAX = 512
_SCAN_BATCH = 256
_DATA, _LOCK, _DAMAGED = "data.mdb", "lock.mdb", "damaged"
_DAMAGE = (
    lmdb.BadTxnError,  # of a transaction that met damage before
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)


class _TableMissingError(Exception):
    """A write met a table that does not exist yet: end the transaction, make it, start again."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.table = table


class _Transaction:
    """One LMDB transaction as the port shows it."""

    def __init__(self, transaction: Any, tables: dict[str, Any], folder: Path) -> None:
        self._transaction = transaction
        self._tables = tables
        self._folder = folder

    def get(self, table: str, key: bytes) -> bytes | None:
        handle = self._tables.get(table)
        if handle is None:
            return None
        with _lmdb_errors(self._folder):
            value: bytes | None = self._transaction.get(key, db=handle)
        return value

    def scan(self, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        # In batches, each found anew by its key: the table may change between two steps of the caller.
        position = max(prefix, start)
        while True:
            batch = self._batch(table, prefix, position)
            yield from batch
            if len(batch) < _SCAN_BATCH:
                return
            position = batch[-1][0] + b"\0"

    def count(self, table: str) -> int:
        handle = self._tables.get(table)
        if handle is None:
            return 0
        with _lmdb_errors(self._folder):
            return int(self._transaction.stat(handle)["entries"])

    def put(self, table: str, key: bytes, value: bytes) -> None:
        handle = self._tables.get(table)
        if handle is None:
            raise _TableMissingError(table)
        self._transaction.put(key, value, db=handle)

    def delete(self, table: str, key: bytes) -> bool:
        handle = self._tables.get(table)
        return handle is not None and bool(self._transaction.delete(key, db=handle))

    def _batch(self, table: str, prefix: bytes, position: bytes) -> list[tuple[bytes, bytes]]:
        handle = self._tables.get(table)
        found: list[tuple[bytes, bytes]] = []
        if handle is None:
            return found
        with _lmdb_errors(self._folder), self._transaction.cursor(db=handle) as cursor:
            if not (cursor.set_range(position) if position else cursor.first()):
                return found
            for key, value in cursor.iternext(keys=True, values=True):
                if not key.startswith(prefix):
                    break
                found.append((key, value))
                if len(found) == _SCAN_BATCH:
                    break
        return found


def is_damaged(folder: Path) -> bool:
    """Whether the tables in `folder` were found to be damaged when they were open last."""
    return (folder / _DAMAGED).exists()


def open_anew_if_damaged(folder: Path) -> tuple[LmdbStore, DamagedStoreError | None]:
    """The tables in `folder`, which something else can make again: emptied where they are damaged, or were
    found to be when they were open last. With the damage, if there was any. Raises `StoreError`."""
    damage: DamagedStoreError | None = None
    if is_damaged(folder):
        damage = DamagedStoreError(f"what is in {folder} was damaged")
    else:
        try:
            return LmdbStore(folder), None
        except DamagedStoreError as error:
            damage = error
    with _lmdb_errors(folder):
        for name in (_DATA, _LOCK, _DAMAGED):  # the note last: a kill in between loses nothing of it
            (folder / name).unlink(missing_ok=True)
    return LmdbStore(folder), damage


class LmdbStore:
    """Ordered tables in one LMDB environment. Thread-safe; no thread may `update` inside its `view`."""

    def __init__(self, folder: Path, *, map_bytes: int = INITIAL_MAP_BYTES) -> None:
        """Open or create the environment in `folder`. Raises `StoreError`, `DamagedStoreError`."""
        self._folder = folder
        self._gate = _Gate()
        self._writing = threading.Lock()
        self._closed = False
        with _lmdb_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            existing = folder / _DATA
            size = existing.stat().st_size if existing.exists() else 0
            self._map_bytes = max(map_bytes, _round_up(size * 2))
            self._environment = lmdb.open(
                str(folder),
                map_size=self._map_bytes,
                max_dbs=TABLES_MAX,
                max_readers=READERS_MAX,
                mode=0o600,
                writemap=False,
                metasync=True,
                sync=True,
            )
            try:
                self._fill_up(existing)
                self._tables = self._existing_tables()
            except lmdb.Error:
                self._environment.close()
                raise

    def _fill_up(self, path: Path) -> None:
        """LMDB writes no page that a transaction freed again, so a whole file may be short as well."""
        byte_count = (self._environment.info()["last_pgno"] + 1) * self._environment.stat()["psize"]
        if path.stat().st_size < byte_count:
            os.truncate(path, byte_count)

    @contextmanager
    def view(self) -> Iterator[ReadTransaction]:
        """A read transaction; keep it short. Raises `StoreError`."""
        with self._gate.shared():
            self._check_open()
            with _lmdb_errors(self._folder):
                transaction = self._environment.begin(write=False)
            try:
                yield _Transaction(transaction, self._tables, self._folder)
            finally:
                transaction.abort()

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        """Run `change` in a write transaction and commit it durably; it may run more than once.

        Raises:
            StoreFullError: the disk is full.
            StoreError: another fault of the disk.
        """
        if self._gate.held_by_this_thread():
            raise StoreError("an update inside a view could wait for itself")
        with self._writing:
            while True:
                try:
                    return self._attempt(change)
                except lmdb.MapFullError:
                    self._enlarge()
                except _TableMissingError as missing:
                    self._create(missing.table)

    def close(self) -> None:
        """Release the tables, once no transaction is open. Idempotent."""
        with self._writing, self._gate.exclusive():
            if not self._closed:
                self._closed = True
                self._environment.close()

    def _attempt(self, change: Callable[[WriteTransaction], T]) -> T:
        with self._gate.shared():
            self._check_open()
            with _lmdb_errors(self._folder):
                transaction = self._environment.begin(write=True)
            try:
                result = change(_Transaction(transaction, self._tables, self._folder))
                with _lmdb_errors(self._folder):
                    transaction.commit()
                return result
            except lmdb.MapFullError:
                raise
            except lmdb.Error as error:
                raise _store_error(error, self._folder) from error
            finally:
                transaction.abort()  # does nothing after a commit

    def _enlarge(self) -> None:
        with self._gate.exclusive():
            self._map_bytes = _round_up(self._map_bytes + min(self._map_bytes, MAP_GROWTH_BYTES_MAX))
            with _lmdb_errors(self._folder):
                self._environment.set_mapsize(self._map_bytes)

    def _create(self, table: str) -> None:
        while True:
            try:
                with self._gate.shared():
                    handle = self._environment.open_db(table.encode(), create=True)
                    self._tables = {**self._tables, table: handle}
                    return
            except lmdb.MapFullError:
                self._enlarge()
            except lmdb.Error as error:
                raise _store_error(error, self._folder) from error

    def _existing_tables(self) -> dict[str, Any]:
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            names = [bytes(name) for name in cursor.iternext(keys=True, values=False)]
        return {name.decode(): self._environment.open_db(name, create=False) for name in names}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the index is closed")


class _Gate:
    """Many transactions, or one that remaps. A thread's second transaction never waits behind a remap."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open_count = 0
        self._remapping = False
        self._local = threading.local()

    def held_by_this_thread(self) -> bool:
        return self._depth() > 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            while self._remapping and not self._depth():
                self._condition.wait()
            self._open_count += 1
        self._local.depth = self._depth() + 1
        try:
            yield
        finally:
            self._local.depth -= 1
            with self._condition:
                self._open_count -= 1
                self._condition.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._condition:
            while self._remapping:
                self._condition.wait()
            self._remapping = True
            while self._open_count:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._remapping = False
                self._condition.notify_all()

    def _depth(self) -> int:
        return int(getattr(self._local, "depth", 0))


@contextmanager
def _lmdb_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError:
        raise
    except (lmdb.Error, OSError) as error:
        raise _store_error(error, folder) from error


def _store_error(error: Exception, folder: Path) -> StoreError:
    if isinstance(error, _DAMAGE):
        with suppress(OSError):
            (folder / _DAMAGED).touch(mode=0o600)
        return DamagedStoreError(f"what is in {folder} is damaged ({error})")
    # py-lmdb gives no errno for what the system refused: the text is the system's own.
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left" in str(error) or "quota exceeded" in str(error):
        return StoreFullError(
            f"the index cannot be written: the disk is full ({error}); free some space on it"
        )
    return StoreError(f"the index failed: {error}")


def _round_up(byte_count: int) -> int:
    step = 64 * KIB  # a multiple of every page size in use
    return max(step, -(-byte_count // step) * step)
