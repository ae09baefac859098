"""Two sets become one, whatever they are, in messages that stay small."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits, wire
from node.credit.reconcile import FEW, Answer, Difference, IdSet, Range
from node.errors import ProtocolError
from tests.conftest import FULL


def ids_of(*names: object) -> set[bytes]:
    return {hashlib.sha256(repr(name).encode()).digest() for name in names}


def exchange(ours: set[bytes], theirs: set[bytes]) -> tuple[Difference, int]:
    """The difference, and how many questions it took; everything goes over the wire."""
    difference, other, rounds = Difference(IdSet(ours)), IdSet(theirs), 0
    while asked := difference.next_ranges():
        rounds += 1
        sent = [Range.of_value(value) for value in wire.decode(
            wire.encode([each.as_value() for each in asked]), size_max=limits.FRAME_BYTES_MAX
        )]  # fmt: skip
        answers = wire.encode([other.answer(each).as_value() for each in sent])
        for question, value in zip(asked, wire.decode(answers, size_max=2**24), strict=True):
            difference.take(question, Answer.of_value(value))
    return difference, rounds


numbers = st.sets(st.integers(0, 400), max_size=400)


@given(numbers, numbers)
@settings(max_examples=300 if FULL else 60, deadline=None)
def test_each_side_learns_what_it_lacks(ours: set[int], theirs: set[int]) -> None:
    difference, _ = exchange(ids_of(*ours), ids_of(*theirs))
    assert set(difference.theirs_only) == ids_of(*(theirs - ours))
    assert set(difference.ours_only) == ids_of(*(ours - theirs))


def test_equal_sets_cost_one_question_and_a_new_id_a_few() -> None:
    many = ids_of(*range(20_000))
    assert exchange(many, many)[1] == 1
    difference, rounds = exchange(many, many | ids_of("new"))
    assert difference.theirs_only == list(ids_of("new"))
    assert rounds <= 4
    assert set(exchange(set(), many)[0].theirs_only) == many


def test_an_answer_fits_a_frame() -> None:
    many = IdSet(ids_of(*range(5000)))
    assert len(wire.encode(many.answer(IdSet([]).whole()).as_value())) < 2000
    few = IdSet(ids_of(*range(FEW)))
    largest = [few.answer(IdSet([]).whole()).as_value()] * limits.CREDIT_RANGES_MAX
    assert len(wire.encode(largest)) < limits.FRAME_BYTES_MAX


@pytest.mark.parametrize(
    "answer",
    [
        Answer(False, (bytes(32),)),
        Answer(False, parts=(IdSet([]).range(b"a", b"c"),)),
        Answer(False, parts=(IdSet([]).range(b"a", b"b"), IdSet([]).range(b"aa", b"d"))),
    ],
)
def test_an_answer_to_another_question_is_refused(answer: Answer) -> None:
    with pytest.raises(ProtocolError):
        Difference(IdSet([])).take(IdSet([]).range(b"a", b"d"), answer)


def test_who_never_comes_to_an_end_is_left() -> None:
    """Every range is said to differ behind its first id."""
    difference = Difference(IdSet([]))

    def ask_for_ever() -> None:
        while asked := difference.next_ranges():
            for each in asked:
                middle = each.low + b"\0"
                parts = (Range(each.low, middle, 0, bytes(16)), Range(middle, each.high, 9, bytes(16)))
                difference.take(each, Answer(False, parts=parts))

    with pytest.raises(ProtocolError, match="end"):
        ask_for_ever()
