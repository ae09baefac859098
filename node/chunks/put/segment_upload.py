"""One segment, from stripes to enough leases: feeds holders what they wait for, replaces who fails. Layer 4.

Stripes are made when some holder needs them: the least index that a holder with room waits for, for all
holders that wait for it at once. So a replaced or resumed holder gets its earlier blocks by making those
stripes again, and one slow holder holds the others up for `PATIENCE_S` only.

Invariant: what is kept in memory is bounded by the holders' queues, whatever the file.
Source: design.md, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from node import limits
from node.chunks import messages, placement
from node.chunks.manifest import SegmentManifest
from node.chunks.put import journal as records
from node.chunks.put.holder_put import HolderPut, HolderPutContext, SharedStripe, is_fatal
from node.chunks.put.put_context import PutContext
from node.chunks.put.shortage import shortage
from node.chunks.put.stripe_maker import StripeMaker
from node.errors import NodeError, PeerMisbehavedError, RefusedError
from node.ports import Buffer
from node.records.lease import Lease
from node.units import Contact, PeerId

PATIENCE_S: Final = 2.0
"""How long a stripe waits for holders without room before it is made for the others alone."""
QUEUE_BYTES: Final = 12 * 1024 * 1024
"""Encoded bytes that may wait for the holders of one segment."""
WATCH_S: Final = 1.0
"""How often holders that lag are looked at."""


@dataclass(frozen=True, slots=True)
class PlacedSegment:
    """A segment whose leases are signed by both sides."""

    segment_index: int
    manifest: SegmentManifest
    leases: tuple[Lease, ...]
    contacts: dict[PeerId, Contact]


class SegmentUpload:
    """Places one segment; `run` once."""

    def __init__(self, put: PutContext, segment_index: int) -> None:
        self._put = put
        self._index = segment_index
        self._geometry = put.geometry.segment(segment_index)
        self._code = self._geometry.code
        self._maker = StripeMaker(put, segment_index)
        self._state = put.journal.segment(segment_index)
        self._holders: list[HolderPut] = []
        self._closed: dict[int, Lease] = {}
        self._contacts: dict[PeerId, Contact] = {}
        self._handled: set[HolderPut] = set()
        self._refused_here: set[PeerId] = set()
        self._changed = trio.Event()
        self._gathering = False
        self._gathered = False
        self._patience_ends_s: dict[int, float] = {}
        self._lag_since_s: float | None = None
        self._started_s = trio.current_time()
        stripe_bytes = self._code.total_shards * limits.BLOCK_BYTES
        self._holder_context = HolderPutContext(
            client=put.client,
            journal=put.journal_queue,
            owner=put.owner,
            lease_days=put.lease_days,
            geometry=self._geometry,
            segment_index=segment_index,
            clock=put.clock,
            entropy=put.entropy,
            offload=put.offload,
            stall_s=put.stall_s,
            queue_stripes=max(2, min(2 * self._maker.batch, QUEUE_BYTES // stripe_bytes)),
            on_change=self._note_change,
            on_sent=put.on_sent,
            on_delivered=self._note_delivered,
            payer=put.payer,
        )

    async def run(self) -> PlacedSegment:
        """Place the segment.

        Raises:
            NotEnoughPeersError: too few donors for the quorum.
            CreditError: too few of those with space give the payer credit.
            FileChangedError: the source is not what was sealed before.
            NodeError: the source or the journal can't be read or written.
        """
        failure: NodeError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._drive(nursery)
            except NodeError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        assert self._maker.manifest is not None
        return PlacedSegment(
            self._index, self._maker.manifest, tuple(self._closed[shard] for shard in sorted(self._closed)),
            self._contacts,
        )  # fmt: skip

    async def _drive(self, nursery: trio.Nursery) -> None:
        self._restore(nursery)
        self._assign(nursery)
        while True:
            changed = self._changed
            await self._settle_over()
            orphans = self._replace(nursery)
            if not orphans and not self._live() and self._maker.manifest is not None:
                return
            if orphans and not self._live():
                if self._gathered:
                    self._check_quorum()
                    return
                self._gather_more(nursery)
            if not await self._make_some():
                self._replace_stragglers()
                with trio.move_on_after(WATCH_S):
                    await changed.wait()

    # --- who keeps what -----------------------------------------------------------------------------------

    def _restore(self, nursery: trio.Nursery) -> None:
        """What an earlier run journalled: leases, and puts that may go on."""
        network = self._put.client.preamble.network_id
        self._maker.restore()
        for put in list(self._state.puts.values()):
            if put.leases:
                self._keep([Lease.decode(lease, network=network) for lease in put.leases], put.contact)
                self._put.on_sent(len(put.leases) * self._geometry.shard_bytes)
            elif not put.dropped:
                self._start(
                    nursery,
                    HolderPut(
                        self._holder_context,
                        put.contact,
                        put.shard_indexes,
                        price=self._put.donors.price(put.contact.peer_id),
                        journalled=put,
                    ),
                )

    def _assign(self, nursery: trio.Nursery) -> None:
        """Places for a segment that has none yet. Raises `NotEnoughPeersError` before anything is sent."""
        if self._holders or self._closed:
            return
        donors = self._put.donors.donors()
        shard_bytes = self._geometry.shard_bytes
        assignment = placement.assign(self._code, donors, shard_bytes=shard_bytes, segment_index=self._index)
        if sum(map(len, assignment.values())) < placement.quorum(self._code):
            raise shortage(
                self._put, self._geometry, placed=sum(map(len, assignment.values())), donor_count=len(donors)
            )
        self._open_all(nursery, assignment)

    def _open_all(self, nursery: trio.Nursery, assignment: placement.Assignment) -> None:
        donors = self._put.donors
        for peer_id, shards in assignment.items():
            donors.take(peer_id, len(shards), self._geometry.shard_bytes)
            holder = HolderPut(
                self._holder_context, donors.contact(peer_id), shards, price=donors.price(peer_id)
            )
            self._start(nursery, holder)

    def _start(self, nursery: trio.Nursery, holder: HolderPut) -> None:
        self._holders.append(holder)
        if self._maker.manifest is not None:
            holder.set_manifest(self._maker.manifest)
        nursery.start_soon(holder.run)

    def _live(self) -> list[HolderPut]:
        return [holder for holder in self._holders if not holder.over]

    def _keep(self, leases: Sequence[Lease], contact: Contact) -> None:
        self._contacts[contact.peer_id] = contact
        for lease in leases:
            self._closed[lease.shard_index] = lease

    async def _settle_over(self) -> None:
        """Take in what holders that are over brought, or blame them. Raises this node's own failures."""
        for holder in [holder for holder in self._holders if holder.over and holder not in self._handled]:
            self._handled.add(holder)
            if holder.failure is None:
                self._keep(holder.leases, holder.contact)
                continue
            if is_fatal(holder.failure):
                raise holder.failure
            await self._blame(holder, holder.failure)

    async def _blame(self, holder: HolderPut, failure: NodeError) -> None:
        donors, peer_id = self._put.donors, holder.contact.peer_id
        donors.give_back(peer_id, len(holder.shard_indexes), self._geometry.shard_bytes)
        if isinstance(failure, RefusedError):
            self._refused_here.add(peer_id)
            if failure.code in (messages.REFUSED_FULL, messages.REFUSED_NOT_A_DONOR):
                donors.full(peer_id)
            elif failure.code == messages.REFUSED_CREDIT:
                donors.no_credit(peer_id)
        else:
            donors.fail(peer_id)
            if isinstance(failure, PeerMisbehavedError):
                self._put.scores.misbehaved(peer_id, now_s=self._put.clock.now_s())
        dropped = [
            records.PutDropped(self._index, put.put_id)
            for put in self._state.puts.values()
            if put.contact.peer_id == peer_id
            and put.shard_indexes == holder.shard_indexes
            and not put.leases
            and not put.dropped
        ]
        if dropped:
            await self._put.journal_queue.append(*dropped)

    def _replace(self, nursery: trio.Nursery) -> set[int]:
        """Give shards without a holder to others; those that find none."""
        orphans = set(range(self._code.total_shards)) - self._closed.keys()
        kept: dict[PeerId, int] = {}
        for lease in self._closed.values():
            kept[lease.holder] = kept.get(lease.holder, 0) + 1
        for holder in self._live():
            orphans -= set(holder.shard_indexes)
            kept[holder.contact.peer_id] = kept.get(holder.contact.peer_id, 0) + len(holder.shard_indexes)
        if not orphans:
            return orphans
        assignment = self._other_places(orphans, kept)
        self._open_all(nursery, assignment)
        for shards in assignment.values():
            orphans -= set(shards)
        return orphans

    def _other_places(self, shards: set[int], kept: dict[PeerId, int]) -> placement.Assignment:
        return placement.replace(
            self._code,
            self._put.donors.donors(),
            shards,
            shard_bytes=self._geometry.shard_bytes,
            kept=kept,
            failed=self._refused_here | self._put.donors.failed,
        )

    def _gather_more(self, nursery: trio.Nursery) -> None:
        if self._gathering:
            return
        self._gathering = True

        async def gather() -> None:
            await self._put.donors.gather()
            self._gathered = True
            self._note_change()

        nursery.start_soon(gather)

    def _check_quorum(self) -> None:
        """Holders failed and nobody can stand in: the quorum is enough. Raises `NotEnoughPeersError`."""
        if len(self._closed) < placement.quorum(self._code):
            raise shortage(
                self._put,
                self._geometry,
                placed=len(self._closed),
                donor_count=len(self._put.donors.donors()),
            )

    def _replace_stragglers(self) -> None:
        """Replace holders that are alone in being behind, once they had their time and others have room."""
        behind = [holder for holder in self._live() if not holder.all_sent]
        if not behind or len(behind) * 2 > len(self._holders) or self._maker.manifest is None:
            self._lag_since_s = None
            return
        now_s = trio.current_time()
        if self._lag_since_s is None:
            self._lag_since_s = now_s
        allowed_s = max(self._put.straggler_s, self._lag_since_s - self._started_s)
        if now_s - self._lag_since_s < allowed_s:
            return
        kept: dict[PeerId, int] = {}
        for lease in self._closed.values():
            kept[lease.holder] = kept.get(lease.holder, 0) + 1
        for holder in behind:
            others = {peer: count for peer, count in kept.items() if peer != holder.contact.peer_id}
            places = self._other_places(set(holder.shard_indexes), others)
            places.pop(holder.contact.peer_id, None)
            if sum(map(len, places.values())) == len(holder.shard_indexes):
                holder.cancel_scope.cancel()

    # --- feeding holders ----------------------------------------------------------------------------------

    async def _make_some(self) -> bool:
        """Make the stripes that are needed most; whether there was anything to do."""
        picked = self._pick()
        if picked is None:
            return await self._complete_manifest()
        first, group = picked
        count = min(
            self._maker.batch, self._geometry.stripe_count - first, *(holder.room for holder in group)
        )
        made = await self._maker.make(first, count)
        shard_count = sum(len(holder.shard_indexes) for holder in group)
        # A few holders that lag must not pin whole stripes: they get copies of their blocks.
        copied = 2 * shard_count < self._code.total_shards
        for stripe in made:
            # Whoever failed, or began again, while the stripes were made wants something else now.
            takers = [h for h in group if h.room > 0 and h.next_stripe == stripe.stripe_index]
            shared = None if copied or not takers else SharedStripe(stripe.release, len(takers))
            for holder in takers:
                own: list[Buffer] = [stripe.blocks[shard] for shard in holder.shard_indexes]
                blocks = [bytes(block) for block in own] if copied else own
                holder.push(stripe.stripe_index, blocks, shared)
            if shared is None:
                stripe.release()
        await self._complete_manifest()
        return True

    def _pick(self) -> tuple[int, list[HolderPut]] | None:
        """The least stripe that somebody with room waits for, and who waits for it."""
        wanting = [holder for holder in self._live() if holder.wants_stripes]
        with_room = [holder for holder in wanting if holder.room > 0]
        if not with_room:
            return None
        first = min(holder.next_stripe for holder in with_room)
        group = [holder for holder in with_room if holder.next_stripe == first]
        if any(holder.next_stripe == first and holder.room <= 0 for holder in wanting):
            now_s = trio.current_time()
            if now_s < self._patience_ends_s.setdefault(first, now_s + PATIENCE_S):
                return None
        return first, group

    async def _complete_manifest(self) -> bool:
        """Build the manifest once every stripe was made, making those that no holder needs; whether it did
        anything."""
        if self._maker.manifest is not None:
            return False
        if not self._maker.is_complete:
            # Holders resumed behind stripes that this run has not made: their leaves are still needed.
            least = min((holder.next_stripe for holder in self._live()), default=self._geometry.stripe_count)
            missing = self._maker.first_missing(least)
            if missing is None or any(not holder.ready for holder in self._live()):
                return False
            for stripe in await self._maker.make(missing, 1):
                stripe.release()
            return True
        manifest = await self._maker.finish()
        for holder in self._live():
            holder.set_manifest(manifest)
        return True

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _note_delivered(self, contact: Contact, byte_count: int, seconds: float) -> None:
        if byte_count and seconds > 0:
            self._put.scores.delivered(
                contact.peer_id, byte_count=byte_count, seconds=seconds, now_s=self._put.clock.now_s()
            )
