"""The other side of repair: new holders, witnesses, losses, who stands back. Layer 4: `/cairn/repair/1`.

Invariants: a lease under a grant is signed only for a case that holds (`cases`), for blocks that give the
manifest's root, and when they, the grant and the roster are durable; nothing is reserved beyond the stream
that asked; a witness signs what it saw itself. Source: credit.md, "Repair".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from node import limits, tagged
from node.chunks import messages as shard_messages
from node.chunks.bad_answer import BadAnswer
from node.chunks.bodies import receive_body, send_body
from node.chunks.geometry import SegmentGeometry
from node.chunks.healing import messages
from node.chunks.healing.cases import check_case, check_terms
from node.chunks.healing.healer import Survey
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.intents import Intents
from node.chunks.healing.prober import Prober, Seen
from node.chunks.manifest import SegmentManifest
from node.chunks.roster import begun_leases
from node.chunks.serve.incoming import BlockFeed, OpenPut, RefusalError
from node.chunks.serve.keeping import Keeper
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, CryptoError, ProtocolError, RefusedError, StoreFullError
from node.framing import FramedStream, Preamble
from node.ports import Clock, Network, Offload, Stream
from node.records.lease import Lease
from node.records.repair import RepairGrant, RepairIntent
from node.units import DAY_S, AccountId, SegmentId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

TakeLoss = Callable[[BadAnswer, SegmentId, SegmentGeometry], bool]
"""Keep a proof that a shard is lost, verified; whether it is news. Blocks on the disk."""

_logger = logging.getLogger(__name__)


class RepairServer:
    """Takes shards over, bears witness, and hears intents."""

    def __init__(
        self,
        *,
        network: Network,
        store: ShardStore,
        keeper: Keeper,
        rosters: Rosters,
        identity: KeyPair,
        account: AccountId,
        preamble: Preamble,
        clock: Clock,
        offload: Offload,
        prober: Prober,
        intents: Intents,
        held: HeldSegments,
        take_loss: TakeLoss,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """`take_loss` keeps a proof of loss; `is_leaving` says whether this donor takes nothing new."""
        self._take_loss = take_loss
        self._network = network
        self._store = store
        self._keeper = keeper
        self._rosters = rosters
        self._identity = identity
        self._account = account
        self._peer_id = peer_id_of(identity.public)
        self._preamble = preamble
        self._clock = clock
        self._offload = offload
        self._prober = prober
        self._intents = intents
        self._held = held
        self._is_leaving = is_leaving
        self._replacing = 0
        self._witnessing = trio.CapacityLimiter(limits.REPAIR_WITNESSING_AT_ONCE)
        self.replacements = 0
        """Shards that this node took over, since the start."""

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once requests are taken."""
        self._network.serve(
            messages.PROTOCOL,
            self._serve_stream,
            streams_max=limits.REPAIR_STREAMS_MAX,
            streams_max_per_peer=limits.REPAIR_STREAMS_PER_PEER_MAX,
        )
        task_status.started()
        await trio.sleep_forever()

    async def _serve_stream(self, stream: Stream) -> None:
        try:
            framed = await FramedStream.accepted(stream, self._preamble)
        except RefusedError:
            return  # the opener was told why
        try:
            while (frame := await framed.receive_or_end(deadline_s=limits.REQUEST_IDLE_S)) is not None:
                if frame.block is not None:
                    raise ProtocolError("a block without a case")
                await self._answer(messages.decode(frame.values), framed)
        except RefusalError as error:
            await framed.send_error(error.code, str(error))
        except StoreFullError as error:
            await framed.send_error(shard_messages.REFUSED_FULL, str(error))
        except CreditError as error:
            await framed.send_error(shard_messages.REFUSED_CREDIT, str(error))
        except (ProtocolError, CryptoError) as error:
            await framed.send_error(shard_messages.REFUSED_INVALID, str(error))

    async def _answer(self, request: messages.Message, framed: FramedStream) -> None:
        match request:
            case messages.Replace():
                body = await self._replace(request, framed)
                await framed.send(messages.encode(messages.Body(len(body))))
                await send_body(framed, body)
            case messages.Witness():
                body = await self._witness(request)
                await framed.send(messages.encode(messages.Body(len(body))))
                await send_body(framed, body)
            case messages.Intent():
                await self._hear(request, framed)
                await framed.send(messages.encode(messages.Done(1)))
            case messages.Lost():
                await self._take_word(request, framed)
                await framed.send(messages.encode(messages.Done(1)))
            case _:
                raise ProtocolError(f"{type(request).__name__} is no request")

    # --- taking shards over -------------------------------------------------------------------------------

    async def _replace(self, request: messages.Replace, framed: FramedStream) -> bytes:
        """From a case to countersigned leases. Raises `RefusalError`, `ProtocolError`, `CryptoError`,
        `CreditError`, `StoreError`: nothing is kept then."""
        if self._is_leaving() or (await self._offload.run(self._store.statistics)).cap_bytes == 0:
            raise RefusalError(shard_messages.REFUSED_NOT_A_DONOR, "this node takes nothing new")
        if self._replacing >= limits.REPAIR_REPLACEMENTS_AT_ONCE:
            raise RefusalError(shard_messages.REFUSED_BUSY, "too many shards are on their way here")
        self._replacing += 1
        try:
            body = await receive_body(framed, request.body_bytes)
            case = messages.Case.decode(body, network=self._preamble.network_id)
            manifest = SegmentManifest.decode(request.manifest)
            grant = RepairGrant.decode(request.grant, network=self._preamble.network_id)
            if grant.account == self._account:
                raise RefusalError(
                    shard_messages.REFUSED_NOT_A_DONOR, "an owner's own node keeps no shards of its files"
                )
            await self._offload.run(lambda: self._check(case, manifest, grant))
            signed = [lease.countersign(self._identity) for lease in case.leases]
            await self._receive(manifest, grant, case, signed, framed)
        finally:
            self._replacing -= 1
        self.replacements += len(signed)
        return tagged.pack_records([lease.encode() for lease in signed])

    def _check(self, case: messages.Case, manifest: SegmentManifest, grant: RepairGrant) -> None:
        known: tuple[Lease, ...] = ()
        if self._store.segment_manifest(manifest.segment_id) is not None:
            known = self._rosters.known_leases(manifest.segment_id)
        now_s = self._clock.now_s()
        check_case(case, manifest, grant, me=self._peer_id, known=known, now_s=now_s)
        for lease in case.leases:
            check_terms(lease, manifest, me=self._peer_id, now_s=now_s)
            if self._store.has_shard(manifest.segment_id, lease.shard_index):
                raise RefusalError(shard_messages.REFUSED_INVALID, "that shard is here already")

    async def _receive(
        self,
        manifest: SegmentManifest,
        grant: RepairGrant,
        case: messages.Case,
        signed: list[Lease],
        framed: FramedStream,
    ) -> None:
        geometry, slots = manifest.geometry, len(signed)
        opened = shard_messages.PutOpen(
            put_id=shard_messages.PutId(bytes(16)),
            data_shards=manifest.code.data_shards,
            total_shards=manifest.code.total_shards,
            block_bytes=limits.BLOCK_BYTES,
            last_block_bytes=geometry.last_block_bytes,
            stripe_count=geometry.stripe_count,
            shard_indexes=tuple(lease.shard_index for lease in signed),
        )
        reservation = await self._offload.run(
            lambda: self._store.reserve(
                slots * geometry.shard_bytes, block_count=slots * geometry.stripe_count, shard_count=slots
            )
        )
        incoming = self._store.begin_put(reservation, slots)
        try:
            put = OpenPut(opened, framed.peer_id, incoming)
            feed = BlockFeed(put, self._offload)
            await framed.send(messages.encode(messages.Ready()))
            for _ in range(slots * geometry.stripe_count):
                frame = await framed.receive_frame(deadline_s=limits.REQUEST_IDLE_S)
                if frame.block is None:
                    raise ProtocolError("a message where a block was due")
                await feed.add(*shard_messages.decode_block_header(frame.values), frame.block)
            await feed.flush()
            await self._keeper.keep_granted(incoming, manifest, grant, signed, case.roster, framed.peer_id)
        finally:
            with trio.CancelScope(shield=True):
                await self._offload.run(incoming.abort)

    # --- witnesses and intents ----------------------------------------------------------------------------

    async def _witness(self, request: messages.Witness) -> bytes:
        """Receipts for those of the leases whose shards are not proved now.

        Whoever else is silent is looked at as well: how many are decides how long each may be, and nobody
        hurries because of a silence that was only told.
        """
        segment_id = request.segment_id
        manifest, leases = await self._offload.run(lambda: self._held_roster(segment_id))
        asked = set(request.lease_ids)
        silent = await self._offload.run(partial(self._held.silent, segment_id, leases))
        overdue = await self._offload.run(partial(self._held.unproved, segment_id, leases))
        looked_at = {lease for lease in leases if lease.lease_id in asked} | set(silent)
        async with self._witnessing:
            seen = await self._prober.probe(
                manifest, [lease for lease in leases if lease in looked_at and lease.holder != self._peer_id]
            )
        self._held.note(Survey(seen))
        overdue |= await self._offload.run(partial(self._held.lost, manifest.code, segment_id, leases))
        now_s = self._clock.now_s()
        told = {
            lease: state
            for lease, state in seen.items()
            if lease.lease_id in asked
            and (state is Seen.BAD or (state is Seen.SILENT and lease.lease_id in overdue))
        }
        receipts = await self._prober.sign(manifest, leases, told, now_s=now_s)
        return tagged.pack_records([receipt.encode() for receipt in receipts])

    async def _hear(self, request: messages.Intent, framed: FramedStream) -> None:
        intent = RepairIntent.decode(request.record, network=self._preamble.network_id)
        if intent.holder != framed.peer_id:
            raise ProtocolError("the intent of somebody else")
        intent.verify()
        _, leases = await self._offload.run(lambda: self._held_roster(intent.segment_id))
        if intent.holder not in {lease.holder for lease in leases}:
            raise ProtocolError("an intent of a node that keeps nothing of the segment")
        self._intents.heard(intent)

    async def _take_word(self, request: messages.Lost, framed: FramedStream) -> None:
        """A holder's own word that it lost a shard: evidence from now on, as a signed bad answer is."""
        word = BadAnswer.decode(request.record, network=self._preamble.network_id)
        if word.donor != framed.peer_id or word.is_false:
            raise ProtocolError("a loss is told by whoever has it, in its own words")

        def take() -> bool:
            manifest, _ = self._held_roster(word.segment_id)
            return self._take_loss(word, manifest.segment_id, manifest.geometry)

        if await self._offload.run(take):
            _logger.info("a co-holder lost a shard")

    def _held_roster(self, segment_id: SegmentId) -> tuple[SegmentManifest, tuple[Lease, ...]]:
        """A segment that is held here, and its live leases. Blocks on the disk. Raises `RefusalError`."""
        encoded = self._store.segment_manifest(segment_id)
        if encoded is None:
            raise RefusalError(shard_messages.REFUSED_MISSING, "no shard of that segment is here")
        leases = begun_leases(self._rosters.known_leases(segment_id), today=self._clock.now_s() // DAY_S)
        return SegmentManifest.decode(encoded), leases
