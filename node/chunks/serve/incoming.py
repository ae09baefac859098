"""Puts on their way into the store: reserved, resumable for a while, then durable or forgotten. Layer 4.

Invariants: an unfinished put belongs to the peer that opened it; its blocks come in order of index, slot by
slot; a connection that took a put over shuts the older one out; a put that is silent for
`limits.PUT_SILENCE_S`, refused or aborted leaves nothing reserved; where room or places are short, whoever
holds more than an equal part of them, reserved and unfilled, gives way. Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Admission, Asker, Wanted
from node.chunks.geometry import BLOCK_BYTES, Code
from node.chunks.store.incoming_put import IncomingPut
from node.chunks.store.shard_store import ShardStore
from node.errors import NodeError, ProtocolError, StoreFullError, UsageError
from node.ports import Buffer, Offload
from node.records.charge import manifest_bytes_max
from node.units import PeerId


class RefusalError(NodeError):
    """Said to the peer in words; no fault of anyone."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class OpenPut:
    """One unfinished put."""

    def __init__(self, request: messages.PutOpen, peer_id: PeerId, incoming: IncomingPut) -> None:
        self.request = request
        self.peer_id = peer_id
        self.incoming = incoming
        self.next_blocks = [0] * len(request.shard_indexes)
        self.touched_s = trio.current_time()
        self.feed: BlockFeed | None = None
        self.lock = trio.Lock()
        self.over = False

    @property
    def asker(self) -> Asker:
        """Who wants the shards kept, and pays."""
        return Asker(self.peer_id, self.request.payer)

    @property
    def reservation(self) -> bytes:
        """The name of its reservation of credit."""
        return _reservation(self.peer_id, self.request.put_id)

    @property
    def unfilled_bytes(self) -> int:
        """Block bytes that are reserved and did not come yet."""
        request, came = self.request, 0
        for count in self.next_blocks:
            is_full = count == request.stripe_count
            came += request.shard_bytes if is_full else count * BLOCK_BYTES
        return len(request.shard_indexes) * request.shard_bytes - came

    @property
    def is_complete(self) -> bool:
        """Whether every block of every slot is in the store."""
        return all(block_index == self.request.stripe_count for block_index in self.next_blocks)

    def check(self, slot: int, block_index: int, block_bytes: int, expected: int) -> None:
        """Accept a block's header. Raises `ProtocolError`."""
        if block_index != expected or block_index >= self.request.stripe_count:
            raise ProtocolError(f"block {block_index} of slot {slot} where {expected} was due")
        if block_bytes != self.request.block_size(block_index):
            raise ProtocolError(f"a block of {block_bytes} bytes")


class BlockFeed:
    """Blocks of one put from one stream, appended to the store in batches."""

    def __init__(self, put: OpenPut, offload: Offload) -> None:
        self._put = put
        self._offload = offload
        self._batch: list[tuple[int, int, Buffer]] = []
        self._expected = list(put.next_blocks)
        put.feed = self

    @property
    def put(self) -> OpenPut:
        """What is being fed."""
        return self._put

    async def add(self, slot: int, block_index: int, block: Buffer) -> None:
        """Take one block. Raises `ProtocolError`, `RefusalError`, `StoreError`; the put is unchanged then."""
        if slot >= len(self._expected):
            raise ProtocolError(f"no slot {slot} in this put")
        self._put.check(slot, block_index, len(block), self._expected[slot])
        self._expected[slot] += 1
        self._put.touched_s = trio.current_time()
        self._batch.append((slot, block_index, block))
        if len(self._batch) >= limits.PUT_BATCH_BLOCKS:
            await self.flush()

    async def flush(self) -> None:
        """Hand what was taken to the store."""
        batch, self._batch = self._batch, []
        put = self._put
        async with put.lock:
            if put.over or put.feed is not self:
                raise RefusalError(messages.REFUSED_UNKNOWN, "this put is over, or goes on elsewhere")
            if not batch:
                return
            slots: dict[int, list[tuple[int, Buffer]]] = {}
            for slot, block_index, block in batch:
                slots.setdefault(slot, []).append((block_index, block))

            def append() -> None:
                for slot, blocks in slots.items():
                    put.incoming.append(slot, blocks)
                    put.next_blocks[slot] = blocks[-1][0] + 1

            await self._offload.run(append)


class PutTable:
    """All unfinished puts of a donor."""

    def __init__(self, store: ShardStore, offload: Offload, admission: Admission | None = None) -> None:
        """Without an `admission` everybody's puts are taken, within the room on the disk."""
        self._store = store
        self._offload = offload
        self._admission = admission
        self._puts: dict[tuple[PeerId, messages.PutId], OpenPut] = {}
        self._opening: dict[PeerId, int] = {}
        self._beginning: set[bytes] = set()
        self._opened = trio.Event()

    def __len__(self) -> int:
        return len(self._puts)

    async def open(self, request: messages.PutOpen, peer_id: PeerId) -> BlockFeed:
        """Reserve room; a put that this peer opened before goes on.

        Raises:
            ProtocolError: numbers that don't make a segment.
            RefusalError: no room, or too many unfinished puts.
            CreditError: the payer has not the credit.
            CryptoError: the payer's certificate does not hold.
        """
        check_geometry(request)
        known = self._puts.get((peer_id, request.put_id))
        if known is not None:
            if known.request != request:
                raise ProtocolError("a put of that name is open with other numbers")
            return await self._take_over(known)
        mine = self._opening.get(peer_id, 0) + sum(1 for owner, _ in self._puts if owner == peer_id)
        everyone = sum(self._opening.values()) + len(self._puts)
        name = _reservation(peer_id, request.put_id)
        if name in self._beginning:
            raise RefusalError(messages.REFUSED_BUSY, "a put of that name is being opened")
        if mine >= limits.PUTS_OPEN_PER_PEER_MAX or (
            everyone >= limits.PUTS_OPEN_MAX and not await self._make_place(mine)
        ):
            raise RefusalError(messages.REFUSED_BUSY, "too many unfinished puts")
        self._beginning.add(name)
        self._opening[peer_id] = self._opening.get(peer_id, 0) + 1
        try:
            put = OpenPut(request, peer_id, await self._begin(request, peer_id))
            self._puts[peer_id, request.put_id] = put
            self._opened.set()
            self._opened = trio.Event()
            return BlockFeed(put, self._offload)
        finally:
            self._beginning.discard(name)
            self._opening[peer_id] -= 1
            if not self._opening[peer_id]:
                del self._opening[peer_id]

    def room(self, peer_id: PeerId, free_bytes: int) -> int:
        """What a peer may reserve where the store has `free_bytes`: all of them, or an equal part of them and
        of what is reserved and unfilled, less what the peer holds of that itself."""
        part, unfilled = self._parts(peer_id, free_bytes)
        return max(0, free_bytes, part - unfilled[peer_id])

    async def resume(self, put_id: messages.PutId, peer_id: PeerId) -> BlockFeed:
        """Go on with an unfinished put. Raises `RefusalError`."""
        put = self._puts.get((peer_id, put_id))
        if put is None:
            raise RefusalError(messages.REFUSED_UNKNOWN, "no such unfinished put")
        return await self._take_over(put)

    async def commit(self, put: OpenPut, change: Callable[[IncomingPut], None]) -> None:
        """Run `change`, which commits the put, off the loop; whatever happens, the put is over.

        The caller has seen that the put is complete. What `change` raises passes through.
        """

        def finish() -> None:
            try:
                change(put.incoming)
            finally:
                put.incoming.abort()

        async with put.lock:
            if put.over:
                raise RefusalError(messages.REFUSED_UNKNOWN, "this put is over")
            put.over = True
            try:
                await self._offload.run(finish)
            finally:
                self._forget(put)

    async def abort(self, put_id: messages.PutId, peer_id: PeerId) -> bool:
        """Forget a put; whether there was one."""
        put = self._puts.get((peer_id, put_id))
        if put is None:
            return False
        await self._end(put)
        return True

    async def wait_open(self) -> None:
        """Wait until there is an unfinished put: an idle donor has nothing to look after."""
        while not self._puts:
            await self._opened.wait()

    async def end_silent(self) -> int:
        """Forget all puts that have been silent for too long; how many."""
        horizon = trio.current_time() - limits.PUT_SILENCE_S
        silent = [put for put in self._puts.values() if put.touched_s <= horizon and not put.lock.locked()]
        for put in silent:
            await self._end(put)
        return len(silent)

    async def end_all(self) -> None:
        """Forget everything: the node stops."""
        for put in list(self._puts.values()):
            await self._end(put)

    async def _begin(self, request: messages.PutOpen, peer_id: PeerId) -> IncomingPut:
        """Room on the disk and credit, both or neither."""
        if self._admission is None:
            return await self._begin_on_disk(request, peer_id)
        name = _reservation(peer_id, request.put_id)
        wanted = Wanted(
            lease_count=len(request.shard_indexes),
            shard_bytes=request.shard_bytes,
            manifest_bytes=manifest_bytes_max(request.total_shards, request.stripe_count),
            days=request.lease_days,
            rate=request.rate,
        )
        await self._admission.reserve(name, Asker(peer_id, request.payer), wanted)
        try:
            return await self._begin_on_disk(request, peer_id)
        except BaseException:
            self._admission.cancel(name)
            raise

    async def _begin_on_disk(self, request: messages.PutOpen, peer_id: PeerId) -> IncomingPut:
        slots = len(request.shard_indexes)

        def begin() -> IncomingPut:
            reservation = self._store.reserve(
                slots * request.shard_bytes, block_count=slots * request.stripe_count, shard_count=slots
            )
            return self._store.begin_put(reservation, slots)

        while True:
            try:
                return await self._offload.run(begin)
            except StoreFullError as error:
                if not await self._make_room(peer_id, slots * request.shard_bytes):
                    raise RefusalError(messages.REFUSED_FULL, str(error)) from error

    def _parts(self, peer_id: PeerId, free_bytes: int) -> tuple[int, Counter[PeerId]]:
        """An equal part of the room for each peer with a put and for `peer_id`; what each holds unfilled."""
        unfilled = Counter({peer_id: 0})
        for put in self._puts.values():
            unfilled[put.peer_id] += put.unfilled_bytes
        return (free_bytes + unfilled.total()) // len(unfilled), unfilled

    async def _make_room(self, peer_id: PeerId, byte_count: int) -> bool:
        """End a put of a peer that holds more than its part unfilled, for one that stays within its own."""
        statistics = await self._offload.run(self._store.statistics)
        part, unfilled = self._parts(peer_id, max(0, statistics.free_bytes))
        if unfilled[peer_id] + byte_count > part:
            return False
        greedy = [put for put in self._puts.values() if unfilled[put.peer_id] > part]
        if not greedy:
            return False
        await self._end(max(greedy, key=lambda put: (unfilled[put.peer_id], put.unfilled_bytes)))
        return True

    async def _make_place(self, mine: int) -> bool:
        """End the longest silent put of the peer with the most, for one that has fewer."""
        counts = Counter(put.peer_id for put in self._puts.values())
        greediest, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
        if count <= mine + 1:
            return False
        await self._end(
            min((p for p in self._puts.values() if p.peer_id == greediest), key=lambda put: put.touched_s)
        )
        return True

    async def _take_over(self, put: OpenPut) -> BlockFeed:
        async with put.lock:
            if put.over:
                raise RefusalError(messages.REFUSED_UNKNOWN, "this put is over")
            put.touched_s = trio.current_time()
            return BlockFeed(put, self._offload)

    async def _end(self, put: OpenPut) -> None:
        async with put.lock:
            if put.over:
                return
            put.over = True
            self._forget(put)
            await self._offload.run(put.incoming.abort)

    def _forget(self, put: OpenPut) -> None:
        self._puts.pop((put.peer_id, put.request.put_id), None)
        if self._admission is not None:
            self._admission.cancel(put.reservation)


def _reservation(peer_id: PeerId, put_id: messages.PutId) -> bytes:
    return peer_id + put_id


def check_geometry(request: messages.PutOpen) -> None:
    """Accept the numbers of a put. Raises `ProtocolError`."""
    try:
        code = Code(request.data_shards, request.total_shards)
    except UsageError as error:
        raise ProtocolError(str(error)) from error
    if request.block_bytes != BLOCK_BYTES or request.last_block_bytes % limits.BLOCK_ALIGN_BYTES:
        raise ProtocolError("blocks of a length that no segment has")
    _check_distinct(request.shard_indexes, code.total_shards)


def _check_distinct(shard_indexes: Sequence[int], total_shards: int) -> None:
    if len(set(shard_indexes)) != len(shard_indexes) or max(shard_indexes) >= total_shards:
        raise ProtocolError("shard indexes that are not of one segment")
