"""Which shards go first when a cap is lowered."""

from __future__ import annotations

import hashlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from node.chunks.eviction import Candidate, Claim, order
from node.units import SegmentId


def segment(number: int) -> SegmentId:
    return SegmentId(hashlib.sha256(b"%d" % number).digest())


def shard(
    number: int, index: int = 0, claim: Claim = Claim.LEASE, spare: int = 0, day: int = 100, size: int = 10
) -> Candidate:
    return Candidate(segment(number), index, claim, spare, day, size)


@st.composite
def stores(draw: st.DrawFn) -> list[Candidate]:
    """What a donor keeps: a segment's shards agree on how many it has to spare."""
    found = []
    for number in range(draw(st.integers(0, 6))):
        spare = draw(st.integers(-3, 6))
        for index in draw(st.sets(st.integers(0, 9), max_size=5)):
            claim, day = draw(st.sampled_from(Claim)), draw(st.integers(90, 99))
            found.append(Candidate(segment(number), index, claim, spare, day, draw(st.integers(1, 50))))
    return found


@given(stores())
def test_everything_goes_once_in_an_order_that_depends_on_the_set_alone(
    kept: list[Candidate],
) -> None:
    ordered = list(order(kept))
    assert Counter(ordered) == Counter(kept)
    assert list(order(reversed(kept))) == ordered
    # What nobody is owed goes before what somebody is.
    assert [each.claim for each in ordered] == sorted(each.claim for each in kept)


@given(stores())
def test_no_leased_shard_goes_while_another_segment_has_more_to_spare(kept: list[Candidate]) -> None:
    left = {candidate: candidate.spare for candidate in kept if candidate.claim is Claim.LEASE}
    for going in (each for each in order(kept) if each.claim is Claim.LEASE):
        spare = left.pop(going)
        assert spare == max([spare, *left.values()])
        for other in left:
            if other.segment_id == going.segment_id:
                left[other] -= 1


def test_expired_then_kept_twice_then_most_redundant_then_newest() -> None:
    expired, grace = shard(1, claim=Claim.NOTHING, spare=-9), shard(2, claim=Claim.GRACE)
    twice = shard(3, claim=Claim.TWICE, spare=-9)
    rich, newer, older, poor = shard(4, spare=5), shard(5, spare=2, day=9), shard(6, spare=2, day=8), shard(7)
    everything = [poor, older, newer, rich, twice, grace, expired]
    assert list(order(everything)) == [expired, twice, grace, rich, newer, older, poor]


def test_each_shard_that_goes_makes_its_sisters_dearer() -> None:
    kept = [*(shard(1, index, spare=4) for index in range(3)), shard(2, spare=3)]
    assert [(each.segment_id, each.shard_index) for each in order(kept)] == [
        (segment(1), 0),
        *sorted([(segment(1), 1), (segment(2), 0)]),
        (segment(1), 2),
    ]
