"""Repairs one segment: looks, gathers evidence, remakes what is missing, places it, tells everybody. Layer 4.

Invariants: what is remade was looked for by this node just before, whatever records say; nothing is asked of
a new holder without evidence that it can check; a segment whose blocks contradict its manifest is left alone
from then on; the co-holders, the grant, the attachments of segment 0 and the announcements follow the shards.
Source: credit.md, "Repair".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from node import limits
from node.chunks import messages, placement
from node.chunks.bad_answer import BadAnswer
from node.chunks.client import HolderClient
from node.chunks.evidence import Evidence
from node.chunks.get.locate import ShardPlace
from node.chunks.healing.cases import grant_uses
from node.chunks.healing.client import RepairClient
from node.chunks.healing.journal import HealingJournal
from node.chunks.healing.messages import Case
from node.chunks.healing.prober import Prober, Seen
from node.chunks.healing.rebuild import Rebuilder, Taker, Traffic
from node.chunks.manifest import SegmentManifest
from node.chunks.put.donors import DonorPool
from node.chunks.put.holder_put import EGRESS_FACTOR
from node.chunks.put.publish import BUSY_PAUSE_S, BUSY_TRIES, publish_segment
from node.chunks.reputations import Reputations
from node.chunks.roster import ANNOUNCERS, announcers, begun_leases
from node.chunks.scores import Scoreboard
from node.credit.grants import REUSE_DAYS, UNPROVED
from node.crypto.signing import KeyPair
from node.errors import CryptoError, OwnerInconsistentError, ProtocolError, RefusedError, RemoteError
from node.ports import Clock, Directory, Entropy, Network, Offload
from node.records.lease import LEASE_ID_BYTES, Lease, Release, granted_nonce
from node.records.receipt import AuditReceipt
from node.records.repair import Handover, RepairGrant
from node.units import DAY_S, Contact, FileHash, LeaseId, OwnerKey, PeerId, format_count

WITNESSES_ASKED_MAX = 8
"""Co-holders asked to look for themselves, one after another, until each lost lease has two."""
POOL_LIFE_S = 30.0
"""Offers are asked for anew after so long."""
_NONCE_RANDOM_BYTES = 12

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Attachments:
    """What holders of a file's segment 0 keep beside it: (kind, content), the placement first."""

    file_hash: FileHash
    items: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class SegmentView:
    """A segment as whoever repairs it knows it."""

    manifest: SegmentManifest
    grant: RepairGrant
    leases: tuple[Lease, ...]
    """All that are known, each verified."""
    attachments: tuple[Attachments, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """What this node saw of a segment just now."""

    seen: Mapping[Lease, Seen]

    @property
    def proved(self) -> list[Lease]:
        """Leases whose shard is there."""
        return [lease for lease, state in self.seen.items() if state is Seen.PROVED]

    def proved_shards(self) -> frozenset[int]:
        """Shards that are there somewhere."""
        return frozenset(lease.shard_index for lease in self.proved)


@dataclass(slots=True)
class RepairOutcome:
    """What a repair came to."""

    lost: int = 0
    """Shards that were to be remade."""
    leases: list[Lease] = field(default_factory=list)
    """Those remade and placed."""
    traffic: Traffic = field(default_factory=Traffic)
    why_not: str = ""
    """For a person, where something is left to do."""


@dataclass(frozen=True, slots=True)
class HealerContext:
    """What healing works with."""

    network: Network
    client: HolderClient
    repair: RepairClient
    directory: Directory
    rebuilder: Rebuilder
    prober: Prober
    evidence: Evidence
    journal: HealingJournal
    scores: Scoreboard
    reputations: Reputations
    clock: Clock
    entropy: Entropy
    offload: Offload
    on_leases: Callable[[Sequence[Lease]], None] = lambda leases: None
    """New leases of a segment that this node may keep a roster of; blocks on the disk."""


class Healer:
    """Repairs segments, one at a time."""

    def __init__(self, context: HealerContext) -> None:
        self._context = context
        self._pool: DonorPool | None = None
        self._pool_made_s = 0.0
        self._gathering = trio.Lock()
        self._attaching = trio.Lock()
        self.inconsistent = context.journal.inconsistent()
        """Segments whose verified blocks contradict their manifest: nobody repairs them."""

    @property
    def me(self) -> PeerId:
        """This node."""
        return self._context.network.peer_id

    def contact(self, peer_id: PeerId) -> Contact:
        """A peer with the addresses of its connection, perhaps none."""
        return self._context.prober.contact(peer_id)

    def live(self, view: SegmentView) -> tuple[Lease, ...]:
        """The leases that live today and have begun."""
        return begun_leases(view.leases, today=self._today)

    @property
    def _today(self) -> int:
        return self._context.clock.now_s() // DAY_S

    async def survey(self, view: SegmentView, *, patience_s: float = 0.0) -> Survey:
        """Look at every shard of a segment; whoever was away for long need not be looked up again yet."""
        leases = self.live(view)
        return Survey(await self._context.prober.probe(view.manifest, leases, patience_s=patience_s))

    async def repair(
        self, view: SegmentView, survey: Survey, lost: Mapping[int, Lease], *, owner: KeyPair | None = None
    ) -> RepairOutcome:
        """Remake the shards `lost` (each with the lease that it replaces) and place them.

        With the file's `owner` key its releases are the evidence, else what this node and others saw. Raises
        `NotEnoughShardsError`.
        """
        outcome = RepairOutcome(lost=len(lost))
        if owner is None:
            spent = self._spent(view)
            if spent & lost.keys():
                count = format_count(len(spent & lost.keys()), "shard was", "shards were")
                outcome.why_not = f"{count} replaced within {REUSE_DAYS} days"
                lost = {index: lease for index, lease in lost.items() if index not in spent}
            evidence = await self._evidence(view, survey, lost)
        else:
            evidence = _Evidence(releases=tuple(self._release(lease, owner) for lease in lost.values()))
        wanted = {index: lease for index, lease in lost.items() if evidence.covers(lease)}
        if len(wanted) < len(lost):
            count = format_count(len(lost) - len(wanted), "shard lacks", "shards lack")
            outcome.why_not = f"{count} a second witness of the loss"
        takers = await self._takers(view, survey, wanted, evidence) if wanted else []
        if not takers:
            outcome.why_not = outcome.why_not or "no donor has room for what is missing"
            return outcome
        proved = [lease for lease in survey.proved if lease.shard_index not in wanted]
        contacts = {lease.holder: self._context.prober.contact(lease.holder) for lease in proved}
        try:
            await self._context.rebuilder.rebuild(
                view.manifest,
                view.grant,
                takers,
                places=[ShardPlace(lease.shard_index, lease.holder) for lease in proved],
                contacts=contacts,
                traffic=outcome.traffic,
            )
        except OwnerInconsistentError as error:
            segment_id = view.manifest.segment_id
            self.inconsistent.add(segment_id)
            await self._context.offload.run(partial(self._context.journal.add_inconsistent, segment_id))
            outcome.why_not = str(error)
            _logger.warning("a segment is left alone: %s", error)
        outcome.leases = [lease for taker in takers for lease in taker.leases]
        for taker in takers:
            if taker.failure is not None:
                if self._pool is not None:
                    self._pool.fail(taker.contact.peer_id)  # others may do better at the next try
                outcome.why_not = str(taker.failure)
                _logger.info("a new holder fell out: %s", taker.failure)
        if outcome.leases:
            await self.tell(view, [*proved, *outcome.leases], new=outcome.leases)
        return outcome

    def _spent(self, view: SegmentView) -> set[int]:
        """Shards that the grant has replaced too lately: nobody would take them again."""
        uses = grant_uses(view.leases, len(view.manifest.encoded))
        return {use.shard_index for use in uses if self._today - use.day < REUSE_DAYS}

    # --- evidence -----------------------------------------------------------------------------------------

    async def _evidence(self, view: SegmentView, survey: Survey, lost: Mapping[int, Lease]) -> _Evidence:
        """What this node has that convinces others; co-holders are asked where it does not suffice."""
        context, segment_id = self._context, view.manifest.segment_id
        seen = {lease: survey.seen[lease] for lease in lost.values()}
        await context.prober.sign(view.manifest, view.leases, seen, now_s=context.clock.now_s())
        receipts, bad = await context.offload.run(
            lambda: (context.evidence.receipts(segment_id), context.evidence.bad_answers(segment_id))
        )
        witnesses = frozenset(lease.holder for lease in self.live(view))
        evidence = _Evidence(tuple(bad), receipts, witnesses=witnesses, now_s=context.clock.now_s())
        helpers = [peer for peer in dict.fromkeys(lease.holder for lease in survey.proved) if peer != self.me]
        for peer_id in helpers[:WITNESSES_ASKED_MAX]:
            missing = [lease.lease_id for lease in lost.values() if not evidence.covers(lease)]
            if not missing:
                break
            signed = await self._ask_witness(view, peer_id, missing)
            evidence = evidence.with_receipts(signed)
            add = partial(context.evidence.add_receipts, signed, view.leases, now_s=context.clock.now_s())
            await context.offload.run(add)
        return evidence

    async def _ask_witness(
        self, view: SegmentView, peer_id: PeerId, lease_ids: Sequence[LeaseId]
    ) -> list[AuditReceipt]:
        context, receipts = self._context, []
        try:
            async with context.repair.session(context.prober.contact(peer_id)) as session:
                for data in await session.witness(view.manifest.segment_id, lease_ids):
                    receipt = AuditReceipt.decode(data, network=context.client.preamble.network_id)
                    receipt.verify()
                    receipts.append(receipt)
        except (RemoteError, ProtocolError, CryptoError) as error:
            _logger.info("a co-holder bears no witness: %s", error)
        return receipts

    def _release(self, lease: Lease, owner: KeyPair) -> Release:
        return Release(lease.network, lease.lease_id, lease.holder, OwnerKey(owner.public)).sign(owner)

    # --- new holders --------------------------------------------------------------------------------------

    async def _takers(
        self, view: SegmentView, survey: Survey, lost: Mapping[int, Lease], evidence: _Evidence
    ) -> list[Taker]:
        """New holders for the lost shards, with their cases; shards that find none are left out."""
        manifest = view.manifest
        kept: dict[PeerId, int] = {}
        for lease in survey.proved:
            kept[lease.holder] = kept.get(lease.holder, 0) + 1
        failed = {lease.holder for lease, state in survey.seen.items() if state is not Seen.PROVED}
        chosen, donors = await self.choose(manifest, lost, kept=kept, failed=failed, grant=view.grant)
        takers = []
        for peer_id, indexes in chosen.items():
            leases = tuple(
                self.lease_for(view, lost[index], peer_id, rate=donors.price(peer_id)) for index in indexes
            )
            replaced = [lost[index] for index in indexes]
            case = Case(
                leases,
                tuple(lease.lease_id for lease in replaced),
                tuple({lease.lease_id: lease for lease in (*view.leases, *replaced)}.values()),
                *evidence.about(replaced),
            )
            takers.append(Taker(donors.contact(peer_id), case))
        return takers

    async def choose(
        self,
        manifest: SegmentManifest,
        shards: Iterable[int],
        *,
        kept: Mapping[PeerId, int],
        failed: Iterable[PeerId],
        grant: RepairGrant,
    ) -> tuple[placement.Assignment, DonorPool]:
        """Places for shards among donors that answer now, spread as far as there are donors.

        The owner's own node never counts as a holder of its files.
        """
        context, wanted = self._context, sorted(shards)
        shard_bytes = manifest.geometry.shard_bytes
        donors = await self._donors(manifest)
        offered = [
            donor
            for donor in donors.donors()
            if donors.price(donor.peer_id) <= grant.rate
            and donors.account(donor.peer_id) != grant.account
            and context.reputations.takes_new_shards(donor.peer_id)
        ]
        chosen = placement.replace(
            manifest.code, offered, wanted, shard_bytes=shard_bytes, kept=kept, failed=set(failed)
        )
        for peer_id, indexes in chosen.items():
            donors.take(peer_id, len(indexes), shard_bytes)
        return chosen, donors

    def ask_anew(self) -> None:
        """Forget what donors offered a moment ago: somebody waits, and may have started one."""
        self._pool = None

    async def _donors(self, manifest: SegmentManifest) -> DonorPool:
        """Whoever offers room now, or did a moment ago: segments come in crowds."""
        context = self._context
        async with self._gathering:
            if self._pool is None or trio.current_time() - self._pool_made_s > POOL_LIFE_S:
                pool = DonorPool(
                    network=context.network,
                    client=context.client,
                    directory=context.directory,
                    clock=context.clock,
                    scores=context.scores,
                    wanted_bytes=manifest.geometry.stored_bytes,
                    shard_bytes=manifest.geometry.shard_bytes,
                    total_shards=manifest.code.total_shards,
                )
                await pool.gather()
                self._pool, self._pool_made_s = pool, trio.current_time()
            return self._pool

    def lease_for(
        self,
        view: SegmentView,
        lost: Lease,
        holder: PeerId,
        *,
        rate: int,
        handover: Handover | None = None,
    ) -> Lease:
        """The repairer's half of the lease in the place of `lost`: under the grant."""
        entropy, manifest = self._context.entropy, view.manifest
        generation = 1 + max(
            (lease.generation for lease in view.leases if lease.shard_index == lost.shard_index), default=0
        )
        end_day = min(view.grant.expires_s // DAY_S, self._today + limits.LEASE_DAYS_MAX)
        return Lease(
            network=lost.network,
            lease_id=LeaseId(entropy.random_bytes(LEASE_ID_BYTES)),
            segment_id=manifest.segment_id,
            shard_index=lost.shard_index,
            root=manifest.root(lost.shard_index),
            byte_count=manifest.geometry.shard_bytes,
            owner_key=manifest.owner_key,
            holder=holder,
            start_day=self._today,
            end_day=end_day,
            rate=rate,
            egress_cap_bytes=EGRESS_FACTOR * manifest.geometry.shard_bytes,
            nonce=granted_nonce(generation, entropy.random_bytes(_NONCE_RANDOM_BYTES)),
        ).under_grant(view.grant, handover)

    # --- telling ------------------------------------------------------------------------------------------

    async def tell(
        self,
        view: SegmentView,
        leases: Sequence[Lease],
        *,
        new: Sequence[Lease],
        contacts: Mapping[PeerId, Contact] | None = None,
    ) -> None:
        """Let all holders of a segment know its `leases`; those of `new` ones get what goes with segment 0.

        Five announce it, and the file where it is segment 0.
        """
        context, segment_id = self._context, view.manifest.segment_id
        await context.offload.run(lambda: context.on_leases(new))
        reach = {lease.holder: context.prober.contact(lease.holder) for lease in leases} | dict(
            contacts or {}
        )
        newcomers = list(dict.fromkeys(lease.holder for lease in new))
        await self._attach(view, newcomers, reach)
        await publish_segment(context.client, context.clock, segment_id, leases, reach, grant=view.grant)
        if view.attachments:
            holders = list(dict.fromkeys(lease.holder for lease in leases))
            chosen = announcers(segment_id, holders, now_s=context.clock.now_s())[:ANNOUNCERS]
            files = [each.file_hash for each in view.attachments][: limits.ANNOUNCE_KEYS_MAX]
            async with trio.open_nursery() as nursery:
                for peer_id in chosen:
                    nursery.start_soon(self._announce, reach[peer_id], files)

    async def _attach(
        self, view: SegmentView, newcomers: Iterable[PeerId], reach: Mapping[PeerId, Contact]
    ) -> None:
        for peer_id in newcomers if view.attachments else ():
            # A holder takes one at a time of a peer, and segments move several at a time.
            async with self._attaching:
                for attempt in range(BUSY_TRIES):
                    try:
                        await self._attach_one(view, reach[peer_id])
                        break
                    except RemoteError as error:
                        is_busy = isinstance(error, RefusedError) and error.code == messages.REFUSED_BUSY
                        if not is_busy or attempt == BUSY_TRIES - 1:
                            _logger.info("a new holder took no attachments: %s", error)
                            break
                    await trio.sleep(BUSY_PAUSE_S * (attempt + 1))

    async def _attach_one(self, view: SegmentView, contact: Contact) -> None:
        async with self._context.client.session(contact) as session:
            for each in view.attachments:
                for kind, content in each.items:
                    await session.attach(kind, each.file_hash, view.manifest.segment_id, content)

    async def _announce(self, contact: Contact, files: Sequence[FileHash]) -> None:
        try:
            async with self._context.client.session(contact) as session:
                await session.announce(file_hashes=files)
        except RemoteError as error:
            _logger.info("a holder announces nothing: %s", error)


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What convinces a new holder that leases are lost."""

    bad_answers: tuple[BadAnswer, ...] = ()
    receipts: tuple[AuditReceipt, ...] = ()
    releases: tuple[Release, ...] = ()
    witnesses: frozenset[PeerId] = frozenset()
    now_s: int = 0

    def with_receipts(self, more: Iterable[AuditReceipt]) -> _Evidence:
        """And these."""
        return _Evidence(self.bad_answers, (*self.receipts, *more), self.releases, self.witnesses, self.now_s)

    def covers(self, lost: Lease) -> bool:
        """Whether it suffices for one lease."""
        return (
            any(release.lease_id == lost.lease_id for release in self.releases)
            or any(bad.lease.lease_id == lost.lease_id for bad in self.bad_answers)
            or len(self._two(lost)) == 2
        )

    def about(
        self, leases: Iterable[Lease]
    ) -> tuple[tuple[AuditReceipt, ...], tuple[BadAnswer, ...], tuple[Release, ...]]:
        """The part that is needed for some leases, as a case has it."""
        receipts: dict[bytes, AuditReceipt] = {}
        bad: dict[LeaseId, BadAnswer] = {}
        releases = []
        for lease in leases:
            found = [each for each in self.bad_answers if each.lease.lease_id == lease.lease_id]
            released = [each for each in self.releases if each.lease_id == lease.lease_id]
            if released:
                releases.append(released[0])
            elif found and len(bad) < limits.REPAIR_BAD_ANSWERS_MAX:
                bad[lease.lease_id] = found[0]
            else:
                receipts.update((each.record_id(), each) for each in self._two(lease))
        return tuple(receipts.values()), tuple(bad.values()), tuple(releases)

    def _two(self, lost: Lease) -> list[AuditReceipt]:
        """The newest receipts of two different witnesses, the shorter of two as new first."""
        newest: dict[PeerId, AuditReceipt] = {}
        for receipt in self.receipts:
            if (
                receipt.donor == lost.holder
                and receipt.outcome in UNPROVED
                and receipt.auditor in self.witnesses
                and lost.lease_id in receipt.lease_ids()
            ):
                known = newest.get(receipt.auditor)
                if known is None or (receipt.time_s, -len(receipt.leases)) > (
                    known.time_s, -len(known.leases)
                ):  # fmt: skip
                    newest[receipt.auditor] = receipt
        return sorted(newest.values(), key=lambda each: (-each.time_s, len(each.leases)))[:2]
