"""The health of one's own files from evidence, without asking anybody. Layer 3, over catalogue and evidence.

Invariants: a shard counts only by an audit that passed within the last period, at a holder that neither
signed a bad answer nor left an audit unanswered since; what nobody proved or missed is unknown, and said to
be.
Source: credit.md, "Audits"; a period is 30 days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.chunks.catalogue import Catalogue, CatalogueEntry
from node.chunks.evidence import Evidence
from node.chunks.findings import LeaseEvidence
from node.units import DAY_S

PERIOD_S: Final = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class KnownSegment:
    """What is known of a segment."""

    index: int
    alive: int
    unknown: int
    """Shards of which nothing is known."""
    proved_s: int | None
    """When one of its shards was last proved."""


@dataclass(frozen=True, slots=True)
class KnownHealth:
    """What is known of a file."""

    segments: tuple[KnownSegment, ...]
    data_shards: int
    total_shards: int

    @property
    def is_known(self) -> bool:
        """Whether there is something to say of every shard."""
        return bool(self.segments) and not any(segment.unknown for segment in self.segments)

    @property
    def proved_s(self) -> int | None:
        """Since when every segment has been proved again; None where one never was."""
        times = [segment.proved_s for segment in self.segments]
        known = [time_s for time_s in times if time_s is not None]
        return min(known) if known and len(known) == len(times) else None

    def word(self, threshold: float) -> str:
        """`healthy`, `degraded`, `lost` or `unknown`; `threshold` is the share of parity that may be gone."""
        if not self.is_known:
            return "unknown"
        alive = min(segment.alive for segment in self.segments)
        if alive < self.data_shards:
            return "lost"
        gone = self.total_shards - alive
        return "healthy" if gone <= threshold * (self.total_shards - self.data_shards) else "degraded"


def known_health(
    entry: CatalogueEntry, catalogue: Catalogue, evidence: Evidence, *, now_s: int
) -> KnownHealth:
    """What is known of a file of this account. Blocks on the disk."""
    segments = []
    for segment in catalogue.segments(entry.file_hash):
        found = evidence.of_segment(segment.segment_id)
        alive: set[int] = set()
        spoken: set[int] = set()
        proved_s: list[int] = []
        for lease in segment.leases:
            known = found.leases.get(lease.lease_id)
            if known is None:
                continue
            if _proves(known, now_s):
                alive.add(lease.shard_index)
            if known.is_lost or known.proved is not None or known.no_answers:
                spoken.add(lease.shard_index)
            if known.proved is not None:
                proved_s.append(known.proved.time_s)
        unknown = {lease.shard_index for lease in segment.leases} - spoken
        segments.append(
            KnownSegment(segment.segment_index, len(alive), len(unknown), max(proved_s, default=None))
        )
    whole = len(segments) == entry.segments
    return KnownHealth(tuple(segments) if whole else (), entry.data_shards, entry.total_shards)


def _proves(known: LeaseEvidence, now_s: int) -> bool:
    proved = known.proved
    return (
        proved is not None and now_s - proved.time_s < PERIOD_S and not known.is_lost and not known.no_answers
    )
