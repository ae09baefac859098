"""What a holder knows of who keeps a segment: leases, its own and others', and the owner's grant. Layer 4.

Invariants: a lease of another holder counts once it is checked against the manifest that is kept; rosters
merge by union and lose nothing; what has rotted is as good as never heard. All of it blocks on the disk:
call it in a thread. Source: design.md, section 3; docs/formats/rosters-and-placement.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from node import limits, tagged, wire
from node.chunks import messages
from node.chunks.manifest import SegmentManifest
from node.chunks.roster import check_grant_of, check_lease, merge_leases
from node.chunks.serve.incoming import RefusalError
from node.chunks.store.shard_store import ShardStore
from node.errors import CorruptBlockError
from node.records.lease import Lease
from node.records.repair import RepairGrant
from node.units import SegmentId


class Rosters:
    """The rosters and grants of the segments that one holder keeps."""

    def __init__(self, store: ShardStore, network: str) -> None:
        self._store = store
        self._network = network

    def manifest(self, segment_id: SegmentId) -> SegmentManifest:
        """The manifest of a segment that is kept here. Raises `RefusalError`."""
        encoded = self._store.segment_manifest(segment_id)
        if encoded is None:
            raise RefusalError(messages.REFUSED_MISSING, "no shard of that segment is here")
        return SegmentManifest.decode(encoded)

    def known_leases(self, segment_id: SegmentId) -> tuple[Lease, ...]:
        """The leases of a segment that are kept here or were heard of."""
        try:
            heard = self._decode(self._store.roster(segment_id))
        except CorruptBlockError:
            heard = []  # what has rotted is as good as never heard: the next exchange brings it back
        encoded = self._store.promised_manifest(segment_id)
        if encoded is None:
            return tuple(heard)  # its last shard has just gone
        own = [
            Lease.decode(held.lease.data, network=self._network) for held in self._store.leases(segment_id)
        ]
        return merge_leases([*heard, *own], SegmentManifest.decode(encoded).owner_key)

    def packed(self, segment_id: SegmentId) -> bytes:
        """All leases known of a segment that is held, as a body. Raises `RefusalError`."""
        self.manifest(segment_id)
        return tagged.pack_records([lease.encode() for lease in self.known_leases(segment_id)])

    def learn_leases(self, segment_id: SegmentId, news: Sequence[Lease]) -> int:
        """Check others' leases and take them into the roster; how many are known then.

        Raises `RefusalError`, `ProtocolError`, `CryptoError`: nothing is taken in then.
        """
        manifest = self.manifest(segment_id)
        for lease in news:
            check_lease(lease, manifest)
        return self.merge_verified(manifest, news)

    def merge_verified(
        self, manifest: SegmentManifest, leases: Sequence[Lease], *, moves: bool = False
    ) -> int:
        """Take leases that were checked into the roster of a segment; how many are known then.

        `moves`: this node asked for them, as they say who has what goes from here; a full store takes them.
        """
        count = 0

        def union(old: bytes | None) -> bytes:
            nonlocal count
            merged = merge_leases([*self._decode(old), *leases], manifest.owner_key)
            count = len(merged)
            return tagged.pack_records([lease.encode() for lease in merged])

        self._store.merge_roster(manifest.segment_id, union, moves=moves)
        return count

    def _decode(self, data: bytes | None) -> list[Lease]:
        if data is None:
            return []
        parts = wire.decode(data, size_max=limits.LEASES_BODY_BYTES_MAX)
        return [Lease.decode(wire.expect_bytes(part), network=self._network) for part in parts]

    def learn_grant(self, segment_id: SegmentId, grant: RepairGrant) -> None:
        """Keep the owner's repair grant for a segment that is held; of several the one that ends last.

        Raises `RefusalError`, `ProtocolError`, `CryptoError`.
        """
        check_grant_of(grant, self.manifest(segment_id))
        self.keep_verified_grant(segment_id, grant)

    def keep_verified_grant(self, segment_id: SegmentId, grant: RepairGrant) -> None:
        """Keep a grant that was checked, unless one that ends later is here."""

        def ends(record: bytes) -> tuple[int, bytes]:
            return (RepairGrant.decode(record, network=self._network).expires_s if record else -1), record

        self._store.set_grant(segment_id, lambda old: max(old or b"", grant.encode(), key=ends))

    def grant(self, segment_id: SegmentId) -> bytes:
        """The grant that is kept, encoded. Raises `RefusalError`."""
        record = self._store.grant(segment_id)
        if record is None:
            raise RefusalError(messages.REFUSED_MISSING, "no grant for that segment is here")
        return record
