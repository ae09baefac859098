"""One coded segment with its owner, as a putter holds it: for tests that speak the protocol by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from node import limits
from node.chunks import messages
from node.chunks.client import HolderSession
from node.chunks.coding_engines import best_engine
from node.chunks.geometry import Code, FileGeometry
from node.chunks.header import FileHeader
from node.chunks.manifest import FileManifest, SegmentManifest
from node.chunks.pipeline import SegmentBuilder, SegmentCodec
from node.crypto.sealing import FileKeys, Suite, owner_key
from node.crypto.signing import KeyPair
from node.records.lease import Lease
from node.units import DAY_S, Contact, LeaseId, OwnerKey, PeerId
from tests.clocks import START_S

CODE = Code(2, 4)
TODAY = START_S // DAY_S


@dataclass(frozen=True, slots=True)
class SampleSegment:
    """Segment 0 of a file of one segment."""

    manifest: SegmentManifest
    file: FileManifest
    owner: KeyPair
    blocks: tuple[tuple[bytes, ...], ...]
    """By shard, then by stripe."""

    def open_request(self, put_id: bytes, shards: tuple[int, ...]) -> messages.PutOpen:
        """The put of some shards."""
        geometry = self.manifest.geometry
        return messages.PutOpen(
            put_id=messages.PutId(put_id),
            data_shards=geometry.code.data_shards,
            total_shards=geometry.code.total_shards,
            block_bytes=limits.BLOCK_BYTES,
            last_block_bytes=geometry.last_block_bytes,
            stripe_count=geometry.stripe_count,
            shard_indexes=shards,
        )

    def lease(self, holder: PeerId, shard: int, *, seed: int = 0, days: int = 30) -> Lease:
        """The owner's half."""
        source = random.Random(f"{seed} {shard}")
        return Lease(
            network="test",
            lease_id=LeaseId(source.randbytes(16)),
            segment_id=self.manifest.segment_id,
            shard_index=shard,
            root=self.manifest.root(shard),
            byte_count=self.manifest.geometry.shard_bytes,
            owner_key=OwnerKey(self.owner.public),
            holder=holder,
            start_day=TODAY,
            end_day=TODAY + days,
            rate=1,
            egress_cap_bytes=1,
            nonce=source.randbytes(16),
        ).sign_as_owner(self.owner)

    async def send(self, session: HolderSession, shards: tuple[int, ...]) -> None:
        """All blocks of some shards, in slots of that order."""
        for stripe in range(self.manifest.geometry.stripe_count):
            for slot, shard in enumerate(shards):
                await session.send_block(slot, stripe, self.blocks[shard][stripe])

    async def put(
        self, session: HolderSession, contact: Contact, shards: tuple[int, ...], *, seed: int = 0
    ) -> tuple[bytes, ...]:
        """The whole put; the countersigned leases."""
        put_id = messages.PutId(random.Random(seed).randbytes(16))
        await session.open_put(self.open_request(put_id, shards))
        await self.send(session, shards)
        leases = [self.lease(contact.peer_id, shard, seed=seed).encode() for shard in shards]
        return await session.close_put(put_id, self.manifest.encoded, leases)


def sample_segment(size: int = 400_000, code: Code = CODE, *, seed: int = 1) -> SampleSegment:
    """A segment of reproducible bytes."""
    source = random.Random(seed)
    keys = FileKeys.derive(source.randbytes(32))
    salt = source.randbytes(16)
    owner = owner_key(source.randbytes(32), salt)
    geometry = FileGeometry.of(size, code)
    codec = SegmentCodec.of(geometry, 0, keys=keys, suite=Suite.XCHACHA20_POLY1305, engine=best_engine())
    segment = geometry.segment(0)
    builder = SegmentBuilder(segment)
    blocks: list[list[bytes]] = [[] for _ in range(code.total_shards)]
    for stripe in range(segment.stripe_count):
        encoded = codec.encode(stripe, source.randbytes(segment.stripe_plaintext_bytes(stripe)))
        builder.add(stripe, encoded.leaves, encoded.stripe_hash)
        for shard, block in enumerate(encoded.blocks):
            blocks[shard].append(bytes(block))
    manifest = builder.build(OwnerKey(owner.public), salt)
    file = FileManifest(
        owner_key=OwnerKey(owner.public),
        owner_salt=salt,
        suite=Suite.XCHACHA20_POLY1305,
        geometry=geometry,
        segment_ids=manifest.segment_id,
        key_check=keys.key_check,
        sealed_header=keys.header_key.seal(FileHeader("sample", size).encode()),
    )
    return SampleSegment(manifest, file, owner, tuple(tuple(column) for column in blocks))


def altered(lease: Lease, owner: KeyPair, **changes: object) -> bytes:
    """A lease with other contents, properly signed by `owner`."""
    unsigned = replace(lease, owner_signature=b"", **changes)  # type: ignore[arg-type]
    return unsigned.sign_as_owner(owner).encode()
