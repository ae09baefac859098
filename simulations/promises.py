"""What holders have promised: an observer beside every holder writes down each lease that it countersigned.

The books of a running node are not asked: a promise begins when the signed lease is about to leave the
holder, also one under a repair grant. It ends when the owner's signed release has ended it, when its time is
over, or when the holder gives it up while another one has promised the same shard; a holder that gives up the
only promise breaks it. A holder that died between making a lease durable and answering has promised as well:
after its next start it shows that lease to whoever asks, and others rely on it. Where it died in the midst of
ending one, its next start shows whether the lease has ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
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
PAGE_SEGMENTS = 256
UNNOTICED_S = 60.0
"""A shard that moves is let go seconds after its new holder has signed for it and others know."""


@dataclass
class Promises:
    """All live promises of a world, by holder."""

    leases: dict[PeerId, dict[ShardName, dict[LeaseId, Lease]]] = field(default_factory=dict)
    roots: dict[ShardName, bytes] = field(default_factory=dict)
    """Of each shard the root in the first lease of it: whoever put it made that."""
    made: int = 0
    granted: int = 0
    """Of those, made without the owner: repaired or moved."""
    given_up: Counter[tuple[PeerId, ShardName]] = field(default_factory=Counter)
    """How often each holder gave each shard up: it was moved, or one copy too many."""
    on_broken: Callable[[Host, str], None] = lambda host, text: None
    """Told when a holder gives up what nobody else has promised."""
    on_granted: Callable[[Host, Lease], None] = lambda host, lease: None
    """Told of each lease that a holder signs without the owner, before it counts as a promise."""
    lost_for_s: Callable[[PeerId], float | None] = lambda peer_id: None
    """For how long a holder has been lost for good: what it promised keeps nothing. None if it is not."""
    _releasing: dict[LeaseId, Release] = field(default_factory=dict)
    _ending: dict[PeerId, list[tuple[LeaseId, Release | None]]] = field(default_factory=dict)
    """What each holder was about to end, or was ending when it died."""

    def observe(self, host: Host, node: Node) -> None:
        """Watch one new node; a hook for `Host.on_up`."""
        self._take_stock(host, node)
        keeper = node.server.keeper
        setattr(keeper, "close_put", self._noting(keeper.close_put, host.peer_id))  # noqa: B010
        setattr(keeper, "renew", self._noting(keeper.renew, host.peer_id))  # noqa: B010
        release, keep_granted, end_lease = keeper.release, keeper.keep_granted, node.store.end_lease

        async def released(request: messages.Release) -> int:
            records = [Release.decode(record, network=NETWORK_ID) for record in request.records]
            names = {record.lease_id: record for record in records}
            self._releasing |= names
            try:
                return await release(request)
            finally:
                for lease_id in names:
                    self._releasing.pop(lease_id, None)

        async def kept(
            incoming: Any, manifest: Any, grant: Any, leases: Sequence[Lease], roster: Any, peer_id: Any
        ) -> None:
            await keep_granted(incoming, manifest, grant, leases, roster, peer_id)
            self.granted += len(leases)
            for lease in leases:
                self.on_granted(host, lease)
                self._begin(host.peer_id, lease)

        def ended(lease_id: LeaseId) -> bool:
            under_way = self._ending.setdefault(host.peer_id, [])
            under_way.append((lease_id, self._releasing.get(lease_id)))
            was_there = end_lease(lease_id)  # where it raises, the next start shows what became of it
            _, record = under_way.pop()
            if was_there:
                self._end(host, lease_id, record)
            return was_there

        setattr(keeper, "release", released)  # noqa: B010
        setattr(keeper, "keep_granted", kept)  # noqa: B010
        setattr(node.store, "end_lease", ended)  # noqa: B010

    def of(self, host: Host) -> list[tuple[ShardName, bytes]]:
        """Shards that a holder owes today, with their roots."""
        now_s = host.calendar.now_s()
        held = self.leases.get(host.peer_id, {})
        return [
            (name, next(iter(leases.values())).root)
            for name, leases in held.items()
            if any(lease.expires_s > now_s for lease in leases.values())
        ]

    def holders(self, name: ShardName) -> list[PeerId]:
        """Who has promised a shard and is not lost for good."""
        return self._holders(name, lost_within_s=0.0)

    def _holders(self, name: ShardName, *, lost_within_s: float) -> list[PeerId]:
        return [
            peer
            for peer, held in self.leases.items()
            if held.get(name) and ((lost_s := self.lost_for_s(peer)) is None or lost_s < lost_within_s)
        ]

    def _noting(
        self, call: Callable[..., Awaitable[bytes]], holder: PeerId
    ) -> Callable[..., Awaitable[bytes]]:
        async def noted(*arguments: Any) -> bytes:
            body = await call(*arguments)
            for data in messages.unpack_records(body, count_max=limits.TOTAL_SHARDS_MAX):
                self._begin(holder, Lease.decode(data, network=NETWORK_ID))
            return body

        return noted

    def _begin(self, holder: PeerId, lease: Lease) -> None:
        name = (lease.segment_id, lease.shard_index)
        self.leases.setdefault(holder, {}).setdefault(name, {})[lease.lease_id] = lease
        self.roots.setdefault(name, lease.root)
        self.made += 1

    def _take_stock(self, host: Host, node: Node) -> None:
        """What a starting holder keeps leases of, and what it had ended when it died."""
        for lease_id, record in self._ending.pop(host.peer_id, ()):
            if node.store.lease(lease_id) is None:
                self._end(host, lease_id, record)
        cursor = b""
        while page := node.store.segments(cursor, limit=PAGE_SEGMENTS):
            for segment_id in page:
                for held in node.store.leases(segment_id):
                    if self._find(host.peer_id, held.lease.lease_id) is None:
                        self._begin(host.peer_id, Lease.decode(held.lease.data, network=NETWORK_ID))
            cursor = page[-1] + b"\0"

    def _end(self, host: Host, lease_id: LeaseId, record: Release | None) -> None:
        if record is None:
            self.give_up(host, lease_id)
            return
        record.verify()
        lease = self._find(host.peer_id, lease_id)
        if lease is not None and record.signer == lease.owner_key:
            self._forget(host.peer_id, lease)

    def give_up(self, host: Host, lease_id: LeaseId) -> None:
        """A holder ends a lease without its owner."""
        lease = self._find(host.peer_id, lease_id)
        if lease is None:
            return
        self._forget(host.peer_id, lease)
        name = (lease.segment_id, lease.shard_index)
        self.given_up[host.peer_id, name] += 1
        is_over = lease.expires_s <= host.calendar.now_s()
        # Whoever was lost a moment ago had shown its copy before: nobody can know of that yet.
        if not is_over and not self._holders(name, lost_within_s=UNNOTICED_S):
            self.on_broken(host, f"{host} gave up shard {name[1]} of {name[0].hex()[:8]}, the only one")

    def _find(self, holder: PeerId, lease_id: LeaseId) -> Lease | None:
        for leases in self.leases.get(holder, {}).values():
            if lease_id in leases:
                return leases[lease_id]
        return None

    def _forget(self, holder: PeerId, lease: Lease) -> None:
        held = self.leases[holder]
        name = (lease.segment_id, lease.shard_index)
        del held[name][lease.lease_id]
        if not held[name]:
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
