"""What holders have promised: an observer beside every holder writes down each lease that it countersigned.

The books of the nodes are not asked: a promise begins when the signed lease is about to leave the holder,
and ends when the owner's signed release has been answered, or when its time is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from node import limits
from node.chunks import messages
from node.chunks.merkle import shard_root
from node.chunks.store.shard_store import ShardStore
from node.daemon.compose import NETWORK_ID, Node
from node.errors import CorruptBlockError, NotFoundError
from node.records.lease import Lease, Release
from node.units import LeaseId, PeerId, SegmentId
from simulations.host import Host

ShardName = tuple[SegmentId, int]


@dataclass
class Promises:
    """All live promises of a world, by holder."""

    leases: dict[PeerId, dict[ShardName, dict[LeaseId, Lease]]] = field(default_factory=dict)
    made: int = 0

    def observe(self, host: Host, node: Node) -> None:
        """Watch one new node; a hook for `Host.on_up`."""
        keeper = node.server.keeper
        setattr(keeper, "close_put", self._noting(keeper.close_put, host.peer_id))  # noqa: B010
        setattr(keeper, "renew", self._noting(keeper.renew, host.peer_id))  # noqa: B010
        release = keeper.release

        async def released(request: messages.Release) -> int:
            count = await release(request)
            for record in request.records:
                self._end(host.peer_id, Release.decode(record, network=NETWORK_ID))
            return count

        setattr(keeper, "release", released)  # noqa: B010

    def of(self, host: Host) -> list[tuple[ShardName, bytes]]:
        """Shards that a holder owes today, with their roots."""
        now_s = host.calendar.now_s()
        held = self.leases.get(host.peer_id, {})
        return [
            (name, next(iter(leases.values())).root)
            for name, leases in held.items()
            if any(lease.expires_s > now_s for lease in leases.values())
        ]

    def _noting(
        self, call: Callable[..., Awaitable[bytes]], holder: PeerId
    ) -> Callable[..., Awaitable[bytes]]:
        async def noted(*arguments: Any) -> bytes:
            body = await call(*arguments)
            for data in messages.unpack_records(body, count_max=limits.TOTAL_SHARDS_MAX):
                lease = Lease.decode(data, network=NETWORK_ID)
                name = (lease.segment_id, lease.shard_index)
                self.leases.setdefault(holder, {}).setdefault(name, {})[lease.lease_id] = lease
                self.made += 1
            return body

        return noted

    def _end(self, holder: PeerId, release: Release) -> None:
        release.verify()
        held = self.leases.get(holder, {})
        for name, leases in list(held.items()):
            lease = leases.get(release.lease_id)
            if lease is not None and release.signer == lease.owner_key:
                del leases[release.lease_id]
                if not leases:
                    del held[name]


def is_intact(store: ShardStore, name: ShardName, root: bytes) -> bool:
    """Whether a shard is really there: every block read, hashed, and the root computed from the hashes."""
    segment_id, shard_index = name
    leaves = store.leaves(segment_id, shard_index)
    if leaves is None or shard_root(leaves) != root:
        return False
    try:
        for block_index in range(len(leaves) // 32):
            block = store.read_block(segment_id, shard_index, block_index)
            if blake3(block).digest() != leaves[32 * block_index : 32 * block_index + 32]:
                return False
    except (CorruptBlockError, NotFoundError):
        return False
    return True
