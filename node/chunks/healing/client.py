"""One node, as a repairer sees it: a stream of `/cairn/repair/1` with typed requests. Layer 4.

Invariants: every wait has a deadline; a broken message is the other side's fault (`PeerMisbehavedError`), a
refusal in words is not. What comes back is only as good as its checks, which are the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from node import limits
from node.asking import Session
from node.chunks.bad_answer import BadAnswer
from node.chunks.bodies import receive_body, send_body
from node.chunks.healing import messages
from node.chunks.messages import encode_block_header
from node.framing import FramedStream, Preamble
from node.ports import Buffer, Network
from node.records.repair import RepairIntent
from node.units import Contact, LeaseId, SegmentId


class RepairSession(Session[messages.Message]):
    """Requests to one node.

    Every method raises `UnreachableError`, `RefusedError` and `PeerMisbehavedError`.
    """

    def __init__(self, framed: FramedStream) -> None:
        super().__init__(framed, messages.TABLE)

    async def replace(self, manifest: bytes, grant: bytes, case: messages.Case) -> None:
        """Show a case; when this returns, blocks may be sent."""
        body = case.encode()
        await self._send(messages.Replace(manifest, grant, len(body)))
        await send_body(self._framed, body)
        await self._reply(messages.Ready, deadline_s=limits.CLOSE_DEADLINE_S)

    async def send_block(self, slot: int, block_index: int, block: Buffer) -> None:
        """Send one block; nothing is answered."""
        await self._framed.send_block(encode_block_header(slot, block_index), block)

    async def receive_leases(self, count: int) -> tuple[bytes, ...]:
        """After the last block: the leases, countersigned (not verified), in the order of the case."""
        return await self._records(count, deadline_s=limits.CLOSE_DEADLINE_S)

    async def announce(self, intent: RepairIntent) -> None:
        """Say what this node is about to repair."""
        await self._ask(messages.Intent(intent.encode()), messages.Done)

    async def lost(self, word: BadAnswer) -> None:
        """Say that a shard which this node promised to keep is lost."""
        await self._ask(messages.Lost(word.encode()), messages.Done)

    async def witness(self, segment_id: SegmentId, lease_ids: Sequence[LeaseId]) -> tuple[bytes, ...]:
        """Receipts of what the other one found silent or bad; not verified."""
        await self._send(messages.Witness(segment_id, tuple(lease_ids)))
        return await self._records(limits.REPAIR_RECEIPTS_MAX, deadline_s=limits.REPAIR_WITNESS_DEADLINE_S)

    async def _records(self, count_max: int, *, deadline_s: float) -> tuple[bytes, ...]:
        size = (await self._reply(messages.Body, deadline_s=deadline_s)).body_bytes
        with self._blaming():
            body = await receive_body(self._framed, size)
            return messages.unpack_records(body, count_max=count_max)


class RepairClient:
    """Opens sessions."""

    def __init__(self, network: Network, preamble: Preamble) -> None:
        self._network = network
        self._preamble = preamble

    async def open(self, contact: Contact) -> RepairSession:
        """A session; the caller closes it. Raises `UnreachableError`, `RefusedError`."""
        stream = await self._network.open_stream(contact, messages.PROTOCOL)
        return RepairSession(FramedStream.opened(stream, self._preamble))

    @asynccontextmanager
    async def session(self, contact: Contact) -> AsyncIterator[RepairSession]:
        """A session that is closed at the end of the context, reset if it ends by an error."""
        async with await self.open(contact) as session:
            yield session
