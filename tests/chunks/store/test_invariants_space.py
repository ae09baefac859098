"""Six uploaders push at a small donor: it is under its cap at every instant (invariant 12).

The budget alone, so that a long history costs nothing; the whole store is in `test_shard_store_crash`.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.chunks.store.space import PACK_OVERHEAD_BYTES, RENEWAL_BYTES, PackUse, SpaceBudget
from node.units import KIB, MIB
from tests.conftest import FULL

UPLOADERS = 6
CAP_BYTES = 64 * MIB
INDEX_BYTES = 1 * KIB
"""What the index takes for a shard."""


@dataclass
class Upload:
    """One put that was promised room."""

    promised_bytes: int
    left_bytes: int


class Uploaders(RuleBasedStateMachine):
    """Promise, append, finish, vanish, renew, in any order. A donor of 64 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = SpaceBudget(CAP_BYTES)
        self.packs = [0]
        self.shards = 0
        self.uploads: list[Upload] = []

    @property
    def use(self) -> PackUse:
        return PackUse(sum(self.packs), len(self.packs), max(self.packs))

    def append(self, byte_count: int) -> None:
        if self.packs[-1] + byte_count > self.budget.pack_bytes and self.packs[-1]:
            self.packs.append(0)
        self.packs[-1] += byte_count

    @precondition(lambda self: len(self.uploads) < UPLOADERS)
    @rule(size=st.integers(1, 16 * MIB) | st.integers(6 * MIB, 16 * MIB))
    def asks_for_room(self, size: int) -> None:
        promised = self.budget.with_new_packs(size)
        if promised <= self.budget.free_bytes(self.use, self.shards):
            self.budget.reserved_bytes += promised
            self.uploads.append(Upload(promised, size))

    @precondition(lambda self: self.uploads)
    @rule(pick=st.integers(0, UPLOADERS - 1), share=st.floats(0, 1))
    def pushes(self, pick: int, share: float) -> None:
        upload = self.uploads[pick % len(self.uploads)]
        for _ in range(int(share * upload.left_bytes) // (512 * KIB) + 1):
            block = min(512 * KIB, upload.left_bytes)
            self.append(block)
            upload.left_bytes -= block

    @precondition(lambda self: self.uploads)
    @rule(pick=st.integers(0, UPLOADERS - 1), finishes=st.booleans())
    def ends(self, pick: int, finishes: bool) -> None:
        upload = self.uploads.pop(pick % len(self.uploads))
        if finishes:
            self.append(upload.left_bytes)
            self.shards += 1
            self.budget.other_bytes += INDEX_BYTES
        self.budget.reserved_bytes -= upload.promised_bytes

    @precondition(lambda self: self.shards)
    @rule()
    def is_renewed(self) -> None:
        if self.budget.has_headroom(RENEWAL_BYTES, self.use):
            self.append(RENEWAL_BYTES)

    @invariant()
    def is_under_the_cap(self) -> None:
        assert self.use.allocated_bytes + self.budget.other_bytes <= CAP_BYTES

    @invariant()
    def what_is_promised_fits(self) -> None:
        """If all of them finish now, one by one or all at once, there is still room to compact a pack."""
        left = sum(self.budget.with_new_packs(upload.left_bytes) for upload in self.uploads)
        compaction = self.budget.pack_bytes * 3 // 4 + PACK_OVERHEAD_BYTES
        needed = self.use.allocated_bytes + left + compaction + self.budget.other_bytes
        assert needed <= CAP_BYTES + RENEWAL_BYTES * self.shards


TestUploaders = Uploaders.TestCase
TestUploaders.settings = settings(
    max_examples=500 if FULL else 40, stateful_step_count=80 if FULL else 40, deadline=None
)
