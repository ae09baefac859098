"""Donors that lie: what a hostile holder does instead of its duty. Each is a hook for `Host.on_up`.

They are real nodes whose store or protocols were tampered with, so that everything honest around the lie
(signatures, framing, the DHT) still works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import trio

from node.chunks import messages as shard_messages
from node.chunks.healing.prober import Seen
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of
from node.crypto.hashing import HASH_BYTES
from node.daemon.compose import Node
from node.dht import messages as dht_messages
from node.dht.exchange import Exchange
from node.dht.messages import Message, MessageType
from node.errors import NotFoundError
from node.ports import Stream
from node.records.lease import Lease
from node.units import Contact, SegmentId
from simulations.host import Host


def corrupt(_: Host, node: Node) -> None:
    """Serves blocks with one bit flipped."""
    honest = node.store.read_block

    def read_block(segment_id: SegmentId, shard_index: int, block_index: int) -> bytes:
        block = bytearray(honest(segment_id, shard_index, block_index))
        block[len(block) // 2] ^= 1
        return bytes(block)

    setattr(node.store, "read_block", read_block)  # noqa: B010


def withhold(_: Host, node: Node) -> None:
    """Promises, answers with leaf lists, and never gives a block."""

    def read_block(segment_id: SegmentId, shard_index: int, block_index: int) -> bytes:
        raise NotFoundError(f"block {block_index} of shard {shard_index} of {segment_id.hex()} is not here")

    setattr(node.store, "read_block", read_block)  # noqa: B010


def wrong_block(_: Host, node: Node) -> None:
    """Answers every request with the same block, which has a valid leaf somewhere."""
    honest = node.store.read_block
    setattr(  # noqa: B010
        node.store, "read_block", lambda segment_id, shard_index, _: honest(segment_id, shard_index, 0)
    )


def forge(_: Host, node: Node) -> None:
    """Has thrown its shards away, and answers with noise and the hashes of that noise."""
    honest_leaves = node.store.leaves
    honest_block = node.store.read_block

    def read_block(segment_id: SegmentId, shard_index: int, block_index: int) -> bytes:
        block = honest_block(segment_id, shard_index, block_index)
        return Random(f"forged {segment_id.hex()} {shard_index} {block_index}").randbytes(len(block))

    def leaves(segment_id: SegmentId, shard_index: int) -> bytes | None:
        honest = honest_leaves(segment_id, shard_index)
        if honest is None:
            return None
        count = len(honest) // HASH_BYTES
        return b"".join(leaf_of(read_block(segment_id, shard_index, index)) for index in range(count))

    setattr(node.store, "read_block", read_block)  # noqa: B010
    setattr(node.store, "leaves", leaves)  # noqa: B010


def greedy(_: Host, node: Node) -> None:
    """Says of a shard of each segment that its holder is lost, to move it under the owner's grant."""
    healer = node.healing.service._healer
    honest = healer._context.prober.probe

    async def probe(
        segment: SegmentManifest, leases: Iterable[Lease], *, patience_s: float = 0.0
    ) -> dict[Lease, Seen]:
        seen = await honest(segment, leases, patience_s=patience_s)
        others = [lease for lease in seen if lease.holder != healer.me]
        return seen | dict.fromkeys(sorted(others, key=lambda lease: lease.shard_index)[:1], Seen.BAD)

    async def evidence(*_: Any) -> Any:
        return _Convinced()

    setattr(healer._context.prober, "probe", probe)  # noqa: B010
    setattr(healer, "_evidence", evidence)  # noqa: B010


class _Convinced:
    """Evidence that covers everything and consists of nothing."""

    def covers(self, _: Lease) -> bool:
        return True

    def about(self, _: object) -> tuple[tuple[()], tuple[()], tuple[()]]:
        return (), (), ()


def stall(_: Host, node: Node) -> None:
    """Takes every stream and says nothing."""

    async def handler(stream: Stream) -> None:
        await trio.sleep_forever()

    node.ports.network.serve(shard_messages.PROTOCOL, handler, streams_max=512, streams_max_per_peer=64)


def garbage(host: Host, node: Node) -> None:
    """Answers everything with noise."""
    random = Random(f"garbage {host.index}")

    async def handler(stream: Stream) -> None:
        await stream.receive_some(65_536)
        await stream.send_all(random.randbytes(random.randrange(1, 20_000)))

    node.ports.network.serve(shard_messages.PROTOCOL, handler, streams_max=512, streams_max_per_peer=64)


def crowd(accomplices: list[Contact]) -> Callable[[Host, Node], None]:
    """A DHT node that knows only its accomplices, takes every record and forgets it."""

    def sabotage(_: Host, node: Node) -> None:
        async def handler(stream: Stream) -> None:
            exchange = Exchange(stream)
            while (request := await exchange.receive(60.0)) is not None:
                if request.type is not MessageType.ADD_PROVIDER:
                    reply = Message(request.type, request.key, closer=tuple(accomplices[:20]))
                    await exchange.send(reply)

        node.ports.network.serve(dht_messages.PROTOCOL, handler, streams_max=512, streams_max_per_peer=64)

    return sabotage


SABOTAGES: dict[str, Callable[[Host, Node], None]] = {
    "corrupt": corrupt,
    "withhold": withhold,
    "forge": forge,
    "wrong-block": wrong_block,
    "stall": stall,
    "garbage": garbage,
}
PROVES_NOTHING = ("withhold", "forge")
"""Those of whom no sample of any shard can be right."""
