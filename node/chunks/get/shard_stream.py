"""Reads verified blocks of one segment's shards from one holder. Layer 4.

Leaf lists and blocks are asked for in one go and answered in order, so that a holder is never idle between
requests. Invariants: a leaf list counts only under the manifest's root, a block only under its leaf; a shard
that fails a check is reported once and never handed on again; at most what was asked is received; receipts
are given for good blocks only, by the task that asks, so that nothing waits for them.
Source: design.md, section 3 (shard root).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import trio

from node import limits
from node.chunks import messages
from node.chunks.client import HolderSession
from node.chunks.holders import CLOSE_TIMEOUT_S
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import check_leaves, leaf_of
from node.chunks.serving import Reader, StreamSigner
from node.crypto.hashing import HASH_BYTES
from node.errors import CryptoError, ProtocolError, RefusedError, RemoteError
from node.records.lease import LEASE_ID_BYTES
from node.records.receipt import ServeReceipt
from node.units import Contact, LeaseId

MIXED_BATCH_BLOCKS = 4
"""Blocks asked of one shard before the next, where a holder sends several shards: all are needed soon."""

BlockCallback = Callable[[int, int, memoryview], None]
FaultCallback = Callable[[int, str], None]


@dataclass(slots=True)
class ByteCount:
    """Block bytes received, good or bad, wanted or not."""

    fetched_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Expected:
    """An answer on its way: the leaf list of a shard, or (with a stripe) one of its blocks."""

    shard_index: int
    stripe: int | None = None


class ShardStream:
    """What is asked of one holder for one segment; it outlives a broken session."""

    def __init__(
        self,
        segment: SegmentManifest,
        *,
        on_block: BlockCallback,
        on_fault: FaultCallback,
        count: ByteCount | None = None,
        reader: Reader | None = None,
    ) -> None:
        """`on_block(shard, stripe, block)` gets verified blocks; `on_fault(shard, code)` is told once that
        the holder has a shard no longer (`REFUSED_MISSING`) or in a bad state (`REFUSED_CORRUPT`);
        `reader` signs for what came."""
        self.first_answer_s: float | None = None
        """Seconds until the first answer of the latest session."""
        self.received_bytes = 0
        self.waited_s = 0.0
        self._segment = segment
        self._count = count or ByteCount()
        self._on_block = on_block
        self._on_fault = on_fault
        self._queue: list[tuple[int, int]] = []
        self._leaves: dict[int, bytes] = {}
        self._lease_ids: dict[int, LeaseId] = {}
        self._faulty: set[int] = set()
        self._reader = reader
        self._signer: StreamSigner | None = None
        self._receipts: list[ServeReceipt] = []
        """Signed, and not sent."""
        self._broken = False
        """Whether the latest session failed, or was left in the middle of a message."""
        self._expected: deque[_Expected] = deque()
        self._asked = trio.Event()
        self._awaited = trio.Event()

    @property
    def idle(self) -> bool:
        """Whether every answer came that was asked for."""
        return not self._expected and not self._queue

    @property
    def leaf_lists(self) -> Mapping[int, bytes]:
        """Leaf lists by shard, each checked under its root."""
        return self._leaves

    def ask(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Queue (shard index, stripe) pairs."""
        self._queue.extend(block for block in blocks if block[0] not in self._faulty)
        self._asked.set()

    def forget(self) -> None:
        """Drop what was asked and not answered."""
        self._queue.clear()
        self._expected.clear()

    async def wait_asked(self) -> None:
        """Return when something is queued."""
        while not self._queue:
            self._asked = trio.Event()
            await self._asked.wait()

    async def run(self, session: HolderSession, *, until_idle: bool = False) -> None:
        """Ask and receive over `session`, for ever or until every answer came.

        Raises `RemoteError`: the session is over, and what was asked is to be asked again or elsewhere.
        """
        failures: list[RemoteError] = []
        self.first_answer_s = None
        self._receipts.clear()
        self._signer = None
        if self._reader is not None:
            shard_bytes = self._segment.geometry.shard_bytes
            self._signer = StreamSigner(self._reader, session.peer_id, shard_bytes)
        self._broken = False
        known = set(self._leaves)  # leaf lists asked for in this session or had before

        async def send() -> None:
            try:
                await self._send(session, known)
            except RemoteError as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            try:
                await self._receive(session, until_idle=until_idle)
            except RemoteError as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            self._broken = True
            raise failures[0]

    async def sign_off(self, session: HolderSession, contact: Contact) -> bool:
        """Sign for what came since the last receipt; whether the session may be closed in good order."""
        signer = self._signer
        if signer is None or self._reader is None:
            return self.idle
        if not self._broken:
            last = {each.lease_id: each for each in (*self._receipts, *signer.rest())}
            self._broken = True
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S), suppress(RemoteError):
                await session.send_receipts(last.values())
                self._broken = False
        if signer.latest():
            self._reader.was_served(contact, signer.latest())
        self._signer = None
        return self.idle and not self._broken

    async def _send(self, session: HolderSession, known: set[int]) -> None:
        segment_id = self._segment.segment_id
        while True:
            while not self._queue and not self._receipts:
                self._asked = trio.Event()
                await self._asked.wait()
            self._broken = True  # where this is cancelled before the last message is out
            receipts, self._receipts = self._receipts, []
            await session.send_receipts(receipts)
            queue, self._queue = self._queue, []
            for shard_index, stripes in _batches(queue):
                if shard_index not in known:
                    known.add(shard_index)
                    self._expect([_Expected(shard_index)])
                    await session.request_leaves(segment_id, shard_index)
                self._expect([_Expected(shard_index, stripe) for stripe in stripes])
                await session.request_blocks(segment_id, shard_index, stripes)
            self._broken = False

    def _expect(self, answers: Iterable[_Expected]) -> None:
        # Before the request leaves: its answer may be there before the call returns.
        self._expected.extend(answers)
        self._awaited.set()

    async def _receive(self, session: HolderSession, *, until_idle: bool) -> None:
        while not (until_idle and self.idle):
            while not self._expected:
                self._awaited = trio.Event()
                await self._awaited.wait()
            answer = self._expected[0]
            start = trio.current_time()
            try:
                if answer.stripe is None:
                    self._take_leaves(answer.shard_index, await session.receive_leaves())
                else:
                    reply = await session.receive_block(answer.shard_index, answer.stripe)
                    self._take_block(answer.shard_index, answer.stripe, reply)
            except RefusedError as error:
                if error.code in (messages.REFUSED_MISSING, messages.REFUSED_CORRUPT):
                    self._fault(answer.shard_index, error.code)
                raise
            taken_s = trio.current_time() - start
            if self.first_answer_s is None:
                self.first_answer_s = taken_s
            self.waited_s += taken_s
            self._expected.popleft()

    def _take_leaves(self, shard_index: int, reply: messages.ShardReply) -> None:
        leaves = reply.leaves
        try:
            check_leaves(
                leaves,
                leaf_count=self._segment.geometry.stripe_count,
                root=self._segment.root(shard_index),
            )
        except (CryptoError, ProtocolError):
            self._fault(shard_index, messages.REFUSED_CORRUPT)
        else:
            self._leaves[shard_index] = leaves
            if len(reply.lease_id) == LEASE_ID_BYTES:
                self._lease_ids[shard_index] = LeaseId(reply.lease_id)

    def _take_block(self, shard_index: int, stripe: int, reply: memoryview | messages.BlockMissing) -> None:
        if isinstance(reply, messages.BlockMissing):
            self._fault(shard_index, reply.code)
            return
        self.received_bytes += len(reply)
        self._count.fetched_bytes += len(reply)
        if shard_index in self._faulty:
            return
        leaf = self._leaves[shard_index][stripe * HASH_BYTES : (stripe + 1) * HASH_BYTES]
        if leaf_of(reply) != leaf:
            self._fault(shard_index, messages.REFUSED_CORRUPT)
        else:
            self._sign_for(shard_index, len(reply))
            self._on_block(shard_index, stripe, reply)

    def _sign_for(self, shard_index: int, byte_count: int) -> None:
        lease_id = self._lease_ids.get(shard_index)
        if self._signer is None or lease_id is None:
            return
        receipt = self._signer.received(lease_id, byte_count)
        if receipt is not None:
            self._receipts.append(receipt)
            self._asked.set()

    def _fault(self, shard_index: int, code: str) -> None:
        if shard_index not in self._faulty:
            self._faulty.add(shard_index)
            self._queue = [block for block in self._queue if block[0] != shard_index]
            self._on_fault(shard_index, code)


def _batches(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, list[int]]]:
    """Requests for (shard, stripe) pairs: one a shard, or several shards taking turns by stripes."""
    by_shard: dict[int, list[int]] = {}
    for shard_index, stripe in blocks:
        by_shard.setdefault(shard_index, []).append(stripe)
    step = MIXED_BATCH_BLOCKS if len(by_shard) > 1 else limits.SEGMENT_STRIPES
    batches = [
        (shard_index, stripes[start : start + step])
        for shard_index, stripes in by_shard.items()
        for start in range(0, len(stripes), step)
    ]
    return sorted(batches, key=lambda batch: (batch[1][0], batch[0]))
