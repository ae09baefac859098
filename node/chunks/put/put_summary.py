"""What a finished put comes to, read once from its journal. Layer 4, over the journal and the catalogue.

One pass, in order; memory is bounded by the segments that were in flight together, plus what must be whole
in the end: segment ids, a bundle of manifests as far as it fits, the placement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from node import limits
from node.chunks.catalogue import CatalogueSegment
from node.chunks.geometry import Code, FileGeometry, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.placement import is_weak
from node.chunks.put import journal as records
from node.chunks.put.journal import Journal
from node.records.charge import BILLED_EXTRA_BYTES, manifest_bytes_max
from node.records.lease import Lease
from node.records.offer import PRICE_MICROCREDITS
from node.units import MIB, Contact, PeerId, SegmentId


@dataclass(slots=True)
class PutSummary:
    """All leases of a put, added up."""

    segment_ids: list[SegmentId] = field(default_factory=list)
    bundle: list[SegmentManifest] | None = field(default_factory=list)
    """All segment manifests, or None once they don't fit."""
    placed: list[dict[int, PeerId]] = field(default_factory=list)
    """Holder by shard, a segment each."""
    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    stored_bytes: int = 0
    missing_shards: int = 0
    weak: bool = False
    expires_s: int | None = None
    price_microcredits: int = 0

    def add(self, segment: CatalogueSegment, manifest: SegmentManifest, code: Code) -> None:
        """Count one segment; they come in order."""
        self.segment_ids.append(segment.segment_id)
        self._add_to_bundle(manifest)
        counts: dict[PeerId, int] = {}
        placed: dict[int, PeerId] = {}
        for lease in segment.leases:
            placed[lease.shard_index] = lease.holder
            counts[lease.holder] = counts.get(lease.holder, 0) + 1
            self.stored_bytes += lease.byte_count
            ends = lease.expires_s
            self.expires_s = ends if self.expires_s is None else min(self.expires_s, ends)
            self.price_microcredits += lease_price(
                lease.byte_count + len(manifest.encoded), lease.end_day - lease.start_day, lease.rate
            )
        self.placed.append(placed)
        self.missing_shards += code.total_shards - len(placed)
        self.weak = self.weak or is_weak(code, list(counts.values()))

    def _add_to_bundle(self, manifest: SegmentManifest) -> None:
        if self.bundle is None:
            return
        self.bundle.append(manifest)
        size = sum(len(each.encoded) + 5 for each in self.bundle) if len(self.bundle) % 16 == 0 else 0
        if size > limits.SEGMENT_BUNDLE_BYTES_MAX:
            self.bundle = None


def lease_price(byte_count: int, days: int, rate_microcredits: int) -> int:
    """Micro-credits of a lease: bytes as billed, times days, times the rate a MiB and day; rounded up."""
    billed = (byte_count + BILLED_EXTRA_BYTES) * days * rate_microcredits
    return -(-billed // MIB)


def segment_price(segment: SegmentGeometry, days: int) -> int:
    """Micro-credits of leases on all shards of a segment, at most: its manifest may be a little shorter."""
    manifest_bytes = manifest_bytes_max(segment.code.total_shards, segment.stripe_count)
    price = lease_price(segment.shard_bytes + manifest_bytes, days, PRICE_MICROCREDITS)
    return segment.code.total_shards * price


def file_price(geometry: FileGeometry, days: int, *, without: Collection[int] = ()) -> int:
    """Micro-credits of leases on a file, at most, segments `without` aside; all but the last are alike."""
    last = geometry.segment_count - 1
    full_count = last - sum(index != last for index in without)
    price = full_count * segment_price(geometry.segment(0), days)
    return price if last in without else price + segment_price(geometry.segment(last), days)


def placed_segments(journal: Journal, network: str) -> Iterator[tuple[CatalogueSegment, SegmentManifest]]:
    """The segments of a put whose segments are all placed, in the order of their index."""
    leases: dict[int, dict[int, Lease]] = {}
    manifests: dict[int, bytes] = {}
    waiting: dict[int, tuple[CatalogueSegment, SegmentManifest]] = {}
    next_index = 0

    def take(index: int) -> tuple[CatalogueSegment, SegmentManifest]:
        shards = leases.pop(index, {})
        manifest = SegmentManifest.decode(manifests.pop(index))
        ordered = tuple(shards[shard] for shard in sorted(shards))
        return CatalogueSegment(index, manifest.segment_id, ordered), manifest

    for record in journal.records():
        match record:
            case records.SegmentMade():
                manifests[record.segment_index] = record.manifest
            case records.PutClosed():
                shards = leases.setdefault(record.segment_index, {})
                for data in record.leases:
                    lease = Lease.decode(data, network=network)
                    shards[lease.shard_index] = lease
            case records.SegmentDone(segment_index=index):
                waiting[index] = take(index)
                while next_index in waiting:
                    yield waiting.pop(next_index)
                    next_index += 1
            case _:
                pass
    # The last ones, whose holders are told of each other when the file is announced.
    waiting.update((index, take(index)) for index in list(manifests))
    yield from (waiting[index] for index in sorted(waiting))
