"""Telling co-holders at once of shards that are lost here: rotted, or gone with their disk. Layer 4.

Who lost a shard signs an audit's empty answer unasked: it counts as the shard's loss wherever evidence does,
and repair need not wait for somebody to ask. Invariants: nothing is said of a shard that can be read; each
loss is told once, to holders that would have to act on it; what could not be told is tried again, and a round
without losses costs one look at two counters. Source: credit.md, "Audits", "Repair".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio

from node import wire
from node.chunks.audit import Sample
from node.chunks.bad_answer import BadAnswer
from node.chunks.healing.client import RepairClient
from node.chunks.holders import Holders
from node.chunks.roster import live_leases
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.hashing import blake3_256, multihash
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import AvailabilityError, ProtocolError, RemoteError
from node.ports import Clock, Entropy, KeyValue, Offload, WriteTransaction
from node.records.lease import Lease
from node.records.receipt import AUDIT_NONCE_BYTES, AuditAnswer
from node.units import DAY_S, Contact, LeaseId, PeerId, SegmentId

TABLE: Final = "losses_told"
"""Lease id -> empty: losses that co-holders know."""
TELL_HOLDERS: Final = 8
"""Co-holders that are told: the first in any order of repair are likely among them, and one is enough."""
TELL_DEADLINE_S: Final = 15.0

_logger = logging.getLogger(__name__)


def own_word(lease: Lease, identity: KeyPair, auditor: PeerId, nonce: bytes) -> BadAnswer:
    """What the holder of `lease` signs about a shard that it lost: that it has no block 0 of it.

    `auditor` is who is told; `nonce` are `AUDIT_NONCE_BYTES` fresh bytes. Raises `CryptoError` if `identity`
    is not the holder's.
    """
    digest = blake3_256(wire.encode([lease.lease_id, 0, 0, Sample().encode()]))
    answer = AuditAnswer(lease.network, nonce, auditor, lease.holder, digest).sign(identity)
    return BadAnswer(answer, 0, 0, 0, Sample(), lease)


class LossTeller:
    """Tells of what this donor lost."""

    def __init__(
        self,
        *,
        store: ShardStore,
        rosters: Rosters,
        holders: Holders,
        client: RepairClient,
        state: KeyValue,
        identity: KeyPair,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
    ) -> None:
        """`state` remembers what was told."""
        self._store = store
        self._rosters = rosters
        self._holders = holders
        self._client = client
        self._state = state
        self._identity = identity
        self._me = peer_id_of(identity.public)
        self._clock = clock
        self._entropy = entropy
        self._offload = offload

    async def tell(self) -> int:
        """Tell of what is lost and not told yet; how many leases were told now. Raises `StoreError`."""
        if not await self._offload.run(self._store.has_losses):
            return 0
        waiting = await self._offload.run(self._untold)
        if not waiting:
            return 0
        by_segment: dict[SegmentId, list[Lease]] = {}
        for lease in waiting:
            by_segment.setdefault(lease.segment_id, []).append(lease)
        told: list[LeaseId] = []
        for segment_id, leases in by_segment.items():
            if await self._tell_segment(segment_id, leases):
                told += [lease.lease_id for lease in leases]
        await self._offload.run(lambda: self._remember(told))
        _logger.warning(
            "%d leases are of shards that are lost here; holders of %d were told now, others are tried again",
            len(waiting),
            len(told),
        )
        return len(told)

    def _untold(self) -> list[Lease]:
        """Losses that nobody knows of; forgets those whose lease has ended."""
        today = self._clock.now_s() // DAY_S
        network = self._holders.network
        lost = [Lease.decode(held.lease.data, network=network) for held in self._store.losses()]
        over = [lease.lease_id for lease in lost if lease.end_day <= today]
        if over:
            self._store.forget_lost(over)
        with self._state.view() as view:
            known = {key for key, _ in view.scan(TABLE)}
        stale = known - {lease.lease_id for lease in lost}
        if stale:
            self._state.update(lambda transaction: _drop(transaction, stale))
        return [lease for lease in lost if lease.end_day > today and lease.lease_id not in known]

    async def _tell_segment(self, segment_id: SegmentId, leases: Sequence[Lease]) -> bool:
        """Whether any co-holder of a segment heard of these losses."""
        heard = 0

        async def tell(contact: Contact) -> None:
            nonlocal heard
            with trio.move_on_after(TELL_DEADLINE_S):
                try:
                    async with self._client.session(contact) as session:
                        for lease in leases:
                            nonce = self._entropy.random_bytes(AUDIT_NONCE_BYTES)
                            await session.lost(own_word(lease, self._identity, contact.peer_id, nonce))
                except RemoteError as error:
                    self._holders.blame(contact.peer_id, error)
                    return
                heard += 1

        others = await self._others(segment_id)
        async with trio.open_nursery() as nursery:
            for contact in others:
                nursery.start_soon(tell, contact)
        return heard > 0

    async def _others(self, segment_id: SegmentId) -> list[Contact]:
        """Co-holders: those of the roster, and who announces the segment where that went with the disk."""
        today = self._clock.now_s() // DAY_S

        def read() -> list[PeerId]:
            try:
                known = self._rosters.known_leases(segment_id)
            except ProtocolError:
                return []
            return list(dict.fromkeys(lease.holder for lease in live_leases(known, today=today)))

        names = [peer_id for peer_id in await self._offload.run(read) if peer_id != self._me]
        try:
            announcing = await self._holders.directory.find_providers(
                multihash(segment_id), wanted=TELL_HOLDERS
            )
        except AvailabilityError:
            announcing = []
        contacts: dict[PeerId, Contact] = {
            contact.peer_id: contact for contact in announcing if contact.peer_id != self._me
        }
        for peer_id in names[:TELL_HOLDERS]:
            if peer_id not in contacts:
                contacts[peer_id] = await self._holders.look_up(Contact(peer_id)) or Contact(peer_id)
        return list(contacts.values())[:TELL_HOLDERS]

    def _remember(self, told: Sequence[LeaseId]) -> None:
        def change(transaction: WriteTransaction) -> None:
            for lease_id in told:
                transaction.put(TABLE, lease_id, b"\x01")

        if told:
            self._state.update(change)


def _drop(transaction: WriteTransaction, keys: set[bytes]) -> None:
    for key in keys:
        transaction.delete(TABLE, key)
