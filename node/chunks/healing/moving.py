"""Hands shards over to other donors: all of them to leave, those beyond the fair share to spread. Layer 4.

Invariants: the old holder lets go only when the new one has signed for durable bytes, this node's own roster
holds that lease durably, and another node that readers ask knows it; so health stays full all along, and a
move that was interrupted goes on from what the roster says. Nothing is re-coded. Source: credit.md, "Repair".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from node.chunks import messages, repair
from node.chunks.healing.healer import Healer, SegmentView, Survey
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.messages import Case
from node.chunks.healing.prober import Prober, Seen
from node.chunks.healing.rebuild import Rebuilder, Taker, Traffic
from node.chunks.holders import Holders
from node.chunks.put.donors import DonorPool
from node.chunks.roster import check_lease, live_leases
from node.crypto.signing import KeyPair
from node.errors import CryptoError, NodeError, ProtocolError, RefusedError, RemoteError
from node.ports import Buffer, Clock, Offload
from node.records.lease import Lease
from node.records.repair import Handover
from node.units import DAY_S, Contact, LeaseId, PeerId, SegmentId

PAGE_SEGMENTS: Final = 64
CONFIRMING_PEERS: Final = 4
"""Co-holders told of the new lease, and asked whether they know it, until one does."""
SPREAD_SEGMENTS_PER_CHECK: Final = 8
"""Segments that spread in one interval: 40 MB an hour at 10/30, so that new donors are not flooded."""
SEGMENTS_AT_ONCE: Final = 4
"""Segments whose shards move at the same time: a move mostly waits for others' disks."""
DRAIN_ROUNDS_IDLE_MAX: Final = 3
"""Rounds over what is left that move nothing, then a drain gives up for now."""
DRAIN_PAUSE_S: Final = 5.0
YIELD_S: Final = 60.0
"""Before the last look of whoever goes though by the order it would stay, as rosters count its lease no more:
the other one may not have heard of that, and be about to go as well."""

_logger = logging.getLogger(__name__)

MoveProgress = Callable[[int, int], None]
"""(shards moved, shards remaining)."""


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain came to. `remaining` counts shards with a lease that has not ended."""

    moved: int
    remaining: int


class Mover:
    """Gives up what this holder keeps, shard by shard."""

    def __init__(
        self,
        *,
        held: HeldSegments,
        healer: Healer,
        rebuilder: Rebuilder,
        prober: Prober,
        holders: Holders,
        identity: KeyPair,
        clock: Clock,
        offload: Offload,
    ) -> None:
        self._held = held
        self._healer = healer
        self._rebuilder = rebuilder
        self._prober = prober
        self._holders = holders
        self._identity = identity
        self._clock = clock
        self._offload = offload
        self._lock = trio.Lock()
        self._spread_cursor = b""
        self.moved = 0
        """Shards handed over since the start."""

    # --- drain --------------------------------------------------------------------------------------------

    async def owed(self) -> int:
        """Shards here with a lease that has not ended. Raises `StoreError`."""
        return await self._offload.run(self._count_owed)

    async def drain(self, on_progress: MoveProgress = lambda moved, remaining: None) -> DrainReport:
        """Move everything elsewhere, over and over until nothing is left or nothing moves any more.

        The caller has seen to it that nothing new comes. Raises `StoreError`.
        """
        moved = idle = 0
        async with self._lock:
            remaining = await self._offload.run(self._count_owed)
            while remaining and idle < DRAIN_ROUNDS_IDLE_MAX:
                before = moved

                async def drain_one(segment_id: SegmentId, at_first: int = remaining) -> None:
                    nonlocal moved
                    count = await self._hand_over(segment_id, None)
                    moved += count
                    on_progress(moved, max(0, at_first - (moved - before)))  # noqa: B023

                await _each(self._held_segments(), drain_one)
                remaining = await self._offload.run(self._count_owed)
                on_progress(moved, remaining)
                idle = idle + 1 if moved == before else 0
                if remaining and moved == before:
                    await trio.sleep(DRAIN_PAUSE_S)
        return DrainReport(moved, remaining)

    async def _held_segments(self) -> AsyncIterator[SegmentId]:
        cursor = b""
        while page := await self._offload.run(
            partial(self._held.store.segments, cursor, limit=PAGE_SEGMENTS)
        ):
            for segment_id in page:
                yield segment_id
            cursor = page[-1] + b"\0"

    def _count_owed(self) -> int:
        """Shards here with a lease that has not ended. Blocks on the disk."""
        count, cursor = 0, b""
        while page := self._held.store.segments(cursor, limit=PAGE_SEGMENTS):
            count += sum(len(self._own(segment_id)) for segment_id in page)
            cursor = page[-1] + b"\0"
        return count

    def _own(self, segment_id: SegmentId) -> dict[int, Lease]:
        """This node's own live lease of each shard that is here, the one that ends last."""
        today = self._clock.now_s() // DAY_S
        kept = self._held.own_leases(segment_id)
        # Rosters may have no more room for a lease of this node's: it is owed all the same.
        known = {lease.lease_id: lease for lease in self._held.rosters.known_leases(segment_id)}
        own: dict[int, Lease] = {}
        for lease in live_leases((kept | known).values(), today=today):
            if lease.lease_id in kept:
                other = own.get(lease.shard_index)
                if other is None or lease.end_day > other.end_day:
                    own[lease.shard_index] = lease
        return own

    async def hand_over(self, shards: Mapping[SegmentId, Collection[int]]) -> int:
        """Give these shards to other donors, as many as those take; how many went. Raises `StoreError`."""
        moved = 0

        async def one(segment_id: SegmentId) -> None:
            nonlocal moved
            count = await self._hand_over(segment_id, shards[segment_id])
            moved += count

        async def given() -> AsyncIterator[SegmentId]:
            for segment_id in shards:
                yield segment_id

        async with self._lock:
            await _each(given(), one)
        return moved

    async def _hand_over(self, segment_id: SegmentId, only: Collection[int] | None) -> int:
        """Give shards of a segment to other donors, all unless `only` some; how many are gone."""
        view = await self._offload.run(partial(self._held.view, segment_id))
        if view is None:
            return 0
        # What an earlier run had signed over already, and could not let go of.
        await self._release(view, await self._offload.run(partial(self._held.left_behind, view)))
        own = await self._offload.run(partial(self._own, segment_id))
        if only is not None:
            own = {index: lease for index, lease in own.items() if index in only}
        if not own:
            return 0
        others: dict[PeerId, int] = {}
        for lease in self._healer.live(view):
            if lease.holder != self._healer.me:
                others[lease.holder] = others.get(lease.holder, 0) + 1
        chosen, donors = await self._healer.choose(
            view.manifest, own, kept=others, failed=(), grant=view.grant
        )
        return await self._move(view, own, chosen, donors)

    # --- spreading ----------------------------------------------------------------------------------------

    async def spread(self) -> int:
        """Give shards beyond the fair share of a few segments to donors that have none; how many moved."""
        async with self._lock:
            crowded = await self._offload.run(self._crowded)
            moved = 0
            for segment_id in crowded:
                moved += await self._spread_segment(segment_id)
            return moved

    def _crowded(self) -> list[SegmentId]:
        """Some segments of which this node keeps more than one shard. Blocks on the disk."""
        found: list[SegmentId] = []
        page = self._held.store.segments(self._spread_cursor, limit=1000)
        self._spread_cursor = page[-1] + b"\0" if len(page) == 1000 else b""
        for segment_id in page:
            if len(self._held.store.shards_of(segment_id)) > 1:
                found.append(segment_id)
                if len(found) == SPREAD_SEGMENTS_PER_CHECK:
                    self._spread_cursor = segment_id + b"\0"
                    break
        return found

    async def _spread_segment(self, segment_id: SegmentId) -> int:
        own = await self._offload.run(partial(self._own, segment_id))
        view = await self._offload.run(partial(self._held.view, segment_id))
        if len(own) < 2 or view is None:
            return 0
        held: dict[PeerId, set[int]] = {}
        for lease in self._healer.live(view):
            held.setdefault(lease.holder, set()).add(lease.shard_index)
        # Places for as many as there are newcomers: all holders of the segment see the same ones.
        every = range(view.manifest.code.total_shards)
        chosen, donors = await self._healer.choose(
            view.manifest, every, kept={}, failed=held.keys(), grant=view.grant
        )
        targets = repair.spread_to(view.manifest.code, held, self._healer.me, list(chosen))
        return await self._move(
            view, own, {peer: (index,) for peer, index in targets.items() if index in own}, donors
        )

    # --- surplus ------------------------------------------------------------------------------------------

    async def give_surplus(self, segment_id: SegmentId) -> int:
        """Let go of shards that another holder has as well and keeps; how many.

        The lease stays until this node has seen the other copy itself, and a third one knows who has it.
        """
        async with self._lock:
            view = await self._offload.run(partial(self._held.view, segment_id, whole=False))
            if view is None:
                return 0
            pairs = await self._offload.run(partial(self._held.surplus, view))
            for going, stays in pairs:
                if stays.holder == self._healer.me:
                    await self._let_know(going, stays)
            mine = sorted(
                (each for each in pairs if each[0].holder == self._healer.me),
                key=lambda each: each[0].end_day,
            )
            # Of each shard the lease that ends last is named: its sisters follow from that.
            last = {going.shard_index: (going, stays) for going, stays in mine}
            surplus = {going: [stays] for going, stays in last.values()}
            behind = await self._offload.run(partial(self._held.left_behind, view))
            count = await self._release(view, surplus | behind)
            if behind and not count:
                # Nobody tells news to a holder that rosters count no more: it asks, for the next time.
                others = {lease.holder for lease in view.leases} - {self._healer.me}
                near_first = sorted(others, key=lambda peer: (not self._holders.client.is_near(peer), peer))
                for peer_id in near_first[:CONFIRMING_PEERS]:
                    await self._hear(view, self._prober.contact(peer_id))
            return count

    async def _release(self, view: SegmentView, surplus: Mapping[Lease, Sequence[Lease]]) -> int:
        """Let go of own leases, each with those of others that may have its shard, where one is seen to."""
        asked = {stays for leases in surplus.values() for stays in leases}
        if not asked:
            return 0
        seen = await self._prober.probe(view.manifest, asked)
        self._held.note(Survey(seen))
        there = {
            going: [each for each in leases if seen[each] is Seen.PROVED] for going, leases in surplus.items()
        }
        gone = {going: leases[0] for going, leases in there.items() if leases}
        told = [self._told(mine, other) for mine, other in gone.items()]
        if not told:
            return 0
        names = {lease.lease_id for lease in (*gone, *gone.values())}
        rest = [lease for lease in self._healer.live(view) if lease.lease_id not in names]
        await self._healer.tell(view, [*rest, *told], new=told)
        if not all(self._goes_by_order(each) for each in told):
            await trio.sleep(YIELD_S)
        return await self._let_go(view, rest, told, looks_again=True)

    def _goes_by_order(self, other: Lease) -> bool:
        """Whether the other holder of a shard would keep it, as both know of both."""
        return self._healer.me in repair.surplus(other.shard_index, [self._healer.me, other.holder])

    async def _let_know(self, going: Lease, stays: Lease) -> None:
        """Whoever was away while its shard was remade has not heard of that."""
        try:
            async with self._holders.session(self._prober.contact(going.holder)) as session:
                await session.merge_roster(stays.segment_id, [stays.encode()])
        except RemoteError as error:
            _logger.info("a holder does not hear that its copy is one too many: %s", error)

    def _told(self, mine: Lease, other: Lease) -> Lease:
        """The other holder's lease, saying that this node gave its own up."""
        half = other.half
        known, today = None if half is None else half.handover, self._clock.now_s() // DAY_S
        if known is not None and (
            known.holder != self._healer.me or known.lease_id == mine.lease_id or known.day >= today
        ):
            return other  # it says so of this or another lease already: this one ends by its date in rosters
        handover = Handover(
            network=mine.network,
            lease_id=mine.lease_id,
            segment_id=mine.segment_id,
            shard_index=mine.shard_index,
            holder=self._healer.me,
            successor=other.holder,
            day=today,
        )
        return other.with_handover(handover.sign(self._identity))

    # --- one move -----------------------------------------------------------------------------------------

    async def _move(
        self,
        view: SegmentView,
        own: Mapping[int, Lease],
        chosen: Mapping[PeerId, Sequence[int]],
        donors: DonorPool,
    ) -> int:
        """Hand shards over; how many this node has let go of."""
        takers = [
            self._taker(view, [own[index] for index in indexes], peer_id, donors)
            for peer_id, indexes in chosen.items()
            if indexes
        ]
        if not takers:
            return 0
        store, segment_id = self._held.store, view.manifest.segment_id
        wanted = sorted({index for taker in takers for index in taker.shard_indexes})

        async def source(stripe: int) -> Mapping[int, Buffer]:
            return await self._offload.run(
                lambda: {index: store.read_block(segment_id, index, stripe) for index in wanted}
            )

        try:
            sender = self._rebuilder.sender(Traffic())
            await sender.stream(takers, view.manifest, view.grant, source)
        except NodeError as error:
            _logger.warning("a shard can't be handed over: %s", error)
            return 0
        refused = [taker for taker in takers if isinstance(taker.failure, RefusedError)]
        for taker in takers:
            if taker.failure is not None:
                _logger.info("a shard was not taken over: %s", taker.failure)
        given = await self._given_before(view, refused) if refused else 0
        new = [lease for taker in takers for lease in taker.leases]
        if not new:
            return given
        moved = {lease.shard_index for lease in new}
        rest = [
            lease
            for lease in self._healer.live(view)
            if lease.holder != self._healer.me or lease.shard_index not in moved
        ]
        await self._healer.tell(view, [*rest, *new], new=new)
        return given + await self._let_go(view, rest, new)

    async def _hear(self, view: SegmentView, contact: Contact) -> None:
        """Take in what another holder knows of who has what."""
        try:
            async with self._holders.session(contact) as session:
                encoded = await session.roster(view.manifest.segment_id)
            leases = [Lease.decode(data, network=self._held.network) for data in encoded]
            for lease in leases:
                check_lease(lease, view.manifest)
        except (RemoteError, ProtocolError, CryptoError) as error:
            _logger.info("another holder does not say what it knows: %s", error)
        else:
            merge = partial(self._held.rosters.merge_verified, view.manifest, leases, moves=True)
            await self._offload.run(merge)

    async def _given_before(self, view: SegmentView, refused: Iterable[Taker]) -> int:
        """Let go of what those who refuse have already: a run cut short did not hear that they signed."""
        for taker in refused:
            await self._hear(view, taker.contact)
        now = await self._offload.run(partial(self._held.view, view.manifest.segment_id))
        if now is None:
            return 0
        return await self._release(now, await self._offload.run(partial(self._held.left_behind, now)))

    def _taker(self, view: SegmentView, leases: Sequence[Lease], peer_id: PeerId, donors: DonorPool) -> Taker:
        asked = []
        for lease in leases:
            handover = Handover(
                network=lease.network,
                lease_id=lease.lease_id,
                segment_id=lease.segment_id,
                shard_index=lease.shard_index,
                holder=self._healer.me,
                successor=peer_id,
                day=self._clock.now_s() // DAY_S,
            ).sign(self._identity)
            rate = donors.price(peer_id)
            asked.append(self._healer.lease_for(view, lease, peer_id, rate=rate, handover=handover))
        case = Case(tuple(asked), tuple(lease.lease_id for lease in leases), view.leases)
        return Taker(donors.contact(peer_id), case)

    async def _let_go(
        self, view: SegmentView, rest: Sequence[Lease], new: Sequence[Lease], *, looks_again: bool = False
    ) -> int:
        """End this node's leases of shards whose new lease somebody else knows, too.

        `looks_again`: the holder of that lease may have let go meanwhile, in favour of this one.
        """
        segment_id = view.manifest.segment_id
        takers = {lease.holder for lease in new}
        others = [peer for peer in dict.fromkeys(lease.holder for lease in rest) if peer not in takers]
        others = [peer for peer in others if peer != self._healer.me]
        known = await self._make_known(segment_id, others, new)
        if known is None:
            if others:
                return 0  # nobody answers: they would never hear of it
            known = {lease.lease_id for lease in new}  # the new holders are all there are
        sure = [lease for lease in new if lease.lease_id in known]
        if looks_again:
            seen = await self._prober.probe(view.manifest, sure)
            sure = [lease for lease in sure if seen[lease] is Seen.PROVED]
        for lease in sure:
            gone = await self._offload.run(partial(self._held.keeper.let_go, segment_id, lease.shard_index))
            await self._held.keeper.stop_announcing(gone)
        self.moved += len(sure)
        return len(sure)

    async def _make_known(
        self, segment_id: SegmentId, peers: Iterable[PeerId], new: Sequence[Lease]
    ) -> set[LeaseId] | None:
        """Ask and tell co-holders about these leases until they know them all; the leases that they know.

        None if none answers; all of `new` where none of them keeps anything of the segment any more. A
        co-holder may know a lease with another handover than this node's, which excels it: who has the shard
        is known all the same. Who is connected comes first: others have to be looked up.
        """
        news, wanted = {lease.encode() for lease in new}, {lease.lease_id for lease in new}
        known: set[LeaseId] | None = None
        asked = gone = 0
        near_first = sorted(peers, key=lambda peer_id: not self._holders.client.is_near(peer_id))
        for peer_id in near_first:
            if asked == CONFIRMING_PEERS:
                break
            try:
                async with self._holders.session(self._prober.contact(peer_id)) as session:
                    roster = set(await session.roster(segment_id))
                    if not roster.issuperset(news):  # `tell` reaches those that are connected
                        await session.merge_roster(segment_id, sorted(news))
                        roster = set(await session.roster(segment_id))
                leases = [Lease.decode(data, network=self._held.network) for data in roster]
                known = (known or set()) | {lease.lease_id for lease in leases}
            except (RemoteError, ProtocolError) as error:
                if isinstance(error, RefusedError) and error.code == messages.REFUSED_MISSING:
                    gone += 1  # it keeps nothing of the segment any more: no reader finds it by that
                    continue
                _logger.info("a co-holder does not say what it knows: %s", error)
            asked += 1
            if known is not None and known.issuperset(wanted):
                break
        return wanted if near_first and gone == len(near_first) else known


async def _each(segment_ids: AsyncIterator[SegmentId], act: Callable[[SegmentId], Awaitable[None]]) -> None:
    """Do something for all, a few at once. Raises the first `NodeError`, and leaves nothing running."""
    limiter = trio.CapacityLimiter(SEGMENTS_AT_ONCE)
    errors: list[NodeError] = []

    async def run(segment_id: SegmentId, place: object) -> None:
        try:
            await act(segment_id)
        except NodeError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()
        finally:
            limiter.release_on_behalf_of(place)

    async with trio.open_nursery() as nursery:
        try:
            async for segment_id in segment_ids:
                place = object()
                await limiter.acquire_on_behalf_of(place)
                nursery.start_soon(run, segment_id, place)
        except NodeError as error:
            errors.append(error)
            nursery.cancel_scope.cancel()
    if errors:
        raise errors[0]
