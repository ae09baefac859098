"""When a repair grant stands in for its owner at a new holder. Layer 2, pure.

Invariants: a grant is used at most once an index in 7 days and never beyond its credits, rate, generation,
code and expiry; there is evidence that the shard is lost: two different co-holders' receipts of a holder that
did not answer, or answered without the bytes, or one signed bad answer (proved by `node.chunks.audit`).
Source: credit.md, "Repair".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from node.errors import CreditError, ProtocolError
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.records.repair import RepairGrant
from node.units import DAY_S, PeerId

REUSE_DAYS = 7
UNPROVED = (Outcome.NO_ANSWER, Outcome.FAILED)
CLOCKS_APART_S = 600
"""A witness whose clock is ahead by so much is still believed."""
EVIDENCE_DAYS = 7
"""Older receipts of a silent holder prove nothing of today."""


@dataclass(frozen=True, slots=True)
class GrantUse:
    """A replacement made under a grant before."""

    shard_index: int
    day: int
    micros: int


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a repairer asks a new holder for."""

    lost: Lease
    """The lease of the holder said to be dead; verified."""
    generation: int
    rate: int
    total_shards: int
    micros: int
    """What the new lease comes to."""


def check_grant(grant: RepairGrant, wanted: Replacement, uses: Iterable[GrantUse], *, now_s: int) -> None:
    """Accept a verified grant for this replacement.

    Raises:
        ProtocolError: the grant is about something else.
        CreditError: it has expired, is used up, or was used for this index too recently.
    """
    if (grant.network, grant.segment_id, grant.owner_key) != (
        wanted.lost.network, wanted.lost.segment_id, wanted.lost.owner_key,
    ):  # fmt: skip
        raise ProtocolError("a repair grant of another segment or owner")
    if wanted.total_shards != grant.total_shards or wanted.lost.shard_index >= grant.total_shards:
        raise ProtocolError("a repair grant for another code")
    if wanted.generation > grant.generation_max or wanted.rate > grant.rate:
        raise CreditError("the repair grant does not reach to this generation or rate")
    if grant.is_expired(now_s=now_s):
        raise CreditError("the repair grant has expired")
    today = now_s // DAY_S
    known = list(uses)
    if any(use.shard_index == wanted.lost.shard_index and today - use.day < REUSE_DAYS for use in known):
        raise CreditError(f"this shard was replaced within {REUSE_DAYS} days")
    if sum(use.micros for use in known) + wanted.micros > grant.max_credits:
        raise CreditError("the repair grant is used up")


def is_silent(
    lost: Lease, receipts: Iterable[AuditReceipt], co_holders: Collection[PeerId], *, now_s: int
) -> bool:
    """Whether two different co-holders have signed, in the last days, that the holder did not prove it.

    It did not answer, or had other bytes. Receipts are verified; a pass of the lease, by a co-holder, later
    than both outweighs them.
    """
    silent: dict[PeerId, int] = {}
    passed_s = -1
    for receipt in receipts:
        if receipt.donor != lost.holder or lost.lease_id not in receipt.lease_ids():
            continue
        if receipt.auditor not in co_holders or receipt.time_s > now_s + CLOCKS_APART_S:
            continue
        if receipt.outcome in (Outcome.PASSED, Outcome.SLOW):
            passed_s = max(passed_s, receipt.time_s)
        elif receipt.outcome in UNPROVED and now_s - receipt.time_s <= EVIDENCE_DAYS * DAY_S:
            silent[receipt.auditor] = max(silent.get(receipt.auditor, 0), receipt.time_s)
    return sum(time_s > passed_s for time_s in silent.values()) >= 2
