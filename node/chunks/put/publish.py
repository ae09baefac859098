"""Making a file findable, and taking a dropped one back. Layer 4.

Invariants: attachments are at holders of segment 0 before anything is announced; when `publish_file`
returns, provider records and the hint are at the nodes closest to the file hash, or the caller knows that
they are not. Taking back is best effort at each holder and bounded in time: reservations lapse by
themselves, leases end by their dates. Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from node.chunks import messages
from node.chunks.client import HolderClient
from node.chunks.manifest import FileManifest
from node.chunks.roster import ANNOUNCERS, announcers
from node.crypto.signing import KeyPair
from node.errors import RefusedError, RemoteError
from node.ports import Clock, Directory
from node.records.lease import Lease, Release
from node.records.placement_hint import PlacementHint
from node.records.repair import RepairGrant
from node.units import Contact, LeaseId, OwnerKey, PeerId, SegmentId

FILE_ANNOUNCERS: Final = 3
_Item = TypeVar("_Item")
AT_ONCE: Final = 8
BUSY_TRIES: Final = 4
BUSY_PAUSE_S: Final = 0.5
WITHDRAW_DEADLINE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class SegmentNews:
    """What the holders of a placed segment are to know: each other's leases, and the owner's grant."""

    segment_id: SegmentId
    leases: Sequence[Lease]
    contacts: Mapping[PeerId, Contact]
    grant: RepairGrant | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    """What one holder is told of one segment."""

    segment_id: SegmentId
    others: Sequence[bytes]
    grant: bytes | None
    announces: bool


async def publish_segments(client: HolderClient, clock: Clock, news: Sequence[SegmentNews]) -> int:
    """Tell the holders of segments each other's leases and the owner's grants, and have five announce each.

    One stream to each holder for all of the segments, and one announcement: what a holder sends to a node of
    the DHT it sends once, whatever the number of keys. Returns how many announcements were taken, at most one
    a holder. A holder that fails here keeps its shards all the same.
    """
    told: dict[PeerId, list[_Told]] = {}
    contacts: dict[PeerId, Contact] = {}
    for each in news:
        contacts.update(each.contacts)
        encoded = [(lease.holder, lease.encode()) for lease in each.leases]
        holders = [peer for peer in dict.fromkeys(holder for holder, _ in encoded) if peer in each.contacts]
        chosen = set(announcers(each.segment_id, holders, now_s=clock.now_s())[:ANNOUNCERS])
        grant = None if each.grant is None else each.grant.encode()
        for peer_id in holders:
            others = [data for holder, data in encoded if holder != peer_id]
            told.setdefault(peer_id, []).append(_Told(each.segment_id, others, grant, peer_id in chosen))
    announced = 0

    async def tell(peer_id: PeerId) -> None:
        nonlocal announced
        took = await _tell(client, contacts[peer_id], told[peer_id])
        announced += took

    await _each(list(told), tell)
    return announced


async def _tell(client: HolderClient, contact: Contact, told: Sequence[_Told]) -> bool:
    """Tell one holder all of it; whether it announced. A segment that it refuses keeps no other from it."""
    waiting, announced = list(told), False
    to_announce: list[SegmentId] = []
    while waiting:
        try:
            async with client.session(contact) as session:
                while waiting:
                    each = waiting.pop(0)
                    if each.others:
                        await session.merge_roster(each.segment_id, each.others)
                    if each.grant is not None:
                        await session.give_grant(each.segment_id, each.grant)
                    if each.announces:
                        to_announce.append(each.segment_id)
                if to_announce:
                    announced = await session.announce(segment_ids=to_announce) > 0
        except RefusedError:
            if not waiting:
                raise
    return announced


async def publish_segment(
    client: HolderClient,
    clock: Clock,
    segment_id: SegmentId,
    leases: Sequence[Lease],
    contacts: Mapping[PeerId, Contact],
    *,
    grant: RepairGrant | None = None,
) -> int:
    """`publish_segments` for one."""
    return await publish_segments(client, clock, [SegmentNews(segment_id, leases, contacts, grant)])


@dataclass(frozen=True, slots=True)
class Published:
    """How findable a file is: holders with its manifest, announcements, and nodes with its hint."""

    attached: int
    announced: int
    hints: int


async def publish_file(
    client: HolderClient,
    directory: Directory,
    manifest: FileManifest,
    hint: PlacementHint,
    attachments: Sequence[tuple[str, bytes]],
    holders: Sequence[Contact],
) -> Published:
    """Attach to all holders of segment 0, have three announce the file, and store the hint.

    `attachments` are (kind, content), the placement first.
    """
    attached: list[Contact] = []
    segment_id = manifest.segment_id(0)

    async def attach(contact: Contact) -> None:
        for attempt in range(BUSY_TRIES):
            try:
                async with client.session(contact) as session:
                    for kind, content in attachments:
                        await session.attach(kind, manifest.file_hash, segment_id, content)
                attached.append(contact)
                return
            except RefusedError as error:
                if error.code != messages.REFUSED_BUSY or attempt == BUSY_TRIES - 1:
                    raise
                await trio.sleep(BUSY_PAUSE_S * (attempt + 1))

    await _each(holders, attach)
    hints = announced = 0

    async def store_hint() -> None:
        nonlocal hints
        hints = await directory.put_value(hint.key(), hint.encode())

    async def announce(contact: Contact) -> None:
        nonlocal announced
        async with client.session(contact) as session:
            took = await session.announce(file_hashes=[manifest.file_hash])
        announced += took > 0

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store_hint)
        waiting = list(attached)
        while waiting and announced < FILE_ANNOUNCERS:
            batch, waiting = waiting[: FILE_ANNOUNCERS - announced], waiting[FILE_ANNOUNCERS - announced :]
            await _each(batch, announce)
    return Published(len(attached), announced, hints)


@dataclass(slots=True)
class Withdrawal:
    """What one holder is asked to forget."""

    contact: Contact
    put_ids: list[messages.PutId]
    lease_ids: list[LeaseId]


async def withdraw(client: HolderClient, owner: KeyPair, withdrawals: Iterable[Withdrawal]) -> int:
    """Free reservations and end leases; how many leases ended."""
    network, signer = client.preamble.network_id, OwnerKey(owner.public)
    ended = 0

    async def tell(withdrawal: Withdrawal) -> None:
        nonlocal ended
        peer_id = withdrawal.contact.peer_id
        with trio.move_on_after(WITHDRAW_DEADLINE_S):
            async with client.session(withdrawal.contact) as session:
                for put_id in withdrawal.put_ids:
                    await session.abort_put(put_id)
                if withdrawal.lease_ids:
                    releases = (
                        Release(network, lease_id, peer_id, signer).sign(owner)
                        for lease_id in withdrawal.lease_ids
                    )
                    count = await session.release([release.encode() for release in releases])
                    ended += count

    await _each(list(withdrawals), tell)
    return ended


async def _each(items: Sequence[_Item], act: Callable[[_Item], Awaitable[None]]) -> None:
    """Run `act` for all items, some at a time; a holder's failure ends its own only."""
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def run(item: _Item) -> None:
        async with limiter:
            try:
                await act(item)
            except RemoteError:
                return

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(run, item)
