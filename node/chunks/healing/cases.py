"""Whether a case for new leases without their owner holds. Layer 4, without I/O.

Invariants: what is accepted is covered by the owner's grant; the holder whose lease it replaces said so
itself (a handover, a signed bad answer), or two other co-holders did, or the owner released the lease; a
grant replaces a lost shard at most once in 7 days, while a handover moves what is paid for already.
Source: credit.md, "Repair".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from node.chunks.healing.messages import Case
from node.chunks.manifest import SegmentManifest
from node.chunks.roster import check_grant_of, check_lease, live_leases
from node.credit.grants import GrantUse, Replacement, check_grant, is_silent
from node.credit.units import lease_value
from node.errors import ProtocolError
from node.records.lease import Lease
from node.records.repair import RepairGrant
from node.units import DAY_S, LeaseId, PeerId


def check_case(
    case: Case,
    manifest: SegmentManifest,
    grant: RepairGrant,
    *,
    me: PeerId,
    known: Iterable[Lease] = (),
    now_s: int,
) -> None:
    """Accept the case of a repairer for leases of this holder; `known` are leases that it knows anyway.

    Raises:
        ProtocolError: something in it is about something else, or the evidence does not suffice.
        CryptoError: a signature does not hold.
        CreditError: the grant does not reach.
    """
    check_grant_of(grant, manifest)
    roster = {lease.lease_id: lease for lease in case.roster}
    for lease in roster.values():
        check_lease(lease, manifest)
    for receipt in case.receipts:
        receipt.verify()
    for release in case.releases:
        release.verify()
    uses = grant_uses([*roster.values(), *known], len(manifest.encoded))
    seen: set[int] = set()
    for lease, lost_id in zip(case.leases, case.lost, strict=True):
        if lease.shard_index in seen:
            raise ProtocolError("two leases for one shard")
        seen.add(lease.shard_index)
        _check_one(case, lease, _lost(roster, lost_id, lease, me), manifest, grant, uses, now_s=now_s)


def check_terms(lease: Lease, manifest: SegmentManifest, *, me: PeerId, now_s: int) -> None:
    """Accept what this holder is asked to sign. Raises `ProtocolError`, `CryptoError`."""
    today = now_s // DAY_S
    if (lease.holder, lease.segment_id) != (me, manifest.segment_id):
        raise ProtocolError("a lease of another holder or segment")
    if lease.shard_index >= manifest.code.total_shards:
        raise ProtocolError("a lease of a shard that the segment does not have")
    if lease.root != manifest.root(lease.shard_index) or lease.byte_count != manifest.geometry.shard_bytes:
        raise ProtocolError("a lease of another shard than the manifest describes")
    if not (abs(lease.start_day - today) <= 1 and lease.end_day > today):
        raise ProtocolError("a lease that does not begin today")
    lease.verify_owner_half()


def grant_uses(leases: Iterable[Lease], manifest_bytes: int) -> list[GrantUse]:
    """What was replaced under a grant so far; what was handed over cost it nothing."""
    uses: dict[LeaseId, GrantUse] = {}
    for lease in leases:
        half = lease.half
        if half is not None and half.grant is not None and half.handover is None:
            uses[lease.lease_id] = GrantUse(
                lease.shard_index, lease.start_day, lease_value(lease, manifest_bytes)
            )
    return list(uses.values())


def _lost(roster: dict[LeaseId, Lease], lost_id: LeaseId, lease: Lease, me: PeerId) -> Lease:
    lost = roster.get(lost_id)
    if lost is None or lost.shard_index != lease.shard_index or lost.holder == me:
        raise ProtocolError("a lease in the place of none that the roster has")
    return lost


def _check_one(
    case: Case,
    lease: Lease,
    lost: Lease,
    manifest: SegmentManifest,
    grant: RepairGrant,
    uses: Sequence[GrantUse],
    *,
    now_s: int,
) -> None:
    half = lease.half
    if half is None or half.grant is None or half.grant.encode() != grant.encode():
        raise ProtocolError("a lease under another grant than the one shown")
    wanted = Replacement(
        lost=lost,
        generation=lease.generation,
        rate=lease.rate,
        total_shards=manifest.code.total_shards,
        micros=lease_value(lease, len(manifest.encoded)),
    )
    if half.handover is not None:
        if (half.handover.lease_id, half.handover.holder) != (lost.lease_id, lost.holder):
            raise ProtocolError("a handover of another lease than the one replaced")
        check_grant(grant, wanted, (), now_s=now_s)
        return
    check_grant(grant, wanted, uses, now_s=now_s)
    if not _is_lost(case, lost, manifest, now_s=now_s):
        raise ProtocolError(f"no evidence that shard {lost.shard_index} is lost at its holder")


def _is_lost(case: Case, lost: Lease, manifest: SegmentManifest, *, now_s: int) -> bool:
    for release in case.releases:
        if release.signer == manifest.owner_key and release.ends(lost, file_owner=manifest.owner_key):
            return True
    for bad in case.bad_answers:
        if bad.lease.lease_id == lost.lease_id:
            bad.verify(manifest)
            return True
    today = now_s // DAY_S
    witnesses = {lease.holder for lease in live_leases(case.roster, today=today)}
    return is_silent(lost, case.receipts, witnesses, now_s=now_s)
