"""One file's put over a journal: all segments, then manifests, announcements, hint and catalogue. Layer 4.

Invariants: segments are placed in order, a few at a time; the catalogue knows the file before its journal
goes; a failure leaves a journal from which the same put goes on. Source: design.md, section 4.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Payer
from node.chunks.catalogue import Catalogue, CatalogueEntry, CatalogueSegment
from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.geometry import Code, FileGeometry
from node.chunks.header import FileHeader
from node.chunks.manifest import FileManifest, encode_bundle
from node.chunks.pipeline import BufferPool
from node.chunks.put.donors import DonorPool
from node.chunks.put.granting import make_grant
from node.chunks.put.journal import Journal
from node.chunks.put.journal_queue import JournalQueue
from node.chunks.put.publish import Published, publish_file
from node.chunks.put.put_context import PutContext
from node.chunks.put.put_summary import PutSummary, placed_segments, segment_price
from node.chunks.put.segment_publisher import SegmentPublisher
from node.chunks.put.segment_upload import PlacedSegment, SegmentUpload
from node.chunks.put.source import Source
from node.chunks.roster import Placement
from node.chunks.scores import Scoreboard
from node.crypto.sealing import FileKeys, Suite, owner_key
from node.crypto.signing import KeyPair
from node.errors import NodeError
from node.ports import Clock, Directory, Entropy, Network, Offload
from node.records.placement_hint import PlacementHint
from node.records.repair import RepairGrant
from node.units import FileHash, OwnerKey

SUITE: Final = Suite.XCHACHA20_POLY1305
BUFFERS: Final = 16
_CATALOGUE_BATCH: Final = 32
_WIDE_STRIPE_BYTES: Final = 8 * 1024 * 1024
"""Above this an encoded stripe is so large that one segment at a time is enough in memory."""


@dataclass(frozen=True, slots=True)
class PutSettings:
    """What a node may tune."""

    segments_in_flight: int = 2
    stall_s: float = 20.0
    """A holder that takes nothing for so long is replaced."""
    straggler_s: float = 30.0
    """So long (or twice the others' time) a holder may lag when all others are done."""
    abandon_after_s: int = 7 * 86_400
    """A put not resumed for so long is dropped."""


@dataclass(frozen=True, slots=True)
class PutServices:
    """What a put works with; the same for all puts of a node."""

    network: Network
    client: HolderClient
    directory: Directory
    catalogue: Catalogue
    clock: Clock
    entropy: Entropy
    offload: Offload
    engine: CodingEngine
    account_seed: bytes
    scores: Scoreboard = field(default_factory=Scoreboard)
    payer: Payer | None = None
    settings: PutSettings = field(default_factory=PutSettings)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is kept and findable."""

    manifest: FileManifest
    file_key: bytes
    summary: PutSummary
    published: Published

    @property
    def file_hash(self) -> FileHash:
        """Its name."""
        return self.manifest.file_hash


def stored_bytes(geometry: FileGeometry) -> int:
    """Block bytes of all shards of a file. All segments but the last are alike."""
    last = geometry.segment(geometry.segment_count - 1).stored_bytes
    return (geometry.segment_count - 1) * geometry.segment(0).stored_bytes + last


class FilePut:
    """Puts the bytes of one source; `run` once."""

    def __init__(
        self,
        services: PutServices,
        journal: Journal,
        source: Source,
        *,
        lease_days: int,
        on_phase: Callable[[str], None],
        on_bytes: Callable[[int, int], None],
    ) -> None:
        """`on_bytes(done, total)` counts plaintext bytes."""
        self._services = services
        self._journal = journal
        self._source = source
        self._lease_days = lease_days
        self._on_phase = on_phase
        self._on_bytes = on_bytes
        started = journal.started
        self._code = Code(started.data_shards, started.total_shards)
        self._geometry = FileGeometry.of(source.size_bytes, self._code)
        self._keys = FileKeys.derive(started.file_key)
        self._owner = owner_key(services.account_seed, started.owner_salt)
        self._account = KeyPair.from_seed(services.account_seed)
        self._stored_total = stored_bytes(self._geometry)
        self._sent_bytes = 0

    async def run(self, header: FileHeader, entry_of: Callable[[StoredFile], CatalogueEntry]) -> StoredFile:
        """Place everything, publish it and enter it into the catalogue; `entry_of` makes the row.

        Raises what `SegmentUpload.run` raises.
        """
        publisher = await self._place_segments()
        offload = self._services.offload
        await offload.run(self._source.reader.check_unchanged)
        self._on_phase("publish")
        summary = PutSummary()
        manifest = await offload.run(lambda: self._summarise(summary, header))
        published = await self._publish(manifest, summary, publisher)
        await publisher.end_rest()
        stored = StoredFile(manifest, self._journal.started.file_key, summary, published)
        contacts = list(summary.contacts.values())
        await offload.run(lambda: self._services.catalogue.add(entry_of(stored), contacts))
        return stored

    async def _place_segments(self) -> SegmentPublisher:
        """Place what is not done; the last segments wait to be told of with the file. Raises as `run`."""
        queue = JournalQueue(self._journal, self._services.offload)
        publisher = self._publisher(queue)
        todo = [i for i in range(self._geometry.segment_count) if i not in self._journal.done]
        todo_bytes = sum(self._geometry.segment(i).stored_bytes for i in todo)
        self._sent_bytes = self._stored_total - todo_bytes
        self._note_sent(0)
        if not todo:
            return publisher
        self._on_phase("offers")
        context = await self._context(todo_bytes, queue)
        self._on_phase("send")
        failure: NodeError | None = None
        limit = self._services.settings.segments_in_flight
        if self._code.total_shards * limits.BLOCK_BYTES > _WIDE_STRIPE_BYTES:
            limit = 1
        limiter = trio.CapacityLimiter(limit)

        async def place(index: int, nursery: trio.Nursery) -> None:
            nonlocal failure
            try:
                segment = await SegmentUpload(context, index).run()
                context.placed.add(index)
                await publisher.add(segment)
            except NodeError as error:
                failure = failure or error
                nursery.cancel_scope.cancel()
            finally:
                limiter.release_on_behalf_of(index)

        async with trio.open_nursery() as nursery:
            for index in todo:
                await limiter.acquire_on_behalf_of(index)
                nursery.start_soon(place, index, nursery)
        if failure is not None:
            # The other segments are safe all the same: they are kept for the next try.
            await publisher.flush()
            raise failure
        return publisher

    def _publisher(self, queue: JournalQueue) -> SegmentPublisher:
        services = self._services

        def grant_of(segment: PlacedSegment) -> RepairGrant:
            return make_grant(segment.manifest, segment.leases, self._owner, self._account)

        return SegmentPublisher(services.client, services.clock, queue, grant_of)

    async def _context(self, stored_bytes: int, queue: JournalQueue) -> PutContext:
        services = self._services
        donors = DonorPool(
            network=services.network,
            client=services.client,
            directory=services.directory,
            clock=services.clock,
            scores=services.scores,
            wanted_bytes=stored_bytes,
            shard_bytes=self._geometry.segment(0).shard_bytes,
            total_shards=self._code.total_shards,
            shard_price=self._shard_price(),
            payer=services.payer,
        )
        await donors.gather()
        return PutContext(
            client=services.client,
            donors=donors,
            journal=self._journal,
            journal_queue=queue,
            reader=self._source.reader,
            read_lock=threading.Lock(),
            geometry=self._geometry,
            keys=self._keys,
            suite=SUITE,
            engine=services.engine,
            buffers=BufferPool(buffers_max=BUFFERS),
            owner=self._owner,
            lease_days=self._lease_days,
            clock=services.clock,
            entropy=services.entropy,
            offload=services.offload,
            scores=services.scores,
            stall_s=services.settings.stall_s,
            straggler_s=services.settings.straggler_s,
            on_sent=self._note_sent,
            placed=set(self._journal.done),
            payer=services.payer,
        )

    def _shard_price(self) -> int:
        """Micro-credits of the lease of one of the largest shards, at most."""
        return segment_price(self._geometry.segment(0), self._lease_days) // self._code.total_shards

    def _note_sent(self, byte_count: int) -> None:
        """Progress in plaintext bytes, by what has left; what is sent twice never counts beyond the whole."""
        self._sent_bytes = min(self._stored_total, self._sent_bytes + byte_count)
        total = self._source.size_bytes
        self._on_bytes(total * self._sent_bytes // max(1, self._stored_total), total)

    def _summarise(self, summary: PutSummary, header: FileHeader) -> FileManifest:
        """Read the journal once for the manifest, and once for the catalogue's rows, which need its hash."""
        network = self._services.client.preamble.network_id
        for segment, segment_manifest in placed_segments(self._journal, network):
            summary.add(segment, segment_manifest, self._code)
        summary.contacts = {
            peer_id: self._journal.contacts[peer_id]
            for placed in summary.placed
            for peer_id in placed.values()
        }
        started = self._journal.started
        manifest = FileManifest(
            owner_key=OwnerKey(self._owner.public),
            owner_salt=started.owner_salt,
            suite=SUITE,
            geometry=self._geometry,
            segment_ids=b"".join(summary.segment_ids),
            key_check=self._keys.key_check,
            sealed_header=self._keys.header_key.seal(header.encode()),
        )
        rows: list[CatalogueSegment] = []
        for segment, _ in placed_segments(self._journal, network):
            rows.append(segment)
            if len(rows) == _CATALOGUE_BATCH:
                self._services.catalogue.add_segments(manifest.file_hash, rows)
                rows = []
        self._services.catalogue.add_segments(manifest.file_hash, rows)
        return manifest

    async def _publish(
        self, manifest: FileManifest, summary: PutSummary, publisher: SegmentPublisher
    ) -> Published:
        services = self._services
        network, now_s = services.client.preamble.network_id, services.clock.now_s()
        holders = [summary.contacts[peer_id] for peer_id in dict.fromkeys(summary.placed[0].values())]
        assert summary.expires_s is not None
        expires_s = summary.expires_s

        def make() -> tuple[PlacementHint, list[tuple[str, bytes]]]:
            hint = PlacementHint.make(
                network=network,
                manifest=manifest.encoded,
                owner=self._owner,
                sequence=now_s,
                expires_s=expires_s,
                holders=holders,
            )
            placement = Placement.make(
                network=network,
                file_hash=manifest.file_hash,
                owner=self._owner,
                sequence=now_s,
                total_shards=self._code.total_shards,
                contacts={peer_id: contact.addresses for peer_id, contact in summary.contacts.items()},
                segments=summary.placed,
            )
            attachments = [
                (messages.ATTACHED_PLACEMENT, placement.encode()),
                (messages.ATTACHED_MANIFEST, manifest.encoded),
            ]
            bundle = None if summary.bundle is None else encode_bundle(summary.bundle)
            if bundle is not None:
                attachments.append((messages.ATTACHED_BUNDLE, bundle))
            return hint, attachments

        hint, attachments = await services.offload.run(make)
        return await publish_file(
            services.client,
            services.directory,
            manifest,
            hint,
            attachments,
            holders,
            tell=publisher.tell_rest,
            contacts=summary.contacts,
        )
