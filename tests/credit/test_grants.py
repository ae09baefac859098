"""Repair grants: once an index in seven days, within their bounds, and only where a shard is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.credit.grants import EVIDENCE_DAYS, REUSE_DAYS, GrantUse, Replacement, check_grant, is_silent
from node.errors import CreditError, NodeError, ProtocolError
from node.records.receipt import AuditReceipt, Outcome
from node.records.repair import RepairGrant
from node.units import DAY_S, OwnerKey, SegmentId
from tests.credit.actors import CREDIT, DAY, NETWORK, Actor, lease_of, receipt_of

OWNER, HOLDER, STRANGER = (Actor(number) for number in range(3))
CO_HOLDERS = [Actor(number) for number in (5, 6, 7)]
PEERS = {holder.peer_id for holder in CO_HOLDERS}
LOST = lease_of(OWNER, HOLDER)
GRANT = RepairGrant(
    NETWORK, LOST.segment_id, OwnerKey(OWNER.owner.public), 3, CREDIT, 10, 30, OWNER.account, 100 * CREDIT,
    (DAY + 365) * DAY_S,
).sign(OWNER.owner, OWNER.key)  # fmt: skip
WANTED = Replacement(LOST, generation=1, rate=CREDIT, total_shards=30, micros=30 * CREDIT)
NOW_S = (DAY + 20) * DAY_S


def check(
    wanted: Replacement = WANTED, uses: list[GrantUse] | None = None, grant: RepairGrant = GRANT
) -> None:
    check_grant(grant, wanted, uses or [], now_s=NOW_S)


def test_what_a_grant_covers() -> None:
    check()
    check(uses=[GrantUse(1, DAY + 20, 30 * CREDIT), GrantUse(0, DAY + 20 - REUSE_DAYS, 40 * CREDIT)])


@pytest.mark.parametrize(
    ("wanted", "uses", "grant"),
    [
        (replace(WANTED, generation=4), [], GRANT),
        (replace(WANTED, rate=CREDIT + 1), [], GRANT),
        (WANTED, [], replace(GRANT, expires_s=NOW_S)),
        (WANTED, [GrantUse(0, DAY + 21 - REUSE_DAYS, 0)], GRANT),
        (WANTED, [GrantUse(1, DAY, 70 * CREDIT + 1)], GRANT),
        (replace(WANTED, micros=100 * CREDIT + 1), [], GRANT),
    ],
)
def test_what_is_used_up(wanted: Replacement, uses: list[GrantUse], grant: RepairGrant) -> None:
    with pytest.raises(CreditError):
        check(wanted, uses, grant)


@pytest.mark.parametrize(
    ("wanted", "grant"),
    [
        (WANTED, replace(GRANT, segment_id=SegmentId(bytes(31) + b"x"))),
        (WANTED, replace(GRANT, owner_key=OwnerKey(STRANGER.owner.public))),
        (WANTED, replace(GRANT, network="cairn-main")),
        (replace(WANTED, total_shards=29), GRANT),
        (replace(WANTED, lost=replace(LOST, shard_index=30)), GRANT),
    ],
)
def test_a_grant_about_something_else(wanted: Replacement, grant: RepairGrant) -> None:
    with pytest.raises(ProtocolError):
        check(wanted, [], grant)


def said(who: Actor, day: int, outcome: Outcome = Outcome.NO_ANSWER) -> AuditReceipt:
    return receipt_of([LOST], who.device, day, outcome=outcome)


def silent(*receipts: AuditReceipt) -> bool:
    return is_silent(LOST, receipts, PEERS, now_s=NOW_S)


def test_two_co_holders_make_a_death() -> None:
    one, two, three = CO_HOLDERS
    assert silent(said(one, DAY + 18), said(two, DAY + 19))
    assert not silent(said(one, DAY + 18), said(one, DAY + 19))
    assert not silent(said(one, DAY + 18), said(STRANGER, DAY + 19))
    assert not silent(said(one, DAY + 18), said(two, DAY + 19, Outcome.UNKNOWN))
    assert not silent(said(one, DAY + 18), said(two, DAY + 19 - EVIDENCE_DAYS))
    assert not silent(said(one, DAY + 18), said(two, DAY + 21))  # from the future
    seen = said(three, DAY + 19, Outcome.PASSED)
    assert not silent(said(one, DAY + 18), said(two, DAY + 19), seen)
    assert silent(said(one, DAY + 19), said(two, DAY + 19), said(three, DAY + 18, Outcome.SLOW))
    assert silent(said(one, DAY + 18), said(two, DAY + 19), said(STRANGER, DAY + 19, Outcome.PASSED))
    other = receipt_of([lease_of(OWNER, HOLDER, 9)], one.device, DAY + 18, outcome=Outcome.NO_ANSWER)
    assert not silent(other, said(two, DAY + 19))


requests = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 12), st.integers(1, 60)), max_size=30
)


@given(requests)
def test_whatever_is_asked_a_grant_gives_no_more_than_it_says(
    asked: list[tuple[int, int, int, int]],
) -> None:
    """Repairers ask again and again, on rising days: once an index a week, and within the credits."""
    uses: list[GrantUse] = []
    day = DAY
    for index, generation, later, credits in asked:
        day += later
        lost = replace(LOST, shard_index=index)
        wanted = Replacement(lost, generation, CREDIT, 30, credits * CREDIT)
        try:
            check_grant(GRANT, wanted, uses, now_s=day * DAY_S)
        except NodeError:
            continue
        uses.append(GrantUse(index, day, wanted.micros))
    assert sum(use.micros for use in uses) <= GRANT.max_credits
    for index in range(4):
        days = [use.day for use in uses if use.shard_index == index]
        assert all(later - earlier >= REUSE_DAYS for earlier, later in pairwise(days))
