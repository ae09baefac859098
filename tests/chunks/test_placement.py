"""The choice of donors: laws over any donors, and the shares of the design."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.geometry import Code
from node.chunks.placement import (
    SHARD_OVERHEAD_BYTES,
    Assignment,
    Donor,
    assign,
    is_weak,
    quorum,
    replace,
    shards_per_holder_max,
)
from node.units import Contact, PeerId

SHARD = 1000
COST = SHARD + SHARD_OVERHEAD_BYTES


def donor(number: int, *, room: int = 1000, uptime: int = 1000, subnet: str | None = None) -> Donor:
    return Donor(Contact(PeerId(b"%03d" % number)), room * COST, uptime, 0.0, subnet)


donors_strategy = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 1000), st.sampled_from([None, "a", "b"])), max_size=40
).map(lambda rows: [donor(n, room=r, uptime=u, subnet=s) for n, (r, u, s) in enumerate(rows)])
codes = st.integers(1, 40).flatmap(lambda total: st.integers(1, total).map(lambda data: Code(data, total)))


@given(codes, donors_strategy, st.integers(0, 100))
def test_an_assignment_keeps_every_limit(code: Code, donors: list[Donor], segment: int) -> None:
    chosen = assign(code, donors, shard_bytes=SHARD, segment_index=segment)
    shards = [shard for indexes in chosen.values() for shard in indexes]
    assert len(shards) == len(set(shards))
    assert set(shards) <= set(range(code.total_shards))
    room = {d.peer_id: d.free_bytes // COST for d in donors}
    usable = sum(count > 0 for count in room.values())
    for peer_id, indexes in chosen.items():
        assert 0 < len(indexes) <= room[peer_id]
        assert len(indexes) <= shards_per_holder_max(code, min(usable, code.total_shards))
    if all(count >= code.total_shards for count in room.values()) and donors:
        assert len(shards) == code.total_shards


@given(codes, donors_strategy, st.data())
def test_replacing_keeps_every_limit(code: Code, donors: list[Donor], data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(0, code.total_shards - 1)))
    failed = {d.peer_id for d in data.draw(st.lists(st.sampled_from(donors)) if donors else st.just([]))}
    kept = {d.peer_id: 1 for d in donors[: code.total_shards - len(lost)] if d.peer_id not in failed}
    chosen = replace(code, donors, lost, shard_bytes=SHARD, kept=kept, failed=failed)
    shards = [shard for indexes in chosen.values() for shard in indexes]
    assert len(shards) == len(set(shards))
    assert set(shards) <= lost
    assert not failed & chosen.keys()
    usable = {d.peer_id for d in donors if d.free_bytes >= COST and d.peer_id not in failed}
    for peer_id, indexes in chosen.items():
        assert len(indexes) + kept.get(peer_id, 0) <= max(shards_per_holder_max(code, len(usable)), 1)
    # Over the limit for all that are present only where those below it are full.
    each_max = max(shards_per_holder_max(code, len(usable | kept.keys())), 1)
    load = {peer_id: len(chosen.get(peer_id, ())) + kept.get(peer_id, 0) for peer_id in usable}
    room = {d.peer_id: d.free_bytes // COST for d in donors}
    if any(load[peer_id] > each_max for peer_id in chosen):
        assert all(load[p] >= each_max or len(chosen.get(p, ())) == room[p] for p in usable)


@given(codes, st.lists(st.integers(1, 10), min_size=1, max_size=9))
def test_weak_says_whether_some_third_of_the_holders_is_too_many(code: Code, counts: list[int]) -> None:
    third = max(1, len(counts) // 3)
    loses = any(
        sum(counts) - sum(counts[i] for i in lost) < code.data_shards
        for lost in combinations(range(len(counts)), third)
    )
    assert is_weak(code, counts) == loses


def test_the_first_choice_is_one_shard_at_each_of_thirty() -> None:
    chosen = assign(Code(10, 30), [donor(n) for n in range(60)], shard_bytes=SHARD)
    assert len(chosen) == 30
    assert {len(indexes) for indexes in chosen.values()} == {1}


def test_the_same_donors_serve_all_segments() -> None:
    donors = [donor(n) for n in range(60)]
    first = assign(Code(10, 30), donors, shard_bytes=SHARD, segment_index=0)
    second = assign(Code(10, 30), donors, shard_bytes=SHARD, segment_index=1)
    assert first.keys() == second.keys()
    assert first != second  # but the data shards lie elsewhere


def test_at_most_a_third_on_donors_of_low_uptime_where_others_exist() -> None:
    donors = [donor(n, uptime=500) for n in range(40)] + [donor(40 + n) for n in range(25)]
    chosen = assign(Code(10, 30), donors, shard_bytes=SHARD)
    low = sum(len(shards) for peer_id, shards in chosen.items() if peer_id < b"040")
    assert low == 5
    only_low = assign(Code(10, 30), donors[:40], shard_bytes=SHARD)
    assert len(only_low) == 30


def test_few_in_one_subnet_where_others_exist() -> None:
    crowd = [donor(n, subnet="203.0.113.0/24") for n in range(30)]
    others = [donor(100 + n) for n in range(28)]
    chosen = assign(Code(10, 30), crowd + others, shard_bytes=SHARD)
    assert sum(peer_id < b"100" for peer_id in chosen) == 2


def test_what_is_replaced_crowds_no_subnet_where_others_exist() -> None:
    code = Code(10, 30)
    crowded = [donor(number, subnet="a") for number in range(20)]
    elsewhere = [donor(number, subnet=f"own {number}") for number in range(20, 26)]
    kept = {crowded[0].peer_id: 1}
    chosen = replace(
        code, [*crowded, *elsewhere], range(8), shard_bytes=SHARD, kept=kept, failed=()
    )  # fmt: skip
    subnets = {each.peer_id: each.subnet for each in (*crowded, *elsewhere)}
    used = [subnets[peer] for peer in chosen]
    assert sum(len(indexes) for indexes in chosen.values()) == 8
    # One of the crowded subnet joins the holder that is there; only then, for want of others, one more.
    assert used.count("a") == 2
    assert len(used) - used.count("a") == 6


def test_who_has_room_takes_a_second_shard_where_the_others_are_full() -> None:
    code = Code(2, 6)
    holders = [donor(number) for number in range(5)]
    full = [donor(number, room=0) for number in range(4)]
    newcomer = donor(6)
    kept = {each.peer_id: 1 for each in (*holders, newcomer)}

    def places(donors: list[Donor]) -> Assignment:
        return replace(code, donors, [5], shard_bytes=SHARD, kept=kept, failed=())

    assert places([*full, holders[4], newcomer]) in ({holders[4].peer_id: (5,)}, {newcomer.peer_id: (5,)})
    assert places(full) == {}
    fresh = donor(7)
    assert places([*full, holders[4], newcomer, fresh]) == {fresh.peer_id: (5,)}


@pytest.mark.parametrize(("code", "expected"), [(Code(10, 30), 24), (Code(1, 1), 1), (Code(2, 5), 5)])
def test_the_quorum(code: Code, expected: int) -> None:
    assert quorum(code) == expected


def test_new_donors_get_few_shards_where_enough_are_vetted() -> None:
    code = Code(10, 30)
    vetted = [vetted_donor(number, is_vetted=True) for number in range(24)]
    new = [vetted_donor(number, is_vetted=False) for number in range(24, 60)]
    chosen = assign(code, [*new, *vetted], shard_bytes=SHARD)
    assert sum(len(shards) for shards in chosen.values()) == 30
    assert len(chosen.keys() & {donor.peer_id for donor in new}) == 6
    assert chosen.keys() >= {donor.peer_id for donor in vetted}


@pytest.mark.parametrize("vetted_count", [0, 3, 23])
def test_a_network_of_new_donors_takes_a_put(vetted_count: int) -> None:
    donors = [vetted_donor(number, is_vetted=number < vetted_count) for number in range(40)]
    chosen = assign(Code(10, 30), donors, shard_bytes=SHARD)
    assert len(chosen) == 30


def vetted_donor(number: int, *, is_vetted: bool) -> Donor:
    return dataclasses.replace(donor(number, room=10), is_vetted=is_vetted)
