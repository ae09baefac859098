"""Repairs a file when somebody asks: at once, for its owner and for holders of it. Layer 4.

Invariants: the owner's word that a lease is over stands for evidence of death, so nothing is waited for; a
holder asks as the watch does, with the evidence that others check, but without threshold and turn; nobody
else can repair. Source: credit.md, "Repair"; design.md, section 4 (heal).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node.chunks import messages
from node.chunks.get.locate import ROSTERS_WANTED, LocatedFile, Locator
from node.chunks.healing.healer import Attachments, Healer, RepairOutcome, SegmentView
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.prober import Seen
from node.chunks.healing.service import HealingService
from node.chunks.holders import Holders
from node.chunks.manifest import SegmentManifest, encode_bundle
from node.chunks.put.granting import make_grant
from node.chunks.roster import merge_leases
from node.crypto.sealing import owner_key
from node.crypto.signing import KeyPair
from node.errors import NotFoundError, RemoteError, UsageError
from node.ports import Offload
from node.records.lease import Lease
from node.units import Contact, FileHash, PeerId

RepairProgress = Callable[[int, int], None]
"""(segments done, segments in all)."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair on demand did."""

    repaired: int
    """Shards remade."""
    segments: int
    """Segments that this node could look after."""
    notes: tuple[str, ...]
    """For a person: what is left, and why."""


class FileRepairer:
    """Repairs the files that this node owns or keeps parts of."""

    def __init__(
        self,
        *,
        holders: Holders,
        locator: Locator,
        healer: Healer,
        service: HealingService,
        held: HeldSegments,
        account_seed: bytes,
        offload: Offload,
    ) -> None:
        self._holders = holders
        self._locator = locator
        self._healer = healer
        self._service = service
        self._held = held
        self._account_seed = account_seed
        self._offload = offload

    async def repair(
        self, file_hash: FileHash, on_progress: RepairProgress = lambda done, total: None
    ) -> RepairReport:
        """Look at every shard of a file now, and remake what is missing.

        Raises:
            NotFoundError: no manifest is found.
            NotEnoughShardsError: too few shards of a segment are left.
            UsageError: this node neither owns the file nor keeps a part of it.
        """
        file = await self._locator.locate(file_hash)
        owner = owner_key(self._account_seed, file.manifest.owner_salt)
        owns = owner.public == file.manifest.owner_key
        repaired = segments = 0
        notes: dict[str, None] = {}
        for index in range(file.manifest.segment_count):
            if owns:
                outcome: RepairOutcome | None = await self._repair_owned(file, index, owner)
            else:
                outcome = await self._service.repair_now(file.manifest.segment_id(index))
            if outcome is not None:
                segments += 1
                repaired += len(outcome.leases)
                if outcome.why_not:
                    notes[f"segment {index}: {outcome.why_not}"] = None
            on_progress(index + 1, file.manifest.segment_count)
        if not segments:
            raise UsageError(
                "this node neither owns this file nor keeps a part of it: its owner and its holders can "
                "repair it"
            )
        return RepairReport(repaired, segments, tuple(notes))

    async def _repair_owned(self, file: LocatedFile, index: int, owner: KeyPair) -> RepairOutcome:
        try:
            segment = await self._locator.segment_manifest(file, index)
        except NotFoundError:
            return RepairOutcome(why_not="no holder answers")
        leases = await self._leases(file, segment, index)
        if not leases:
            return RepairOutcome(why_not="no holder answers")
        grant = make_grant(segment, leases, owner, KeyPair.from_seed(self._account_seed))
        attachments = (self._attachments(file),) if index == 0 else ()
        view = SegmentView(segment, grant, leases, attachments)
        survey = await self._healer.survey(view)
        kept = {
            lease.shard_index for lease, state in survey.seen.items() if state in (Seen.PROVED, Seen.UNKNOWN)
        }
        lost: dict[int, Lease] = {}
        for lease in sorted(survey.seen, key=lambda lease: lease.end_day):
            if lease.shard_index not in kept:
                lost[lease.shard_index] = lease
        if not lost:
            return RepairOutcome()
        return await self._healer.repair(view, survey, lost, owner=owner)

    async def _leases(self, file: LocatedFile, segment: SegmentManifest, index: int) -> tuple[Lease, ...]:
        """What a few holders of a segment know together."""
        places = self._locator.placed(file, index)
        places += await self._locator.search_places(file, segment, index)  # what repair has moved
        found: list[Lease] = []
        answered = 0
        for peer_id in dict.fromkeys(place.holder for place in places):
            if answered == ROSTERS_WANTED:
                break
            leases = await self._roster(file.contact(peer_id), segment)
            answered += bool(leases)
            found.extend(leases)
        return merge_leases(found)

    async def _roster(self, contact: Contact, segment: SegmentManifest) -> list[Lease]:
        try:
            async with self._holders.session(contact) as session:
                return await self._locator.roster(session, segment)
        except RemoteError as error:
            self._holders.blame(PeerId(contact.peer_id), error)
            return []

    def _attachments(self, file: LocatedFile) -> Attachments:
        items = []
        if file.placement is not None:
            items.append((messages.ATTACHED_PLACEMENT, file.placement.encode()))
        items.append((messages.ATTACHED_MANIFEST, file.manifest.encoded))
        known = [file.segments[index] for index in sorted(file.segments)]
        bundle = encode_bundle(known) if len(known) == file.manifest.segment_count else None
        if bundle is not None:
            items.append((messages.ATTACHED_BUNDLE, bundle))
        return Attachments(file.manifest.file_hash, tuple(items))
