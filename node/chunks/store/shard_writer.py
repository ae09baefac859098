"""The one way bytes enter a donor's store: room, then log, then index, then acknowledgement. Layer 3.

Invariants:
- A mutation returns when its records are durable in the log and applied in the index, in that order.
  Mutations that arrive together share one sync and one index commit.
- Every byte is charged before it is written: to a reservation, or to what the cap leaves.
- After a failed write, sync or index commit nothing more is accepted until the store is opened again: what
  such a failure left on disk is known only to a recovery.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from node import limits
from node.chunks.store.index_writer import IndexWriter
from node.chunks.store.shard_index import SHARDS, BlockPlace, IndexReader
from node.chunks.store.shard_log import (
    Location,
    Position,
    Record,
    ShardLog,
    record_bytes,
)
from node.chunks.store.space import PackUse, SpaceBudget
from node.errors import NodeError, ProtocolError, StoreError, StoreFullError
from node.ports import Files, KeyValue, WriteTransaction

_COMMIT_BYTES = limits.SEGMENT_MANIFEST_BYTES_MAX + 1024  # a commit record without its shards
_COMMIT_SHARD_BYTES = (
    limits.STORED_LEASE_BYTES_MAX + limits.PAYER_BYTES_MAX + 64
)  # a shard's part, less leaves
_INDEX_RECORD_BYTES = 4096  # pages that a record may add to the index: a guess that only times measuring
_FILE_BLOCK_BYTES = 4096


class Charge(Enum):
    """Whose room a mutation's records take."""

    FREE = "free"  # what a put could have
    HEADROOM = "headroom"  # a lease that renews: its room was kept when the shard came
    ALWAYS = "always"  # the end of something: 128 bytes, out of the same room, and the way to more of it
    MOVING = "moving"  # who has a shard that goes away: out of the same room, also under a cap just lowered
    RESERVED = "reserved"  # a reservation made before


class PutInProgress(Protocol):
    """What the writer knows of a put: what it must not lose sight of before the put is committed."""

    sequence: int
    first: Position | None

    def locations(self) -> Iterator[Location]:
        """Where its blocks stand."""
        ...

    def places(self, slot: int) -> list[BlockPlace]:
        """Blocks of a slot in order."""
        ...

    def abort(self) -> None:
        """Forget the blocks and release the reservation, unless a commit is under way. Idempotent."""
        ...


@dataclass(eq=False)
class Mutation:
    """A change: `prepare` checks it against the index and gives its records; none means nothing to do."""

    touches: frozenset[bytes]
    prepare: Callable[[IndexReader], Sequence[Record]]
    charge: Charge
    reservation: Reservation | None = None
    put: PutInProgress | None = None
    records: Sequence[Record] = ()
    is_finished: bool = False
    error: NodeError | None = None

    @property
    def byte_count(self) -> int:
        """Bytes of the log that its records take."""
        return sum(record_bytes(len(record.payload)) for record in self.records)


class StoreWriter:
    """Log, index and budget of one store, and the puts in progress. Thread-safe."""

    def __init__(
        self, files: Files, log: ShardLog, key_values: KeyValue, budget: SpaceBudget, sequence: int
    ) -> None:
        self._files = files
        self.log = log
        self.key_values = key_values
        self.budget = budget
        self.state = threading.RLock()
        self.committing = threading.RLock()
        self._sequence = sequence
        self._queue: list[Mutation] = []
        self._incoming: dict[int, PutInProgress] = {}
        self._failure: StoreError | None = None
        self._index_growth = 0
        with key_values.view() as view:
            self._live = IndexReader(view).live_bytes()
            self._shard_count = view.count(SHARDS)
        self.measure()

    # --- room ---------------------------------------------------------------------------------------

    def measure(self) -> None:
        """Find out what everything under the home takes beside the packs."""
        allocated = self._files.allocated_bytes()
        with self.state:
            self.budget.other_bytes = max(0, allocated - self.pack_disk_bytes())
            self._index_growth = 0

    def pack_use(self) -> PackUse:
        """What the packs take now."""
        sizes = self.log.sizes().values()
        return PackUse(sum(sizes), len(sizes), max(sizes, default=0))

    def pack_disk_bytes(self) -> int:
        """Bytes of disk that the packs take, as file systems commonly round them."""
        return sum(-(-size // _FILE_BLOCK_BYTES) * _FILE_BLOCK_BYTES for size in self.log.sizes().values())

    def live_bytes(self) -> dict[int, int]:
        """Live bytes by pack."""
        with self.state:
            return dict(self._live)

    def pinned_bytes(self) -> dict[int, int]:
        """Bytes by pack of puts in progress: neither live nor dead."""
        pinned: dict[int, int] = {}
        with self.state:
            for put in self._incoming.values():
                for location in put.locations():
                    pinned[location.pack_id] = pinned.get(location.pack_id, 0) + location.record_bytes
        return pinned

    def dead_bytes(self) -> int:
        """Bytes of the packs that nothing needs."""
        with self.state:
            return max(
                0,
                sum(self.log.sizes().values()) - sum(self._live.values()) - sum(self.pinned_bytes().values()),
            )

    def free_bytes(self) -> int:
        """What `reserve` could promise now."""
        with self.state:
            return self.budget.free_bytes(self.pack_use(), self._shard_count)

    def excess_bytes(self) -> int:
        """What has to go until the cap holds, with room to compact and to renew."""
        with self.state:
            return self.budget.excess_bytes(self.pack_use(), self._shard_count)

    def set_cap(self, cap_bytes: int) -> None:
        """Another cap from now on."""
        with self.state:
            self.budget.cap_bytes = cap_bytes
            self.log.pack_bytes = self.budget.pack_bytes

    def begin_shrinking(self) -> None:
        """Give back what is more than the cap, which was lowered."""
        with self.state:
            self.budget.begin_shrinking(self.pack_use(), self._shard_count)

    def reserve(self, byte_count: int, *, block_count: int, shard_count: int) -> Reservation:
        """Promise room for a put and its records. Raises `StoreFullError`."""
        charge = (
            byte_count
            + block_count * (2 * 64 + 32)
            + _COMMIT_BYTES
            + shard_count * (_COMMIT_SHARD_BYTES + 64)
        )
        with self.state:
            self.check_usable()
            charge = self.budget.with_new_packs(charge)
            self._check_free(charge)
            self.budget.reserved_bytes += charge
            return Reservation(self, charge)

    # --- mutations ----------------------------------------------------------------------------------

    def new_sequence(self) -> int:
        """A number that no record of this store had."""
        with self.state:
            self._sequence += 1
            return self._sequence

    def check_usable(self) -> None:
        """Raises `StoreError` after a failure that only a recovery can clear."""
        if self._failure is not None:
            raise StoreError(f"the store stopped after a fault: {self._failure}")

    def mutate(self, mutation: Mutation) -> None:
        """Make a change durable. Raises what its `prepare` raises, `StoreFullError`, `StoreError`."""
        with self.state:
            self.check_usable()
            self._queue.append(mutation)
        with self.committing:
            while not mutation.is_finished:
                self._commit(self._next_batch())
        if mutation.error is not None:
            raise mutation.error

    def apply_unlogged(self, change: Callable[[IndexWriter], int]) -> int:
        """A change of the index that follows from records already applied. Raises `StoreError`."""
        with self.committing:
            self.check_usable()

            def update(transaction: WriteTransaction) -> tuple[int, dict[int, int], int]:
                writer = IndexWriter(transaction)
                result = change(writer)
                return result, writer.finish(), transaction.count(SHARDS)

            with self.stopping_on_failure():
                result, live, shard_count = self.key_values.update(update)
            self._note(live, shard_count, 1)
            return result

    def apply(
        self,
        changes: Callable[[IndexWriter], None],
        *,
        end: Position,
        committed: Sequence[PutInProgress] = (),
    ) -> None:
        """Commit to the index what was synced up to `end`; the caller holds `committing`."""
        with self.state:
            # An open put's blocks stand before the end: a scan after a crash must see them too.
            firsts = [put.first for put in self._incoming.values() if put.first and put not in committed]
            scan_from = min([end, *firsts])
            sequence = self._sequence

        def update(transaction: WriteTransaction) -> tuple[dict[int, int], int]:
            writer = IndexWriter(transaction)
            changes(writer)
            writer.set_positions(synced=end, scan_from=scan_from, sequence=sequence)
            return writer.finish(), transaction.count(SHARDS)

        live, shard_count = self.key_values.update(update)
        self._note(live, shard_count, 0)

    @contextmanager
    def stopping_on_failure(self) -> Iterator[None]:
        """Whatever goes wrong inside stops the store: even an interrupt leaves log and index apart."""
        try:
            yield
        except BaseException as error:
            with self.state:
                self._failure = error if isinstance(error, StoreError) else StoreError(repr(error))
            raise

    def append(self, records: Sequence[Record]) -> list[Location]:
        """`ShardLog.append`; a fault other than a full disk stops the store."""
        try:
            return self.log.append(records)
        except StoreFullError:
            raise
        except StoreError as error:
            self._failure = self._failure or error
            raise

    def stop(self, reason: StoreError) -> None:
        """Accept nothing more; an earlier reason stays."""
        with self.committing, self.state:
            self._failure = self._failure or reason

    def forget_pack(self, pack_id: int) -> None:
        """Delete a pack without a live byte: file first, then its line in the index."""
        with self.committing:
            with self.stopping_on_failure():
                self.log.remove(pack_id)

            def forget(writer: IndexWriter) -> int:
                writer.forget_pack(pack_id)
                return 0

            self.apply_unlogged(forget)
            with self.state:
                self._live.pop(pack_id, None)
                self.budget.go_on_shrinking(self.pack_use(), self._shard_count)

    def register(self, put: PutInProgress) -> None:
        """Know of a put in progress."""
        with self.state:
            self._incoming[put.sequence] = put

    def unregister(self, put: PutInProgress) -> None:
        """Know of it no longer."""
        with self.state:
            self._incoming.pop(put.sequence, None)

    def close(self) -> None:
        """Remember where the log ends, so that the next start reads nothing of it. Idempotent."""
        with self.committing, self.state:
            for put in list(self._incoming.values()):
                put.abort()
            if self._failure is None:
                self._failure = StoreError("the store is closed")
                with suppress(StoreError):  # a disk that fails now: the next start recovers, as from a crash
                    self.log.sync()
                    self.apply(lambda writer: None, end=self.log.end())
            self.log.close()

    def _next_batch(self) -> list[Mutation]:
        """Queued mutations that don't touch the same things, in order."""
        batch: list[Mutation] = []
        later: list[Mutation] = []
        touched: set[bytes] = set()
        with self.state:
            for mutation in self._queue:
                (later if touched & mutation.touches else batch).append(mutation)
                touched |= mutation.touches
            self._queue = later
        return batch

    def _commit(self, batch: list[Mutation]) -> None:
        try:
            self._prepare(batch)
            ready = [mutation for mutation in batch if mutation.error is None and mutation.records]
            if not ready:
                return
            appended, end = self._append(ready)
            with self.stopping_on_failure():
                self.log.sync()
                self._apply_appended(appended, end)
        except BaseException as error:
            # Whoever waits for this batch must not take silence for success.
            fault = error if isinstance(error, StoreError) else StoreError(f"the store stopped: {error!r}")
            for mutation in batch:
                mutation.error = mutation.error or fault
            if not isinstance(error, StoreError):
                raise
        finally:
            for mutation in batch:
                mutation.is_finished = True

    def _prepare(self, batch: list[Mutation]) -> None:
        with self.key_values.view() as view:
            reader = IndexReader(view)
            for mutation in batch:
                try:
                    self.check_usable()
                    mutation.records = mutation.prepare(reader)
                except NodeError as error:
                    mutation.error = error

    def _append(self, ready: list[Mutation]) -> tuple[list[tuple[Mutation, list[Location]]], Position]:
        appended = []
        with self.state:
            for mutation in ready:
                try:
                    self._pay(mutation)
                    appended.append((mutation, self.append(mutation.records)))
                except NodeError as error:
                    mutation.error = error
            return appended, self.log.end()

    def _pay(self, mutation: Mutation) -> None:
        needed = mutation.byte_count
        if mutation.charge is Charge.RESERVED:
            assert mutation.reservation is not None
            mutation.reservation.spend(needed)
        elif mutation.charge is Charge.FREE:
            self._check_free(self.budget.with_new_packs(needed))
        elif mutation.charge in (Charge.HEADROOM, Charge.MOVING) and not self.budget.has_headroom(
            needed, self.pack_use(), shrinks=mutation.charge is Charge.MOVING
        ):
            raise StoreFullError(
                "the store is full to the last byte of its cap: compact it, or raise the cap"
            )

    def _check_free(self, byte_count: int) -> None:
        free = self.free_bytes()
        if byte_count > free:
            raise self.budget.full_error(byte_count, free, self.dead_bytes())

    def _apply_appended(self, appended: list[tuple[Mutation, list[Location]]], end: Position) -> None:
        def changes(writer: IndexWriter) -> None:
            for mutation, locations in appended:
                for record, location in zip(mutation.records, locations, strict=True):
                    writer.apply(record, location, self._blocks_of)

        committed = [mutation.put for mutation, _ in appended if mutation.put]
        self.apply(changes, end=end, committed=committed)
        self._note({}, None, sum(len(locations) for _, locations in appended))

    def _blocks_of(self, sequence: int, slot: int) -> list[BlockPlace]:
        with self.state:
            put = self._incoming.get(sequence)
            return put.places(slot) if put else []

    def _note(self, live: dict[int, int], shard_count: int | None, record_count: int) -> None:
        with self.state:
            self._live.update(live)
            if shard_count is not None:
                self._shard_count = shard_count
            self._index_growth += record_count * _INDEX_RECORD_BYTES
            due = self._index_growth >= self.budget.measure_step_bytes
        if due:
            self.measure()


class Reservation:
    """Room promised to one put, in memory only: void at restart."""

    def __init__(self, writer: StoreWriter, byte_count: int) -> None:
        self._writer = writer
        self._remaining_bytes = byte_count

    def spend(self, byte_count: int) -> None:
        """Turn promised bytes into written ones. Raises `ProtocolError` beyond what was promised."""
        with self._writer.state:
            if byte_count > self._remaining_bytes:
                raise ProtocolError("more bytes than were reserved for this put")
            self._remaining_bytes -= byte_count
            self._writer.budget.reserved_bytes -= byte_count

    def release(self) -> None:
        """Give back what was not used. Idempotent."""
        with self._writer.state:
            self._writer.budget.reserved_bytes -= self._remaining_bytes
            self._remaining_bytes = 0
