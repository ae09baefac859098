"""The scoreboard: order of preference, forgiveness, bounds, persistence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.scores import FORGIVE_S, PeerScore, Scoreboard
from node.errors import ProtocolError
from node.units import PeerId

FAST, SLOW, STRANGER, BAD = (PeerId(bytes([number]) * 38) for number in range(4))
NOW_S = 1_800_000_000


def _expected(scores: Scoreboard, peer_id: PeerId, now_s: int = NOW_S) -> float:
    return scores.expected_s(peer_id, byte_count=65_472, now_s=now_s)


def test_a_stranger_ranks_between_the_good_and_the_bad() -> None:
    scores = Scoreboard()
    scores.answered(FAST, latency_s=0.01, now_s=NOW_S)
    scores.delivered(FAST, byte_count=10_000_000, seconds=0.1, now_s=NOW_S)
    scores.answered(SLOW, latency_s=2.0, now_s=NOW_S)
    scores.failed(BAD, now_s=NOW_S)
    assert _expected(scores, FAST) < _expected(scores, STRANGER)
    assert _expected(scores, STRANGER) < min(_expected(scores, SLOW), _expected(scores, BAD))


def test_misbehaviour_weighs_more_than_absence() -> None:
    scores = Scoreboard()
    scores.failed(SLOW, now_s=NOW_S)
    scores.misbehaved(BAD, now_s=NOW_S)
    assert _expected(scores, SLOW) < _expected(scores, BAD)


def test_blame_halves_with_time_and_with_good_answers() -> None:
    scores = Scoreboard()
    scores.misbehaved(BAD, now_s=NOW_S)
    fresh = _expected(scores, BAD) - _expected(scores, STRANGER)
    later = _expected(scores, BAD, NOW_S + FORGIVE_S) - _expected(scores, STRANGER)
    assert later == pytest.approx(fresh / 2)
    scores.answered(BAD, latency_s=0.2, now_s=NOW_S)
    assert _expected(scores, BAD) - _expected(scores, STRANGER) == pytest.approx(fresh / 2)


def test_a_clock_that_steps_back_does_not_grow_blame() -> None:
    scores = Scoreboard()
    scores.failed(BAD, now_s=NOW_S)
    assert _expected(scores, BAD, NOW_S - 10 * FORGIVE_S) == _expected(scores, BAD)


def test_the_number_of_peers_is_bounded_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SCORES_MAX", 20)
    scores = Scoreboard()
    peers = [PeerId(number.to_bytes(38, "big")) for number in range(21)]
    for age, peer_id in enumerate(peers):
        scores.failed(peer_id, now_s=NOW_S + age)
    kept = [peer_id for peer_id, _ in scores]
    assert kept == peers[3:]
    changed = dict(scores.take_changed())
    assert changed[peers[0]] is None
    assert changed[peers[20]] is not None
    assert scores.take_changed() == []


@given(
    st.floats(min_value=0, max_value=1e6),
    st.floats(min_value=1, max_value=1e12),
    st.floats(min_value=0, max_value=64),
    st.integers(min_value=0, max_value=2**40),
)
def test_a_row_survives_its_encoding(latency_s: float, speed: float, blame: float, seen_s: int) -> None:
    again = PeerScore.decode(PeerScore(latency_s, speed, blame, seen_s).encode())
    assert again.latency_s == pytest.approx(latency_s, abs=1e-6)
    assert again.speed_bytes_s == pytest.approx(speed, abs=1)
    assert again.blame == pytest.approx(blame, abs=1e-6)
    assert again.seen_s == seen_s


@pytest.mark.parametrize("row", [b"", b"\x90", b"\x95\x01\x00\x01\x01\x01", b"\x95\xff\x01\x01\x01\x01"])
def test_a_damaged_row_is_refused(row: bytes) -> None:
    with pytest.raises(ProtocolError):
        PeerScore.decode(row)
