"""Which days of a lease its audits bear out. Layer 2, pure.

A pass by the owner (the owner key or the paying account) vests every day up to its
own. A day also vests once two different assigned co-holders have passed the lease on that day or later:
no day rests on one stranger's word, and the rule does not depend on the order in which receipts arrive.
Co-holders may collude: where the owner's last word on a lease is a failure, theirs counts for nothing, and
what rests on theirs alone is told apart, so that nothing is spent on it before the owner has looked.

Invariant: what vests of a lease does not depend on the order of its receipts. Source: credit.md, "Earning".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from node.credit.pair_records import Pair
from node.crypto.identity import peer_id_of
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.units import AccountId, PeerId

LATE_PASS_DAYS = 30
"""A lease that ended still vests by a pass within so many days; after that nothing of it is open."""


def vestings(
    lease: Lease, payer: AccountId, receipts: Iterable[AuditReceipt], pair: Pair, today: int
) -> list[tuple[int, bool]]:
    """(the day on which it vested, whether by co-holders alone) of each vested day, from the first."""
    own = {peer_id_of(lease.owner_key), peer_id_of(payer)}
    creditor_peers = pair.low_peers if lease.holder in pair.low_peers else pair.high_peers
    owner_passes: set[int] = set()
    owner_failed = -1
    holder_passes: defaultdict[int, set[PeerId]] = defaultdict(set)
    for receipt in receipts:
        if not lease.start_day <= receipt.day <= today:
            continue
        if receipt.outcome is Outcome.FAILED and receipt.auditor in own and receipt.day < lease.end_day:
            owner_failed = max(owner_failed, receipt.day)
        if receipt.outcome is not Outcome.PASSED:
            continue
        if receipt.auditor in own:
            owner_passes.add(receipt.day)
        elif (
            receipt.auditor not in creditor_peers
            and receipt.auditor not in holder_passes[receipt.day]
            and pair.is_assigned(receipt, lease)  # last: it costs a look at what is known of the segment
        ):
            holder_passes[receipt.day].add(receipt.auditor)
    if owner_failed >= max(owner_passes, default=0):
        holder_passes.clear()
    return _vested(lease, owner_passes, holder_passes, today)


_NEVER = 2**62


def _vested(
    lease: Lease, owner_passes: set[int], holder_passes: dict[int, set[PeerId]], today: int
) -> list[tuple[int, bool]]:
    """One walk back in time: of each day, the first owner's pass and the first passes of two co-holders."""
    owner = first = second = _NEVER
    first_auditor: PeerId | None = None
    seen: list[tuple[int, bool]] = []
    last = min(today, lease.end_day + LATE_PASS_DAYS - 1)
    for day in range(last, lease.start_day - 1, -1):
        if day in owner_passes:
            owner = day
        for auditor in holder_passes.get(day, ()):
            if auditor != first_auditor:
                second, first_auditor = first, auditor
            first = day
        if day < lease.end_day:
            seen.append((min(owner, second), owner == _NEVER))
    seen.reverse()
    return [(day, is_vouched) for day, is_vouched in seen if day != _NEVER]
