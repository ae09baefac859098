"""Which shards leave a donor whose cap was lowered, and in which order. Layer 2, pure.

Invariants: what nobody is owed goes first, then what another holder has as well, then what no lease that
lives is on; of the rest those go first whose segment has most to spare by the evidence: a holder that is
silent or contradicted does not count. A segment that needs this donor's shard comes last. Each shard that
goes makes the others of its segment dearer. Of equals the one that was promised last goes first: least of it
has been earned. The order depends on the set alone. Source: design.md, section 4 (donate).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from node.units import SegmentId


class Claim(IntEnum):
    """What somebody still has on a shard here, the least first."""

    NOTHING = 0
    """Its last lease is over, and the days of grace too."""
    TWICE = 1
    """Another holder was shown to have the same shard."""
    GRACE = 2
    """Its last lease is over; the owner may be late."""
    LEASE = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """One shard here."""

    segment_id: SegmentId
    shard_index: int
    claim: Claim
    spare: int
    """Shards of its segment beyond `data_shards` that are there by the evidence, this donor's with a lease
    that lives among them; negative where too few are known."""
    start_day: int
    """Of its latest lease."""
    byte_count: int
    """What goes with it."""


def order(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    """All of them, the first to go first."""
    by_segment: dict[SegmentId, list[Candidate]] = {}
    for candidate in candidates:
        by_segment.setdefault(candidate.segment_id, []).append(candidate)
    heap: list[tuple[tuple[int, int, int, bytes, int], Candidate]] = []
    for shards in by_segment.values():
        shards.sort(key=_within)
        heap.append(_entry(shards[0], gone=0))
        shards.reverse()
    heapq.heapify(heap)
    gone: dict[SegmentId, int] = {}
    while heap:
        _, first = heapq.heappop(heap)
        yield first
        rest = by_segment[first.segment_id]
        rest.pop()
        # A shard that others have as well, or on which no lease lives, was not counted as one to spare.
        gone[first.segment_id] = gone.get(first.segment_id, 0) + (first.claim is Claim.LEASE)
        if rest:
            heapq.heappush(heap, _entry(rest[-1], gone=gone[first.segment_id]))


def _within(candidate: Candidate) -> tuple[int, int, int]:
    """The order of shards of one segment."""
    return candidate.claim, -candidate.start_day, candidate.shard_index


def _entry(candidate: Candidate, *, gone: int) -> tuple[tuple[int, int, int, bytes, int], Candidate]:
    spare = candidate.spare - gone if candidate.claim > Claim.TWICE else 0
    rank = (candidate.claim, -spare, -candidate.start_day, candidate.segment_id, candidate.shard_index)
    return rank, candidate
