"""The repair policy: when, by whom, and what goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.geometry import Code
from node.chunks.repair import (
    OPEN_DAYS,
    Copy,
    Standing,
    eligible,
    fair_share,
    intent_life_s,
    is_alarming,
    is_due,
    is_open,
    lost_shards,
    may_become_urgent,
    order,
    patience_s,
    spread_to,
    standing,
    surplus,
    to_spread,
    trigger_count,
    wait_s,
)
from node.crypto.identity import peer_id_of
from node.units import PeerId, SegmentId

NOW_S, DEAD_S = 1_000_000, 172_800
CODE = Code(10, 30)
PEERS = [peer_id_of(bytes([n]) * 32) for n in range(1, 40)]
SEGMENT = SegmentId(b"s" * 32)


def copy(shard: int, *, silent_s: int | None = None, bad: bool = False, peer: int = 0) -> Copy:
    return Copy(shard, PEERS[peer], None if silent_s is None else NOW_S - silent_s, bad)


@pytest.mark.parametrize(
    ("given_copy", "expected"),
    [
        (copy(0), Standing.ALIVE),
        (copy(0, silent_s=0), Standing.SUSPENDED),
        (copy(0, silent_s=DEAD_S - 1), Standing.SUSPENDED),
        (copy(0, silent_s=DEAD_S), Standing.LOST),
        (copy(0, bad=True), Standing.LOST),
        (copy(0, silent_s=5, bad=True), Standing.LOST),
    ],
)
def test_short_outages_suspend_and_contradictions_count_at_once(given_copy: Copy, expected: Standing) -> None:
    assert standing(given_copy, now_s=NOW_S, dead_after_s=DEAD_S) is expected


def test_a_shard_is_lost_when_its_last_copy_is() -> None:
    copies = [copy(index) for index in range(2, 30)]
    copies += [copy(0, bad=True), copy(0, silent_s=5, peer=1), copy(1, silent_s=DEAD_S)]
    assert lost_shards(CODE, copies, now_s=NOW_S, dead_after_s=DEAD_S) == {1}
    assert lost_shards(CODE, [], now_s=NOW_S, dead_after_s=DEAD_S) == set(range(30))


def test_whoever_may_be_alive_may_repair() -> None:
    copies = [
        copy(0, peer=0),
        copy(1, silent_s=2 * DEAD_S, peer=1),
        copy(2, silent_s=60, peer=2),
        copy(3, bad=True, peer=3),
        copy(4, bad=True, peer=4),
        copy(5, peer=4),
    ]
    assert eligible(copies) == {PEERS[0], PEERS[4]}


def test_repair_starts_at_the_threshold_and_not_where_nothing_is_left() -> None:
    assert trigger_count(CODE, 0.5) == 10
    assert [lost for lost in range(31) if is_due(CODE, lost, 0.5)] == list(range(10, 21))
    assert trigger_count(Code(6, 20), 0.5) == 7
    assert trigger_count(CODE, 0.0) == 1
    assert not any(is_due(Code(3, 3), lost, 0.5) for lost in range(4))
    assert [lost for lost in range(31) if is_due(CODE, lost, 0.5, is_open=True)] == list(range(1, 21))


TODAY = 20_000


def test_a_repaired_segment_stays_open_for_some_days_and_one_remade_shard_opens_nothing() -> None:
    repaired = [(index, TODAY) for index in range(10)]
    assert is_open(CODE, 0.5, repaired, today=TODAY)
    assert is_open(CODE, 0.5, repaired, today=TODAY + OPEN_DAYS)
    assert not is_open(CODE, 0.5, repaired, today=TODAY + OPEN_DAYS + 1)
    assert is_open(CODE, 0.5, repaired[:5], today=TODAY), "the others found no witness or no room"
    assert not is_open(CODE, 0.5, repaired[:4], today=TODAY)
    assert not is_open(CODE, 0.5, [(3, TODAY)] * 10, today=TODAY), "one shard, remade again and again"
    assert not is_open(CODE, 0.5, [], today=TODAY)
    assert is_open(Code(2, 3), 0.5, [(2, TODAY)], today=TODAY)


@given(st.integers(0, 400), st.sampled_from([CODE, Code(6, 20)]))
def test_what_an_open_segment_gets_does_not_keep_it_open(start: int, code: Code) -> None:
    """Somebody leaves every other day: after one repair of many it closes, and the next is again of many."""
    remade = [(index, start) for index in range(trigger_count(code, 0.5))]
    days = []
    for day in range(start, start + 60):
        if is_open(code, 0.5, remade, today=day):
            days.append(day)
            if day % 2:
                remade.append((day % code.total_shards, day))
    assert days == list(range(start, start + OPEN_DAYS + 1))


@given(st.permutations(PEERS[:10]), st.integers(0, 10_000))
def test_all_agree_on_the_order_and_it_turns_by_the_day(peers: list[PeerId], day: int) -> None:
    ranked = order(SEGMENT, peers, day=day)
    assert ranked == order(SEGMENT, PEERS[:10], day=day)
    waits = {wait_s(SEGMENT, peers, peer, day=day, stagger_s=900) for peer in peers}
    assert waits == {900 * rank for rank in range(10)}
    assert wait_s(SEGMENT, peers[1:], peers[0], day=day, stagger_s=900) == 900 * ranked.index(peers[0])
    assert intent_life_s(900) == 1800


def test_the_first_place_goes_round() -> None:
    firsts = {order(SEGMENT, PEERS[:10], day=day)[0] for day in range(200)}
    assert len(firsts) > 5


@given(st.lists(st.sampled_from(PEERS), min_size=1, unique=True), st.integers(0, 254))
def test_one_copy_stays_and_all_agree_which(peers: list[PeerId], index: int) -> None:
    gone = surplus(index, peers)
    assert len(gone) == len(peers) - 1
    assert set(gone) == set(surplus(index, list(reversed(peers))))
    (kept,) = set(peers) - set(gone)
    assert surplus(index, [kept]) == []
    # Whoever is asked later, about any part of them, lets the same one stay.
    assert kept not in surplus(index, [*peers[: len(peers) // 2], kept])


def test_five_holders_of_six_become_thirty_of_one() -> None:
    held = {PEERS[n]: set(range(6 * n, 6 * n + 6)) for n in range(5)}
    free = PEERS[5:30]
    for _ in range(10):
        for me in list(held):
            given_up = to_spread(CODE, held, me, len(free))
            for index in given_up[:1]:
                held[me].discard(index)
                held[free.pop()] = {index}
    assert sorted(len(shards) for shards in held.values()) == [1] * 30
    assert set().union(*held.values()) == set(range(30))


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.integers(0, 40),
)
def test_spreading_gives_each_newcomer_one_at_most_and_never_below_the_share(
    counts: list[int], newcomers: int
) -> None:
    code = Code(1, max(1, min(255, sum(counts))))
    indexes = iter(range(sum(counts)))
    held = {PEERS[n]: {next(indexes) for _ in range(count)} for n, count in enumerate(counts)}
    gives = {me: to_spread(code, held, me, newcomers) for me in held}
    assert sum(map(len, gives.values())) <= newcomers
    share = fair_share(code, len(held) + newcomers)
    for me, given_up in gives.items():
        assert len(held[me]) - len(given_up) >= min(len(held[me]), share)
        assert set(given_up) <= held[me]


def test_holders_that_spread_at_once_choose_different_newcomers() -> None:
    held = {PEERS[n]: set(range(6 * n, 6 * n + 6)) for n in range(5)}
    given_to = [spread_to(CODE, held, me, PEERS[5:30]) for me in held]
    assert [len(each) for each in given_to] == [5] * 5
    assert set().union(*given_to) == set(PEERS[5:30])
    for me, each in zip(held, given_to, strict=True):
        assert set(each.values()) <= held[me]


def test_a_copy_that_answers_again_is_alive_again() -> None:
    dead = copy(3, silent_s=2 * DEAD_S)
    assert standing(dead, now_s=NOW_S, dead_after_s=DEAD_S) is Standing.LOST
    back = replace(dead, silent_since_s=None)
    assert standing(back, now_s=NOW_S, dead_after_s=DEAD_S) is Standing.ALIVE


HOUR = 3_600
URGENT_S = 16 * HOUR


def patience(copies: list[Copy], *, code: Code = CODE, urgent_s: int = URGENT_S) -> int:
    return patience_s(code, copies, now_s=NOW_S, dead_after_s=DEAD_S, urgent_after_s=urgent_s)


def segment_with(silent: dict[int, int], *, one_holder: bool = False) -> list[Copy]:
    """All thirty, each at a holder of its own unless `one_holder` has what is silent; hours by shard."""
    return [
        copy(shard, silent_s=silent[shard] * HOUR, peer=0 if one_holder else shard)
        if shard in silent
        else copy(shard, peer=shard)
        for shard in range(30)
    ]


@pytest.mark.parametrize(
    ("silent", "one_holder", "expected"),
    [
        (dict.fromkeys(range(10), 16), False, 12 * HOUR),
        (dict.fromkeys(range(20), 47), False, 12 * HOUR),
        # Less than half of the parity, or an office's night of 14 hours for two thirds of the holders.
        (dict.fromkeys(range(9), 40), False, DEAD_S),
        (dict.fromkeys(range(20), 15), False, DEAD_S),
        # One machine that keeps much.
        (dict.fromkeys(range(10), 30), True, DEAD_S),
        # What was lost long ago is no haste for one or two that are away; three more at once are.
        ({**dict.fromkeys(range(9), 100), 9: 20}, False, DEAD_S),
        ({**dict.fromkeys(range(8), 100), 8: 20, 9: 20}, False, DEAD_S),
        ({**dict.fromkeys(range(7), 100), 7: 20, 8: 20, 9: 20}, False, 12 * HOUR),
        (dict.fromkeys(range(20), 100), False, DEAD_S),
    ],
)
def test_patience_shortens_where_much_fell_silent_together(
    silent: dict[int, int], one_holder: bool, expected: int
) -> None:
    assert patience(segment_with(silent, one_holder=one_holder)) == expected


def test_deaths_noticed_some_hours_later_count_with_the_first() -> None:
    copies = segment_with({**dict.fromkeys(range(10), 16), 10: 13, 11: 11, 12: 2})
    lost = lost_shards(CODE, copies, now_s=NOW_S, dead_after_s=patience(copies))
    assert lost == set(range(11))


def test_what_lacks_is_no_silence_and_what_lies_is_lost() -> None:
    """A put that placed few shards makes nothing urgent; shown losses count among those lost."""
    placed = [each for each in segment_with({0: 20, 1: 20, 2: 20}) if each.shard_index < 20]
    assert patience(placed) == DEAD_S
    contradicted = [
        replace(each, is_contradicted=3 <= each.shard_index < 10)
        for each in segment_with({0: 20, 1: 20, 2: 20})
    ]
    assert patience(contradicted) == 12 * HOUR


def test_a_second_copy_that_is_there_makes_a_silence_harmless() -> None:
    copies = segment_with(dict.fromkeys(range(10), 20))
    assert patience([*copies, copy(0, peer=35)]) == DEAD_S


@pytest.mark.parametrize(
    ("code", "needed"), [(Code(1, 2), None), (Code(6, 8), 2), (Code(2, 6), 2), (Code(2, 8), 3)]
)
def test_small_codes_need_two_holders_at_least(code: Code, needed: int | None) -> None:
    def silent(count: int) -> list[Copy]:
        return [
            copy(shard, silent_s=20 * HOUR if shard < count else None, peer=shard)
            for shard in range(code.total_shards)
        ]

    urgent = [count for count in range(code.total_shards) if patience(silent(count), code=code) < DEAD_S]
    assert urgent[:1] == ([] if needed is None else [needed])


def test_a_patience_that_is_short_anyway_stays() -> None:
    assert patience(segment_with(dict.fromkeys(range(15), 100)), urgent_s=DEAD_S) == DEAD_S


@given(
    st.dictionaries(st.integers(0, 29), st.integers(0, 100), max_size=30),
    st.sets(st.integers(0, 29)),
)
def test_one_holder_alone_never_shortens_its_patience(silent: dict[int, int], bad: set[int]) -> None:
    copies = [
        replace(each, is_contradicted=each.shard_index in bad)
        for each in segment_with(silent, one_holder=True)
    ]
    assert patience(copies) == DEAD_S


@given(st.dictionaries(st.integers(0, 29), st.integers(0, 100), max_size=30))
def test_an_urgent_segment_was_alarming(silent: dict[int, int]) -> None:
    copies = segment_with(silent)
    if patience(copies) < DEAD_S:
        assert may_become_urgent(CODE, copies)


@pytest.mark.parametrize(
    ("looked", "missed", "expected"),
    [(16, 3, False), (16, 4, True), (1, 1, False), (2, 2, True), (5, 1, False), (5, 2, True), (0, 0, False)],
)
def test_a_pulse_is_alarming_when_a_quarter_is_missed(looked: int, missed: int, expected: bool) -> None:
    assert is_alarming(looked, missed) is expected
