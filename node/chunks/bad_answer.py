"""A signed answer that shows a shard lost, as anyone can check it. Layer 2, pure.

Invariant: what `verify` accepts convinces whoever knows the segment's geometry: the donor countersigned the
lease, and signed that it lacks a sample of it or that the sample is something else.
Source: credit.md, "Audits".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from node import limits, wire
from node.chunks import audit
from node.chunks.audit import Sample
from node.chunks.geometry import SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.errors import ProtocolError
from node.records.lease import Lease
from node.records.receipt import AuditAnswer
from node.units import PeerId, SegmentId

_FIELDS = 6


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """Sample `index` of `answer`, at a block and chunk of the leased shard, is missing or false."""

    answer: AuditAnswer
    index: int
    block_index: int
    chunk_index: int
    sample: Sample
    lease: Lease

    @property
    def donor(self) -> PeerId:
        """Who signed it."""
        return self.answer.donor

    @property
    def segment_id(self) -> SegmentId:
        """The segment of the shard."""
        return self.lease.segment_id

    @property
    def shard_index(self) -> int:
        """The shard that is lost there."""
        return self.lease.shard_index

    @property
    def is_false(self) -> bool:
        """Whether the donor signed something untrue; else it said that it lacks the block."""
        return self.sample != Sample()

    def verify(self, manifest: SegmentManifest) -> None:
        """Raises `CryptoError` or `ProtocolError` unless it proves a shard of the manifest's segment lost."""
        self.verify_in(manifest.segment_id, manifest.geometry)
        audit.Target.of(self.lease, manifest)

    def verify_in(self, segment_id: SegmentId, geometry: SegmentGeometry) -> None:
        """Raises `CryptoError` or `ProtocolError` unless it proves a shard of this segment lost.

        The lease, which owner and holder signed, has the shard's root.
        """
        if self.lease.segment_id != segment_id or self.lease.byte_count != geometry.shard_bytes:
            raise ProtocolError("a bad answer about another segment")
        at = (self.block_index, self.chunk_index)
        audit.prove_bad(self.answer, self.index, at, self.sample, self.lease, geometry)

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([
            self.answer.encode(), self.index, self.block_index, self.chunk_index, self.sample.encode(),
            self.lease.encode(),
        ])  # fmt: skip

    @classmethod
    def decode(cls, data: bytes, *, network: str) -> Self:
        """Not verified yet. Raises `ProtocolError`."""
        items = wire.expect_list(wire.decode(data, size_max=limits.BAD_ANSWER_BYTES_MAX), count=_FIELDS)
        bad = cls(
            AuditAnswer.decode(wire.expect_bytes(items[0]), network=network),
            wire.expect_int(items[1], low=0, high=limits.AUDIT_SAMPLES_MAX - 1),
            wire.expect_int(items[2], low=0, high=limits.SEGMENT_STRIPES - 1),
            wire.expect_int(items[3], low=0, high=limits.BLOCK_BYTES),
            Sample.decode(wire.expect_bytes(items[4])),
            Lease.decode(wire.expect_bytes(items[5]), network=network),
        )
        if bad.encode() != data:
            raise ProtocolError("a bad answer that does not re-encode to itself")
        return bad
