"""Reputations survive a restart, and strangers can't wash out what is known of a bad donor."""

from __future__ import annotations

import pytest

from node import limits
from node.credit.reputation import ONE, SAMPLES_TO_JUDGE, Standing
from node.credit.reputation_store import TABLE, ReputationStore
from node.units import PeerId
from simulations.key_value import FakeKeyValue

GOOD, BAD, AWAY, STRANGER = (PeerId(bytes([number]) * 38) for number in range(1, 5))


def seen() -> tuple[FakeKeyValue, ReputationStore]:
    tables = FakeKeyValue()
    store = ReputationStore(tables)
    store.passed(GOOD, SAMPLES_TO_JUDGE)
    store.failed(BAD, SAMPLES_TO_JUDGE, contradicts=True)
    store.unreachable(AWAY)
    return tables, store


def test_what_was_seen_survives_a_restart() -> None:
    tables, store = seen()
    assert store.save() == 3
    assert store.save() == 0
    again = ReputationStore(tables)
    assert dict(again) == dict(store)
    assert again.is_vetted(GOOD)
    assert again.weight(GOOD) == ONE
    assert not again.takes_new_shards(BAD)
    assert not again.is_vetted(BAD)
    assert again.weight(BAD) == 0
    assert again.is_contradicted(BAD)
    assert not again.takes_new_shards(AWAY)
    again.reachable(AWAY)
    assert again.takes_new_shards(AWAY)


def test_a_stranger_is_new_and_trusted_a_little() -> None:
    _, store = seen()
    assert store.takes_new_shards(STRANGER)
    assert store.weight(STRANGER) == ONE
    assert not store.is_vetted(STRANGER)
    store.reachable(STRANGER)
    assert STRANGER not in dict(store)


def test_the_third_silence_is_told() -> None:
    _, store = seen()
    assert [store.left_unanswered(GOOD, b"c" * 32) for _ in range(3)] == [False, False, True]


def test_a_damaged_row_is_forgotten() -> None:
    tables = FakeKeyValue()
    tables.update(lambda transaction: transaction.put(TABLE, GOOD, b"junk"))
    store = ReputationStore(tables)
    assert dict(store) == {}
    store.save()
    with tables.view() as view:
        assert view.count(TABLE) == 0


def test_a_flood_of_strangers_forgets_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPUTATIONS_MAX", 50)
    tables, store = seen()
    for number in range(500):
        store.passed(PeerId(b"\xff" * 36 + number.to_bytes(2, "big")), 1)
    store.save()
    again = ReputationStore(tables)
    assert len(dict(again)) <= 50
    assert again.of(BAD).standing is Standing.DISQUALIFIED
    assert again.is_vetted(GOOD)
