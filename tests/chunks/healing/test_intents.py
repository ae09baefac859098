"""Whoever announced a repair is waited for, for two staggers and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node import limits
from node.chunks.healing.intents import Intents
from node.crypto.identity import peer_id_of
from node.units import SegmentId
from tests.records.credit_samples import INTENT


class Watch:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_an_intent_lapses_after_two_staggers(watch: Watch) -> None:
    intents = Intents(stagger_s=900, clock=watch)
    assert intents.until(INTENT.segment_id) is None
    watch.now = 100.0
    intents.heard(INTENT)
    assert intents.until(INTENT.segment_id) == 1_900.0
    assert intents.until(SegmentId(bytes(32))) is None
    watch.now = 1_899.0
    assert intents.until(INTENT.segment_id) == 1_900.0
    watch.now = 1_900.0
    assert intents.until(INTENT.segment_id) is None


def test_nobody_holds_the_others_up_for_longer_by_saying_it_again(watch: Watch) -> None:
    intents = Intents(stagger_s=900, clock=watch)
    for second in range(0, 1_800, 100):
        watch.now = float(second)
        intents.heard(replace(INTENT, indexes=bytes([second // 100])))
    assert intents.until(INTENT.segment_id) == 1_800.0
    intents.heard(replace(INTENT, day=INTENT.day + 1))  # the next day it may try again
    assert intents.until(INTENT.segment_id) == 1_700.0 + 1_800.0


def test_what_is_remembered_is_bounded(watch: Watch) -> None:
    intents = Intents(stagger_s=900, clock=watch)
    for number in range(limits.REPAIR_INTENTS_MAX + 50):
        intents.heard(replace(INTENT, holder=peer_id_of(number.to_bytes(32, "big"))))
    assert len(intents._heard) == limits.REPAIR_INTENTS_MAX
    watch.now = 2_000.0
    intents.heard(INTENT)
    assert len(intents._heard) == 1
    assert intents.until(INTENT.segment_id) == 3_800.0
