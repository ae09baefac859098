"""A donor's answer by the pure core, for tests that look at its bytes."""

from __future__ import annotations

from collections.abc import Sequence

from node.chunks.audit import Challenge, Sample, Target, answer
from node.chunks.geometry import SegmentGeometry
from node.units import LeaseId


def answer_with(
    ids: Sequence[LeaseId], root: bytes, geometry: SegmentGeometry, blocks: Sequence[bytes], leaves: bytes
) -> tuple[Challenge, list[Sample]]:
    """One sample of each of some leases on shards with these blocks."""
    targets = tuple(Target(lease_id, root, geometry) for lease_id in ids)
    challenge = Challenge(b"n" * 32, targets, len(targets))
    return challenge, answer(challenge, lambda _, index: blocks[index], lambda _: leaves)
