"""What a donor keeps: shards in append-only packs under a hard cap. Layer 3.

Invariants (design.md, section 8, numbers 1 and 5):
- An acknowledged shard survives kill -9 and power loss: blocks and their commit record are durable in the
  log, then the index is, then the caller hears of it. The index can be lost: the packs rebuild it.
- What lies under the home is at or under the cap at every instant, puts in progress and compaction included.
- A block leaves only if it still has its hash; one that has not costs its shard, for good.

Every method is short, synchronous and thread-safe: services call them through `Offload`. Leases, manifests,
attachments and rosters are opaque bytes here; whoever calls has verified them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from node import limits
from node.chunks.store.compaction import Compactor
from node.chunks.store.held_shards import AttachmentKind, HeldLease, HeldShards, StoredLease, held_lease
from node.chunks.store.incoming_put import IncomingPut, PutShard, check_lease, check_lease_fields
from node.chunks.store.log_payloads import (
    encode_end,
    encode_lease,
    encode_object,
    encode_quarantine,
)
from node.chunks.store.shard_index import (
    FORMAT,
    FORMAT_KEY,
    GRANT_KIND,
    LEASES,
    LOST,
    META,
    QUARANTINED,
    ROSTER_KIND,
    SALT_KEY,
    SEGMENT_OBJECTS,
    SHARDS,
    IndexReader,
    ShardEntry,
    shard_key,
)
from node.chunks.store.shard_log import (
    PACK_FOLDER,
    SALT_BYTES,
    Record,
    RecordKind,
    ShardLog,
    new_record,
)
from node.chunks.store.shard_recovery import recover
from node.chunks.store.shard_writer import Charge, Mutation, Reservation, StoreWriter
from node.chunks.store.space import SpaceBudget
from node.errors import CorruptBlockError, NotFoundError, ProtocolError, StoreError
from node.ports import Entropy, Files, KeyValue, WriteTransaction
from node.units import FileHash, LeaseId, SegmentId

_SWEEP_LEASES = 500  # leases that one index commit drops
PROBE_PATH = PACK_FOLDER / "probe"


ATTACHMENT_BYTES_MAX = {
    AttachmentKind.FILE_MANIFEST: limits.FILE_MANIFEST_BYTES_MAX,
    AttachmentKind.SEGMENT_MANIFESTS: limits.SEGMENT_MANIFESTS_BYTES_MAX,
    AttachmentKind.PLACEMENT: limits.PLACEMENT_BYTES_MAX,
}


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """The store at a glance; bytes are bytes of disk."""

    cap_bytes: int
    used_bytes: int
    reserved_bytes: int
    free_bytes: int
    shards: int
    leases: int
    packs: int
    dead_bytes: int
    quarantined: int
    lost: int
    """Leases of shards whose packs are gone."""


class ShardStore(HeldShards):
    """The packs and the index below one home."""

    def __init__(self, files: Files, key_values: KeyValue, entropy: Entropy, *, cap_bytes: int) -> None:
        """Open and recover. `files` is the node's home: all of it counts against the cap (0 holds nothing).

        `key_values` may hold other tables; the store's begin with `store.`. Raises `StoreError`.
        """
        self._files = files
        super().__init__(key_values)
        self._entropy = entropy
        self._is_swept = False
        """Whether nothing is left of an expiry that an earlier run began."""
        self._writer = self._open(cap_bytes)
        self._log = self._writer.log
        self._compactor = Compactor(self._writer, self._quarantine)

    def _open(self, cap_bytes: int) -> StoreWriter:
        budget = SpaceBudget(cap_bytes)
        with self._key_values.view() as view:
            salt = view.get(META, SALT_KEY) if view.get(META, FORMAT_KEY) == FORMAT else None
        log = ShardLog(
            self._files,
            salt=salt or self._entropy.random_bytes(SALT_BYTES),
            salt_is_known=salt is not None,
            pack_bytes=budget.pack_bytes,
        )
        sequence = recover(log, self._key_values)
        return StoreWriter(self._files, log, self._key_values, budget, sequence)

    def close(self) -> None:
        """Abort open puts and remember where the log ends. Idempotent; leaves `key_values` open."""
        self._writer.close()

    # --- faults of the disk -------------------------------------------------------------------------

    def examine(self) -> None:
        """Look whether the packs are where they should be and the store takes writes. Cheap; writes nothing.

        Raises `StoreError`, in words, if not: the disk is not mounted, not readable, or failed a write.
        """
        self._writer.check_usable()
        self._log.check_there()

    def probe(self) -> None:
        """`examine`, and try to write. Raises `StoreError`."""
        self.examine()
        self._files.replace(PROBE_PATH, b"")
        self._files.delete(PROBE_PATH)

    def reopen(self) -> None:
        """Begin anew over the same files after a fault, as a start of the node would; open puts are over.

        Nothing that was acknowledged is lost. Raises `StoreError` while the fault is still there; what can be
        read is read as before, and nothing is accepted.
        """
        old = self._writer
        old.stop(StoreError("the store is being opened again"))
        self._is_swept = False
        writer = self._open(old.budget.cap_bytes)
        writer.budget.cap_bytes = old.budget.cap_bytes  # it may have changed meanwhile
        self._writer, self._log = writer, writer.log
        self._compactor = Compactor(writer, self._quarantine)
        old.close()
        self.probe()  # the folder may be there and take no writes: a disk often comes back so

    # --- room ---------------------------------------------------------------------------------------

    def kept_bytes(self) -> int:
        """Bytes of the packs that are alive: what is kept for others, with its records."""
        return sum(self._writer.live_bytes().values())

    def statistics(self) -> StoreStatistics:
        """Figures of this moment; measures the home, or takes the last measure where the disk is gone."""
        writer = self._writer
        with suppress(StoreError):
            writer.measure()
        with self._key_values.view() as view:
            quarantined, lost = view.count(QUARANTINED), view.count(LOST)
            shards, leases = view.count(SHARDS) - quarantined, view.count(LEASES)
        with writer.state:
            use = writer.pack_use()
            return StoreStatistics(
                cap_bytes=writer.budget.cap_bytes,
                used_bytes=writer.pack_disk_bytes() + writer.budget.other_bytes,
                reserved_bytes=writer.budget.reserved_bytes,
                free_bytes=writer.free_bytes(),
                shards=shards,
                leases=leases,
                packs=use.pack_count,
                dead_bytes=writer.dead_bytes(),
                quarantined=quarantined,
                lost=lost,
            )

    def set_cap(self, cap_bytes: int) -> None:
        """Grow or shrink; below what is used, nothing more is accepted until something goes."""
        self._writer.set_cap(cap_bytes)

    def begin_shrinking(self) -> None:
        """The cap was lowered, perhaps before a restart, and what is more than it is about to go.

        Until it has, compaction and news of what went elsewhere may take one pack more than there is now.
        """
        self._writer.begin_shrinking()

    def excess_bytes(self) -> int:
        """What has to go until the cap has room for what is kept, its renewals and a compaction; 0 if none.

        Bytes that are dead and wait for a compaction are among them.
        """
        return self._writer.excess_bytes()

    def shard_costs(self, segment_id: SegmentId) -> dict[int, int]:
        """Bytes of the log that each shard of a segment takes, with its part of what is kept beside it."""
        costs: dict[int, int] = {}
        with self._key_values.view() as view:
            reader = IndexReader(view)
            beside, carriers = 0, set()
            for index in reader.shards_of(segment_id):
                shard = reader.shard(shard_key(segment_id, index))
                if shard is None:
                    continue
                costs[index] = sum(block.record_bytes for block in shard.blocks)
                carrier = reader.carrier(shard.put)
                if carrier is not None and shard.put not in carriers:
                    carriers.add(shard.put)
                    beside += carrier[1].record_bytes
            for key, _ in view.scan(SEGMENT_OBJECTS, segment_id):
                entry = reader.object(key[32:64], key[64])
                beside += 0 if entry is None else entry.location.record_bytes
        return {index: cost + beside // len(costs) for index, cost in costs.items()}

    def reserve(self, byte_count: int, *, block_count: int, shard_count: int = 1) -> Reservation:
        """Room for `block_count` blocks of `byte_count` bytes together, that become `shard_count` shards.

        What the records around them take is added here. Raises `StoreFullError` with the numbers.
        """
        return self._writer.reserve(byte_count, block_count=block_count, shard_count=shard_count)

    def begin_put(self, reservation: Reservation, shard_count: int) -> IncomingPut:
        """Begin a put into slots 0 to `shard_count` - 1; it takes the reservation over."""
        if not 1 <= shard_count <= limits.TOTAL_SHARDS_MAX:
            raise ProtocolError(f"{shard_count} shards are not a put")
        self._writer.check_usable()
        return IncomingPut(self._writer, reservation, shard_count)

    # --- losses -------------------------------------------------------------------------------------

    def forget_lost(self, lease_ids: Sequence[LeaseId]) -> None:
        """Remember these leases of shards that went with their packs no longer."""

        def drop(transaction: WriteTransaction) -> None:
            for lease_id in lease_ids:
                transaction.delete(LOST, lease_id)

        self._key_values.update(drop)

    # --- attachments and rosters --------------------------------------------------------------------

    def set_attachment(
        self, segment_id: SegmentId, file_hash: FileHash, kind: AttachmentKind, data: bytes
    ) -> None:
        """Keep `data` as long as a shard of `segment_id`, the file's segment 0, is held.

        Raises `NotFoundError` without such a shard, `ProtocolError` over a limit, `StoreFullError`.
        """
        if len(data) > ATTACHMENT_BYTES_MAX[kind] or len(file_hash) != 32:
            raise ProtocolError(f"an attachment of {len(data)} bytes is over its limit")
        self._set_object(segment_id, file_hash, kind, lambda old: data)

    def merge_roster(
        self, segment_id: SegmentId, merge: Callable[[bytes | None], bytes], *, moves: bool = False
    ) -> None:
        """Replace the roster by `merge(old)`; mergers exclude each other. Raises as `set_attachment`.

        `moves`: the news are about shards that go elsewhere, so that a full store takes them as well.
        """

        def checked(old: bytes | None) -> bytes:
            new = merge(old)
            if len(new) > limits.ROSTER_BYTES_MAX:
                raise ProtocolError(f"a roster of {len(new)} bytes is over its limit")
            return new

        charge = Charge.MOVING if moves else Charge.FREE
        self._set_object(segment_id, segment_id, ROSTER_KIND, checked, charge)

    def set_grant(self, segment_id: SegmentId, choose: Callable[[bytes | None], bytes]) -> None:
        """Replace the grant by `choose(old)`. Raises as `set_attachment`."""

        def checked(old: bytes | None) -> bytes:
            new = choose(old)
            if len(new) > limits.REPAIR_GRANT_BYTES_MAX:
                raise ProtocolError(f"a grant of {len(new)} bytes is over its limit")
            return new

        self._set_object(segment_id, segment_id, GRANT_KIND, checked)

    # --- leases -------------------------------------------------------------------------------------

    def add_lease(self, segment_id: SegmentId, shard_index: int, lease: StoredLease) -> None:
        """A further lease on a shard; one with the same id changes nothing.

        Raises `NotFoundError` without the shard, `ProtocolError` for bad sizes, too many leases or a lease
        id of another shard, `StoreFullError`.
        """
        check_lease_fields(lease)
        key = shard_key(segment_id, shard_index)
        payload = encode_lease(segment_id, shard_index, lease)

        def prepare(reader: IndexReader) -> list[Record]:
            if reader.shard(key) is None or reader.is_quarantined(key):
                raise NotFoundError(f"shard {shard_index} is not held here")
            if check_lease(reader, segment_id, shard_index, lease):
                return []
            if reader.lease_count(key) >= limits.LEASES_PER_SHARD_MAX:
                raise ProtocolError("this shard has as many leases as a shard may have")
            return [new_record(RecordKind.LEASE, self._writer.new_sequence(), payload)]

        self._writer.mutate(Mutation(frozenset([segment_id, lease.lease_id]), prepare, Charge.HEADROOM))

    def end_lease(self, lease_id: LeaseId) -> bool:
        """End a lease durably, and its shard with the last one; whether it was there."""
        held = self.lease(lease_id)
        return held is not None and self._end_lease(held)

    def give_up(self, segment_id: SegmentId, shard_index: int) -> int:
        """Let a shard go that somebody was promised: its leases count as lost first, then end; how many.

        A kill between the two leaves the shard as it was: a lease that is kept is not among the losses.
        """
        key = shard_key(segment_id, shard_index)

        def note(transaction: WriteTransaction) -> list[HeldLease]:
            found = IndexReader(transaction).leases_of(key)
            for entry in found:
                data = transaction.get(LEASES, entry.lease.lease_id)
                assert data is not None
                transaction.put(LOST, entry.lease.lease_id, data)
            return [held_lease(entry) for entry in found]

        return sum(self._end_lease(held) for held in self._key_values.update(note))

    def expire(self, now_s: int) -> int:
        """End all leases with `expires_s` <= `now_s`; how many. Raises `StoreFullError`, `StoreError`."""
        with self._key_values.view() as view:
            reader = IndexReader(view)
            before = view.count(LEASES)
            is_due = any(True for _ in reader.expired(now_s))
            reached_s = reader.expired_to().now_s
            waits = is_due or any(True for _ in reader.expired(reached_s))
        if self._is_swept and not waits:
            self._writer.check_usable()
            return 0  # so it is nearly always, and a commit a minute would be for nothing
        if is_due and now_s > reached_s:
            payload = now_s.to_bytes(8, "big")

            def prepare(reader: IndexReader) -> list[Record]:
                if now_s <= reader.expired_to().now_s:
                    return []
                return [new_record(RecordKind.EXPIRY, self._writer.new_sequence(), payload)]

            self._writer.mutate(Mutation(frozenset([b"expiry"]), prepare, Charge.ALWAYS))
        while self._writer.apply_unlogged(lambda writer: writer.sweep_expired(_SWEEP_LEASES)):
            pass
        self._is_swept = True
        # The clock went back: leases that came since the latest expiry end one by one.
        with self._key_values.view() as view:
            rest = [held_lease(entry) for entry in IndexReader(view).expired(now_s)]
        for held in rest:
            self._end_lease(held)
        with self._key_values.view() as view:
            return max(0, before - view.count(LEASES))

    # --- upkeep -------------------------------------------------------------------------------------

    def compact(self, byte_limit: int, *, urgent: bool = False) -> bool:
        """One step of compaction, of about `byte_limit` bytes; call again while it is True.

        `urgent` takes packs with a sixteenth dead instead of a quarter. Raises `StoreError`.
        """
        with self._writer.committing:
            self._writer.check_usable()
            return self._compactor.step(byte_limit, urgent=urgent)

    def scrub(self, cursor: bytes, *, block_limit: int) -> bytes | None:
        """Verify up to `block_limit` blocks from `cursor` on (b"" begins); the next cursor, None at the end.

        Shards with a bad block are quarantined: see `quarantined`.
        """
        start, first_block = cursor[:33], int.from_bytes(cursor[33:], "big")
        todo: list[tuple[bytes, int]] = []
        following: bytes | None = None
        with self._key_values.view() as view:
            reader = IndexReader(view)
            for key, _ in view.scan(SHARDS, start=start):
                shard = reader.shard(key) or ShardEntry(0, 0, 0, ())
                for index in range(first_block if key == start else 0, len(shard.blocks)):
                    if len(todo) == block_limit:
                        following = key + index.to_bytes(2, "big")
                        break
                    todo.append((key, index))
                if following is not None:
                    break
        for key, index in todo:
            try:
                self.read_block(SegmentId(key[:32]), key[32], index)
            except (CorruptBlockError, NotFoundError):
                continue  # quarantined by the read, or gone meanwhile
        return following

    def _end_lease(self, held: HeldLease) -> bool:
        lease_id = held.lease.lease_id
        ended = False

        def prepare(reader: IndexReader) -> list[Record]:
            nonlocal ended
            entry = reader.lease(lease_id)
            ended = entry is not None
            if entry is None:
                return []
            payload = encode_end(lease_id, entry.carrier, entry.lease.expires_s)
            return [new_record(RecordKind.END, self._writer.new_sequence(), payload)]

        self._writer.mutate(Mutation(frozenset([held.segment_id, lease_id]), prepare, Charge.ALWAYS))
        return ended

    def _quarantine(self, key: bytes) -> None:
        def prepare(reader: IndexReader) -> list[Record]:
            shard = reader.shard(key)
            if shard is None or reader.is_quarantined(key):
                return []
            payload = encode_quarantine(key, shard.put)
            return [new_record(RecordKind.QUARANTINE, self._writer.new_sequence(), payload)]

        self._writer.mutate(Mutation(frozenset([key[:32]]), prepare, Charge.ALWAYS))

    def _set_object(
        self,
        segment_id: SegmentId,
        scope: bytes,
        kind: int,
        change: Callable[[bytes | None], bytes],
        charge: Charge = Charge.FREE,
    ) -> None:
        def prepare(reader: IndexReader) -> Sequence[Record]:
            epoch = reader.epoch_of(segment_id)
            if epoch is None:
                raise NotFoundError("no shard of this segment is held here")
            held = reader.object(scope, kind)
            try:
                old = None if held is None else self._object_at(held.location)
            except CorruptBlockError:
                old = None  # what has rotted is as good as never set
            new = change(old)
            if new == old:
                return []
            payload = encode_object(segment_id, scope, epoch, new)
            if len(payload) > self._log.pack_bytes // 2:
                raise self._writer.budget.full_error(len(payload), self._log.pack_bytes // 2, 0)
            return [new_record(RecordKind.OBJECT, self._writer.new_sequence(), payload, slot=kind)]

        self._writer.mutate(Mutation(frozenset([segment_id, scope]), prepare, charge))


__all__ = [
    "AttachmentKind",
    "HeldLease",
    "IncomingPut",
    "PutShard",
    "Reservation",
    "ShardStore",
    "StoreStatistics",
    "StoredLease",
]
