"""The fair queue: rates hold over every span, streams share, short messages pass."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.limits import STREAM_WRITE_BYTES_MAX
from node.net.fair_queue import FRAMING_BYTES, Bucket, FairQueue, Flow, Turn
from tests.passed import Passed

KIB, MIB = 1024, 1024 * 1024


def drain(queue: FairQueue, *, start_s: float, until_s: float) -> list[tuple[float, Turn]]:
    """Every turn that comes up to `until_s`, with its time; whoever is not done queues up again."""
    now_s = start_s
    found: list[tuple[float, Turn]] = []
    while True:
        wait_s = queue.ready_in_s(now_s)
        if wait_s is None or now_s + wait_s > until_s:
            return found
        now_s += wait_s
        turn = queue.pop(now_s)
        if turn is None:
            continue
        found.append((now_s, turn))
        rest = turn.wanted_bytes - turn.granted_bytes
        if rest:
            queue.push(turn.flow, rest)


def worst_span(found: list[tuple[float, Turn]]) -> int:
    passed = Passed()
    for at_s, turn in found:
        passed.add(at_s, turn.granted_bytes + FRAMING_BYTES)
    return passed.worst_span()


@given(
    rate=st.integers(KIB, 8 * MIB),
    wishes=st.lists(
        st.tuples(st.floats(0, 30), st.integers(0, 5), st.integers(1, 2 * MIB)), min_size=1, max_size=40
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_ten_seconds_are_within_five_percent_of_the_rate(
    rate: int, wishes: list[tuple[float, int, int]]
) -> None:
    bucket = Bucket(rate)
    flows = [Flow((bucket,)) for _ in range(6)]
    queue = FairQueue()
    found: list[tuple[float, Turn]] = []
    now_s = 0.0
    for at, number, size in sorted(wishes):
        found += drain(queue, start_s=now_s, until_s=at)
        now_s = at
        queue.push(flows[number], size)
    found += drain(queue, start_s=now_s, until_s=60)
    assert worst_span(found) <= 1.05 * 10 * rate


def test_a_rate_is_used_up_while_anybody_waits() -> None:
    bucket = Bucket(MIB)
    queue = FairQueue()
    queue.push(Flow((bucket,)), 100 * MIB)
    passed = sum(turn.granted_bytes for _, turn in drain(queue, start_s=0, until_s=20))
    assert passed > 0.99 * 20 * MIB


def test_streams_share_equally_whatever_they_ask_for() -> None:
    bucket = Bucket(MIB)
    flows = [Flow((bucket,)) for _ in range(5)]
    queue = FairQueue()
    for number, flow in enumerate(flows):
        for _ in range(1 if number else 30):  # the first one queues thirty times at once
            queue.push(flow, 100 * MIB)
    got = dict.fromkeys(map(id, flows), 0)
    for _, turn in drain(queue, start_s=0, until_s=30):
        got[id(turn.flow)] += turn.granted_bytes
    assert max(got.values()) < 1.1 * min(got.values())


def test_a_short_message_of_a_quiet_stream_passes_in_front_of_bulk() -> None:
    bucket = Bucket(100 * KIB)
    queue = FairQueue()
    for _ in range(30):
        queue.push(Flow((bucket,)), MIB)
    drain(queue, start_s=0, until_s=5)
    short = queue.push(Flow((bucket,)), 300)
    found = drain(queue, start_s=5, until_s=10)
    at = next(at for at, turn in found if turn is short)
    assert at - 5 < 0.3


def test_bulk_is_not_starved_by_a_stream_of_short_messages() -> None:
    bucket = Bucket(100 * KIB)
    queue, bulk, chatty = FairQueue(), Flow((bucket,)), Flow((bucket,))
    queue.push(bulk, 100 * MIB)
    for _ in range(20_000):
        queue.push(chatty, 200)
    found = drain(queue, start_s=0, until_s=20)
    assert sum(turn.granted_bytes for _, turn in found if turn.flow is bulk) > 0.4 * 20 * 100 * KIB


def test_who_waits_for_one_bucket_does_not_block_who_does_not() -> None:
    node, gift = Bucket(None), Bucket(KIB)
    queue = FairQueue()
    given_away, own = Flow((node, gift)), Flow((node,))
    queue.push(given_away, MIB)
    drain(queue, start_s=0, until_s=1)
    turn = queue.push(own, MIB)
    assert own.is_free
    assert queue.pop(1) is turn
    assert turn.granted_bytes == MIB


def test_a_flow_with_two_buckets_keeps_to_both() -> None:
    node, gift = Bucket(300 * KIB), Bucket(100 * KIB)
    queue = FairQueue()
    given_away, own = Flow((node, gift)), Flow((node,))
    queue.push(given_away, 100 * MIB)
    queue.push(own, 100 * MIB)
    found = drain(queue, start_s=0, until_s=20)
    gifts = [(at, turn) for at, turn in found if turn.flow is given_away]
    assert worst_span(gifts) <= 1.05 * 10 * 100 * KIB
    assert worst_span(found) <= 1.05 * 10 * 300 * KIB
    assert sum(turn.granted_bytes for _, turn in gifts) > 0.95 * 20 * 100 * KIB


def test_own_and_given_streams_share_what_both_need() -> None:
    node, gift = Bucket(300 * KIB), Bucket(MIB)
    queue = FairQueue()
    flows = [Flow((node, gift)) for _ in range(3)] + [Flow((node,)) for _ in range(2)]
    for flow in flows:
        queue.push(flow, 100 * MIB)
    got = dict.fromkeys(map(id, flows), 0)
    for _, turn in drain(queue, start_s=0, until_s=30):
        got[id(turn.flow)] += turn.granted_bytes
    assert max(got.values()) < 1.2 * min(got.values())


def test_a_lower_rate_holds_for_those_who_wait_already() -> None:
    bucket = Bucket(10 * MIB)
    queue = FairQueue()
    for _ in range(10):
        queue.push(Flow((bucket,)), 10 * MIB)
    drain(queue, start_s=0, until_s=1)
    bucket.set_rate(10 * KIB, now_s=1)
    queue.regroup()
    found = drain(queue, start_s=1, until_s=31)
    assert worst_span(found) <= 1.05 * 10 * 10 * KIB
    assert sum(turn.granted_bytes for _, turn in found) > 200 * KIB


def test_without_a_rate_everything_passes_at_once() -> None:
    queue = FairQueue()
    turn = queue.push(Flow((Bucket(None),)), 100 * MIB)
    assert queue.ready_in_s(0) == 0
    assert queue.pop(0) is turn
    assert turn.granted_bytes == 100 * MIB
    assert queue.ready_in_s(0) is None


def test_pieces_are_whole_writes_at_ordinary_rates_and_small_ones_at_low_rates() -> None:
    assert Bucket(2 * MIB).piece_bytes == STREAM_WRITE_BYTES_MAX
    assert Bucket(KIB).piece_bytes == 256


def test_whoever_left_is_skipped() -> None:
    bucket = Bucket(KIB)
    queue = FairQueue()
    gone, stays = queue.push(Flow((bucket,)), 100), queue.push(Flow((bucket,)), 200)
    queue.drop(gone)
    assert queue.pop(0) is stays
    assert queue.ready_in_s(0) is None
