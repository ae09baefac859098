"""Reads of mounted bytes: right, bounded, shared, and ended by whatever ends them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.errors import NodeError, NotEnoughShardsError, TransferInterruptedError
from node.mount.content import Content, Contents, Patience
from node.mount.ports import ReadInterruptedError
from tests.mount.memory_source import STRIPE, MemorySource
from tests.patience import PATIENCE_S, comes_true

DATA = random.Random(1).randbytes(100 * STRIPE + 7)
LASTING = Patience(wait_s=PATIENCE_S, gone_s=PATIENCE_S, paused_s=PATIENCE_S, failed_s=0.0, poll_s=0.01)


def never() -> bool:
    return False


class Reader:
    """A file in use."""

    def __init__(
        self, patience: Patience = LASTING, *, cache: int = 40 * STRIPE, ahead: int = 8 * STRIPE
    ) -> None:
        self.source = MemorySource({"link": DATA})
        self.contents = Contents(
            self.source, time.monotonic, patience=patience, cache_bytes=cache, ahead_bytes=ahead
        )
        self.content = Content("link", "hash", len(DATA), STRIPE)
        self.contents.use(self.content)

    def read(self, start: int, stop: int, interrupted: Callable[[], bool] = never) -> bytes:
        return self.contents.read(self.content, start, stop, interrupted)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.source.may_send.set()
    made.contents.stop()
    assert comes_true(lambda: not made.source.open_streams)


@given(
    st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 7 * STRIPE)), max_size=25),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_every_read_is_the_bytes_of_the_file(
    reads: list[tuple[int, int]], cache_stripes: int, ahead_stripes: int
) -> None:
    made = Reader(cache=cache_stripes * STRIPE, ahead=ahead_stripes * STRIPE)
    for start, count in reads:
        stop = min(len(DATA), start + count)
        assert made.read(start, stop) == DATA[start:stop]
    made.contents.stop()


def test_many_threads_read_what_they_asked_for(reader: Reader) -> None:
    wrong: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        position = chance.randrange(len(DATA))
        for _ in range(150):
            if chance.random() < 0.2:
                position = chance.randrange(len(DATA))
            stop = min(len(DATA), position + chance.randrange(1, 3 * STRIPE))
            if reader.read(position, stop) != DATA[position:stop]:
                wrong.append(position)
            position = stop if stop < len(DATA) else 0

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE_S)
    assert wrong == []
    assert not any(each.is_alive() for each in threads)


def test_a_read_that_stands_alone_fetches_its_stripe_only(reader: Reader) -> None:
    assert reader.read(50 * STRIPE + 10, 50 * STRIPE + 20) == DATA[50 * STRIPE + 10 : 50 * STRIPE + 20]
    assert reader.source.asked == [(50 * STRIPE, 51 * STRIPE)]
    reader.read(50 * STRIPE + 500, 50 * STRIPE + 600)
    assert len(reader.source.asked) == 1
    reader.read(len(DATA) - 3, len(DATA))
    assert reader.source.asked[1:] == [(100 * STRIPE, len(DATA))]


def test_two_that_want_the_same_fetch_it_once(reader: Reader) -> None:
    reader.source.may_send.clear()
    got: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: got.append(reader.read(7 * STRIPE, 8 * STRIPE))) for _ in range(4)
    ]
    for each in threads:
        each.start()
    assert comes_true(lambda: sum(each.waiting for each in reader.content.plan.sequences) == 4)
    reader.source.may_send.set()
    for each in threads:
        each.join(PATIENCE_S)
    assert got == [DATA[7 * STRIPE : 8 * STRIPE]] * 4
    assert reader.source.asked == [(7 * STRIPE, 8 * STRIPE)]


def test_a_file_that_is_read_once_is_fetched_once_with_few_requests(reader: Reader) -> None:
    for start in range(0, len(DATA), 300):
        stop = min(len(DATA), start + 300)
        assert reader.read(start, stop) == DATA[start:stop]
    assert reader.source.sent_bytes == len(DATA)
    assert len(reader.source.asked) < 40


def test_what_fails_fails_for_all_and_is_asked_for_again_later(reader: Reader) -> None:
    reader.source.failure = NotEnoughShardsError("segment 0: 3 of 10 shards")
    with pytest.raises(NotEnoughShardsError, match="segment 0"):
        reader.read(0, 10)
    reader.source.failure = None
    assert reader.read(0, 10) == DATA[:10]


def test_a_failure_answers_for_a_while_without_asking() -> None:
    now = [0.0]
    source = MemorySource({"link": DATA})
    contents = Contents(source, lambda: now[0], patience=Patience(failed_s=5.0, poll_s=0.01))
    content = Content("link", "hash", len(DATA), STRIPE)
    contents.use(content)
    source.failure = NotEnoughShardsError("gone")
    with pytest.raises(NotEnoughShardsError):
        contents.read(content, 0, 10, never)
    source.failure = None
    with pytest.raises(NotEnoughShardsError):
        contents.read(content, 5 * STRIPE, 5 * STRIPE + 1, never)
    assert source.asked == []
    now[0] = 6.0
    assert contents.read(content, 0, 10, never) == DATA[:10]
    contents.stop()


def test_a_node_that_comes_back_in_time_is_not_noticed(reader: Reader) -> None:
    reader.source.is_gone = True
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(reader.read(0, 5 * STRIPE)))
    thread.start()
    assert comes_true(lambda: any(each.is_running for each in reader.content.plan.sequences))
    reader.source.is_gone = False
    thread.join(PATIENCE_S)
    assert got == [DATA[: 5 * STRIPE]]


def test_a_node_that_stays_away_is_an_error_and_no_endless_wait() -> None:
    made = Reader(Patience(gone_s=0.05, failed_s=0.0, poll_s=0.01))
    made.source.is_gone = True
    with pytest.raises(NodeError, match="no node runs"):
        made.read(0, 10)
    made.source.is_gone = False
    assert made.read(0, 10) == DATA[:10]


def test_a_node_that_hangs_is_an_error_and_no_endless_wait() -> None:
    made = Reader(Patience(wait_s=0.05, failed_s=0.0, poll_s=0.01))
    made.source.may_send.clear()
    with pytest.raises(TransferInterruptedError, match="nothing came"):
        made.read(0, 10)
    made.source.may_send.set()
    made.contents.stop()


def test_an_interrupted_reader_is_let_go(reader: Reader) -> None:
    reader.source.may_send.clear()
    with pytest.raises(ReadInterruptedError):
        reader.read(0, 10, lambda: True)
    reader.source.may_send.set()
    assert reader.read(0, 10) == DATA[:10]


def test_stopping_ends_every_wait(reader: Reader) -> None:
    reader.source.may_send.clear()
    ended: list[Exception] = []

    def read() -> None:
        try:
            reader.read(0, 10)
        except ReadInterruptedError as error:
            ended.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert comes_true(lambda: reader.source.open_streams == 1)
    reader.contents.stop()
    thread.join(PATIENCE_S)
    assert len(ended) == 1


def test_nothing_is_fetched_for_nobody(reader: Reader) -> None:
    for stripe in range(10):
        reader.read(stripe * STRIPE, (stripe + 1) * STRIPE)
    reader.contents.leave(reader.content)
    assert comes_true(lambda: not reader.source.open_streams)
    assert reader.source.sent_bytes < len(DATA)


def test_a_reader_that_rested_goes_on() -> None:
    made = Reader(Patience(paused_s=0.01, poll_s=0.01))
    for stripe in range(20):
        made.read(stripe * STRIPE, (stripe + 1) * STRIPE)
        assert comes_true(lambda: not made.source.open_streams)
    assert made.read(0, len(DATA)) == DATA
    made.contents.stop()
