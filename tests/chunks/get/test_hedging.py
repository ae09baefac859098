"""The hedging schedule: every stripe completes whenever it can, nothing is asked in vain."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from node.chunks.get.hedging import FIRST_PATIENCE_S, PATIENCE_MAX_S, STALL_S, Ask, Column, SegmentSchedule


def _schedule(data_shards: int, total_shards: int, stripes: int) -> tuple[SegmentSchedule, list[Ask]]:
    """One holder a shard, all alike, all stripes open."""
    schedule = SegmentSchedule(data_shards=data_shards, first_stripe=0, end_stripe=stripes)
    for shard in range(total_shards):
        assert schedule.add_columns([Column(shard, shard)], 0.1, 0.0) == []
    return schedule, schedule.extend(stripes, 0.0)


def _shards(asks: list[Ask]) -> set[int]:
    return {ask.column.shard for ask in asks}


def test_data_shards_come_first_and_nothing_else_is_asked() -> None:
    schedule, asks = _schedule(4, 12, 3)
    assert _shards(asks) == {0, 1, 2, 3}
    assert len(asks) == 4 * 3
    for ask in asks:
        assert schedule.arrived(ask.column, ask.stripe, 0.05)
    assert schedule.done


def test_a_much_faster_parity_shard_is_preferred() -> None:
    schedule = SegmentSchedule(data_shards=1, first_stripe=0, end_stripe=1)
    schedule.add_columns([Column(0, 0)], 1.0, 0.0)
    schedule.add_columns([Column(1, 1)], 0.1, 0.0)
    assert _shards(schedule.extend(1, 0.0)) == {1}


def test_shards_are_spread_over_holders_before_one_is_asked_twice() -> None:
    schedule = SegmentSchedule(data_shards=3, first_stripe=0, end_stripe=1)
    for holder in range(3):
        schedule.add_columns([Column(holder, 3 * holder + number) for number in range(3)], 0.1, 0.0)
    asks = schedule.extend(1, 0.0)
    assert {ask.column.holder for ask in asks} == {0, 1, 2}


def test_what_a_straggler_owes_is_asked_of_another_and_its_late_block_still_counts() -> None:
    schedule, asks = _schedule(2, 4, 2)
    straggler = [ask for ask in asks if ask.column.shard == 1]
    for ask in asks:
        if ask not in straggler:
            schedule.arrived(ask.column, ask.stripe, 0.05)
    due = schedule.next_tick()
    assert due is not None
    assert schedule.tick(due - 0.001) == []
    hedges = schedule.tick(due)
    assert _shards(hedges) == {2}
    assert {ask.stripe for ask in hedges} == {0, 1}
    assert schedule.is_late(1)
    assert schedule.arrived(straggler[0].column, 0, due + 0.1)
    assert schedule.is_complete(0)
    assert not schedule.arrived(hedges[0].column, 0, due + 0.2)  # not wanted any more
    assert schedule.arrived(hedges[1].column, 1, due + 0.2)
    assert schedule.done


def test_a_straggler_that_caught_up_is_in_time_again() -> None:
    schedule, asks = _schedule(1, 2, 1)
    due = schedule.next_tick()
    assert due == FIRST_PATIENCE_S
    schedule.tick(due)
    assert schedule.is_late(0)
    schedule.arrived(asks[0].column, 0, due + 1)
    assert not schedule.is_late(0)


def test_nobody_else_left_a_late_holder_is_not_asked_twice_for_the_same() -> None:
    schedule, _ = _schedule(2, 2, 1)
    assert schedule.tick(100.0) == []
    assert schedule.missing_shards() == 0


def test_when_nothing_comes_any_more_everybody_is_asked_who_is_late() -> None:
    schedule, first = _schedule(2, 6, 1)
    now = 0.0
    asked = _shards(first)
    while asked != set(range(6)):
        tick = schedule.next_tick()
        assert tick is not None
        now = tick
        asked |= _shards(schedule.tick(now))
    assert now <= PATIENCE_MAX_S + STALL_S
    assert schedule.arrived(Column(5, 5), 0, now)
    assert schedule.arrived(Column(4, 4), 0, now)
    assert schedule.done


def test_a_pause_of_the_reader_is_no_stall() -> None:
    schedule = SegmentSchedule(data_shards=1, first_stripe=0, end_stripe=2)
    schedule.add_columns([Column(0, 0)], 0.1, 0.0)
    schedule.add_columns([Column(1, 1)], 0.2, 0.0)
    schedule.extend(1, 0.0)
    schedule.arrived(Column(0, 0), 0, 0.1)
    assert schedule.next_tick() is None
    assert _shards(schedule.extend(2, 100.0)) == {0}
    assert schedule.tick(100.1) == []


def test_a_failed_shard_is_replaced_and_missing_shards_are_counted() -> None:
    schedule, asks = _schedule(2, 4, 2)
    replaced = schedule.fail_column(asks[0].column, 0.1)
    assert _shards(replaced) == {2}
    assert len(replaced) == 2
    schedule.fail_holder(2, 0.2)
    assert schedule.missing_shards() == 0
    schedule.fail_holder(1, 0.2)
    assert schedule.missing_shards() == 1
    schedule.fail_holder(3, 0.2)
    assert schedule.missing_shards() == 2


def test_blocks_that_arrived_count_after_their_holder_died() -> None:
    schedule, asks = _schedule(2, 2, 1)
    schedule.arrived(asks[0].column, 0, 0.1)
    schedule.fail_holder(0, 0.2)
    assert schedule.missing_shards() == 0


def test_a_broken_stream_is_asked_elsewhere_or_again_where_nobody_else_is() -> None:
    schedule, _ = _schedule(1, 2, 1)
    elsewhere = schedule.interrupt_holder(0, 0.1)
    assert _shards(elsewhere) == {1}
    again = schedule.interrupt_holder(1, 0.2)
    assert len(again) == 1


def test_two_holders_of_one_shard_count_once() -> None:
    schedule = SegmentSchedule(data_shards=2, first_stripe=0, end_stripe=1)
    schedule.add_columns([Column(0, 0)], 0.1, 0.0)
    schedule.add_columns([Column(1, 0)], 0.1, 0.0)
    assert schedule.missing_shards() == 1
    assert len(schedule.extend(1, 0.0)) == 1
    schedule.add_columns([Column(2, 1)], 9.0, 0.0)
    assert schedule.missing_shards() == 0


@dataclass
class _World:
    """Holders that answer after their own delay or fall silent; time only moves forward."""

    schedule: SegmentSchedule
    delays: list[float | None]
    now: float = 0.0
    coming: list[tuple[float, Ask]] = field(default_factory=list)
    asked: int = 0
    got: dict[int, set[int]] = field(default_factory=dict)
    asked_once: set[Ask] = field(default_factory=set)
    gave_up: bool = False

    def send(self, asks: list[Ask]) -> None:
        for ask in asks:
            assert ask not in self.asked_once  # nothing is lost here, so nothing is asked twice
            self.asked_once.add(ask)
            delay = self.delays[ask.column.holder]
            if delay is not None:
                self.coming.append((self.now + delay, ask))
        self.asked += len(asks)

    def step(self) -> bool:
        self.coming.sort(key=lambda item: item[0])
        if not self.coming and not self.gave_up:
            # What a service does at its read deadline.
            self.gave_up = True
            for holder, delay in enumerate(self.delays):
                if delay is None:
                    self.send(self.schedule.fail_holder(holder, self.now))
            return True
        arrival = self.coming[0][0] if self.coming else None
        tick = self.schedule.next_tick()
        moments = [moment for moment in (arrival, tick) if moment is not None]
        if not moments:
            return False
        self.now = max(self.now, min(moments))
        if arrival is not None and arrival <= self.now:
            _, ask = self.coming.pop(0)
            if self.schedule.arrived(ask.column, ask.stripe, self.now):
                self.got.setdefault(ask.stripe, set()).add(ask.column.shard)
        self.send(self.schedule.tick(self.now))
        return True


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_stripe_completes_exactly_when_enough_holders_answer(data: st.DataObject) -> None:
    total = data.draw(st.integers(1, 12), label="total")
    needed = data.draw(st.integers(1, total), label="needed")
    stripes = data.draw(st.integers(1, 6), label="stripes")
    window = data.draw(st.integers(1, 4), label="window")
    delay = st.one_of(st.none(), st.floats(0.001, 0.01), st.floats(0.001, 20))
    holders = data.draw(st.integers(1, total), label="holders")
    delays = data.draw(st.lists(delay, min_size=holders, max_size=holders), label="delays")
    schedule = SegmentSchedule(data_shards=needed, first_stripe=0, end_stripe=stripes)
    world = _World(schedule, delays)
    for holder in range(holders):
        columns = [Column(holder, shard) for shard in range(total) if shard % holders == holder]
        world.send(schedule.add_columns(columns, 0.01, world.now))
    answering = sum(1 for shard in range(total) if delays[shard % holders] is not None)
    world.send(schedule.extend(window, 0.0))
    done_stripes = 0
    while world.step():
        while schedule.is_complete(done_stripes):
            done_stripes += 1
            world.send(schedule.extend(done_stripes + window, world.now))
    assert schedule.done == (answering >= needed)
    if schedule.done:
        assert all(len(world.got[stripe]) == needed for stripe in range(stripes))
    assert world.asked <= stripes * total


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 8), st.floats(0.001, 0.9))
def test_holders_that_are_all_alike_cost_nothing_extra(
    needed: int, spare: int, stripes: int, delay: float
) -> None:
    schedule, asks = _schedule(needed, needed + spare, stripes)
    world = _World(schedule, [delay] * (needed + spare))
    world.send(asks)
    while world.step():
        pass
    assert schedule.done
    assert world.asked == needed * stripes
