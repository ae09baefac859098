"""What a holder promises: closing puts, leases, announcements, releases. Layer 4.

Invariants: a lease is countersigned only for a shard whose blocks give the manifest's root and that is
durable; only the owner key or a lease's signer ends leases; what is announced is held.
Source: design.md, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from node import limits, tagged
from node.chunks import messages
from node.chunks.admission import Admission, Asker, Paid
from node.chunks.bodies import receive_body
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import shard_root
from node.chunks.serve.incoming import BlockFeed, OpenPut, PutTable, RefusalError
from node.chunks.serve.rosters import Rosters
from node.chunks.store.incoming_put import IncomingPut, PutShard
from node.chunks.store.shard_store import (
    AttachmentKind,
    HeldLease,
    ShardStore,
    StoredLease,
)
from node.crypto.hashing import multihash
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, CryptoError, ProtocolError
from node.framing import FramedStream
from node.ports import Clock, Directory, Offload
from node.records.lease import Lease, Release
from node.records.repair import RepairGrant
from node.units import DAY_S, LeaseId, PeerId, SegmentId

ANNOUNCEMENTS_AT_ONCE: Final = 8


class Keeper:
    """The promises of one holder."""

    def __init__(
        self,
        *,
        store: ShardStore,
        puts: PutTable,
        rosters: Rosters,
        directory: Directory,
        identity: KeyPair,
        network: str,
        clock: Clock,
        offload: Offload,
        grace_days: int,
        admission: Admission | None = None,
    ) -> None:
        """`grace_days` is how long a shard is kept beyond its last lease, in case the owner is late."""
        self._admission = admission
        self._grace_days = grace_days
        self._store = store
        self._puts = puts
        self._rosters = rosters
        self._directory = directory
        self._identity = identity
        self._peer_id = peer_id_of(identity.public)
        self._network = network
        self._clock = clock
        self._offload = offload
        self._announcements = trio.CapacityLimiter(ANNOUNCEMENTS_AT_ONCE)
        self.leases_signed = 0
        self.on_released: Callable[[], None] | None = None
        """Called when leases have ended before their time: there may be space to give back."""

    @property
    def peer_id(self) -> PeerId:
        """This holder."""
        return self._peer_id

    # --- puts and leases ----------------------------------------------------------------------------------

    async def close_put(
        self, request: messages.PutClose, framed: FramedStream, feed: BlockFeed | None
    ) -> bytes:
        """Make a put durable; the countersigned leases as a body. Asked again, the same answer.

        Raises `RefusalError`, `ProtocolError`, `CryptoError`; the put is over then.
        """
        try:
            body = await receive_body(framed, request.body_bytes)
            asked, charges = messages.unpack_charged(body, count_max=limits.TOTAL_SHARDS_MAX)
            leases = [Lease.decode(data, network=self._network) for data in asked]
            if feed is None:
                return await self._closed_before(leases)
            await feed.flush()
            manifest = SegmentManifest.decode(request.manifest)
            self._check_close(feed.put, manifest, leases)
            signed = [lease.countersign(self._identity) for lease in leases]
        except BaseException:
            if feed is not None:
                with trio.CancelScope(shield=True):
                    await self._puts.abort(request.put_id, framed.peer_id)
            raise
        put = feed.put
        try:
            async with self._settling(put.reservation, put.asker, manifest, signed, charges):
                await self._puts.commit(put, lambda incoming: self._commit(incoming, manifest, signed))
        except (CreditError, ProtocolError, CryptoError):
            await self._puts.abort(request.put_id, framed.peer_id)
            raise
        self.leases_signed += len(signed)
        return tagged.pack_records([lease.encode() for lease in signed])

    @asynccontextmanager
    async def _settling(
        self,
        name: bytes,
        asker: Asker,
        manifest: SegmentManifest,
        leases: Sequence[Lease],
        charges: Sequence[bytes],
    ) -> AsyncIterator[None]:
        """Have claims durable before the context commits the shards, and undone where it did not.

        Raises `CreditError`, `ProtocolError`, `CryptoError`: nothing was settled then.
        """
        if self._admission is None:
            yield
            return
        if len(charges) != len(leases):
            raise ProtocolError("leases without charges, where somebody has to pay")
        size = len(manifest.encoded)
        paid = [Paid(lease, charge, size) for lease, charge in zip(leases, charges, strict=True)]
        await self._admission.settle(name, asker, paid)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await self._note_settled(leases)

    async def _note_settled(self, leases: Sequence[Lease]) -> None:
        """Tell which of the claims are of shards that are kept: the store knows, whatever was raised."""
        assert self._admission is not None

        def find() -> set[LeaseId]:
            return {lease.lease_id for lease in leases if self._store.lease(lease.lease_id) is not None}

        kept = await self._offload.run(find)
        lost = [lease.lease_id for lease in leases if lease.lease_id not in kept]
        if lost:
            await self._admission.settled(lost, kept=False)
        if kept:
            await self._admission.settled(sorted(kept), kept=True)

    def _check_close(self, put: OpenPut, manifest: SegmentManifest, leases: Sequence[Lease]) -> None:
        opened, geometry = put.request, manifest.geometry
        if not put.is_complete:
            raise ProtocolError("a close before the last block")
        described = (
            geometry.code.data_shards, geometry.code.total_shards, geometry.stripe_count,
            geometry.last_block_bytes,
        )  # fmt: skip
        if described != (
            opened.data_shards, opened.total_shards, opened.stripe_count, opened.last_block_bytes
        ):  # fmt: skip
            raise ProtocolError("the manifest of another segment than the one that was opened")
        if [lease.shard_index for lease in leases] != list(opened.shard_indexes):
            raise ProtocolError("leases for other shards than those that were opened")
        if len({lease.lease_id for lease in leases}) != len(leases):
            raise ProtocolError("two leases of one name")
        for lease in leases:
            if lease.owner_key != manifest.owner_key:
                raise ProtocolError("a first lease by another key than the file's owner")
            self._check_lease(lease, manifest)

    def _check_lease(self, lease: Lease, manifest: SegmentManifest, *, until_day: int = 0) -> None:
        """Accept the asker's half of a lease for this holder. Raises `ProtocolError`, `CryptoError`.

        `until_day` is when what is promised of the shard ends: a renewal may begin then, so that no day is
        paid for twice, and not later.
        """
        today = self._clock.now_s() // DAY_S
        if (lease.holder, lease.segment_id) != (self._peer_id, manifest.segment_id):
            raise ProtocolError("a lease of another holder or segment")
        if lease.shard_index >= manifest.code.total_shards:
            raise ProtocolError("a lease of a shard that the segment does not have")
        if lease.root != manifest.root(lease.shard_index):
            raise ProtocolError("a lease of another root than the manifest's")
        if lease.byte_count != manifest.geometry.shard_bytes:
            raise ProtocolError("a lease of another length than the shard's")
        # Clocks differ by a day at most between honest peers.
        if not today - 1 <= lease.start_day <= max(today + 1, until_day) or lease.end_day <= today:
            raise ProtocolError("a lease that begins neither today nor when the one before it ends")
        if lease.is_granted:
            raise ProtocolError("a lease under a grant needs evidence that the shard is lost or given up")
        lease.verify_owner_half()

    def _commit(self, incoming: IncomingPut, manifest: SegmentManifest, leases: Sequence[Lease]) -> None:
        for slot, lease in enumerate(leases):
            if shard_root(incoming.leaves(slot)) != lease.root:
                raise ProtocolError(f"the blocks of shard {lease.shard_index} do not give its root")
            if self._store.lease(lease.lease_id) is not None:
                raise ProtocolError("a lease of that name is kept already")
        shards = [PutShard(slot, lease.shard_index, self._stored(lease)) for slot, lease in enumerate(leases)]
        incoming.commit(manifest.segment_id, manifest.encoded, shards)

    async def _closed_before(self, asked: Sequence[Lease]) -> bytes:
        """The reply to a close that was lost."""

        def find() -> list[bytes]:
            found = []
            for lease in asked:
                held = self._store.lease(lease.lease_id)
                if held is None or not self._same(held, lease):
                    raise RefusalError(messages.REFUSED_UNKNOWN, "no such unfinished put")
                found.append(held.lease.data)
            return found

        if not asked:
            raise ProtocolError("a close without leases")
        return tagged.pack_records(await self._offload.run(find))

    def _same(self, held: HeldLease, asked: Lease) -> bool:
        return Lease.decode(held.lease.data, network=self._network).body() == asked.body()

    async def query_leases(self, request: messages.LeaseQuery) -> bytes:
        """Those of the leases that are kept for the segment, as a body."""

        def find() -> list[bytes]:
            held = (self._store.lease(lease_id) for lease_id in request.lease_ids)
            return [
                each.lease.data for each in held if each is not None and each.segment_id == request.segment_id
            ]

        return tagged.pack_records(await self._offload.run(find))

    async def renew(self, request: messages.Renew, framed: FramedStream) -> bytes:
        """Further leases on shards that are held, countersigned, as a body; again, the same answer.

        Any key may ask for one, where an account pays. Raises `RefusalError`, `CreditError`, `ProtocolError`,
        `CryptoError`.
        """
        body = await receive_body(framed, request.body_bytes)
        records, charges = messages.unpack_charged(body, count_max=limits.TOTAL_SHARDS_MAX)
        leases = [Lease.decode(data, network=self._network) for data in records]
        manifest = await self._offload.run(lambda: self._check_renewal(request.segment_id, leases))
        signed = [lease.countersign(self._identity) for lease in leases]

        def add() -> None:
            for lease in signed:
                self._store.add_lease(lease.segment_id, lease.shard_index, self._stored(lease))

        asker = Asker(framed.peer_id, request.payer)
        async with self._settling(b"", asker, manifest, signed, charges):
            await self._offload.run(add)
        self.leases_signed += len(signed)
        return tagged.pack_records([lease.encode() for lease in signed])

    def _check_renewal(self, segment_id: SegmentId, leases: Sequence[Lease]) -> SegmentManifest:
        """The manifest of a segment on whose shards these leases may begin. Blocks on the disk."""
        manifest = self._rosters.manifest(segment_id)
        if len({lease.lease_id for lease in leases}) != len(leases):
            raise ProtocolError("two leases of one name")
        until_day: dict[int, int] = {}
        for each in self._store.leases(segment_id):
            end_day = Lease.decode(each.lease.data, network=self._network).end_day
            until_day[each.shard_index] = max(end_day, until_day.get(each.shard_index, 0))
        for lease in leases:
            self._check_lease(lease, manifest, until_day=until_day.get(lease.shard_index, 0))
            if not self._store.has_shard(lease.segment_id, lease.shard_index):
                raise RefusalError(messages.REFUSED_MISSING, f"shard {lease.shard_index} is not here")
            held = self._store.lease(lease.lease_id)
            if held is not None and not self._same(held, lease):
                raise ProtocolError("another lease of that name is kept already")
        return manifest

    async def keep_granted(
        self,
        incoming: IncomingPut,
        manifest: SegmentManifest,
        grant: RepairGrant,
        leases: Sequence[Lease],
        roster: Sequence[Lease],
        peer_id: PeerId,
    ) -> None:
        """Make shards durable that came under a grant: slot i is lease i, countersigned, its case checked.

        They came from `peer_id`. The grant and the roster (verified) are kept with them. Raises
        `CreditError`, `ProtocolError`, `StoreError`: nothing is kept then.
        """

        def keep() -> None:
            self._commit(incoming, manifest, leases)
            self._rosters.keep_verified_grant(manifest.segment_id, grant)
            self._rosters.merge_verified(manifest, [*roster, *leases])

        if self._admission is None:
            await self._offload.run(keep)
        else:
            try:
                for lease in leases:
                    await self._admission.admit_granted(lease, grant, len(manifest.encoded), peer_id)
                await self._offload.run(keep)
            finally:
                with trio.CancelScope(shield=True):
                    await self._note_settled(leases)
        self.leases_signed += len(leases)

    # --- announcing and releasing -------------------------------------------------------------------------

    async def announce(self, request: messages.Announce) -> int:
        """Provide what is held in the DHT; the least number of peers that took a record.

        Raises `RefusalError` if any of it is not held.
        """

        def check_held() -> None:
            for segment_id in request.segment_ids:
                if self._store.segment_manifest(segment_id) is None:
                    raise RefusalError(messages.REFUSED_MISSING, "no shard of that segment is here")
            for file_hash in request.file_hashes:
                if self._store.attachment(file_hash, AttachmentKind.FILE_MANIFEST) is None:
                    raise RefusalError(messages.REFUSED_MISSING, "no manifest of that file is here")

        await self._offload.run(check_held)
        keys = list(dict.fromkeys(multihash(name) for name in (*request.file_hashes, *request.segment_ids)))
        if not keys:
            return 0
        async with self._announcements:
            return await self._directory.provide(keys)

    async def release(self, request: messages.Release) -> int:
        """End the leases that the signers may end; how many ended.

        Raises `ProtocolError`, `CryptoError`: no lease ended then.
        """
        releases = [Release.decode(record, network=self._network) for record in request.records]

        def end() -> tuple[int, list[bytes]]:
            entitled: list[tuple[LeaseId, SegmentId]] = []
            for release in releases:
                release.verify()
                held = self._store.lease(release.lease_id)
                if held is None:
                    continue
                encoded = self._store.segment_manifest(held.segment_id)
                lease = Lease.decode(held.lease.data, network=self._network)
                owner = lease.owner_key if encoded is None else SegmentManifest.decode(encoded).owner_key
                if not release.ends(lease, file_owner=owner):
                    raise CryptoError("a release by a key that does not own the lease")
                entitled.append((release.lease_id, held.segment_id))
            # With a segment's last shard its attachments go too, and with them what files were announced.
            names = {
                name: None
                for _, segment_id in entitled
                for name in (segment_id, *self._store.attached_files(segment_id))
            }
            ended = sum(self._store.end_lease(lease_id) for lease_id, _ in entitled)
            return ended, [multihash(name) for name in names if not self._store.holds(name)]

        ended, gone = await self._offload.run(end)
        if ended and self.on_released is not None:
            self.on_released()
        if self._admission is not None:
            await self._admission.released(releases)
        if gone:
            await self._directory.stop_providing(gone)
        return ended

    def let_go(self, segment_id: SegmentId, shard_index: int) -> list[bytes]:
        """End every lease of a shard that another holder has taken over; keys that are held no longer.

        Blocks on the disk.
        """
        names = (segment_id, *self._store.attached_files(segment_id))
        for held in self._store.leases(segment_id):
            if held.shard_index == shard_index:
                self._store.end_lease(held.lease.lease_id)
        return [multihash(name) for name in names if not self._store.holds(name)]

    def give_up(self, segment_id: SegmentId, shard_index: int) -> list[bytes]:
        """Break the promise to keep a shard: its leases count as lost; keys that are held no longer.

        Blocks on the disk.
        """
        names = (segment_id, *self._store.attached_files(segment_id))
        self._store.give_up(segment_id, shard_index)
        return [multihash(name) for name in names if not self._store.holds(name)]

    async def stop_announcing(self, keys: Sequence[bytes]) -> None:
        """Announce these no longer."""
        if keys:
            await self._directory.stop_providing(keys)

    def _stored(self, lease: Lease) -> StoredLease:
        kept_until_s = (lease.end_day + self._grace_days) * DAY_S
        return StoredLease(lease.lease_id, lease.encode(), kept_until_s, bytes(lease.owner_key))
