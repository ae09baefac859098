"""How far ahead is read: never more in vain than was read, and everything that is asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.mount.read_plan import RUN_BYTES_MAX, SEQUENCES_MAX, ReadPlan, Sequence

STRIPE = 1_000_000
AHEAD = 16 * STRIPE


class Fetcher:
    """Carries out a plan at once, as far as it may go; counts what it fetched."""

    def __init__(self, stripe_count: int, ahead_bytes: int = AHEAD) -> None:
        self.plan = ReadPlan(stripe_count=stripe_count, stripe_bytes=STRIPE)
        self.ahead_bytes = ahead_bytes
        self.have: set[int] = set()
        self.fetched: list[int] = []
        self.runs: list[tuple[int, int]] = []

    def read(self, first: int, stop: int) -> None:
        for stripe in range(first, stop):
            missing = None if stripe in self.have else stripe
            sequence = self.plan.want(stripe, stop, missing=missing, ahead_bytes=self.ahead_bytes)
            if sequence is not None:
                self.go_on(sequence)
            assert stripe in self.have

    def go_on(self, sequence: Sequence) -> None:
        if not sequence.is_running:
            run = self.plan.next_run(sequence, self.ahead_bytes)
            if run is None:
                return
            assert run[0] == sequence.position < run[1]
            self.runs.append(run)
            sequence.run_stop = run[1]
        assert sequence.run_stop is not None
        while sequence.position < min(sequence.run_stop, self.plan.limit(sequence, self.ahead_bytes)):
            self.fetched.append(sequence.position)
            self.have.add(sequence.position)
            sequence.position += 1
        if sequence.position == sequence.run_stop:
            sequence.run_stop = None
            self.go_on(sequence)


READS = st.lists(st.tuples(st.integers(0, 199), st.integers(1, 4)), max_size=30)


@given(READS)
def test_what_is_fetched_in_vain_is_bounded_by_what_was_read(reads: list[tuple[int, int]]) -> None:
    fetcher = Fetcher(200)
    asked: set[int] = set()
    for first, count in reads:
        stop = min(200, first + count)
        fetcher.read(first, stop)
        asked |= set(range(first, stop))
    assert asked <= fetcher.have
    assert len(fetcher.fetched) <= 2 * sum(count for _, count in reads)


@given(st.sets(st.integers(0, 99), max_size=20))
def test_reads_that_stand_alone_cost_what_they_touch(stripes: set[int]) -> None:
    fetcher = Fetcher(300)
    for stripe in stripes:
        fetcher.read(3 * stripe, 3 * stripe + 1)
    assert sorted(fetcher.fetched) == sorted(3 * stripe for stripe in stripes)


@given(st.integers(1, 3), st.integers(0, 50))
def test_a_whole_file_is_fetched_once_in_few_requests(step: int, start: int) -> None:
    fetcher = Fetcher(400)
    for first in range(start, 400, step):
        fetcher.read(first, min(400, first + step))
    assert fetcher.fetched == list(range(start, 400))
    assert len(fetcher.runs) <= 20


def test_two_readers_in_turn_have_a_sequence_each() -> None:
    fetcher = Fetcher(400)
    for step in range(100):
        fetcher.read(step, step + 1)
        fetcher.read(200 + step, 201 + step)
    assert sorted(fetcher.fetched) == sorted(set(fetcher.fetched))
    assert len(fetcher.runs) <= 30
    assert len(fetcher.plan.sequences) == 2


def test_ahead_is_bounded_and_grows_with_what_was_read() -> None:
    fetcher = Fetcher(1_000)
    ahead = []
    for stripe in range(100):
        fetcher.read(stripe, stripe + 1)
        ahead.append(len(fetcher.have) - stripe - 1)
    assert ahead[0] == 0
    assert all(each <= stripe for stripe, each in enumerate(ahead))
    assert max(ahead) == AHEAD // STRIPE
    assert all((stop - start) * STRIPE <= RUN_BYTES_MAX for start, stop in fetcher.runs)


def test_a_stripe_that_was_thrown_away_is_fetched_again() -> None:
    fetcher = Fetcher(100)
    for stripe in range(20):
        fetcher.read(stripe, stripe + 1)
    fetcher.have -= {3, 4}
    fetcher.read(3, 5)
    assert fetcher.fetched[-2:] == [3, 4]


def test_sequences_are_bounded() -> None:
    fetcher = Fetcher(1_000)
    for number in range(5 * SEQUENCES_MAX):
        fetcher.read(5 * number, 5 * number + 1)
    assert len(fetcher.plan.sequences) <= SEQUENCES_MAX


def test_stripes_that_a_request_is_about_to_bring_are_not_asked_for_again() -> None:
    plan = ReadPlan(stripe_count=100, stripe_bytes=STRIPE)
    first = plan.want(0, 2, missing=0, ahead_bytes=AHEAD)
    assert first is not None
    assert plan.next_run(first, AHEAD) == (0, 2)
    first.run_stop = 2
    for stripe in (1, 2):  # another thread's reads, before anything came
        assert plan.want(stripe, stripe + 1, missing=stripe, ahead_bytes=AHEAD) is first
    far = plan.want(50, 51, missing=50, ahead_bytes=AHEAD)
    assert far is not first
