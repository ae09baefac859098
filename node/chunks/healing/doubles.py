"""Lets two holders of one shard know of each other, when this node has heard of both. Layer 4.

After a partition either half may have made a shard again. Its two holders settle between themselves who
lets go, but only once they know of each other; a small file is audited once a month, and rosters travel with
audits. Invariant: nobody is told twice of the same leases, whatever they do then. Source: credit.md,
"Repair" and invariant 14.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from node.chunks.client import HolderClient
from node.chunks.healing.prober import Prober
from node.chunks.repair import Copy
from node.errors import RemoteError
from node.records.lease import Lease
from node.units import LeaseId, OwnerKey, PeerId, SegmentId

REMEMBERED_MAX: Final = 10_000
"""Segments whose doubled leases are remembered, the latest ones: 3 MB at two shards each."""
TOLD_PER_INTERVAL: Final = 64
"""Segments whose holders are told in one check interval."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Doubled:
    leases: tuple[Lease, ...]
    due_at: float
    told: frozenset[LeaseId] = frozenset()


def doubled(copies: Mapping[Lease, Copy], me: PeerId) -> tuple[Lease, ...]:
    """Leases of others than `me` that keep the same shard for the same owner, and whom nobody misses."""
    by_shard: dict[tuple[int, OwnerKey], list[Lease]] = {}
    for lease, copy in copies.items():
        if lease.holder != me and copy.silent_since_s is None and not copy.is_contradicted:
            by_shard.setdefault((lease.shard_index, lease.owner_key), []).append(lease)
    several = (each for each in by_shard.values() if len({lease.holder for lease in each}) > 1)
    return tuple(lease for leases in several for lease in leases)


class Doubles:
    """Segments of this holder's of which others keep a shard twice."""

    def __init__(self, client: HolderClient, prober: Prober) -> None:
        self._client = client
        self._prober = prober
        self._segments: OrderedDict[SegmentId, _Doubled] = OrderedDict()

    def note(self, segment_id: SegmentId, leases: tuple[Lease, ...], *, due_at: float) -> None:
        """What is doubled now: told at `due_at` unless mended by then. Noted again, it keeps its time."""
        if not leases:
            known = self._segments.get(segment_id)
            if known is not None and not known.told:
                del self._segments[segment_id]
            return
        known = self._segments.setdefault(segment_id, _Doubled(leases, due_at))
        if set(leases) - set(known.leases):
            known.due_at = due_at
        known.leases = leases
        while len(self._segments) > REMEMBERED_MAX:
            self._segments.popitem(last=False)

    async def tell_due(self, now: float) -> int:
        """Tell the holders of what is due, each of the others; how many segments that were."""
        count = 0
        for segment_id, known in list(self._segments.items()):
            news = {lease.lease_id for lease in known.leases} - known.told
            if not news or known.due_at > now:
                continue
            known.told |= news
            await self._tell(segment_id, known.leases)
            count += 1
            if count == TOLD_PER_INTERVAL:
                break
        return count

    async def _tell(self, segment_id: SegmentId, leases: Iterable[Lease]) -> None:
        by_shard: dict[int, list[Lease]] = {}
        for lease in leases:
            by_shard.setdefault(lease.shard_index, []).append(lease)
        news: dict[PeerId, list[bytes]] = {}
        for doubles in by_shard.values():
            for holder in {lease.holder for lease in doubles}:
                others = [lease.encode() for lease in doubles if lease.holder != holder]
                news.setdefault(holder, []).extend(others)
        for holder, encoded in sorted(news.items()):
            try:
                async with self._client.session(self._prober.contact(holder)) as session:
                    await session.merge_roster(segment_id, encoded)
            except RemoteError as error:
                _logger.info("a holder does not hear that its shard has another one: %s", error)
