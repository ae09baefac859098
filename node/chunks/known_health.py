"""The health of one's own files from evidence, without asking anybody. Layer 3, over catalogue and evidence.

Invariants: a shard counts only by an audit that passed within the last period, at a holder that neither
signed a bad answer nor left an audit unanswered since; what nobody proved or missed within that time is
unknown, and a file is called something only where that holds whatever its unknown shards turn out to be.
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
    """When as many of its shards as restore it were last proved; None where they never were."""


@dataclass(frozen=True, slots=True)
class KnownHealth:
    """What is known of a file."""

    segments: tuple[KnownSegment, ...]
    data_shards: int
    total_shards: int

    @property
    def proved_s(self) -> int | None:
        """When what restores the file was last proved; None where it never was."""
        times = [segment.proved_s for segment in self.segments]
        known = [time_s for time_s in times if time_s is not None]
        return min(known) if known and len(known) == len(times) else None

    def word(self, threshold: float) -> str:
        """`healthy`, `degraded`, `lost` or `unknown`; `threshold` is the share of parity that may be gone."""
        if not self.segments:
            return "unknown"
        least = min(segment.alive for segment in self.segments)
        most = min(segment.alive + segment.unknown for segment in self.segments)
        healthy = self.total_shards - threshold * (self.total_shards - self.data_shards)
        if most < self.data_shards:
            return "lost"
        if least >= healthy:
            return "healthy"
        return "degraded" if most < healthy and least >= self.data_shards else "unknown"


def known_health(
    entry: CatalogueEntry, catalogue: Catalogue, evidence: Evidence, *, now_s: int
) -> KnownHealth:
    """What is known of a file of this account. Blocks on the disk."""
    segments = []
    for segment in catalogue.segments(entry.file_hash):
        found = evidence.of_segment(segment.segment_id)
        alive: set[int] = set()
        spoken: set[int] = set()
        proved_s: dict[int, int] = {}
        for lease in segment.leases:
            known = found.leases.get(lease.lease_id)
            if known is None:
                continue
            index, proved = lease.shard_index, known.proved
            if _proves(known, now_s):
                alive.add(index)
            if _speaks(known, now_s):
                spoken.add(index)
            if proved is not None:
                proved_s[index] = max(proved.time_s, proved_s.get(index, 0))
        unknown = {lease.shard_index for lease in segment.leases} - spoken
        enough = sorted(proved_s.values(), reverse=True)[entry.data_shards - 1 :]
        segments.append(
            KnownSegment(segment.segment_index, len(alive), len(unknown), enough[0] if enough else None)
        )
    whole = len(segments) == entry.segments
    return KnownHealth(tuple(segments) if whole else (), entry.data_shards, entry.total_shards)


def _proves(known: LeaseEvidence, now_s: int) -> bool:
    proved = known.proved
    return proved is not None and _is_new(proved.time_s, now_s) and not known.is_lost and not known.no_answers


def _speaks(known: LeaseEvidence, now_s: int) -> bool:
    """Whether something is known of a shard now: who was asked long ago may have it or not."""
    times = [finding.time_s for finding in known.no_answers]
    if known.proved is not None:
        times.append(known.proved.time_s)
    return known.is_lost or any(_is_new(time_s, now_s) for time_s in times)


def _is_new(time_s: int, now_s: int) -> bool:
    return now_s - time_s < PERIOD_S
