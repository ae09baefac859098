"""Donors that gave no answer, and what is to be asked of them when they come back. Layer 4.

Invariant: bounded: at most `AUDIT_GIVEN_UP_MAX` donors, and of each and file as many leases as a challenge
takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from node import limits
from node.chunks.audits.work import PairWork
from node.units import LeaseId, PeerId, SegmentId


class GivenUp:
    """Work that waits for its donor to return."""

    def __init__(self) -> None:
        self._waiting: dict[PeerId, list[PairWork]] = {}

    def __contains__(self, donor: PeerId) -> bool:
        return donor in self._waiting

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._waiting)

    def of(self, donor: PeerId) -> Sequence[PairWork]:
        """What is to be asked of a donor; it grows with `add`."""
        return self._waiting.get(donor, ())

    def add(self, work: PairWork) -> None:
        """Ask for these leases when the donor is back; nothing where too many donors are away."""
        waiting = self._waiting.get(work.donor)
        if waiting is None:
            if len(self._waiting) >= limits.AUDIT_GIVEN_UP_MAX:
                return
            waiting = self._waiting[work.donor] = []
        for known in waiting:
            if known.file_hash == work.file_hash:
                known.sample = _first({**work.all(), **known.sample})
                return
        waiting.append(PairWork(work.donor, work.file_hash, sample=_first(work.all())))

    def take(self, donor: PeerId) -> list[PairWork]:
        """What was to be asked of a donor, which waits for it no longer."""
        return self._waiting.pop(donor, [])


def _first(leases: dict[LeaseId, tuple[SegmentId, int]]) -> dict[LeaseId, tuple[SegmentId, int]]:
    """As many as one challenge takes."""
    return dict(list(leases.items())[: limits.AUDIT_SAMPLES_MAX])
