"""One stream of `/cairn/shards/1` at the holder: requests in turn, each to its desk. Layer 4.

Invariants: a request is answered before the next one is read; an illegal message ends its stream and changes
nothing in the store; blocks that came before a stream broke count when their put is resumed.
Source: node/chunks/messages.py, whose table says what follows what.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from node import limits
from node.chunks import messages
from node.chunks.bodies import receive_body, send_body
from node.chunks.serve.attachments import Attachments
from node.chunks.serve.incoming import BlockFeed, PutTable, RefusalError
from node.chunks.serve.keeping import Keeper
from node.chunks.serve.offering import Offering
from node.chunks.serve.reading import Reading, Traffic
from node.chunks.serve.rosters import Rosters
from node.chunks.serve.turns import Turns
from node.chunks.serving import StreamTally
from node.errors import ProtocolError, StoreError, UnreachableError
from node.framing import Frame, FramedStream
from node.ports import Offload
from node.records.lease import Lease
from node.records.repair import RepairGrant


@dataclass(frozen=True, slots=True)
class Desks:
    """What a holder does, an object for each kind of request; `large_bodies` has the turns of readers."""

    network_id: str
    offload: Offload
    puts: PutTable
    offering: Offering
    keeper: Keeper
    rosters: Rosters
    attachments: Attachments
    reading: Reading
    large_bodies: Turns
    traffic: Traffic


class Conversation:
    """One stream: requests in turn, and the put that its blocks belong to."""

    def __init__(self, desks: Desks, framed: FramedStream, tally: StreamTally) -> None:
        self._desks = desks
        self._framed = framed
        self._tally = tally
        self._feed: BlockFeed | None = None

    async def run(self) -> None:
        """Serve until the opener ends the stream. Raises `RefusalError`, `ProtocolError`, `NodeError`."""
        try:
            await self._take_all()
        finally:
            self._desks.reading.end(self._tally)

    async def _take_all(self) -> None:
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
            self._desks.traffic.blocks_received += 1
            self._desks.traffic.bytes_received += len(frame.block)
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

    async def _offer(self, request: messages.OfferRequest) -> None:
        await self._reply(await self._desks.offering.offer(request, self._framed.peer_id))

    async def _open_put(self, request: messages.PutOpen) -> None:
        await self._begin(await self._desks.offering.accept_put(request, self._framed.peer_id))

    async def _resume_put(self, request: messages.PutResume) -> None:
        await self._begin(await self._desks.puts.resume(request.put_id, self._framed.peer_id))

    async def _begin(self, feed: BlockFeed) -> None:
        self._feed = feed
        await self._reply(messages.PutAccepted(tuple(feed.put.next_blocks)))

    async def _close_put(self, request: messages.PutClose) -> None:
        feed, self._feed = self._feed, None
        if feed is not None and feed.put.request.put_id != request.put_id:
            raise ProtocolError("the close of another put than the one open here")
        await self._reply_body(await self._desks.keeper.close_put(request, self._framed, feed))

    async def _abort_put(self, request: messages.PutAbort) -> None:
        self._feed = None
        aborted = await self._desks.puts.abort(request.put_id, self._framed.peer_id)
        await self._reply(messages.Done(int(aborted)))

    async def _query_leases(self, request: messages.LeaseQuery) -> None:
        await self._reply_body(await self._desks.keeper.query_leases(request))

    async def _renew(self, request: messages.Renew) -> None:
        await self._reply_body(await self._desks.keeper.renew(request, self._framed))

    async def _attach(self, request: messages.Attach) -> None:
        await self._desks.attachments.attach(request, self._framed)
        await self._reply(messages.Done(1))

    async def _merge_roster(self, request: messages.RosterMerge) -> None:
        body = await receive_body(self._framed, request.body_bytes)
        records = messages.unpack_records(
            body, count_max=limits.ROSTER_LEASES_PER_SHARD_MAX * limits.TOTAL_SHARDS_MAX
        )
        news = [Lease.decode(data, network=self._desks.network_id) for data in records]
        rosters = self._desks.rosters
        known = await self._desks.offload.run(lambda: rosters.learn_leases(request.segment_id, news))
        await self._reply(messages.Done(known))

    async def _give_grant(self, request: messages.GiveGrant) -> None:
        grant = RepairGrant.decode(request.record, network=self._desks.network_id)
        rosters = self._desks.rosters
        await self._desks.offload.run(lambda: rosters.learn_grant(request.segment_id, grant))
        await self._reply(messages.Done(1))

    async def _announce(self, request: messages.Announce) -> None:
        await self._reply(messages.Done(await self._desks.keeper.announce(request)))

    async def _release(self, request: messages.Release) -> None:
        await self._reply(messages.Done(await self._desks.keeper.release(request)))

    async def _manifest(self, request: messages.GetManifest) -> None:
        await self._reply(await self._desks.reading.manifest(request))

    async def _attachment(self, request: messages.GetAttachment) -> None:
        if request.kind != messages.ATTACHED_MANIFEST:
            await self._reply_body(await self._desks.attachments.attachment(request))
            return
        async with self._desks.large_bodies.turn(self._framed.peer_id):
            await self._reply_body(await self._desks.attachments.attachment(request))

    async def _roster(self, request: messages.GetRoster) -> None:
        rosters = self._desks.rosters
        await self._reply_body(await self._desks.offload.run(lambda: rosters.packed(request.segment_id)))

    async def _grant(self, request: messages.GetGrant) -> None:
        rosters = self._desks.rosters
        record = await self._desks.offload.run(lambda: rosters.grant(request.segment_id))
        await self._reply(messages.GrantReply(record))

    async def _leaves(self, request: messages.GetShard) -> None:
        await self._reply(await self._desks.reading.leaves(request, self._tally))

    async def _blocks(self, request: messages.ReadBlocks) -> None:
        await self._desks.reading.send_blocks(request, self._framed, self._tally)

    async def _prove(self, request: messages.Prove) -> None:
        one = messages.ReadBlocks(request.segment_id, request.shard_index, (request.block_index,))
        await self._desks.reading.send_blocks(one, self._framed, self._tally)

    async def _served(self, request: messages.Served) -> None:
        self._desks.reading.take_receipt(request, self._tally)


_Handler = Callable[[Conversation, Any], Awaitable[None]]
_HANDLERS: Final[dict[type[messages.Message], _Handler]] = {
    messages.OfferRequest: Conversation._offer,
    messages.PutOpen: Conversation._open_put,
    messages.PutResume: Conversation._resume_put,
    messages.PutClose: Conversation._close_put,
    messages.PutAbort: Conversation._abort_put,
    messages.LeaseQuery: Conversation._query_leases,
    messages.Renew: Conversation._renew,
    messages.Attach: Conversation._attach,
    messages.RosterMerge: Conversation._merge_roster,
    messages.GiveGrant: Conversation._give_grant,
    messages.Announce: Conversation._announce,
    messages.Release: Conversation._release,
    messages.GetManifest: Conversation._manifest,
    messages.GetAttachment: Conversation._attachment,
    messages.GetRoster: Conversation._roster,
    messages.GetGrant: Conversation._grant,
    messages.GetShard: Conversation._leaves,
    messages.ReadBlocks: Conversation._blocks,
    messages.Prove: Conversation._prove,
    messages.Served: Conversation._served,
}
