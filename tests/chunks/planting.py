"""Stores a file in a test swarm as a put does, but wherever and however wrongly a test wants it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from node.chunks import messages
from node.chunks.client import HolderSession
from node.chunks.coding_engines import best_engine
from node.chunks.geometry import Code, FileGeometry
from node.chunks.header import FileHeader
from node.chunks.manifest import FileManifest, SegmentManifest, encode_bundle
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import EncodedStripe, SegmentBuilder, SegmentCodec
from node.chunks.roster import Placement
from node.chunks.store.shard_store import AttachmentKind
from node.crypto.links import Link
from node.crypto.sealing import FileKeys, Suite, owner_key
from node.crypto.signing import KeyPair
from node.records.lease import Lease
from node.records.placement_hint import PlacementHint
from node.units import DAY_S, LeaseId, Multiaddr, OwnerKey, PeerId
from simulations.machine import SeededEntropy
from tests.chunks.swarm import ACCOUNT_SEED, NETWORK, NOW_S, Holder, Swarm, Visitor
from tests.paying import RATE, certificate, charge

TODAY = NOW_S // DAY_S
LEASE_DAYS = 30
DEFAULT_CODE = Code(10, 30)
SMALL = Code(2, 4)
STRIPE = SMALL.stripe_plaintext_bytes

Tamper = Callable[[int, EncodedStripe], tuple[Sequence[bytes], bytes, bytes]]
"""(stripe number, stripe) to (blocks, leaves, stripe hash) as a malicious owner would have them."""


@dataclass(frozen=True)
class Era:
    """The network that records are signed for, and when."""

    network: str = NETWORK
    now_s: int = NOW_S

    @property
    def today(self) -> int:
        """The day, since 1970."""
        return self.now_s // DAY_S


@dataclass
class Planted:
    """A file in the swarm."""

    link: Link
    manifest: FileManifest
    segments: list[SegmentManifest]
    holders_of: list[dict[int, Holder]]
    """By segment: who got which shard."""


def with_another_block(shard_index: int, stripe_index: int) -> Tamper:
    """An owner who signs the root of another block for a shard, which the stripe hash contradicts."""

    def tamper(stripe: int, encoded: EncodedStripe) -> tuple[list[bytes], bytes, bytes]:
        blocks = [bytes(block) for block in encoded.blocks]
        if stripe == stripe_index:
            blocks[shard_index] = bytes(len(blocks[shard_index]))
        return blocks, b"".join(map(leaf_of, blocks)), encoded.stripe_hash

    return tamper


def content_of(size: int, seed: bytes = b"content") -> bytes:
    return hashlib.shake_128(seed).digest(size)


async def plant(
    swarm: Swarm,
    content: bytes,
    *,
    code: Code = DEFAULT_CODE,
    name: str = "file.bin",
    header: FileHeader | None = None,
    holders: Sequence[Holder] | None = None,
    tamper: Tamper | None = None,
    change_segments: Callable[[list[SegmentManifest]], list[SegmentManifest]] | None = None,
    raw_header: bytes | None = None,
    announce: bool = True,
    place: bool = True,
    addresses: tuple[Multiaddr, ...] | None = None,
    attach: bool = True,
    era: Era = Era(),
) -> Planted:
    """Store `content` on the swarm's holders, shard i at holder i modulo their number.

    `tamper` is what a malicious owner does to stripes, `change_segments` to the list of segments (honest
    holders would refuse that, so it goes straight into their stores); without
    `place` only rosters and provider records say where shards are; `addresses` stand in for the true ones.
    Without `attach` only the shards are stored.
    """
    holders = swarm.holders if holders is None else holders
    digest = hashlib.sha256(content + name.encode() + repr(code).encode()).digest()
    keys, salt = FileKeys.derive(digest), digest[:16]
    owner = owner_key(ACCOUNT_SEED, salt)
    geometry = FileGeometry.of(len(content), code)
    segments: list[SegmentManifest] = []
    blocks: list[list[list[bytes]]] = []  # segment, shard, stripe
    for index in range(geometry.segment_count):
        built, shards = _encode_segment(content, geometry, index, keys, tamper)
        segments.append(built.build(OwnerKey(owner.public), salt))
        blocks.append(shards)
    listed = change_segments(list(segments)) if change_segments else segments
    header = header or FileHeader(name, len(content))
    manifest = FileManifest(
        owner_key=OwnerKey(owner.public),
        owner_salt=salt,
        suite=Suite.XCHACHA20_POLY1305,
        geometry=geometry,
        segment_ids=b"".join(segment.segment_id for segment in listed),
        key_check=keys.key_check,
        sealed_header=keys.header_key.seal(raw_header or header.encode()),
    )
    holders_of: list[dict[int, Holder]] = []
    async with swarm.visitor() as putter:
        for segment, shards in zip(segments, blocks, strict=True):
            holders_of.append(await _store_segment(putter, segment, shards, holders, owner, era))
        planted = Planted(Link(manifest.file_hash, digest), manifest, segments, holders_of)
        if not attach:
            return planted
        await _attach(
            putter, planted, owner, era, announce=announce, place=place, addresses=addresses, listed=listed
        )
    return planted


def _encode_segment(
    content: bytes, geometry: FileGeometry, index: int, keys: FileKeys, tamper: Tamper | None
) -> tuple[SegmentBuilder, list[list[bytes]]]:
    """The builder of the segment's manifest, and its blocks by shard and stripe."""
    codec = SegmentCodec.of(geometry, index, keys=keys, suite=Suite.XCHACHA20_POLY1305, engine=best_engine())
    segment = geometry.segment(index)
    builder = SegmentBuilder(segment)
    shards: list[list[bytes]] = [[] for _ in range(geometry.code.total_shards)]
    for stripe in range(segment.stripe_count):
        start = geometry.stripe_offset(index, stripe)
        encoded = codec.encode(stripe, content[start : start + segment.stripe_plaintext_bytes(stripe)])
        blocks: Sequence[bytes] = [bytes(block) for block in encoded.blocks]
        leaves, stripe_hash = encoded.leaves, encoded.stripe_hash
        if tamper is not None:
            blocks, leaves, stripe_hash = tamper(stripe, encoded)
        builder.add(stripe, leaves, stripe_hash)
        for shard, block in zip(shards, blocks, strict=True):
            shard.append(block)
    return builder, shards


async def _store_segment(
    putter: Visitor,
    segment: SegmentManifest,
    shards: list[list[bytes]],
    holders: Sequence[Holder],
    owner: KeyPair,
    era: Era,
) -> dict[int, Holder]:
    entropy = SeededEntropy(segment.segment_id)
    given: dict[int, Holder] = {}
    leases: list[bytes] = []
    for position, holder in enumerate(holders):
        indexes = range(position, segment.code.total_shards, len(holders))
        if not indexes:
            continue
        async with putter.client.session(holder.contact) as session:
            leases += await _store_shards(
                session, putter.client.peer_id, segment, shards, indexes, owner, entropy, era
            )
        given.update(dict.fromkeys(indexes, holder))
    for holder in dict.fromkeys(given.values()):
        async with putter.client.session(holder.contact) as session:
            await session.merge_roster(segment.segment_id, leases)
    return given


async def _store_shards(
    session: HolderSession,
    me: PeerId,
    segment: SegmentManifest,
    shards: list[list[bytes]],
    indexes: Sequence[int],
    owner: KeyPair,
    entropy: SeededEntropy,
    era: Era,
) -> list[bytes]:
    geometry = segment.geometry
    put_id = messages.PutId(entropy.random_bytes(16))
    await session.open_put(
        messages.PutOpen(
            put_id,
            geometry.code.data_shards,
            geometry.code.total_shards,
            65_472,
            geometry.last_block_bytes,
            geometry.stripe_count,
            tuple(indexes),
            LEASE_DAYS,
            RATE,
            certificate(me, network=era.network, now_s=era.now_s),
        )
    )
    for stripe in range(geometry.stripe_count):
        for slot, index in enumerate(indexes):
            await session.send_block(slot, stripe, shards[index][stripe])
    leases = [
        Lease(
            network=era.network,
            lease_id=LeaseId(entropy.random_bytes(16)),
            segment_id=segment.segment_id,
            shard_index=index,
            root=segment.root(index),
            byte_count=geometry.shard_bytes,
            owner_key=segment.owner_key,
            holder=session.peer_id,
            start_day=era.today,
            end_day=era.today + LEASE_DAYS,
            rate=RATE,
            egress_cap_bytes=0,
            nonce=entropy.random_bytes(16),
        ).sign_as_owner(owner)
        for index in indexes
    ]
    charges = [charge(lease, me, manifest_bytes=len(segment.encoded)) for lease in leases]
    return list(
        await session.close_put(put_id, segment.encoded, [lease.encode() for lease in leases], charges)
    )


async def _attach(
    putter: Visitor,
    planted: Planted,
    owner: KeyPair,
    era: Era,
    *,
    announce: bool,
    place: bool,
    addresses: tuple[Multiaddr, ...] | None,
    listed: list[SegmentManifest],
) -> None:
    manifest, file_hash = planted.manifest, planted.manifest.file_hash
    first = list(dict.fromkeys(planted.holders_of[0].values()))
    everyone = {holder.peer_id: holder for given in planted.holders_of for holder in given.values()}
    placement = Placement.make(
        network=era.network,
        file_hash=file_hash,
        owner=owner,
        sequence=1,
        total_shards=manifest.code.total_shards,
        contacts={peer_id: addresses or holder.contact.addresses for peer_id, holder in everyone.items()},
        segments=[{shard: holder.peer_id for shard, holder in given.items()} for given in planted.holders_of]
        if place
        else [],
    )
    bundle = encode_bundle(listed) if place else None
    segment_id = planted.segments[0].segment_id
    for holder in first:
        if listed != planted.segments:
            keep = partial(holder.store.set_attachment, segment_id, file_hash)
            keep(AttachmentKind.PLACEMENT, placement.encode())
            keep(AttachmentKind.FILE_MANIFEST, manifest.encoded)
            if bundle is not None:
                keep(AttachmentKind.SEGMENT_MANIFESTS, bundle)
            continue
        async with putter.client.session(holder.contact) as session:
            await session.attach(messages.ATTACHED_PLACEMENT, file_hash, segment_id, placement.encode())
            await session.attach(messages.ATTACHED_MANIFEST, file_hash, segment_id, manifest.encoded)
            if bundle is not None:
                await session.attach(messages.ATTACHED_BUNDLE, file_hash, segment_id, bundle)
    if not announce:
        return
    for holder in first[:3]:
        async with putter.client.session(holder.contact) as session:
            await session.announce(file_hashes=[file_hash])
    for segment, given in zip(planted.segments, planted.holders_of, strict=True):
        for holder in list(dict.fromkeys(given.values()))[:5]:
            async with putter.client.session(holder.contact) as session:
                await session.announce(segment_ids=[segment.segment_id])
    hint = PlacementHint.make(
        network=era.network,
        manifest=manifest.encoded,
        owner=owner,
        sequence=1,
        expires_s=era.now_s + LEASE_DAYS * DAY_S,
        holders=[holder.contact for holder in first],
    )
    await putter.directory.put_value(hint.key(), hint.encode())
