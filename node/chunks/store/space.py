"""How a donor's cap is divided. Layer 2, pure.

The cap holds everything below the node's home, at every instant:

    packs + room promised to puts + renewal room + compaction headroom + everything else <= cap

where everything else (index, records, logs) gets max(4 MiB, 2 %) of the cap, or what it was measured to
take and some more if that is larger. A lease, an end of one, a quarantine may dip into the headroom, which
is one pack: a compaction copies at most three quarters of one.

A cap that was lowered below what the packs take can't hold at once. Until it does, nothing new is accepted,
and what it takes to give shards away (compaction, rosters that say who has them now) may use one pack
more than there was when it was lowered, and ever less as packs go.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.errors import StoreFullError, UsageError
from node.units import GIB, KIB, MIB, format_size

PACKS_PER_CAP = 16
PACK_BYTES_MIN = 1 * MIB  # the largest commit record, 255 shards', has 0.9 MB
PACK_BYTES_MAX = 1 * GIB  # a rebuild verifies one pack in full, a compaction copies one
CAP_BYTES_MIN = PACKS_PER_CAP * PACK_BYTES_MIN
OTHER_BYTES_MIN = 4 * MIB
OTHER_SHARE = 50  # a fiftieth: 2 %
PACK_OVERHEAD_BYTES = 8 * KIB  # header, rounding to the file system's block, one block of extents
RECORDS_SHARE = 8
"""Of what is kept for everything else, an eighth is room for the DHT's records of others. LMDB's file takes
up to 2.5 times what its items weigh (measured under a flood of records), the logs take 1 MiB."""
RENEWAL_BYTES = 2 * KIB  # a shard: leases that renew it on a store that is full


def check_cap(cap_bytes: int) -> None:
    """Raises `UsageError` for a cap that is neither 0 nor large enough to hold anything."""
    if 0 < cap_bytes < CAP_BYTES_MIN:
        raise UsageError(
            f"{format_size(cap_bytes)} are too few to hold anything for others: give "
            f"{CAP_BYTES_MIN // MIB}MiB or more, such as 20GiB (0 gives nothing)"
        )


@dataclass(slots=True)
class PackUse:
    """What the packs take."""

    byte_count: int
    pack_count: int
    largest_bytes: int

    @property
    def allocated_bytes(self) -> int:
        """Bytes of disk, rounding included."""
        return self.byte_count + self.pack_count * PACK_OVERHEAD_BYTES


class SpaceBudget:
    """The arithmetic of one cap. The owner serialises calls."""

    def __init__(self, cap_bytes: int) -> None:
        self.cap_bytes = cap_bytes
        self.reserved_bytes = 0
        self.other_bytes = 0
        self._shrink_limit_bytes = 0

    @property
    def pack_bytes(self) -> int:
        """Where a new pack begins."""
        return max(PACK_BYTES_MIN, min(PACK_BYTES_MAX, self.cap_bytes // PACKS_PER_CAP))

    @property
    def other_limit_bytes(self) -> int:
        """What is kept for index, records and logs."""
        return max(OTHER_BYTES_MIN, self.cap_bytes // OTHER_SHARE)

    @property
    def records_room_bytes(self) -> int | None:
        """What the DHT's records of others may weigh; None where nothing is given, so no cap holds."""
        return self.other_limit_bytes // RECORDS_SHARE if self.cap_bytes else None

    @property
    def measure_step_bytes(self) -> int:
        """How much the index may grow between two measurements."""
        return self.other_limit_bytes // 8

    def pack_limit_bytes(self) -> int:
        """What packs, promises and compaction together may take."""
        other = max(self.other_limit_bytes, self.other_bytes + 2 * self.measure_step_bytes)
        return self.cap_bytes - other if self.cap_bytes >= CAP_BYTES_MIN else 0

    def free_bytes(self, packs: PackUse, shard_count: int) -> int:
        """What can be promised to puts now; 0 where the store is full."""
        return max(0, self._left_bytes(packs, shard_count, max(self.pack_bytes, packs.largest_bytes)))

    def excess_bytes(self, packs: PackUse, shard_count: int) -> int:
        """What has to go until the cap has room for what is kept, its renewals and a compaction again.

        Packs that are larger than those of this cap are reckoned as split: compaction does that.
        """
        return max(0, -self._left_bytes(packs, shard_count, self.pack_bytes))

    def _left_bytes(self, packs: PackUse, shard_count: int, headroom_bytes: int) -> int:
        taken = packs.allocated_bytes + self.reserved_bytes + headroom_bytes + PACK_OVERHEAD_BYTES
        return self.pack_limit_bytes() - taken - shard_count * RENEWAL_BYTES

    def begin_shrinking(self, packs: PackUse, shard_count: int) -> None:
        """The cap was lowered: where there is more now, note how much the packs may take meanwhile."""
        has_to_go = self.excess_bytes(packs, shard_count) > 0
        self._shrink_limit_bytes = self._with_one_more(packs) if has_to_go else 0

    def go_on_shrinking(self, packs: PackUse, shard_count: int) -> None:
        """A pack is gone: they may take that much less."""
        if self._shrink_limit_bytes:
            limit = min(self._shrink_limit_bytes, self._with_one_more(packs))
            self._shrink_limit_bytes = limit if self.excess_bytes(packs, shard_count) else 0

    def _with_one_more(self, packs: PackUse) -> int:
        return packs.allocated_bytes + self.with_new_packs(max(self.pack_bytes, packs.largest_bytes))

    def with_new_packs(self, byte_count: int) -> int:
        """`byte_count` and the overhead of every pack that so many bytes may begin."""
        # Two packs in a row hold more than one pack's bytes, however large the records.
        return byte_count + PACK_OVERHEAD_BYTES * (2 + 2 * byte_count // self.pack_bytes)

    def full_error(self, byte_count: int, free_bytes: int, dead_bytes: int) -> StoreFullError:
        """What a person reads when `byte_count` bytes can't be promised."""
        if self.cap_bytes < CAP_BYTES_MIN:
            smallest = format_size(CAP_BYTES_MIN)
            return StoreFullError(
                f"a cap of {format_size(self.cap_bytes)} holds nothing: give {smallest} or more"
            )
        waiting = f"; {format_size(dead_bytes)} more once compacted" if dead_bytes else ""
        return StoreFullError(
            f"the store is full: {format_size(byte_count)} asked for, {format_size(free_bytes)} free of "
            f"a cap of {format_size(self.cap_bytes)}{waiting}"
        )

    def has_headroom(self, byte_count: int, packs: PackUse, *, shrinks: bool = False) -> bool:
        """Whether `byte_count` bytes fit the cap when the headroom is used.

        `shrinks`: they are written to give space back, so that what a lowered cap leaves for that counts too.
        """
        needed = packs.allocated_bytes + self.reserved_bytes + self.with_new_packs(byte_count)
        limit = self.pack_limit_bytes()
        return needed <= (max(limit, self._shrink_limit_bytes) if shrinks else limit)
