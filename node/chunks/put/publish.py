"""Making a file findable. Layer 4.

Invariants: attachments are at holders of segment 0 before anything is announced; when `publish_file`
returns, provider records and the hint are at the nodes closest to the file hash, or the caller knows that
they are not. Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from node.chunks import messages
from node.chunks.client import HolderClient
from node.chunks.manifest import FileManifest
from node.chunks.roster import ANNOUNCERS, announcers
from node.errors import RefusedError, RemoteError
from node.ports import Clock, Directory
from node.records.lease import Lease
from node.records.placement_hint import PlacementHint
from node.records.repair import RepairGrant
from node.units import Contact, FileHash, PeerId, SegmentId

FILE_ANNOUNCERS: Final = 3
_Item = TypeVar("_Item")
AT_ONCE: Final = 16
BUSY_TRIES: Final = 4
BUSY_PAUSE_S: Final = 0.5


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


Announcements = Mapping[PeerId, Sequence[SegmentId]]
"""What each holder is to announce."""


async def publish_segments(client: HolderClient, clock: Clock, news: Sequence[SegmentNews]) -> int:
    """Tell the holders of segments each other's leases and the owner's grants, and have five announce each.

    One stream to each holder for all of the segments, and one announcement: what a holder sends to a node of
    the DHT it sends once, whatever the number of keys. Returns how many holders announced. A holder that
    fails here keeps its shards all the same.
    """
    announced = 0
    told, contacts = _sorted_by_holder(clock, news)

    async def tell(peer_id: PeerId) -> None:
        nonlocal announced
        _, took = await _tell(client, contacts[peer_id], told[peer_id], announce=True)
        announced += took > 0

    await for_each(list(told), tell)
    return announced


async def tell_segments(client: HolderClient, clock: Clock, news: Sequence[SegmentNews]) -> Announcements:
    """The same, without the announcements: who is to announce what."""
    announcements: dict[PeerId, Sequence[SegmentId]] = {}
    told, contacts = _sorted_by_holder(clock, news)

    async def tell(peer_id: PeerId) -> None:
        to_announce, _ = await _tell(client, contacts[peer_id], told[peer_id], announce=False)
        if to_announce:
            announcements[peer_id] = to_announce

    await for_each(list(told), tell)
    return announcements


def _sorted_by_holder(
    clock: Clock, news: Sequence[SegmentNews]
) -> tuple[dict[PeerId, list[_Told]], dict[PeerId, Contact]]:
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
    return told, contacts


async def _tell(
    client: HolderClient, contact: Contact, told: Sequence[_Told], *, announce: bool
) -> tuple[list[SegmentId], int]:
    """Tell one holder all of it; what it is to announce, and at how many nodes it did.

    A segment that it refuses keeps no other from it.
    """
    waiting, took = list(told), 0
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
                if announce and to_announce:
                    took = await session.announce(segment_ids=to_announce)
        except RefusedError:
            if not waiting:
                raise
    return to_announce, took


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
    *,
    tell: Callable[[], Awaitable[Announcements]],
    contacts: Mapping[PeerId, Contact],
) -> Published:
    """Attach to all holders of segment 0, have three announce the file, and store the hint.

    `attachments` are (kind, content), the placement first. `tell` runs meanwhile, and what is to be announced
    after it is announced together with the file, as far as the same holders do: their lookups and streams
    serve both.
    """
    attached: list[Contact] = []
    announcements: Announcements = {}

    async def tell_others() -> None:
        nonlocal announcements
        announcements = await tell()

    async def attach(contact: Contact) -> None:
        await _attach(client, contact, manifest, attachments)
        attached.append(contact)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell_others)
        await for_each(holders, attach)
    hints = announced = 0

    async def store_hint() -> None:
        nonlocal hints
        hints = await directory.put_value(hint.key(), hint.encode())

    async def announce_file(contact: Contact) -> None:
        nonlocal announced
        took = await _announce(client, contact, announcements, manifest.file_hash)
        announced += took > 0

    async def announce_segments() -> None:
        others = [contacts[peer_id] for peer_id in announcements if peer_id not in with_file]
        await for_each(others, lambda contact: _announce(client, contact, announcements))

    waiting = sorted(attached, key=lambda contact: contact.peer_id not in announcements)
    with_file = {contact.peer_id for contact in waiting[:FILE_ANNOUNCERS]}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store_hint)
        nursery.start_soon(announce_segments)
        while waiting and announced < FILE_ANNOUNCERS:
            batch, waiting = waiting[: FILE_ANNOUNCERS - announced], waiting[FILE_ANNOUNCERS - announced :]
            await for_each(batch, announce_file)
    return Published(len(attached), announced, hints)


async def _attach(
    client: HolderClient, contact: Contact, manifest: FileManifest, attachments: Sequence[tuple[str, bytes]]
) -> None:
    for attempt in range(BUSY_TRIES):
        try:
            async with client.session(contact) as session:
                await session.attach_all(attachments, manifest.file_hash, manifest.segment_id(0))
            return
        except RefusedError as error:
            if error.code != messages.REFUSED_BUSY or attempt == BUSY_TRIES - 1:
                raise
            await trio.sleep(BUSY_PAUSE_S * (attempt + 1))


async def _announce(
    client: HolderClient,
    contact: Contact,
    announcements: Announcements,
    file_hash: FileHash | None = None,
) -> int:
    """Have one holder announce its part, and the file; the least number of nodes that took any of it."""
    async with client.session(contact) as session:
        return await session.announce(
            file_hashes=[] if file_hash is None else [file_hash],
            segment_ids=announcements.get(contact.peer_id, ()),
        )


async def for_each(items: Sequence[_Item], act: Callable[[_Item], Awaitable[object]]) -> None:
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
