"""Reputation forgets, forgives an outage at once, and tells a liar from somebody who was away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.credit.reputation import (
    FORGET,
    ONE,
    SAMPLES_TO_JUDGE,
    START,
    UNANSWERED_MAX,
    Reputation,
    Standing,
)
from node.errors import ProtocolError

CHALLENGE, OTHER = b"c" * 32, b"d" * 32

observations = st.lists(
    st.one_of(
        st.tuples(st.just("passed"), st.integers(1, 40), st.booleans()),
        st.tuples(st.just("failed"), st.integers(1, 40), st.booleans()),
        st.tuples(st.just("erred")),
        st.tuples(st.just("unreachable")),
        st.tuples(st.just("reachable")),
        st.tuples(st.just("refused")),
        st.tuples(st.just("left_unanswered"), st.sampled_from([CHALLENGE, OTHER])),
    ),
    max_size=40,
)


def observe(reputation: Reputation, seen: list[tuple[object, ...]]) -> Reputation:
    for name, *arguments in seen:
        if name == "passed":
            reputation = reputation.passed(arguments[0], late=arguments[1])  # type: ignore[arg-type]
        elif name == "failed":
            reputation = reputation.failed(arguments[0], contradicts=arguments[1])  # type: ignore[arg-type]
        else:
            reputation = getattr(reputation, str(name))(*arguments)
    return reputation


@given(observations)
def test_whatever_is_seen_survives_its_row_and_stays_in_bounds(seen: list[tuple[object, ...]]) -> None:
    reputation = observe(Reputation(), seen)
    assert Reputation.decode(reputation.encode()) == reputation
    assert 0 <= reputation.weight <= reputation.score <= ONE
    assert 0 <= reputation.slow <= ONE


@given(observations)
def test_being_away_never_disqualifies(seen: list[tuple[object, ...]]) -> None:
    """credit.md, invariant 13."""
    before = observe(Reputation(), seen)
    away = before
    for _ in range(1_000):
        away = away.unreachable()
    assert away.score == before.score
    assert (away.standing is Standing.DISQUALIFIED) == (before.standing is Standing.DISQUALIFIED)
    assert not away.takes_new_shards
    back = away.reachable()
    assert back.standing is before.reachable().standing
    assert back.weight == before.weight


def test_an_honest_donor_stays_good_however_often_it_is_late_or_refuses() -> None:
    reputation = Reputation()
    for _ in range(500):
        reputation = reputation.passed(5, late=True).refused()
    assert reputation.standing is Standing.GOOD
    assert reputation.score == ONE
    assert ONE // 2 <= reputation.weight < ONE * 52 // 100
    for _ in range(50):
        reputation = reputation.passed(5)
    assert reputation.weight > ONE * 99 // 100


def test_failures_count_after_enough_samples_only() -> None:
    few = Reputation().failed(SAMPLES_TO_JUDGE - 1)
    assert few.score < 600_000
    assert few.standing is Standing.GOOD
    assert few.failed().standing is Standing.DISQUALIFIED


def test_a_donor_that_lost_a_tenth_is_disqualified_and_can_come_back() -> None:
    reputation = Reputation()
    for _ in range(30):
        reputation = reputation.passed(9).failed(1)
    assert reputation.standing is Standing.DISQUALIFIED
    assert reputation.score == pytest.approx(900_000, abs=10_000)
    for _ in range(5_000):
        reputation = reputation.passed()
        if reputation.standing is Standing.GOOD:
            break
    else:
        pytest.fail("nothing lasts for ever")
    assert reputation.samples > 500


def test_forgetting_is_by_the_sample() -> None:
    """START good samples before anything was seen, each sample leaving 999 thousandths of what was before."""
    good = START
    for _ in range(3):
        good = good * FORGET // ONE + ONE
    assert Reputation().passed(3) == Reputation(good=good, known=START * 950_000 // ONE + ONE, samples=3)


def test_errors_that_say_nothing_suspend_and_a_pass_lifts_that() -> None:
    reputation, errors = Reputation(), 0
    while reputation.standing is Standing.GOOD:
        reputation, errors = reputation.erred(), errors + 1
    assert reputation.standing is Standing.SUSPENDED
    assert errors == 10
    assert reputation.score == ONE
    assert reputation.passed().standing is Standing.GOOD


def test_the_third_silence_on_one_challenge_is_a_failure() -> None:
    reputation = Reputation()
    for _ in range(UNANSWERED_MAX - 1):
        reputation = reputation.left_unanswered(CHALLENGE)
        assert reputation.score == ONE
    other = reputation.left_unanswered(OTHER)
    assert (other.unanswered, other.score) == (1, ONE)
    failed = reputation.left_unanswered(CHALLENGE)
    assert failed.samples == 1
    assert failed.score < ONE
    assert failed.unanswered == 0


def test_an_answer_ends_the_count_of_silences() -> None:
    reputation = Reputation().left_unanswered(CHALLENGE).left_unanswered(CHALLENGE).passed()
    assert reputation.left_unanswered(CHALLENGE).unanswered == 1


def test_a_contradiction_is_for_good() -> None:
    reputation = Reputation().failed(contradicts=True)
    assert reputation.standing is Standing.GOOD
    assert not reputation.takes_new_shards
    for _ in range(2_000):
        reputation = reputation.passed(10)
    assert not reputation.takes_new_shards


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"junk",
        Reputation().encode()[:-1],
        Reputation(good=0).encode(),
        Reputation(slow=ONE + 1).encode(),
        Reputation(unanswered=UNANSWERED_MAX + 1).encode(),
        Reputation(challenge=bytes(65)).encode(),
    ],
)
def test_a_damaged_row_is_refused(row: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reputation.decode(row)
