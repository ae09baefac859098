"""What healing remembers over restarts."""

from __future__ import annotations

from node.chunks.healing.budget import RepairBudget
from node.chunks.healing.journal import SILENCE_KEPT_S, HealingJournal
from node.units import DAY_S, LeaseId, PeerId, SegmentId
from simulations.key_value import FakeKeyValue
from tests.clocks import HandClock

NOW_S = 1_800_000_000
SEGMENTS = [SegmentId(bytes([n]) * 32) for n in range(3)]
LEASES = [LeaseId(bytes([n]) * 16) for n in range(4)]


def test_a_restart_gives_no_traffic_back_and_a_new_day_does() -> None:
    state, clock = FakeKeyValue(), HandClock()
    budget = RepairBudget(1_000, clock, HealingJournal(state))
    budget.spend(400)
    budget.spend(500)
    state = state.reopened()
    budget = RepairBudget(1_000, clock, HealingJournal(state))
    assert budget.left() == 100
    clock.time_s += DAY_S
    assert budget.left() == 1_000
    budget.spend(1)
    assert RepairBudget(1_000, clock, HealingJournal(state.reopened())).left() == 999


def test_segments_that_contradict_themselves_stay_so() -> None:
    state = FakeKeyValue()
    assert HealingJournal(state).inconsistent() == set()
    for segment_id in (SEGMENTS[0], SEGMENTS[2], SEGMENTS[0]):
        HealingJournal(state).add_inconsistent(segment_id)
    assert HealingJournal(state.reopened()).inconsistent() == {SEGMENTS[0], SEGMENTS[2]}


def test_silence_goes_on_over_a_restart_but_for_the_own_absence() -> None:
    state = FakeKeyValue()
    journal = HealingJournal(state)
    journal.note_silences({LEASES[0]: NOW_S - 500, LEASES[1]: NOW_S - 100, LEASES[2]: NOW_S - 50}, ())
    journal.note_silences({LEASES[1]: NOW_S - 90}, [LEASES[2]])
    expected = {LEASES[0]: NOW_S - 500, LEASES[1]: NOW_S - 90}
    state = state.reopened()
    assert HealingJournal(state).silences(now_s=NOW_S, away_s=0) == expected
    # Off for 1,000 s: those count once, however often it starts again.
    later = {lease_id: time_s + 1_000 for lease_id, time_s in expected.items()}
    state = state.reopened()
    assert HealingJournal(state).silences(now_s=NOW_S + 1_000, away_s=1_000) == later
    state = state.reopened()
    assert HealingJournal(state).silences(now_s=NOW_S + 1_001, away_s=0) == later
    end_s = NOW_S + SILENCE_KEPT_S + DAY_S
    assert HealingJournal(state).silences(now_s=end_s, away_s=0) == {}
    assert HealingJournal(state.reopened()).silences(now_s=NOW_S + 1_001, away_s=0) == {}


def test_absences_go_on_as_silences_do_and_apart_from_them() -> None:
    state = FakeKeyValue()
    journal = HealingJournal(state)
    peers = [PeerId(bytes([n]) * 38) for n in range(2)]
    journal.note_absences({peers[0]: NOW_S - 500, peers[1]: NOW_S - 100}, ())
    journal.note_silences({LEASES[0]: NOW_S - 7}, ())
    state = state.reopened()
    journal = HealingJournal(state)
    # Of the second one the node's own absence leaves nothing.
    assert journal.absences(now_s=NOW_S, away_s=200) == {peers[0]: NOW_S - 300}
    journal.note_absences({}, [peers[0]])
    journal = HealingJournal(state.reopened())
    assert journal.absences(now_s=NOW_S, away_s=0) == {}
    assert journal.silences(now_s=NOW_S, away_s=0) == {LEASES[0]: NOW_S - 7}
