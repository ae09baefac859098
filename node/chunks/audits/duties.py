"""Who audits which lease in which round, and how late an answer may be. Layer 2, pure.

Invariants: of a shard's co-holders exactly one has a duty a round, so that a due shard costs one sample: the
three auditors of the week take turns, and each `OWNER_TURNS`th turn is the owner's; where nobody else holds
the segment the owner has all of them. In rounds in which nothing is due the one whose turn it is only sees
whether the donor is there, so that small shards' holders are not dead for a month before anybody knows; for
an auditor that is known to be away itself another one looks, so that whoever died together with his auditors
is missed as well.
Everything follows from the roster, the round and the lease: nobody chooses a victim.
Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import Final

from node import limits
from node.chunks.audit import auditors, due_days
from node.crypto.hashing import blake3_256
from node.records.lease import Lease
from node.units import PeerId

OWNER_TURNS: Final = 7
"""One of so many turns is the owner's, whether it is there or not: the others vest meanwhile."""
BASE_S: Final = 0.5
"""Seconds that any answer may take: a busy loop, a queue, a disk that has to spin up is late anyway."""
SAMPLE_S: Final = 0.015
"""Seconds for a sample: a seek of a slow disk. A donor that fetches it needs a round trip instead."""
ROUND_TRIP_S_MAX: Final = 1.0
"""A donor that pretends to be farther away gains no more than this."""


class Duty(Enum):
    """What to do about a lease in a round."""

    NONE = auto()
    WATCH = auto()
    """See whether the donor can be reached."""
    SAMPLE = auto()


def turn(lease: Lease, *, round_number: int) -> int | None:
    """The number of a shard's turn in this round; None where it is not due. The law of `audit.is_due`."""
    offset = int.from_bytes(blake3_256(lease.segment_id + bytes([lease.shard_index]))[:8], "big")
    number, rest = divmod(round_number + offset, due_days(lease.byte_count))
    return None if rest else number


def co_holder_duty(
    me: PeerId,
    lease: Lease,
    holders: Collection[PeerId],
    *,
    round_number: int,
    interval_s: int,
    is_away: Callable[[PeerId], bool] = lambda peer_id: False,
) -> Duty:
    """The duty of a holder of the segment about another one's lease; `holders` are those of its roster, and
    `is_away` says which of them gave this one no answer."""
    now_s = round_number * interval_s
    order = auditors(lease.segment_id, holders, lease.holder, now_s=now_s)
    if not order:
        return Duty.NONE
    number = turn(lease, round_number=round_number)
    is_sampled = number is not None and number % OWNER_TURNS != 0
    on_duty = order[(number if is_sampled and number is not None else round_number) % len(order)]
    if on_duty == me:
        return Duty.SAMPLE if is_sampled else Duty.WATCH
    if not is_away(on_duty):
        return Duty.NONE
    there = [peer for peer in holders if peer == me or not is_away(peer)]
    stand_ins = auditors(lease.segment_id, there, lease.holder, now_s=now_s)
    return Duty.WATCH if stand_ins and stand_ins[round_number % len(stand_ins)] == me else Duty.NONE


def owner_duty(lease: Lease, holders: Collection[PeerId], *, round_number: int) -> Duty:
    """The duty of the owner's node, while it is there, about one of its leases."""
    number = turn(lease, round_number=round_number)
    if number is None:
        return Duty.WATCH
    alone = not set(holders) - {lease.holder}
    return Duty.SAMPLE if alone or not number % OWNER_TURNS else Duty.WATCH


def may_ask(
    auditor: PeerId,
    lease: Lease,
    holders: Collection[PeerId],
    *,
    round_number: int,
    now_round: int,
    interval_s: int,
) -> bool:
    """Whether by the donor's roster a co-holder is among those that may sample its lease, in a round that is
    at most one away from its own."""
    if abs(round_number - now_round) > 1:
        return False
    return auditor in auditors(lease.segment_id, holders, lease.holder, now_s=round_number * interval_s)


def is_reporter(me: PeerId, lease: Lease, holders: Collection[PeerId], *, now_s: int) -> bool:
    """Whether it is this auditor that tells others of a week's first pass."""
    return auditors(lease.segment_id, holders, lease.holder, now_s=now_s)[:1] == [me]


def allowance_s(sample_count: int, round_trip_s: float) -> float:
    """How long an answer may take before it is late, from the challenge to the answer's first bytes."""
    return BASE_S + 2 * min(round_trip_s, ROUND_TRIP_S_MAX) + SAMPLE_S * sample_count


def sample_total(lease_count: int, samples: int) -> int:
    """Samples of a challenge over so many leases."""
    return min(limits.AUDIT_SAMPLES_MAX, lease_count * samples)


def place_in_round(me: PeerId, donor: PeerId, round_number: int) -> float:
    """When in a round to audit a donor, 0 to 1: seeded, so that work spreads and all do not come at once."""
    seed = blake3_256(me + donor + round_number.to_bytes(8, "big"))
    return int.from_bytes(seed[:4], "big") / 2**32
