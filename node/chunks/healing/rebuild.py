"""Makes missing shards of one segment again from the others, without any key, and streams them away. Layer 4.

Stripe by stripe: `data_shards` verified blocks in, the missing ones out, to all takers at once. Invariants:
every stripe has its hash and every shard its root before its last block leaves, and verified blocks that
contradict one are the owner's fault (`OwnerInconsistentError`), no holder's; memory is a window of stripes;
a taker that fails costs its own shards only; no key is needed or known. Source: credit.md, "Repair".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node import limits
from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.geometry import FileGeometry
from node.chunks.get.locate import LocatedFile, Locator, ShardPlace
from node.chunks.get.segment_fetch import SegmentFetch
from node.chunks.get.shard_stream import ByteCount
from node.chunks.healing.client import RepairClient, RepairSession
from node.chunks.healing.messages import Case
from node.chunks.holders import Holders
from node.chunks.manifest import FileManifest, SegmentManifest
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import check_rebuilt, rebuild_blocks
from node.crypto.identity import peer_id_text
from node.crypto.sealing import KEY_CHECK_BYTES, Suite
from node.errors import (
    CryptoError,
    NodeError,
    PeerMisbehavedError,
    ProtocolError,
    RemoteError,
    UnreachableError,
)
from node.ports import Buffer, Offload
from node.records.lease import Lease
from node.records.repair import RepairGrant
from node.units import Contact, PeerId

STALL_S = 20.0
"""A taker that takes nothing for so long is given up."""


class BlockSession(Protocol):
    """A conversation that takes blocks."""

    async def send_block(self, slot: int, block_index: int, block: Buffer) -> None:
        """Send one block; nothing is answered."""
        ...

    async def aclose(self) -> None:
        """End it in good order."""
        ...

    async def reset(self) -> None:
        """Drop it."""
        ...


@dataclass(slots=True)
class Taker:
    """A new holder and what it is asked to keep, in the order of its case."""

    contact: Contact
    case: Case
    """The leases asked for, and, where no owner signed them, why it may."""
    session: BlockSession | None = None
    leases: tuple[Lease, ...] = ()
    """Countersigned, once all is done."""
    failure: RemoteError | None = None

    @property
    def shard_indexes(self) -> tuple[int, ...]:
        """Its shards, slot by slot."""
        return tuple(lease.shard_index for lease in self.case.leases)

    @property
    def is_on(self) -> bool:
        """Whether it still takes blocks."""
        return self.session is not None and self.failure is None


@dataclass(slots=True)
class Traffic:
    """Block bytes that a rebuild moved."""

    fetched: ByteCount = field(default_factory=ByteCount)
    sent_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Both ways."""
        return self.fetched.fetched_bytes + self.sent_bytes

    def add(self, more: Traffic) -> None:
        """Count that as well."""
        self.fetched.fetched_bytes += more.fetched.fetched_bytes
        self.sent_bytes += more.sent_bytes


class _RosterLocator(Locator):
    """Where a segment's shards are, by the leases that were found alive."""

    def __init__(self, holders: Holders, segment: SegmentManifest, places: Sequence[ShardPlace]) -> None:
        super().__init__(holders)
        self._segment = segment
        self._places = list(places)

    async def segment_manifest(self, file: LocatedFile, segment_index: int) -> SegmentManifest:
        await trio.lowlevel.checkpoint()
        return self._segment

    def placed(self, file: LocatedFile, segment_index: int) -> list[ShardPlace]:
        return self._places

    async def search_places(
        self, file: LocatedFile, segment: SegmentManifest, segment_index: int
    ) -> list[ShardPlace]:
        await trio.lowlevel.checkpoint()
        return []


def _file_of(segment: SegmentManifest, contacts: Mapping[PeerId, Contact]) -> LocatedFile:
    """A file of this one segment, so that what fetches for readers fetches for repairers."""
    manifest = FileManifest(
        owner_key=segment.owner_key,
        owner_salt=segment.owner_salt,
        suite=Suite.XCHACHA20_POLY1305,
        geometry=FileGeometry.of(segment.geometry.plaintext_bytes, segment.code),
        segment_ids=segment.segment_id,
        key_check=bytes(KEY_CHECK_BYTES),
        sealed_header=b"",
    )
    return LocatedFile(manifest, segments={0: segment}, contacts=dict(contacts))


StripeSource = Callable[[int], Awaitable[Mapping[int, Buffer]]]
"""Blocks of a stripe by shard index: all that the takers need."""


class Sender(ABC):
    """Opens takers, streams blocks to them and collects their leases: how, kinds of it say."""

    def __init__(self, *, network_id: str, traffic: Traffic, stall_s: float = STALL_S) -> None:
        self._network_id = network_id
        self._traffic = traffic
        self._stall_s = stall_s

    @abstractmethod
    async def open(self, taker: Taker, manifest: SegmentManifest, grant: RepairGrant) -> None:
        """Begin with a taker; its failure shows in it."""

    @abstractmethod
    async def finish(self, taker: Taker) -> None:
        """Take its signatures after the last block; its failure shows in it."""

    async def send(self, taker: Taker, stripe: int, blocks: Mapping[int, Buffer]) -> None:
        """Its blocks of one stripe."""
        assert taker.session is not None
        with trio.move_on_after(self._stall_s) as scope:
            try:
                for slot, shard in enumerate(taker.shard_indexes):
                    await taker.session.send_block(slot, stripe, blocks[shard])
                    self._traffic.sent_bytes += len(blocks[shard])
            except RemoteError as error:
                taker.failure = error
        if scope.cancelled_caught:
            name = peer_id_text(taker.contact.peer_id)
            taker.failure = UnreachableError(name, f"took nothing for {self._stall_s:g} s")

    async def close(self, taker: Taker) -> None:
        """End the session, whatever came of it."""
        if taker.session is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await (taker.session.aclose() if taker.leases else taker.session.reset())

    def verified(self, taker: Taker, replies: Sequence[bytes]) -> tuple[Lease, ...]:
        """Replies as the leases asked for, countersigned. Raises `PeerMisbehavedError`."""
        try:
            leases = tuple(Lease.decode(reply, network=self._network_id) for reply in replies)
            if [lease.body() for lease in leases] != [lease.body() for lease in taker.case.leases]:
                raise ProtocolError("countersigned other leases than those asked for")
            for lease in leases:
                lease.verify()
        except (ProtocolError, CryptoError) as error:
            raise PeerMisbehavedError(peer_id_text(taker.contact.peer_id), str(error)) from error
        return leases

    async def stream(
        self, takers: Sequence[Taker], manifest: SegmentManifest, grant: RepairGrant, source: StripeSource
    ) -> None:
        """The whole exchange with all takers at once; what came of it shows in them.

        Raises what `source` raises, with every taker closed.
        """
        try:
            await _all(takers, lambda taker: self.open(taker, manifest, grant))
            for stripe in range(manifest.geometry.stripe_count):
                on = [taker for taker in takers if taker.is_on]
                if not on:
                    return
                blocks = await source(stripe)
                await _all(on, lambda taker, at=stripe, made=blocks: self.send(taker, at, made))  # type: ignore[misc]
            await _all([taker for taker in takers if taker.is_on], self.finish)
        finally:
            with trio.CancelScope(shield=True):
                await _all(takers, self.close)


class GrantSender(Sender):
    """Shows takers a case under the owner's grant."""

    def __init__(
        self, *, client: RepairClient, network_id: str, traffic: Traffic, stall_s: float = STALL_S
    ) -> None:
        super().__init__(network_id=network_id, traffic=traffic, stall_s=stall_s)
        self._client = client

    async def open(self, taker: Taker, manifest: SegmentManifest, grant: RepairGrant) -> None:
        """Show a taker its case; its failure shows in it."""
        try:
            session = await self._client.open(taker.contact)
            taker.session = session
            await session.replace(manifest.encoded, grant.encode(), taker.case)
        except RemoteError as error:
            taker.failure = error

    async def finish(self, taker: Taker) -> None:
        """Take its signatures."""
        assert isinstance(taker.session, RepairSession)
        try:
            replies = await taker.session.receive_leases(len(taker.case.leases))
            taker.leases = self.verified(taker, replies)
        except RemoteError as error:
            taker.failure = error


class Rebuilder:
    """Remakes shards of segments; one segment at a time is enough for a node."""

    def __init__(
        self, *, holders: Holders, client: HolderClient, repair: RepairClient, engine: CodingEngine,
        offload: Offload,
    ) -> None:  # fmt: skip
        self._holders = holders
        self._client = client
        self._repair = repair
        self._engine = engine
        self._offload = offload

    def sender(self, traffic: Traffic) -> Sender:
        """Streams to takers under a grant, counting."""
        return GrantSender(client=self._repair, network_id=self._holders.network, traffic=traffic)

    async def rebuild(
        self,
        manifest: SegmentManifest,
        grant: RepairGrant,
        takers: Sequence[Taker],
        *,
        places: Sequence[ShardPlace],
        contacts: Mapping[PeerId, Contact],
        traffic: Traffic,
        sender: Sender | None = None,
    ) -> None:
        """Make the takers' shards again from those at `places`; what came of it shows in the takers.

        `sender` is how they are talked to, under the grant unless given.

        Raises:
            NotEnoughShardsError: fewer than `data_shards` shards can be read.
            OwnerInconsistentError: verified blocks contradict the segment manifest.
        """
        fetch = SegmentFetch(
            holders=self._holders,
            locator=_RosterLocator(self._holders, manifest, places),
            file=_file_of(manifest, contacts),
            segment_index=0,
            first_stripe=0,
            end_stripe=manifest.geometry.stripe_count,
            count=traffic.fetched,
        )
        wanted = sorted({shard for taker in takers for shard in taker.shard_indexes})
        leaves: dict[int, bytes] = dict.fromkeys(wanted, b"")

        async def source(stripe: int) -> Mapping[int, Buffer]:
            fetch.extend(stripe + limits.REPAIR_WINDOW_STRIPES)
            blocks = await fetch.wait_stripe(stripe)

            def make() -> dict[int, Buffer]:
                made = rebuild_blocks(self._engine, manifest, stripe, blocks, wanted)
                for shard in wanted:
                    leaves[shard] += leaf_of(made[shard])
                return made

            made = await self._offload.run(make)
            if stripe == manifest.geometry.stripe_count - 1:
                # Before the last blocks leave: nobody is to sign for what the owner's manifest denies.
                for shard in wanted:
                    check_rebuilt(manifest, shard, leaves[shard])
            return made

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            failure: NodeError | None = None
            try:
                await (sender or self.sender(traffic)).stream(takers, manifest, grant, source)
            except NodeError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _all(takers: Sequence[Taker], act: Callable[[Taker], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for taker in takers:
            nursery.start_soon(act, taker)
