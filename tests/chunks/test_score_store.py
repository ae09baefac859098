"""Scores survive a restart; a damaged row is forgotten, never an error."""

from __future__ import annotations

from node.chunks.score_store import TABLE, load_scores, save_scores
from node.units import PeerId
from simulations.key_value import FakeKeyValue

PEER, OTHER = PeerId(b"\x01" * 38), PeerId(b"\x02" * 38)
NOW_S = 1_800_000_000


def test_scores_survive_a_restart() -> None:
    tables = FakeKeyValue()
    scores = load_scores(tables)
    assert save_scores(scores, tables) == 0
    scores.answered(PEER, latency_s=0.5, now_s=NOW_S)
    scores.failed(OTHER, now_s=NOW_S)
    assert save_scores(scores, tables) == 2
    assert save_scores(scores, tables) == 0
    again = load_scores(tables)
    assert dict(again) == dict(scores)
    assert again.take_changed() == []


def test_a_damaged_row_is_forgotten() -> None:
    tables = FakeKeyValue()
    tables.update(lambda transaction: transaction.put(TABLE, PEER, b"junk"))
    assert load_scores(tables).score(PEER) is None
