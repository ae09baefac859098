"""Repairs a file when somebody asks: at once, for its owner and for holders of it. Layer 4.

Invariants: the owner's word that a lease is over stands for evidence of death, so nothing is waited for; a
holder asks as the watch does, with the evidence that others check, but without threshold and turn; nobody
else can repair. Source: credit.md, "Repair"; design.md, section 4 (heal).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from node.chunks import messages
from node.chunks.catalogue import Catalogue
from node.chunks.get.locate import ROSTERS_WANTED, LocatedFile, Locator
from node.chunks.healing.healer import Attachments, Healer, RepairOutcome, SegmentView, Survey
from node.chunks.healing.placing import Placer
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


@dataclass(frozen=True, slots=True)
class OwnedLook:
    """What the owner's node saw of one of its segments just now."""

    file: LocatedFile
    index: int
    owner: KeyPair
    view: SegmentView
    survey: Survey

    def lost(self, is_kept: Callable[[Lease, Seen], bool]) -> dict[int, Lease]:
        """Shards that are kept nowhere, as `is_kept` says, each with the lease of theirs that ends last."""
        seen = self.survey.seen
        kept = {lease.shard_index for lease, state in seen.items() if is_kept(lease, state)}
        by_end = sorted(seen, key=lambda lease: (lease.end_day, lease.lease_id))
        return {lease.shard_index: lease for lease in by_end if lease.shard_index not in kept}

    def unplaced(self) -> set[int]:
        """Shards that no lease is on: a put found no holder for them, or the last lease ended."""
        placed = {lease.shard_index for lease in self.survey.seen}
        return set(range(self.view.manifest.code.total_shards)) - placed


class FileRepairer:
    """Repairs the files that this node owns or keeps parts of."""

    def __init__(
        self,
        *,
        holders: Holders,
        locator: Locator,
        healer: Healer,
        service: HealingService,
        placer: Placer,
        catalogue: Catalogue,
        account_seed: bytes,
        offload: Offload,
    ) -> None:
        self._holders = holders
        self._locator = locator
        self._healer = healer
        self._service = service
        self._placer = placer
        self._catalogue = catalogue
        self._mending = trio.Lock()
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
        file, owner = await self.locate(file_hash)
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
        """What is not there now is made again: whoever asks does not wait for a holder to come back."""
        look = await self.look(file, index, owner)
        if look is None:
            return RepairOutcome(why_not="no holder answers")
        lost = look.lost(lambda _lease, state: state in (Seen.PROVED, Seen.UNKNOWN))
        return await self.mend(look, lost)

    # --- the owner's files, a segment at a time -------------------------------------------------------------

    async def locate(self, file_hash: FileHash) -> tuple[LocatedFile, KeyPair]:
        """A file with the key that owns it if it is this account's. Raises `NotFoundError`."""
        file = await self._locator.locate(file_hash)
        return file, owner_key(self._account_seed, file.manifest.owner_salt)

    async def look(
        self, file: LocatedFile, index: int, owner: KeyPair, *, patience_s: float = 0.0
    ) -> OwnedLook | None:
        """Look at every shard of a segment of the owner's now; None where no holder says what there is.

        Whoever was away for long need not be looked up again within `patience_s`.
        """
        try:
            segment = await self._locator.segment_manifest(file, index)
        except NotFoundError:
            return None
        leases = await self._leases(file, segment, index)
        if not leases:
            return None
        grant = make_grant(segment, leases, owner, KeyPair.from_seed(self._account_seed))
        attachments = (self._attachments(file),) if index == 0 else ()
        view = SegmentView(segment, grant, leases, attachments)
        survey = await self._healer.survey(view, patience_s=patience_s)
        # Audits of the owner's go by its catalogue: it is to know what repair has moved.
        await self._learn(file, index, leases)
        return OwnedLook(file, index, owner, view, survey)

    async def mend(self, look: OwnedLook, lost: Mapping[int, Lease]) -> RepairOutcome:
        """Make `lost` shards again, each in the place of a lease, and those that no lease is on.

        One at a time. Raises `NotEnoughShardsError`, `OwnerInconsistentError`.
        """
        async with self._mending:
            outcome = RepairOutcome()
            if lost:
                outcome = await self._healer.repair(look.view, look.survey, lost, owner=look.owner)
            left = (lost.keys() | look.unplaced()) - {lease.shard_index for lease in outcome.leases}
            outcome.lost = len(lost.keys() | look.unplaced())
            # What the grant does not reach the owner can still pay for anew.
            if left:
                await self._place(look, left, outcome)
            if outcome.leases:
                await self._learn(look.file, look.index, outcome.leases)
        return outcome

    async def _place(self, look: OwnedLook, shards: Collection[int], outcome: RepairOutcome) -> None:
        live = self._healer.live(look.view)
        if not live:
            outcome.why_not = "its leases have ended"
            return
        kept = [*(lease for lease in look.survey.proved if lease.shard_index not in shards), *outcome.leases]
        placed = await self._placer.place(
            look.view.manifest,
            look.view.grant,
            shards,
            kept=kept,
            avoid={lease.holder for lease, state in look.survey.seen.items() if state is not Seen.PROVED},
            owner=look.owner,
            end_day=max(lease.end_day for lease in live),
        )
        if placed.leases:
            await self._healer.tell(look.view, [*kept, *placed.leases], new=placed.leases)
        outcome.leases += placed.leases
        outcome.traffic.add(placed.traffic)
        outcome.why_not = placed.why_not

    async def _learn(self, file: LocatedFile, index: int, leases: Sequence[Lease]) -> None:
        file_hash = file.manifest.file_hash
        new = {lease.holder for lease in leases}

        def learn() -> None:
            self._catalogue.learn_leases(file_hash, index, leases, file.manifest.owner_key)
            if index == 0:  # those are asked for the file's manifest
                known = {contact.peer_id for contact in self._catalogue.holders(file_hash)}
                reach = [self._healer.contact(peer_id) for peer_id in sorted(new - known)]
                self._catalogue.learn_holders(file_hash, [each for each in reach if each.addresses])

        await self._offload.run(learn)

    async def _leases(self, file: LocatedFile, segment: SegmentManifest, index: int) -> tuple[Lease, ...]:
        """What a few holders of a segment and this node know together."""
        known = await self._offload.run(lambda: self._catalogue.segment(file.manifest.file_hash, index))
        found = list(known.leases) if known is not None and known.segment_id == segment.segment_id else []
        holders = [lease.holder for lease in found]
        holders += [place.holder for place in self._locator.placed(file, index)]
        # Those that are connected first: others may be away, and a look-up asks a neighbourhood.
        peers = dict.fromkeys(sorted(holders, key=lambda peer: not self._holders.client.is_near(peer)))
        answered = await self._ask_rosters(file, segment, peers, found, wanted=ROSTERS_WANTED)
        if answered < ROSTERS_WANTED:  # repair may have moved what they had
            moved = await self._locator.search_places(file, segment, index)
            others = [
                peer_id for peer_id in dict.fromkeys(each.holder for each in moved) if peer_id not in peers
            ]
            await self._ask_rosters(file, segment, others, found, wanted=ROSTERS_WANTED - answered)
        return merge_leases(found, file.manifest.owner_key)

    async def _ask_rosters(
        self,
        file: LocatedFile,
        segment: SegmentManifest,
        peers: Iterable[PeerId],
        found: list[Lease],
        *,
        wanted: int,
    ) -> int:
        """Take rosters in from as many holders as are wanted; how many answered."""
        answered = 0
        for peer_id in peers:
            if answered == wanted:
                break
            leases = await self._roster(file.contact(peer_id), segment)
            answered += bool(leases)
            found.extend(leases)
        return answered

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
