"""One holder, as whoever asks it sees it: a stream of `/cairn/shards/1` with typed requests. Layer 4.

Invariants: every wait has a deadline; every size is checked before it is allocated; a broken message is the
holder's fault (`PeerMisbehavedError`), a refusal in words is not (`RefusedError`). What comes back is only
as good as its checks: leaves against roots, blocks against leaves and manifests against hashes are the
caller's part. A session is used by one task at a time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from node import limits, tagged
from node.asking import Session, expect
from node.chunks import messages
from node.chunks.bodies import receive_body, send_body
from node.errors import PeerMisbehavedError, ProtocolError
from node.framing import FramedStream, Preamble
from node.ports import Buffer, Network
from node.records.receipt import ServeReceipt
from node.units import Contact, FileHash, LeaseId, PeerId, SegmentId


class HolderClient:
    """Opens sessions with holders."""

    def __init__(self, network: Network, preamble: Preamble) -> None:
        self._network = network
        self.preamble = preamble

    @property
    def peer_id(self) -> PeerId:
        """This node."""
        return self._network.peer_id

    def is_near(self, peer_id: PeerId) -> bool:
        """Whether a session with the peer costs no dial: it is connected, or this node itself."""
        return peer_id == self.peer_id or peer_id in self._network.connected()

    async def open(self, contact: Contact) -> HolderSession:
        """A session; the caller closes it. Raises `UnreachableError`, `RefusedError`."""
        stream = await self._network.open_stream(contact, messages.PROTOCOL)
        return HolderSession(FramedStream.opened(stream, self.preamble))

    @asynccontextmanager
    async def session(self, contact: Contact) -> AsyncIterator[HolderSession]:
        """A session that is closed at the end of the context, reset if it ends by an error."""
        session = await self.open(contact)
        async with session:
            yield session


class HolderSession(Session[messages.Message]):
    """Requests to one holder, one after another.

    Every method raises `UnreachableError` (silence, a lost connection), `RefusedError` (declined in words;
    the session is over) and `PeerMisbehavedError`.
    """

    def __init__(self, framed: FramedStream) -> None:
        super().__init__(framed, messages.TABLE)

    # --- putting ----------------------------------------------------------------------------------------

    async def offer(self, wanted_bytes: int, shard_count: int, payer: bytes = b"") -> messages.OfferReply:
        """The holder's signed `Offer` record, not verified, and what the payer's leases may come to there."""
        request = messages.OfferRequest(wanted_bytes, shard_count, payer)
        return await self._ask(request, messages.OfferReply)

    async def open_put(self, request: messages.PutOpen) -> tuple[int, ...]:
        """Reserve; the next block index of each slot."""
        return await self._accepted(request, len(request.shard_indexes), request.stripe_count)

    async def resume_put(self, request: messages.PutOpen) -> tuple[int, ...]:
        """Go on with the put that `request` opened; the next block index of each slot."""
        resume = messages.PutResume(request.put_id)
        return await self._accepted(resume, len(request.shard_indexes), request.stripe_count)

    async def send_block(self, slot: int, block_index: int, block: Buffer) -> None:
        """Send one block; nothing is answered. The caller has the deadline: one for many blocks."""
        header = messages.encode_block_header(slot, block_index)
        await self._framed.send_block(header, block, deadline_s=None)

    async def close_put(
        self,
        put_id: messages.PutId,
        manifest: bytes,
        leases: Sequence[bytes],
        charges: Sequence[bytes] = (),
    ) -> tuple[bytes, ...]:
        """Have the shards made durable; the same leases, countersigned (not verified), in the same order.

        `charges` has one for each lease, or none.
        """
        body = messages.pack_charged(leases, charges)
        await self._framed.send(messages.encode(messages.PutClose(put_id, manifest, len(body))))
        await send_body(self._framed, body)
        return await self._records(len(leases), deadline_s=limits.CLOSE_DEADLINE_S)

    async def abort_put(self, put_id: messages.PutId) -> None:
        """Have the put forgotten and its reservation freed."""
        await self._ask(messages.PutAbort(put_id), messages.Done)

    async def query_leases(self, segment_id: SegmentId, lease_ids: Sequence[LeaseId]) -> tuple[bytes, ...]:
        """Those of the leases that the holder countersigned; not verified."""
        await self._send(messages.LeaseQuery(segment_id, tuple(lease_ids)))
        return await self._records(len(lease_ids))

    async def renew(
        self,
        segment_id: SegmentId,
        leases: Sequence[bytes],
        charges: Sequence[bytes] = (),
        payer: bytes = b"",
    ) -> tuple[bytes, ...]:
        """Further leases on shards that are kept; the same, countersigned (not verified), in order.

        `charges` has one for each lease, or none; `payer` is the device certificate of their account.
        """
        body = messages.pack_charged(leases, charges)
        await self._send(messages.Renew(segment_id, len(body), payer))
        await send_body(self._framed, body)
        return await self._records(len(leases), deadline_s=limits.CLOSE_DEADLINE_S)

    async def attach(self, kind: str, file_hash: FileHash, segment_id: SegmentId, body: bytes) -> None:
        """Have an attachment kept with segment 0."""
        await self.attach_all([(kind, body)], file_hash, segment_id)

    async def attach_all(
        self, attachments: Sequence[tuple[str, bytes]], file_hash: FileHash, segment_id: SegmentId
    ) -> None:
        """Have (kind, body) kept with segment 0, in order; one round trip for all."""
        for kind, body in attachments:
            await self._send(messages.Attach(kind, file_hash, segment_id, len(body)))
            await send_body(self._framed, body)
        for _ in attachments:
            await self._reply(messages.Done, deadline_s=limits.CLOSE_DEADLINE_S)

    async def merge_roster(self, segment_id: SegmentId, leases: Sequence[bytes]) -> int:
        """Tell the holder of others' leases; how many leases of the segment it knows now."""
        body = tagged.pack_records(leases)
        await self._send(messages.RosterMerge(segment_id, len(body)))
        await send_body(self._framed, body)
        return (await self._reply(messages.Done)).count

    async def give_grant(self, segment_id: SegmentId, record: bytes) -> None:
        """Have the owner's repair grant kept with the segment."""
        await self._ask(messages.GiveGrant(segment_id, record), messages.Done)

    async def announce(
        self, *, file_hashes: Sequence[FileHash] = (), segment_ids: Sequence[SegmentId] = ()
    ) -> int:
        """Have these provided in the DHT; the least number of peers that took a record."""
        request = messages.Announce(tuple(file_hashes), tuple(segment_ids))
        return (await self._ask(request, messages.Done, deadline_s=limits.ANNOUNCE_DEADLINE_S)).count

    async def release(self, records: Sequence[bytes]) -> int:
        """End leases by signed `Release` records; how many ended."""
        ended = 0
        step = limits.RELEASES_PER_MESSAGE_MAX
        for start in range(0, len(records), step):
            request = messages.Release(tuple(records[start : start + step]))
            ended += (await self._ask(request, messages.Done)).count
        return ended

    # --- getting ----------------------------------------------------------------------------------------

    async def manifest(self, segment_id: SegmentId) -> tuple[bytes, tuple[int, ...]]:
        """A segment's encoded manifest (compare its hash), and the shards of it that the holder keeps."""
        reply = await self._ask(messages.GetManifest(segment_id), messages.ManifestReply)
        return reply.manifest, reply.shard_indexes

    async def attachment(self, kind: str, file_hash: FileHash) -> bytes:
        """What is attached to the file; `RefusedError` with code "missing" if there is none."""
        await self.request_attachment(kind, file_hash)
        return await self.receive_attachment(kind)

    async def request_attachment(self, kind: str, file_hash: FileHash) -> None:
        """Ask for an attachment without waiting; then call `receive_attachment`, in the order asked."""
        await self._send(messages.GetAttachment(kind, file_hash))

    async def receive_attachment(self, kind: str) -> bytes:
        """The next attachment that was asked for."""
        return await self._body(messages.ATTACHMENT_BYTES_MAX[kind])

    async def roster(self, segment_id: SegmentId) -> tuple[bytes, ...]:
        """Encoded leases of the segment that the holder knows; not verified."""
        await self._send(messages.GetRoster(segment_id))
        return await self._records(limits.ROSTER_LEASES_PER_SHARD_MAX * limits.TOTAL_SHARDS_MAX)

    async def grant(self, segment_id: SegmentId) -> bytes:
        """The owner's repair grant, not verified; `RefusedError` with code "missing" if there is none."""
        return (await self._ask(messages.GetGrant(segment_id), messages.GrantReply)).record

    async def leaves(self, segment_id: SegmentId, shard_index: int) -> bytes:
        """The leaf list of a shard, to be checked against its root."""
        await self.request_leaves(segment_id, shard_index)
        return (await self.receive_leaves()).leaves

    async def request_leaves(self, segment_id: SegmentId, shard_index: int) -> None:
        """Ask for a leaf list without waiting; then call `receive_leaves`, in the order asked."""
        await self._send(messages.GetShard(segment_id, shard_index))

    async def receive_leaves(self) -> messages.ShardReply:
        """The next leaf list that was asked for, and the lease to name in receipts."""
        return await self._reply(messages.ShardReply)

    async def send_receipts(self, receipts: Iterable[ServeReceipt]) -> None:
        """Sign for blocks that came in this session; nothing is answered."""
        await self._framed.send_together([messages.encode(messages.Served(r.encode())) for r in receipts])

    async def request_blocks(
        self, segment_id: SegmentId, shard_index: int, block_indexes: Sequence[int]
    ) -> None:
        """Ask for blocks; then call `receive_block` once for each, in this order."""
        await self._send(messages.ReadBlocks(segment_id, shard_index, tuple(block_indexes)))

    async def receive_block(
        self, shard_index: int, block_index: int, *, deadline_s: float = limits.REPLY_DEADLINE_S
    ) -> memoryview | messages.BlockMissing:
        """The next block that was asked for, unchecked, or why there is none."""
        with self._blaming():
            frame = await self._framed.receive_frame(deadline_s=deadline_s)
            if frame.block is None:
                reply = expect(messages.decode(frame.values), messages.BlockMissing)
                if reply.block_index != block_index:
                    raise ProtocolError("a block of another index was declined")
                return reply
            if messages.decode_block_header(frame.values) != (shard_index, block_index):
                raise ProtocolError("another block than the one asked for")
            return frame.block

    async def prove(
        self, segment_id: SegmentId, shard_index: int, block_index: int
    ) -> memoryview | messages.BlockMissing:
        """One block as a proof that the shard is there, unchecked."""
        await self._send(messages.Prove(segment_id, shard_index, block_index))
        return await self.receive_block(shard_index, block_index)

    # --- plumbing ---------------------------------------------------------------------------------------

    async def _accepted(
        self, request: messages.PutOpen | messages.PutResume, slots: int, stripe_count: int
    ) -> tuple[int, ...]:
        reply = await self._ask(request, messages.PutAccepted)
        if len(reply.next_blocks) != slots or max(reply.next_blocks) > stripe_count:
            raise PeerMisbehavedError(self._framed.peer, "accepted another put than the one asked for")
        return reply.next_blocks

    async def _body(self, size_max: int, *, deadline_s: float = limits.REPLY_DEADLINE_S) -> bytes:
        size = (await self._reply(messages.Body, deadline_s=deadline_s)).body_bytes
        with self._blaming():
            if size > size_max:
                raise ProtocolError(f"a body of {size} bytes where at most {size_max} are due")
            return await receive_body(self._framed, size)

    async def _records(
        self, count_max: int, *, deadline_s: float = limits.REPLY_DEADLINE_S
    ) -> tuple[bytes, ...]:
        body = await self._body(limits.LEASES_BODY_BYTES_MAX, deadline_s=deadline_s)
        with self._blaming():
            return messages.unpack_records(body, count_max=count_max)
