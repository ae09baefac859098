"""Whose turn it is: one looks after each lease, also where that one is away, and what looking costs."""

from __future__ import annotations

from collections import Counter

import pytest

from node.chunks.audit import due_days
from node.chunks.audits.duties import Duty, co_holder_duty
from node.crypto.identity import peer_id_of
from node.records.lease import Lease
from node.units import DAY_S, KIB, LeaseId, OwnerKey, PeerId, SegmentId

PEERS = [peer_id_of(bytes([number]) * 32) for number in range(1, 31)]
SHARD_BYTES = 64 * KIB
FIRST_ROUND = 20_000
DIAL_BYTES = 4 * KIB
"""A connection that is made to look and closed: TCP, handshakes and identify, generously."""
DAYS = 30


def leases(segment_id: SegmentId) -> list[Lease]:
    """One small shard at each of thirty holders."""
    return [
        Lease(
            "cairn", LeaseId(b"l" * 16), segment_id, index, bytes(32), SHARD_BYTES, OwnerKey(b"o" * 32),
            holder, 1, 31, 1, 1, bytes(16),
        )
        for index, holder in enumerate(PEERS)
    ]  # fmt: skip


def duties(lease: Lease, round_number: int, away: frozenset[PeerId] = frozenset()) -> dict[PeerId, Duty]:
    """Who has which duty, if all know who is away."""
    found = {
        me: co_holder_duty(
            me, lease, PEERS, round_number=round_number, interval_s=DAY_S, is_away=away.__contains__
        )
        for me in PEERS
        if me not in away
    }
    return {me: duty for me, duty in found.items() if duty is not Duty.NONE}


def test_one_looks_after_each_lease_in_every_round_even_if_its_auditors_died_with_it() -> None:
    lease = leases(SegmentId(b"s" * 32))[4]
    away = frozenset(PEERS[:15])
    seen = set()
    for round_number in range(FIRST_ROUND, FIRST_ROUND + 60):
        assert len(duties(lease, round_number)) == 1
        alone = duties(lease, round_number, away)
        assert len(alone) == 1
        assert not alone.keys() & away
        (me,) = alone
        if me not in duties(lease, round_number):
            assert alone[me] is Duty.WATCH, "a stand-in may not sample: the donor knows whose turn it is"
            seen.add(me)
    assert seen


@pytest.mark.parametrize("segments", [1, 10])
def test_what_small_shards_cost_a_holder_in_a_month(
    segments: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looks are one a shard and day at most, and one a pair and day where a pair shares many."""
    assert due_days(SHARD_BYTES) == DAYS
    kept = [lease for number in range(segments) for lease in leases(SegmentId(bytes([number]) * 32))]
    looks: Counter[PeerId] = Counter()
    samples = 0
    for round_number in range(FIRST_ROUND, FIRST_ROUND + DAYS):
        pairs = set()
        for lease in kept:
            for me, duty in duties(lease, round_number).items():
                pairs.add((me, lease.holder))
                samples += duty is Duty.SAMPLE
        looks.update(me for me, _ in pairs)
    mean = sum(looks.values()) / len(PEERS)
    probed = DAYS / 2 * segments * (len(PEERS) - 1) * (SHARD_BYTES + DIAL_BYTES)
    with capsys.disabled():
        print(f"\n{segments} shards of 64 KiB at each of 30 holders, a month: {mean:.0f} looks a holder, "
              f"{mean * DIAL_BYTES / KIB:.0f} KiB if each is a dial, {samples / len(PEERS):.1f} samples; "
              f"to probe all co-holders every 48 h would be {probed / KIB:.0f} KiB")  # fmt: skip
    assert mean <= DAYS * min(segments, len(PEERS) - 1)
    assert max(looks.values()) <= DAYS * (len(PEERS) - 1), "one a pair and day"
    assert samples <= len(kept), "one a shard and month"
    assert mean * DIAL_BYTES < probed / 100
