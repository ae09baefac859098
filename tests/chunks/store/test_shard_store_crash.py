"""The store against a model, with crashes before any operation of the disk, lost indexes and restarts.

An operation that the power cut short may have happened or not, in whole; nothing else may differ.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.chunks.store.shard_store import AttachmentKind, IncomingPut, PutShard
from node.errors import NotFoundError, StoreFullError
from simulations.disk import SimulatedCrash
from tests.chunks.store_world import (
    GEOMETRY,
    Model,
    World,
    begin,
    block,
    blocks,
    file_hash,
    lease,
    manifest,
    put,
    segment,
)

FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
SEGMENTS = range(len(GEOMETRY))
NUMBERS = st.sampled_from(list(SEGMENTS))
INDEXES = st.sampled_from([0, 1, 254])
CUT = st.none() | st.integers(0, 14)
"""After how many operations of the disk the power goes, if it does."""


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = Model()
        self.leases_made = 0
        self.now_s = 0
        self.open_puts: list[tuple[IncomingPut, int, int, int]] = []
        """Put, segment number, shard index, blocks already there."""

    # --- how every operation runs -------------------------------------------------------------------

    def attempt(self, operation: Callable[[], object], after: Model, cut: int | None, seed: int) -> None:
        """Run it; if the power goes, restart and accept the state before or after, nothing between."""
        before = self.model
        if cut is not None:
            self.world.disk.crash_at = self.world.disk.operations + cut
        try:
            operation()
            self.model = after
            self.world.disk.crash_at = None
        except StoreFullError:
            self.world.disk.crash_at = None
        except SimulatedCrash:
            self.crash(seed)
            shown = self.world.shown(SEGMENTS)
            note(f"cut: {'done' if shown == after else 'not done'}")
            assert shown in (before, after)
            self.model = shown

    def crash(self, seed: int) -> None:
        self.open_puts.clear()
        self.world.disk.crash_randomly(random.Random(seed))
        self.world.reopen()

    # --- operations ---------------------------------------------------------------------------------

    @rule(number=NUMBERS, indexes=st.lists(INDEXES, min_size=1, max_size=2, unique=True),
          days=st.integers(1, 9), cut=CUT, seed=st.integers(0, 2**16))  # fmt: skip
    def put(self, number: int, indexes: list[int], days: int, cut: int | None, seed: int) -> None:
        after = self.model.copy()
        leases = {}
        for index in indexes:
            self.leases_made += 1
            leases[index] = lease(self.leases_made, self.now_s + days)
            after.leases[self.leases_made] = (number, index, self.now_s + days)
        self.attempt(lambda: put(self.world.store, number, leases), after, cut, seed)

    @rule(number=NUMBERS, index=INDEXES, count=st.integers(1, 6))
    def begin_a_put(self, number: int, index: int, count: int) -> None:
        try:
            incoming = begin(self.world.store, number, [index])
        except StoreFullError:
            return
        incoming.append(0, blocks(number, index)[:count])
        self.open_puts.append((incoming, number, index, min(count, len(blocks(number, index)))))

    @rule(pick=st.integers(0, 9), days=st.integers(1, 30), cut=CUT, seed=st.integers(0, 2**16))
    def finish_a_put(self, pick: int, days: int, cut: int | None, seed: int) -> None:
        if not self.open_puts:
            return
        incoming, number, index, count = self.open_puts.pop(pick % len(self.open_puts))
        self.leases_made += 1
        new = lease(self.leases_made, self.now_s + days)
        after = self.model.copy()
        after.leases[self.leases_made] = (number, index, self.now_s + days)

        def finish() -> None:
            incoming.append(0, blocks(number, index)[count:])
            incoming.commit(segment(number), manifest(number), [PutShard(0, index, new)])

        self.attempt(finish, after, cut, seed)

    @rule(number=NUMBERS)
    def abort_a_put(self, number: int) -> None:
        if self.open_puts:
            self.open_puts.pop(number % len(self.open_puts))[0].abort()

    @rule(number=NUMBERS, index=INDEXES, days=st.integers(1, 30), cut=CUT, seed=st.integers(0, 2**16))
    def add_lease(self, number: int, index: int, days: int, cut: int | None, seed: int) -> None:
        self.leases_made += 1
        new = lease(self.leases_made, self.now_s + days)
        if (number, index) not in self.model.shards():
            try:
                self.world.store.add_lease(segment(number), index, new)
            except NotFoundError:
                return
            raise AssertionError("a lease for nothing")
        after = self.model.copy()
        after.leases[self.leases_made] = (number, index, self.now_s + days)
        self.attempt(lambda: self.world.store.add_lease(segment(number), index, new), after, cut, seed)

    @rule(pick=st.integers(0, 2**16), cut=CUT, seed=st.integers(0, 2**16))
    def end_lease(self, pick: int, cut: int | None, seed: int) -> None:
        if not self.model.leases:
            return
        number = sorted(self.model.leases)[pick % len(self.model.leases)]
        after = self.model.copy()
        after.drop([number])
        self.attempt(lambda: self.world.store.end_lease(lease(number).lease_id), after, cut, seed)

    @rule(days=st.integers(-5, 20), cut=CUT, seed=st.integers(0, 2**16))
    def expire(self, days: int, cut: int | None, seed: int) -> None:
        self.now_s = max(0, self.now_s + days)
        after = self.model.copy()
        after.drop([number for number, (_, _, expires_s) in after.leases.items() if expires_s <= self.now_s])
        if cut is not None:
            self.world.disk.crash_at = self.world.disk.operations + cut
        try:
            self.world.store.expire(self.now_s)
        except SimulatedCrash:
            self.crash(seed)
            shown = self.world.shown(SEGMENTS).leases.items()
            assert after.leases.items() <= shown <= self.model.leases.items()
            self.world.store.expire(self.now_s)  # as the daemon does when it starts
        self.world.disk.crash_at = None
        self.model = after

    @rule(number=NUMBERS, kind=st.sampled_from(AttachmentKind), size=st.sampled_from([0, 100, 60_000]),
          cut=CUT, seed=st.integers(0, 2**16))  # fmt: skip
    def attach(self, number: int, kind: AttachmentKind, size: int, cut: int | None, seed: int) -> None:
        if number not in {held for held, _ in self.model.shards()}:
            return
        data = seed.to_bytes(4, "big") * (size // 4)
        after = self.model.copy()
        after.attachments[number, kind] = data
        self.attempt(
            lambda: self.world.store.set_attachment(segment(number), file_hash(number), kind, data),
            after, cut, seed,
        )  # fmt: skip

    @rule(number=NUMBERS, cut=CUT, seed=st.integers(0, 2**16))
    def merge_roster(self, number: int, cut: int | None, seed: int) -> None:
        if number not in {held for held, _ in self.model.shards()}:
            return
        after = self.model.copy()
        after.rosters[number] = (after.rosters.get(number) or b"") + b"r"
        self.attempt(
            lambda: self.world.store.merge_roster(segment(number), lambda old: (old or b"") + b"r"),
            after, cut, seed,
        )  # fmt: skip

    @rule(steps=st.integers(1, 40), size=st.sampled_from([1, 200_000, 10**9]), urgent=st.booleans(),
          cut=st.none() | st.integers(0, 60), seed=st.integers(0, 2**16))  # fmt: skip
    def compact(self, steps: int, size: int, urgent: bool, cut: int | None, seed: int) -> None:
        def run() -> None:
            for _ in range(steps):
                if not self.world.store.compact(size, urgent=urgent):
                    break

        self.attempt(run, self.model, cut, seed)

    @rule()
    def restart(self) -> None:
        self.open_puts.clear()
        self.world.store.close()
        self.world.reopen()

    @rule(seed=st.integers(0, 2**16))
    def lose_power(self, seed: int) -> None:
        self.crash(seed)

    @rule(seed=st.integers(0, 2**16), is_clean=st.booleans())
    def lose_the_index(self, seed: int, is_clean: bool) -> None:
        self.open_puts.clear()
        if is_clean:
            self.world.store.close()
        self.world.disk.crash_randomly(random.Random(seed))
        self.world.tables.lose_everything()
        self.world.reopen()

    # --- what always holds --------------------------------------------------------------------------

    @invariant()
    def shows_what_the_model_has(self) -> None:
        assert self.world.shown(SEGMENTS) == self.model

    @invariant()
    def accounts_add_up(self) -> None:
        self.world.check_accounts()
        statistics = self.world.store.statistics()
        assert statistics.shards == len(self.model.shards())
        assert statistics.leases == len(self.model.leases)
        assert statistics.quarantined == 0
        assert bool(statistics.reserved_bytes) == bool(self.open_puts)
        assert statistics.used_bytes <= self.world.cap_bytes


StoreMachine.TestCase.settings = settings(
    max_examples=150 if FULL else 40,
    stateful_step_count=50 if FULL else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStore = StoreMachine.TestCase


def test_every_prefix_of_unsynced_writes() -> None:
    """Cut the power at each operation of a put, keep each prefix of what was not synced, torn or not."""
    for cut in range(40):
        kept = 0
        while True:
            world = World()
            put(world.store, 1, {0: lease(1)})
            before = world.shown(SEGMENTS)
            world.disk.crash_at = world.disk.operations + cut
            try:
                put(world.store, 2, {5: lease(2), 6: lease(3)})
                return
            except SimulatedCrash:
                pass
            unsynced = world.disk.unsynced_count()
            world.disk.crash(kept, torn_bytes=(kept * 4099) % 70_000 if kept % 2 else None)
            if kept % 3 == 0:
                world.tables.lose_everything()
            world.reopen()
            shown = world.shown(SEGMENTS)
            assert before.leases.items() <= shown.leases.items()
            assert len(shown.leases) in (1, 3)
            world.check_accounts()
            put(world.store, 2, {5: lease(2), 6: lease(3)})
            assert world.store.read_block(segment(2), 6, 5) == block(2, 6, 5)
            kept += 1
            if kept > unsynced:
                break
    raise AssertionError("the put never ended")


def test_a_put_that_others_overtook_is_found_in_whole_after_a_crash() -> None:
    """Its blocks stand before the indexed end, its commit record behind it."""
    world = World()
    incoming = begin(world.store, 2, [0])
    incoming.append(0, blocks(2, 0))
    put(world.store, 1, {0: lease(1)})
    world.disk.crash_at = world.disk.operations + 2  # the record is written and synced, the index is not
    with pytest.raises(SimulatedCrash):
        incoming.commit(segment(2), manifest(2), [PutShard(0, 0, lease(2))])
    world.disk.crash(0)
    world.reopen()
    shown = world.shown(SEGMENTS)
    assert shown.shards() == {(1, 0), (2, 0)}
    world.check_accounts()
    world.tables.lose_everything()
    world.reopen()
    assert world.shown(SEGMENTS) == shown


@pytest.mark.parametrize(("step_bytes", "stride"), [(1, 5), (150_000, 2), (10**9, 1)])
def test_compaction_cut_anywhere_loses_nothing(step_bytes: int, stride: int) -> None:
    """Nothing unsynced survives: the copies must be durable before the index has them and the pack goes."""
    numbers = range(15)
    for cut in range(0, 200, stride):
        world = World()
        for number in (2, 6, 10, 14):
            put(world.store, number, {0: lease(number)})
        for number in (2, 10):
            world.store.end_lease(lease(number).lease_id)
        before = world.shown(numbers)
        world.disk.crash_at = world.disk.operations + cut
        is_over = True
        try:
            while world.store.compact(step_bytes):
                pass
        except SimulatedCrash:
            is_over = False
        world.disk.crash(0)
        world.reopen()
        assert world.shown(numbers) == before
        world.check_accounts()
        if is_over:
            assert world.store.statistics().dead_bytes < 200_000
            return
    raise AssertionError("the compaction never ended")


def test_a_roster_of_an_earlier_time_does_not_come_back_with_a_rebuild() -> None:
    world = World()
    put(world.store, 0, {0: lease(1), 254: lease(2)})
    world.store.merge_roster(segment(0), lambda old: b"old")
    assert world.store.expire(1000) == 2
    put(world.store, 0, {254: lease(3, 2000)})
    assert world.store.roster(segment(0)) is None
    world.tables.lose_everything()
    world.reopen()
    assert world.store.shards_of(segment(0)) == (254,)
    assert world.store.roster(segment(0)) is None


def test_a_grant_comes_back_with_a_rebuild() -> None:
    world = World()
    put(world.store, 0, {0: lease(1)})
    world.store.set_grant(segment(0), lambda old: b"grant")
    world.store.merge_roster(segment(0), lambda old: b"roster")
    world.tables.lose_everything()
    world.reopen()
    assert (world.store.grant(segment(0)), world.store.roster(segment(0))) == (b"grant", b"roster")
    assert world.store.expire(1000) == 1
    assert world.store.grant(segment(0)) is None


def test_a_commit_that_was_torn_stays_dropped_when_the_index_is_lost_later() -> None:
    world = World()
    world.disk.crash_at = world.disk.operations + 6  # everything is written, nothing synced
    with pytest.raises(SimulatedCrash):
        put(world.store, 2, {0: lease(1)})
    assert world.disk.unsynced_count() == 2
    world.disk.crash(2, is_lost=lambda sector: sector == 3)
    world.reopen()
    for _ in range(2):
        assert world.store.shards_of(segment(2)) == ()
        assert world.store.leases(segment(2)) == []
        assert world.store.quarantined() == []
        world.tables.lose_everything()
        world.reopen()
    put(world.store, 2, {0: lease(1)})
    assert world.store.read_block(segment(2), 0, 0) == block(2, 0, 0)
