"""Asks a holder for a random block of each of its shards, and signs what it saw. Layer 4.

Invariants: a shard counts as proved only by a block under its leaf under the manifest's root, now; what is
signed is what this node saw itself. Which silence is long enough to be signed for says `held`. Source:
credit.md, "Repair".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import trio

from node.chunks import messages
from node.chunks.evidence import Evidence
from node.chunks.get.shard_stream import ShardStream
from node.chunks.holders import Holders, end
from node.chunks.manifest import SegmentManifest
from node.crypto.signing import KeyPair
from node.errors import PeerMisbehavedError, RefusedError, RemoteError
from node.ports import Entropy, Network, Offload
from node.records.lease import Lease
from node.records.receipt import AUDIT_NONCE_BYTES, AuditReceipt, Outcome, join_lease_ids
from node.units import Contact, PeerId

HOLDERS_AT_ONCE = 16
PROBE_TIMEOUT_S = 45.0
"""For one holder: a dial that fails, a look-up of its addresses, another dial."""


class Seen(Enum):
    """What one shard at one holder looked like."""

    PROVED = "proved"
    SILENT = "silent"
    """No connection, or no answer."""
    BAD = "bad"
    """An answer without the bytes: missing, or others."""
    UNKNOWN = "unknown"
    """Declined, in words that say nothing of the shard."""


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What a probe works with."""

    network: Network
    holders: Holders
    evidence: Evidence
    identity: KeyPair
    entropy: Entropy
    offload: Offload


class Prober:
    """Looks at shards where they should be."""

    def __init__(self, context: ProbeContext) -> None:
        self._context = context
        self._limiter = trio.CapacityLimiter(HOLDERS_AT_ONCE)

    def contact(self, peer_id: PeerId) -> Contact:
        """A peer with the addresses of its connection, perhaps none."""
        return Contact(peer_id, self._context.network.addresses_of(peer_id))

    async def probe(
        self, segment: SegmentManifest, leases: Iterable[Lease], *, patience_s: float = 0.0
    ) -> dict[Lease, Seen]:
        """What each leased shard looks like, all holders at once. This node's own are proved.

        Whoever was away for long need not be looked up again within `patience_s`.
        """
        by_holder: dict[PeerId, list[Lease]] = {}
        for lease in leases:
            by_holder.setdefault(lease.holder, []).append(lease)
        seen: dict[Lease, Seen] = {}

        async def one(peer_id: PeerId, mine: list[Lease]) -> None:
            shards = {lease.shard_index for lease in mine}
            async with self._limiter:
                states = await self._probe_holder(segment, peer_id, shards, patience_s)
            seen.update((lease, states[lease.shard_index]) for lease in mine)

        async with trio.open_nursery() as nursery:
            for peer_id, mine in by_holder.items():
                if peer_id == self._context.network.peer_id:
                    seen.update((lease, Seen.PROVED) for lease in mine)
                else:
                    nursery.start_soon(one, peer_id, mine)
        return seen

    async def sign(
        self, segment: SegmentManifest, roster: Sequence[Lease], seen: Mapping[Lease, Seen], *, now_s: int
    ) -> list[AuditReceipt]:
        """Receipts for what was silent or bad, kept as evidence too, one a holder and outcome."""
        context = self._context
        groups: dict[tuple[PeerId, Outcome], list[Lease]] = {}
        for lease, state in seen.items():
            if state is Seen.SILENT:
                groups.setdefault((lease.holder, Outcome.NO_ANSWER), []).append(lease)
            elif state is Seen.BAD:
                groups.setdefault((lease.holder, Outcome.FAILED), []).append(lease)
        receipts = []
        for (donor, outcome), leases in sorted(groups.items()):
            count = len(leases)
            receipt = AuditReceipt(
                network=context.holders.network,
                leases=join_lease_ids(lease.lease_id for lease in leases),
                round_number=0,
                nonce=context.entropy.random_bytes(AUDIT_NONCE_BYTES),
                asked_count=count,
                passed_count=0,
                failed_count=count if outcome is Outcome.FAILED else 0,
                time_s=now_s,
                outcome=outcome,
                auditor=context.network.peer_id,
                donor=donor,
            )
            receipts.append(receipt.sign(context.identity))
        if receipts:
            await context.offload.run(lambda: context.evidence.add_receipts(receipts, roster, now_s=now_s))
        return receipts

    async def _probe_holder(
        self, segment: SegmentManifest, peer_id: PeerId, shards: set[int], patience_s: float
    ) -> dict[int, Seen]:
        states = dict.fromkeys(shards, Seen.SILENT)
        entropy, count = self._context.entropy, segment.geometry.stripe_count
        # A holder that says "missing" ends its stream, so the shards after that one are asked for again.
        while waiting := sorted(shard for shard, state in states.items() if state is Seen.SILENT):
            blocks = [(shard, int.from_bytes(entropy.random_bytes(4), "big") % count) for shard in waiting]
            with trio.move_on_after(PROBE_TIMEOUT_S) as scope:
                await self._session(segment, peer_id, blocks, states, patience_s)
            left = [shard for shard, state in states.items() if state is Seen.SILENT]
            if scope.cancelled_caught or len(left) == len(waiting):
                break
        return states

    async def _session(
        self,
        segment: SegmentManifest,
        peer_id: PeerId,
        blocks: list[tuple[int, int]],
        states: dict[int, Seen],
        patience_s: float,
    ) -> None:
        holders = self._context.holders

        def on_block(shard_index: int, _stripe: int, _block: memoryview) -> None:
            states[shard_index] = Seen.PROVED

        def on_fault(shard_index: int, _code: str) -> None:
            states[shard_index] = Seen.BAD

        stream = ShardStream(segment, on_block=on_block, on_fault=on_fault)
        try:
            session = await holders.open(self.contact(peer_id), patience_s=patience_s)
            try:
                stream.ask(blocks)
                await stream.run(session, until_idle=True)
            finally:
                await end(session, clean=stream.idle)
        except RefusedError as error:
            if error.code not in (messages.REFUSED_MISSING, messages.REFUSED_CORRUPT):
                self._settle(states, Seen.UNKNOWN)
        except PeerMisbehavedError as error:
            holders.blame(peer_id, error)
            self._settle(states, Seen.BAD)
        except RemoteError as error:
            holders.blame(peer_id, error)

    @staticmethod
    def _settle(states: dict[int, Seen], rest: Seen) -> None:
        for shard, state in states.items():
            if state is Seen.SILENT:
                states[shard] = rest
