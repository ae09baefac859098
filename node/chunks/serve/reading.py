"""What a holder gives to readers: manifests, leaves, blocks; and who of them goes first. Layer 4.

Invariants: a block leaves only if it still has its hash; past the free egress of a lease a reader that
owes, or is unknown, gives way to the others; a receipt counts only for what was sent on its stream.
Source: design.md, section 6 (serving earns).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node import limits
from node.chunks import messages
from node.chunks.serve.incoming import RefusalError
from node.chunks.serve.suspension import StoreCare
from node.chunks.serve.turns import Precedence
from node.chunks.serving import ServedShard, Serving, StreamTally
from node.chunks.store.shard_store import ShardStore
from node.errors import CorruptBlockError, NotFoundError, StoreError
from node.framing import FramedStream
from node.ports import Clock, Offload
from node.records.lease import Lease
from node.records.receipt import ServeReceipt
from node.units import DAY_S, LeaseId, PeerId, SegmentId

GIVE_WAY_S: Final = 1.0
"""A batch of blocks waits for others no longer: a reader takes a holder that is silent for gone."""
READ_AHEAD_BLOCKS: Final = 8
"""Blocks read from the disk in one go (512 KiB), so that a thread has something to do."""


@dataclass(slots=True)
class Traffic:
    """Blocks that came and went, since the start."""

    blocks_received: int = 0
    bytes_received: int = 0
    blocks_served: int = 0
    bytes_served: int = 0


class Reading:
    """The side of one holder that readers see."""

    def __init__(
        self,
        *,
        store: ShardStore,
        care: StoreCare,
        network: str,
        clock: Clock,
        offload: Offload,
        serving: Serving | None,
        traffic: Traffic,
    ) -> None:
        """`serving` gets the receipts of readers, and knows who owes; without it everybody is equal."""
        self._store = store
        self._care = care
        self._network = network
        self._clock = clock
        self._offload = offload
        self._serving = serving
        self._traffic = traffic
        self._egress: dict[LeaseId, int] = {}
        self._precedence = Precedence(GIVE_WAY_S)

    async def manifest(self, request: messages.GetManifest) -> messages.ManifestReply:
        """A segment that is held. Raises `RefusalError`."""

        def read() -> messages.ManifestReply:
            manifest = self._store.segment_manifest(request.segment_id)
            if manifest is None:
                raise RefusalError(messages.REFUSED_MISSING, "no shard of that segment is here")
            return messages.ManifestReply(manifest, self._store.shards_of(request.segment_id))

        return await self._offload.run(read)

    async def leaves(self, request: messages.GetShard, tally: StreamTally) -> messages.ShardReply:
        """The leaf list of a shard that is held, and a lease on it. Raises `RefusalError`."""
        leaves = await self._offload.run(lambda: self._store.leaves(request.segment_id, request.shard_index))
        if leaves is None:
            raise RefusalError(messages.REFUSED_MISSING, "that shard is not here")
        shard = await self._served_shard(request.segment_id, request.shard_index, tally)
        return messages.ShardReply(leaves, shard.lease_id or b"")

    def take_receipt(self, request: messages.Served, tally: StreamTally) -> None:
        """A reader's receipt. Raises `ProtocolError`, `CryptoError`.

        Checked at once: going to a thread and back costs more than the one signature.
        """
        receipt = ServeReceipt.decode(request.record, network=self._network)
        tally.take(receipt, today=self._clock.now_s() // DAY_S)

    def end(self, tally: StreamTally) -> None:
        """A stream is over: its last receipts go to the ledger."""
        receipts = tally.latest()
        if receipts and self._serving is not None:
            self._serving.has_served(receipts)

    async def send_blocks(
        self, request: messages.ReadBlocks, framed: FramedStream, tally: StreamTally
    ) -> None:
        """Each block asked for, in order, or why there is none.

        What goes beyond the free egress of a lease gives way to others, where the reader owes or is unknown.
        Raises `UnreachableError`; `RefusalError` if the disk failed.
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
            lease = Lease.decode(last.data, network=self._network)
            ids = frozenset(each.lease_id for each in held)
            return ServedShard(ids, last.lease_id, lease.egress_cap_bytes)

        known = tally.shard(segment_id, shard_index)
        return known or tally.add(segment_id, shard_index, await self._offload.run(look))

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

    def _note_sent(self, shard: ServedShard, byte_count: int) -> None:
        self._traffic.blocks_served += 1
        self._traffic.bytes_served += byte_count
        shard.sent_bytes += byte_count
        if shard.lease_id is not None:
            if shard.lease_id not in self._egress and len(self._egress) >= limits.EGRESS_LEASES_MAX:
                del self._egress[next(iter(self._egress))]
            self._egress[shard.lease_id] = self._egress.get(shard.lease_id, 0) + byte_count

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
        if faults and await self._care.on_fault():
            raise self._care.refusal()
        return blocks  # one place that can't be read is as bad as flipped bits to whoever asks
