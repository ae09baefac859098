"""Places shards of this account that nobody keeps, remade from the others, under its own leases. Layer 4.

What a put could not place, and what a grant does not reach, goes to new holders as a put would bring it: the
owner signs an ordinary lease and pays for it. Invariants: a holder is asked for a lease only with the blocks
that give the manifest's root; what it countersigns is checked to be what was asked; a close whose reply was
lost is asked for again; what came to nothing leaves no reservation. Source: design.md, section 4 (put, heal).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from node import limits
from node.chunks import messages, placement
from node.chunks.admission import Payer
from node.chunks.client import HolderClient, HolderSession
from node.chunks.geometry import SegmentGeometry
from node.chunks.get.locate import ShardPlace
from node.chunks.healing.messages import Case
from node.chunks.healing.prober import Prober
from node.chunks.healing.rebuild import Rebuilder, Sender, Taker, Traffic
from node.chunks.manifest import SegmentManifest
from node.chunks.placement import SHARD_OVERHEAD_BYTES, Donor
from node.chunks.put.donors import DonorPool
from node.chunks.put.holder_put import EGRESS_FACTOR
from node.chunks.put.put_summary import lease_price
from node.chunks.scores import Scoreboard
from node.crypto.signing import KeyPair
from node.errors import RefusedError, RemoteError, UnreachableError
from node.ports import Clock, Directory, Entropy, Network
from node.records.charge import manifest_bytes_max
from node.records.lease import LEASE_ID_BYTES, LEASE_NONCE_BYTES, Lease
from node.records.offer import PRICE_MICROCREDITS
from node.records.repair import RepairGrant
from node.units import DAY_S, AccountId, LeaseId, OwnerKey, PeerId

ROUNDS_MAX: Final = 3
"""Times that other donors are chosen for what the ones before did not take."""
POOL_LIFE_S: Final = 30.0
"""Offers are asked for anew after so long."""
ABORT_DEADLINE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class PlacingContext:
    """What placing works with."""

    network: Network
    client: HolderClient
    directory: Directory
    rebuilder: Rebuilder
    prober: Prober
    scores: Scoreboard
    account: AccountId
    """This one: no donor of the same account counts as a holder of its files."""
    clock: Clock
    entropy: Entropy
    payer: Payer | None = None


@dataclass(slots=True)
class Placed:
    """What placing came to."""

    leases: list[Lease]
    traffic: Traffic
    why_not: str = ""
    """For a person, where something is left to do."""


class Placer:
    """Finds holders for shards that have none."""

    def __init__(self, context: PlacingContext) -> None:
        self._context = context
        self._pool: DonorPool | None = None
        self._pool_of: tuple[int, int] = (0, 0)
        self._pool_made_s = 0.0

    async def has_room(self, geometry: SegmentGeometry, *, days: int) -> bool:
        """Whether some donor would take a shard of such a segment now, for so long."""
        cost = geometry.shard_bytes + SHARD_OVERHEAD_BYTES
        pool = await self._donors(geometry, days)
        return any(donor.free_bytes >= cost for donor in self._others(pool))

    async def place(
        self,
        manifest: SegmentManifest,
        grant: RepairGrant,
        shards: Collection[int],
        *,
        kept: Sequence[Lease],
        avoid: Iterable[PeerId],
        owner: KeyPair,
        end_day: int,
    ) -> Placed:
        """Make `shards` again from those of the leases `kept`, and place them until `end_day`.

        Raises `NotEnoughShardsError`, and `OwnerInconsistentError` where blocks contradict the manifest.
        """
        traffic = Traffic()
        placed = Placed([], traffic)
        days = end_day - self._context.clock.now_s() // DAY_S
        pool = await self._donors(manifest.geometry, days)
        left, failed = set(shards), set(avoid)
        places = [ShardPlace(lease.shard_index, lease.holder) for lease in kept]
        contacts = {lease.holder: self._context.prober.contact(lease.holder) for lease in kept}
        for _ in range(ROUNDS_MAX):
            takers = self._takers(pool, manifest, left, [*kept, *placed.leases], failed, owner, end_day)
            if not takers:
                break
            sender = _PutSender(self._context, traffic, network_id=grant.network, days=days)
            await self._context.rebuilder.rebuild(
                manifest, grant, takers, places=places, contacts=contacts, traffic=traffic, sender=sender
            )
            for taker in takers:
                placed.leases += taker.leases
                left -= {lease.shard_index for lease in taker.leases}
                if taker.failure is not None:
                    placed.why_not = str(taker.failure)
                    failed.add(taker.contact.peer_id)
                    self._blame(pool, taker, taker.failure)
            if not left:
                break
        if not left:
            placed.why_not = ""
        elif not placed.why_not:
            placed.why_not = self._why_not(pool)
        return placed

    def _why_not(self, pool: DonorPool) -> str:
        if pool.credit_refusals.donors:
            return "the donors that have room give this account no more credit (cairn credit)"
        return "no donor has room for what is missing"

    def _takers(
        self,
        pool: DonorPool,
        manifest: SegmentManifest,
        shards: Collection[int],
        kept: Sequence[Lease],
        failed: Collection[PeerId],
        owner: KeyPair,
        end_day: int,
    ) -> list[Taker]:
        load: dict[PeerId, int] = {}
        for lease in kept:
            load[lease.holder] = load.get(lease.holder, 0) + 1
        shard_bytes = manifest.geometry.shard_bytes
        chosen = placement.replace(
            manifest.code, self._others(pool), shards, shard_bytes=shard_bytes, kept=load, failed=failed
        )
        takers = []
        for peer_id, indexes in chosen.items():
            pool.take(peer_id, len(indexes), shard_bytes)
            leases = tuple(
                self._lease(manifest, index, peer_id, owner, end_day, rate=pool.price(peer_id))
                for index in indexes
            )
            takers.append(Taker(pool.contact(peer_id), Case(leases, (), ())))
        return takers

    def _others(self, pool: DonorPool) -> list[Donor]:
        return [donor for donor in pool.donors() if pool.account(donor.peer_id) != self._context.account]

    def _lease(
        self,
        manifest: SegmentManifest,
        shard_index: int,
        holder: PeerId,
        owner: KeyPair,
        end_day: int,
        *,
        rate: int,
    ) -> Lease:
        entropy = self._context.entropy
        return Lease(
            network=self._context.client.preamble.network_id,
            lease_id=LeaseId(entropy.random_bytes(LEASE_ID_BYTES)),
            segment_id=manifest.segment_id,
            shard_index=shard_index,
            root=manifest.root(shard_index),
            byte_count=manifest.geometry.shard_bytes,
            owner_key=OwnerKey(owner.public),
            holder=holder,
            start_day=self._context.clock.now_s() // DAY_S,
            end_day=end_day,
            rate=rate,
            egress_cap_bytes=EGRESS_FACTOR * manifest.geometry.shard_bytes,
            nonce=entropy.random_bytes(LEASE_NONCE_BYTES),
        ).sign_as_owner(owner)

    def _blame(self, pool: DonorPool, taker: Taker, failure: RemoteError) -> None:
        peer_id = taker.contact.peer_id
        if not isinstance(failure, RefusedError):
            pool.fail(peer_id)
        elif failure.code == messages.REFUSED_CREDIT:
            pool.no_credit(peer_id)
        else:
            pool.full(peer_id)

    def ask_anew(self) -> None:
        """Forget what donors offered a moment ago: somebody waits, and may have started one."""
        self._pool = None

    async def _donors(self, geometry: SegmentGeometry, days: int) -> DonorPool:
        """Whoever offers room now, or did a moment ago: segments come in crowds."""
        context, kind = self._context, (geometry.shard_bytes, days)
        is_stale = trio.current_time() - self._pool_made_s > POOL_LIFE_S
        if self._pool is None or is_stale or self._pool_of != kind:
            manifest_bytes = manifest_bytes_max(geometry.code.total_shards, geometry.stripe_count)
            pool = DonorPool(
                network=context.network,
                client=context.client,
                directory=context.directory,
                clock=context.clock,
                scores=context.scores,
                wanted_bytes=geometry.stored_bytes,
                shard_bytes=geometry.shard_bytes,
                total_shards=geometry.code.total_shards,
                shard_price=lease_price(geometry.shard_bytes + manifest_bytes, days, PRICE_MICROCREDITS),
                payer=context.payer,
            )
            await pool.gather()
            self._pool, self._pool_of, self._pool_made_s = pool, kind, trio.current_time()
        return self._pool


class _PutSender(Sender):
    """Streams to takers as a put does: open, blocks, close with leases and charges."""

    def __init__(self, context: PlacingContext, traffic: Traffic, *, network_id: str, days: int) -> None:
        super().__init__(network_id=network_id, traffic=traffic)
        self._context = context
        self._days = days
        self._open: dict[PeerId, messages.PutId] = {}
        self._manifest = b""

    async def open(self, taker: Taker, manifest: SegmentManifest, grant: RepairGrant) -> None:
        """Reserve at a taker; its failure shows in it."""
        context, geometry, payer = self._context, manifest.geometry, self._context.payer
        self._manifest = manifest.encoded
        put_id = messages.PutId(context.entropy.random_bytes(16))
        request = messages.PutOpen(
            put_id=put_id,
            data_shards=geometry.code.data_shards,
            total_shards=geometry.code.total_shards,
            block_bytes=limits.BLOCK_BYTES,
            last_block_bytes=geometry.last_block_bytes,
            stripe_count=geometry.stripe_count,
            shard_indexes=taker.shard_indexes,
            lease_days=self._days,
            rate=taker.case.leases[0].rate,
            payer=b"" if payer is None else payer.cert(),
        )
        try:
            session = await context.client.open(taker.contact)
            taker.session = session
            await session.open_put(request)
            self._open[taker.contact.peer_id] = put_id
        except RemoteError as error:
            taker.failure = error

    async def finish(self, taker: Taker) -> None:
        """Take its signatures."""
        put_id = self._open[taker.contact.peer_id]
        try:
            try:
                assert isinstance(taker.session, HolderSession)
                replies = await self._close_put(taker, taker.session, put_id)
            except UnreachableError:
                # The holder may have signed: asked again, it answers the same.
                async with self._context.client.session(taker.contact) as session:
                    replies = await self._close_put(taker, session, put_id)
            taker.leases = self.verified(taker, replies)
            del self._open[taker.contact.peer_id]
            if self._context.payer is not None:
                self._context.payer.dealt_with(taker.contact)
        except RemoteError as error:
            taker.failure = error

    async def _close_put(
        self, taker: Taker, session: HolderSession, put_id: messages.PutId
    ) -> Sequence[bytes]:
        payer, leases = self._context.payer, taker.case.leases
        charges = (
            [] if payer is None else [payer.charge(each, len(self._manifest)).encode() for each in leases]
        )
        return await session.close_put(put_id, self._manifest, [each.encode() for each in leases], charges)

    async def close(self, taker: Taker) -> None:
        """End the session, whatever came of it, and free what was reserved for nothing."""
        await super().close(taker)
        put_id = self._open.pop(taker.contact.peer_id, None)
        if put_id is None:
            return
        with trio.CancelScope(shield=True), trio.move_on_after(ABORT_DEADLINE_S):
            try:
                async with self._context.client.session(taker.contact) as session:
                    await session.abort_put(put_id)
            except RemoteError:
                return  # it lapses there by itself
