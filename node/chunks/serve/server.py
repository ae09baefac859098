"""The holder: serves `/cairn/shards/1`. Layer 4.

Invariants: nothing is reserved, read or kept beyond limits.py; a reply to a close means durable; what a peer
sends is checked against the manifest's roots and the owner's signature before it counts; an illegal
message ends its stream and changes nothing in the store; a donor sees no key and no name.
Source: design.md, sections 4 and 6.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Admission, Asker
from node.chunks.bodies import send_body
from node.chunks.serve.incoming import BlockFeed, PutTable, RefusalError
from node.chunks.serve.keeping import Keeper
from node.chunks.serve.suspension import StoreCare
from node.chunks.serve.turns import Precedence, Turns
from node.chunks.serving import ServedShard, Serving, StreamTally
from node.chunks.store.shard_store import ShardStore
from node.crypto.keystore import NodeKeys
from node.errors import (
    CorruptBlockError,
    CreditError,
    CryptoError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    StoreError,
    StoreFullError,
    UnreachableError,
)
from node.framing import Frame, FramedStream, Preamble
from node.ports import Clock, Directory, Network, Offload, Stream
from node.records.lease import Lease
from node.records.offer import PRICE_MICROCREDITS, Offer
from node.records.receipt import ServeReceipt
from node.units import DAY_S, HOUR_S, AccountId, LeaseId, PeerId, SegmentId

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

OFFER_LIFE_S: Final = HOUR_S
GRACE_DAYS: Final = 14
LAPSE_CHECK_S: Final = 5.0
GIVE_WAY_S: Final = 1.0
"""A batch of blocks waits for others no longer: a reader takes a holder that is silent for gone."""
READ_AHEAD_BLOCKS: Final = 8
"""Blocks read from the disk in one go (512 KiB), so that a thread has something to do."""


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counts for `cairn status` and tests, since the start."""

    open_puts: int
    blocks_received: int
    blocks_served: int
    bytes_received: int
    bytes_served: int
    leases_signed: int
    requests_refused: int


class ShardServer:
    """Keeps shards for others, and serves them."""

    def __init__(
        self,
        *,
        network: Network,
        store: ShardStore,
        directory: Directory,
        keys: NodeKeys,
        preamble: Preamble,
        clock: Clock,
        offload: Offload,
        grace_days: int = GRACE_DAYS,
        uptime_permille: Callable[[], int] = lambda: 1000,
        admission: Admission | None = None,
        serving: Serving | None = None,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """The store's cap decides whether this node is a donor at all, `admission` for whom it keeps.

        `serving` gets the receipts of readers. One that is leaving takes nothing new.
        """
        self._admission = admission
        self._is_leaving = is_leaving
        self._serving = serving
        self._egress: dict[LeaseId, int] = {}
        self._precedence = Precedence(GIVE_WAY_S)
        self._network = network
        self._store = store
        self._keys = keys
        self._preamble = preamble
        self._clock = clock
        self._offload = offload
        self._uptime_permille = uptime_permille
        self.puts = PutTable(store, offload, admission)
        self.care = StoreCare(store, self.puts, clock, offload)
        self.keeper = Keeper(
            store=store,
            puts=self.puts,
            directory=directory,
            identity=keys.identity,
            network=preamble.network_id,
            clock=clock,
            offload=offload,
            grace_days=grace_days,
            admission=admission,
        )
        self.large_bodies = Turns(limits.LARGE_BODIES_PER_PEER_MAX)
        self.blocks_received = 0
        self.bytes_received = 0
        self._blocks_served = 0
        self._bytes_served = 0
        self._refused = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and end silent puts, until cancelled; started once requests are taken."""
        self._network.serve(
            messages.PROTOCOL,
            self._serve_stream,
            streams_max=limits.SHARD_STREAMS_MAX,
            streams_max_per_peer=limits.SHARD_STREAMS_PER_PEER_MAX,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_silent_puts)
                nursery.start_soon(self.care.run)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                await self.puts.end_all()

    def statistics(self) -> ServerStatistics:
        """Counts as of now."""
        return ServerStatistics(
            open_puts=len(self.puts),
            blocks_received=self.blocks_received,
            blocks_served=self._blocks_served,
            bytes_received=self.bytes_received,
            bytes_served=self._bytes_served,
            leases_signed=self.keeper.leases_signed,
            requests_refused=self._refused,
        )

    async def _end_silent_puts(self) -> None:
        while True:
            await self.puts.wait_open()
            await trio.sleep(LAPSE_CHECK_S)
            await self.puts.end_silent()

    async def _serve_stream(self, stream: Stream) -> None:
        try:
            framed = await FramedStream.accepted(stream, self._preamble)
        except RefusedError:
            return  # the opener was told why; raising would reset the stream before it has read that
        conversation = _Conversation(self, framed, StreamTally(self._keys.peer_id))
        try:
            await self._converse(conversation)
        except RefusalError as error:
            self._refused += 1
            await framed.send_error(error.code, str(error))
        except StoreFullError as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_FULL, str(error))
        except StoreError as error:
            self._refused += 1
            _logger.warning("the store failed for %s: %s", framed.peer, error)
            await self.care.on_fault()
            refusal = self.care.refusal()
            await framed.send_error(refusal.code, str(refusal))
        except CreditError as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_CREDIT, str(error))
        except (ProtocolError, CryptoError) as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_INVALID, str(error))

    async def _converse(self, conversation: _Conversation) -> None:
        try:
            await conversation.run()
        finally:
            receipts = conversation.tally.latest()
            if receipts and self._serving is not None:
                self._serving.has_served(receipts)

    # --- requests that need no body -----------------------------------------------------------------------

    async def offer(self, request: messages.OfferRequest, peer_id: PeerId) -> messages.OfferReply:
        """What this donor would keep now, and for how much credit. Raises `RefusalError`."""
        self.care.check()
        statistics = await self._offload.run(self._store.statistics)
        if statistics.cap_bytes == 0 or self._is_leaving():
            raise RefusalError(messages.REFUSED_NOT_A_DONOR, "this node gives no space")
        free_bytes = self.puts.room(peer_id, statistics.free_bytes)
        offer = Offer(
            network=self._preamble.network_id,
            donor=self._keys.peer_id,
            account=AccountId(self._keys.account.public),
            free_bytes=free_bytes,
            price=PRICE_MICROCREDITS,
            pledge_left_bytes=free_bytes,
            uptime_permille=self._uptime_permille(),
            cap_bytes=statistics.cap_bytes,
            expires_s=self._clock.now_s() + OFFER_LIFE_S,
        )
        signed = offer.sign(self._keys.identity).encode()
        if self._admission is None:
            return messages.OfferReply(signed)
        room = await self._admission.room(Asker(peer_id, request.payer))
        return messages.OfferReply(signed, min(limits.CREDIT_MICRO_MAX, max(0, room)))

    async def accept_put(self, request: messages.PutOpen, framed: FramedStream) -> BlockFeed:
        """Reserve. Raises `RefusalError`, `ProtocolError`."""
        self.care.check()
        statistics = await self._offload.run(self._store.statistics)
        if statistics.cap_bytes == 0 or self._is_leaving():
            raise RefusalError(messages.REFUSED_NOT_A_DONOR, "this node gives no space")
        return await self.puts.open(request, framed.peer_id)

    async def manifest(self, request: messages.GetManifest) -> messages.ManifestReply:
        """A segment that is held."""

        def read() -> messages.ManifestReply:
            manifest = self._store.segment_manifest(request.segment_id)
            if manifest is None:
                raise RefusalError(messages.REFUSED_MISSING, "no shard of that segment is here")
            return messages.ManifestReply(manifest, self._store.shards_of(request.segment_id))

        return await self._offload.run(read)

    async def leaves(self, request: messages.GetShard, tally: StreamTally) -> messages.ShardReply:
        """The leaf list of a shard that is held, and a lease on it."""
        leaves = await self._offload.run(lambda: self._store.leaves(request.segment_id, request.shard_index))
        if leaves is None:
            raise RefusalError(messages.REFUSED_MISSING, "that shard is not here")
        shard = await self._served_shard(request.segment_id, request.shard_index, tally)
        return messages.ShardReply(leaves, shard.lease_id or b"")

    async def served(self, request: messages.Served, tally: StreamTally) -> None:
        """A reader's receipt. Raises `ProtocolError`, `CryptoError`."""
        receipt = ServeReceipt.decode(request.record, network=self._preamble.network_id)
        await self._offload.run(partial(tally.take, receipt, today=self._clock.now_s() // DAY_S))

    async def send_blocks(
        self, request: messages.ReadBlocks, framed: FramedStream, tally: StreamTally
    ) -> None:
        """Each block asked for, in order, or why there is none.

        What goes beyond the free egress of a lease gives way to others, where the reader owes or is unknown.
        """
        shard = await self._served_shard(request.segment_id, request.shard_index, tally)
        if await self._goes_first(shard, framed.peer_id):
            with self._precedence.ahead():
                await self._send_blocks(request, framed, shard, gives_way=False)
        else:
            await self._send_blocks(request, framed, shard, gives_way=True)

    async def _goes_first(self, shard: ServedShard, peer_id: PeerId) -> bool:
        if self._serving is None or shard.lease_id is None:
            return True
        is_free = self._egress.get(shard.lease_id, 0) < shard.egress_cap_bytes
        return is_free or await self._serving.goes_first(peer_id)

    async def _served_shard(self, segment_id: SegmentId, shard_index: int, tally: StreamTally) -> ServedShard:
        """A shard in the tally of a stream; looked up once."""

        def look() -> ServedShard:
            held = [each.lease for each in self._store.leases(segment_id) if each.shard_index == shard_index]
            if not held:
                return ServedShard()
            last = max(held, key=lambda lease: (lease.expires_s, lease.lease_id))
            lease = Lease.decode(last.data, network=self._preamble.network_id)
            ids = frozenset(each.lease_id for each in held)
            return ServedShard(ids, last.lease_id, lease.egress_cap_bytes)

        known = tally.shard(segment_id, shard_index)
        return known or tally.add(segment_id, shard_index, await self._offload.run(look))

    def _note_sent(self, shard: ServedShard, byte_count: int) -> None:
        self._blocks_served += 1
        self._bytes_served += byte_count
        shard.sent_bytes += byte_count
        if shard.lease_id is not None:
            if shard.lease_id not in self._egress and len(self._egress) >= limits.EGRESS_LEASES_MAX:
                del self._egress[next(iter(self._egress))]
            self._egress[shard.lease_id] = self._egress.get(shard.lease_id, 0) + byte_count

    async def _send_blocks(
        self, request: messages.ReadBlocks, framed: FramedStream, shard: ServedShard, *, gives_way: bool
    ) -> None:
        indexes = request.block_indexes
        for start in range(0, len(indexes), READ_AHEAD_BLOCKS):
            if gives_way:
                await self._precedence.give_way()
            part = indexes[start : start + READ_AHEAD_BLOCKS]
            for index, block in zip(part, await self._read(request, part), strict=True):
                if isinstance(block, str):
                    await framed.send(messages.encode(messages.BlockMissing(index, block)))
                    continue
                await framed.send_block(messages.encode_block_header(request.shard_index, index), block)
                self._note_sent(shard, len(block))

    async def _read(self, request: messages.ReadBlocks, indexes: tuple[int, ...]) -> list[bytes | str]:
        faults: list[StoreError] = []

        def read() -> list[bytes | str]:
            blocks: list[bytes | str] = []
            for index in indexes:
                try:
                    blocks.append(self._store.read_block(request.segment_id, request.shard_index, index))
                except NotFoundError:
                    blocks.append(messages.REFUSED_MISSING)
                except CorruptBlockError:
                    blocks.append(messages.REFUSED_CORRUPT)
                except StoreError as error:
                    blocks.append(messages.REFUSED_CORRUPT)
                    faults.append(error)
            return blocks

        blocks = await self._offload.run(read)
        if faults and await self.care.on_fault():
            raise self.care.refusal()
        return blocks  # one place that can't be read is as bad as flipped bits to whoever asks


class _Conversation:
    """One stream: requests in turn, and the put that its blocks belong to."""

    def __init__(self, server: ShardServer, framed: FramedStream, tally: StreamTally) -> None:
        self.tally = tally
        self._server = server
        self._keeper = server.keeper
        self._framed = framed
        self._feed: BlockFeed | None = None

    async def run(self) -> None:
        """Serve until the opener ends the stream. Raises `RefusalError`, `ProtocolError`, `NodeError`."""
        try:
            while True:
                frame = await self._framed.receive_or_end(deadline_s=limits.REQUEST_IDLE_S)
                if frame is None:
                    break
                await self._take(frame)
        except UnreachableError:
            await self._keep_received()
            raise
        await self._keep_received()

    async def _keep_received(self) -> None:
        """Blocks that came before the stream ended count when the put is resumed."""
        if self._feed is None:
            return
        # The put may have ended meanwhile; or what is lost here will be sent again.
        with suppress(RefusalError, StoreError):
            await self._feed.flush()

    async def _take(self, frame: Frame) -> None:
        if frame.block is not None:
            if self._feed is None:
                raise ProtocolError("a block without a put")
            slot, block_index = messages.decode_block_header(frame.values)
            await self._feed.add(slot, block_index, frame.block)
            self._server.blocks_received += 1
            self._server.bytes_received += len(frame.block)
            return
        request = messages.decode(frame.values)
        handler = _HANDLERS.get(type(request))
        if handler is None:
            raise ProtocolError(f"{type(request).__name__} is no request")
        await handler(self, request)

    async def _reply(self, message: messages.Message) -> None:
        await self._framed.send(messages.encode(message))

    async def _reply_body(self, body: bytes) -> None:
        await self._reply(messages.Body(len(body)))
        await send_body(self._framed, body)

    async def offer(self, request: messages.OfferRequest) -> None:
        await self._reply(await self._server.offer(request, self._framed.peer_id))

    async def open_put(self, request: messages.PutOpen) -> None:
        await self._begin(await self._server.accept_put(request, self._framed))

    async def resume_put(self, request: messages.PutResume) -> None:
        await self._begin(await self._server.puts.resume(request.put_id, self._framed.peer_id))

    async def _begin(self, feed: BlockFeed) -> None:
        self._feed = feed
        await self._reply(messages.PutAccepted(tuple(feed.put.next_blocks)))

    async def close_put(self, request: messages.PutClose) -> None:
        feed, self._feed = self._feed, None
        if feed is not None and feed.put.request.put_id != request.put_id:
            raise ProtocolError("the close of another put than the one open here")
        await self._reply_body(await self._keeper.close_put(request, self._framed, feed))

    async def abort_put(self, request: messages.PutAbort) -> None:
        self._feed = None
        aborted = await self._server.puts.abort(request.put_id, self._framed.peer_id)
        await self._reply(messages.Done(int(aborted)))

    async def query_leases(self, request: messages.LeaseQuery) -> None:
        await self._reply_body(await self._keeper.query_leases(request))

    async def renew(self, request: messages.Renew) -> None:
        await self._reply_body(await self._keeper.renew(request, self._framed))

    async def attach(self, request: messages.Attach) -> None:
        await self._keeper.attach(request, self._framed)
        await self._reply(messages.Done(1))

    async def merge_roster(self, request: messages.RosterMerge) -> None:
        await self._reply(messages.Done(await self._keeper.merge_roster(request, self._framed)))

    async def give_grant(self, request: messages.GiveGrant) -> None:
        await self._keeper.keep_grant(request)
        await self._reply(messages.Done(1))

    async def announce(self, request: messages.Announce) -> None:
        await self._reply(messages.Done(await self._keeper.announce(request)))

    async def release(self, request: messages.Release) -> None:
        await self._reply(messages.Done(await self._keeper.release(request)))

    async def manifest(self, request: messages.GetManifest) -> None:
        await self._reply(await self._server.manifest(request))

    async def attachment(self, request: messages.GetAttachment) -> None:
        if request.kind != messages.ATTACHED_MANIFEST:
            await self._reply_body(await self._keeper.attachment(request))
            return
        async with self._server.large_bodies.turn(self._framed.peer_id):
            await self._reply_body(await self._keeper.attachment(request))

    async def roster(self, request: messages.GetRoster) -> None:
        await self._reply_body(await self._keeper.roster(request))

    async def grant(self, request: messages.GetGrant) -> None:
        await self._reply(messages.GrantReply(await self._keeper.grant(request)))

    async def leaves(self, request: messages.GetShard) -> None:
        await self._reply(await self._server.leaves(request, self.tally))

    async def blocks(self, request: messages.ReadBlocks) -> None:
        await self._server.send_blocks(request, self._framed, self.tally)

    async def prove(self, request: messages.Prove) -> None:
        one = messages.ReadBlocks(request.segment_id, request.shard_index, (request.block_index,))
        await self._server.send_blocks(one, self._framed, self.tally)

    async def served(self, request: messages.Served) -> None:
        await self._server.served(request, self.tally)


_Handler = Callable[[_Conversation, Any], Awaitable[None]]
_HANDLERS: Final[dict[type[messages.Message], _Handler]] = {
    messages.OfferRequest: _Conversation.offer,
    messages.PutOpen: _Conversation.open_put,
    messages.PutResume: _Conversation.resume_put,
    messages.PutClose: _Conversation.close_put,
    messages.PutAbort: _Conversation.abort_put,
    messages.LeaseQuery: _Conversation.query_leases,
    messages.Renew: _Conversation.renew,
    messages.Attach: _Conversation.attach,
    messages.RosterMerge: _Conversation.merge_roster,
    messages.GiveGrant: _Conversation.give_grant,
    messages.Announce: _Conversation.announce,
    messages.Release: _Conversation.release,
    messages.GetManifest: _Conversation.manifest,
    messages.GetAttachment: _Conversation.attachment,
    messages.GetRoster: _Conversation.roster,
    messages.GetGrant: _Conversation.grant,
    messages.GetShard: _Conversation.leaves,
    messages.ReadBlocks: _Conversation.blocks,
    messages.Prove: _Conversation.prove,
    messages.Served: _Conversation.served,
}
