"""From a file hash to manifests and holders. Layer 4.

Holders that this node remembers are asked first, provider records and the owner's hint soon after; the first
peer that has the file manifest ends the search. Invariants: a manifest counts only under its hash, a
placement only with the owner's signature, a lease only with both; and all of these say where to ask, only
blocks say what is there. Source: design.md, section 4 (get).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from node import limits
from node.chunks import messages
from node.chunks.client import HolderSession
from node.chunks.holders import Ask, Holders, blaming, first_answer
from node.chunks.manifest import FileManifest, SegmentManifest, decode_bundle
from node.chunks.roster import Placement, check_lease, live_leases
from node.crypto.hashing import blake3_256, multihash
from node.errors import (
    CryptoError,
    NodeError,
    NotFoundError,
    OwnerInconsistentError,
    ProtocolError,
    RefusedError,
)
from node.records.lease import Lease
from node.records.placement_hint import hint_key, validate_hint
from node.units import DAY_S, Contact, FileHash, PeerId

PROVIDERS_WANTED = 3
"""Holders of segment 0 to ask the DHT for: put announces three."""
SEGMENT_PROVIDERS_WANTED = 5
"""Holders of a segment to ask the DHT for: five announce it."""

HEAD_START_S = 0.5
"""The DHT is asked so long after the holders that this node remembers: mostly one of them answers before."""
ROSTERS_WANTED = 3
"""Holders whose rosters are joined: news of a repair reaches them one by one."""

_ATTACHMENTS = (messages.ATTACHED_MANIFEST, messages.ATTACHED_PLACEMENT, messages.ATTACHED_BUNDLE)

T = TypeVar("T")
KnownHolders = Callable[[FileHash], Sequence[Contact]]


@dataclass(slots=True)
class LocatedFile:
    """A file manifest, and what is known of where its segments are."""

    manifest: FileManifest
    placement: Placement | None = None
    segments: dict[int, SegmentManifest] = field(default_factory=dict)
    contacts: dict[PeerId, Contact] = field(default_factory=dict)
    """Every peer heard of for this file, with its addresses."""

    def learn(self, contacts: Iterable[Contact]) -> None:
        """Add peers, and addresses to known ones."""
        for contact in contacts:
            known = self.contacts.get(contact.peer_id, Contact(contact.peer_id))
            addresses = tuple(dict.fromkeys((*contact.addresses, *known.addresses)))
            self.contacts[contact.peer_id] = Contact(contact.peer_id, addresses[: limits.DIAL_ADDRESSES_MAX])

    def contact(self, peer_id: PeerId) -> Contact:
        """The peer with its known addresses, perhaps none."""
        return self.contacts.get(peer_id, Contact(peer_id))


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """A shard of a segment, and a peer said to hold it."""

    shard_index: int
    holder: PeerId


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the shards of a segment are, and which ones their holders gave up, by their signed word."""

    places: list[ShardPlace]
    given_up: frozenset[ShardPlace]


class Locator:
    """Finds manifests and holders."""

    def __init__(self, holders: Holders, *, known_holders: KnownHolders | None = None) -> None:
        """`known_holders` gives what this node remembers of a file."""
        self._holders = holders
        self._known_holders = known_holders

    async def locate(self, file_hash: FileHash) -> LocatedFile:
        """The file manifest with what its first holder knows. Raises `NotFoundError`."""
        heard: list[Contact] = []

        async def ask(contact: Contact, on_stale: Callable[[], None]) -> LocatedFile | None:
            heard.append(contact)
            async with self._holders.session(contact, on_stale=on_stale) as session:
                return await self._fetch(session, file_hash)

        found: LocatedFile | None = None
        with trio.move_on_after(limits.LOCATE_TIMEOUT_S):
            found = await self._race(ask, self._sources(file_hash))
        if found is None:
            raise NotFoundError(
                "none of the peers that should have this file answers with it: try again later"
                if heard
                else "nobody knows this file: check the link, or try again when this node knows more peers"
            )
        found.learn(heard)
        return found

    async def segment_manifest(self, file: LocatedFile, segment_index: int) -> SegmentManifest:
        """A segment's manifest, from the bundle or from a holder.

        Raises:
            NotFoundError: no holder of the segment answers.
            OwnerInconsistentError: it contradicts the file manifest.
        """
        known = file.segments.get(segment_index)
        if known is not None:
            return known
        segment_id = file.manifest.segment_id(segment_index)

        async def ask(contact: Contact, on_stale: Callable[[], None]) -> SegmentManifest:
            async with self._holders.session(contact, on_stale=on_stale) as session:
                data, _ = await session.manifest(segment_id)
                with blaming(session.peer_id):
                    segment = _decoded(SegmentManifest.decode, data, segment_id, "a segment manifest")
                    file.manifest.check_segment(segment_index, segment)
                    return segment

        segment = await self._race_segment(file, segment_index, ask)
        if segment is None:
            raise NotFoundError(f"no holder of segment {segment_index} answers: try again later")
        file.segments[segment_index] = segment
        return segment

    def placed(self, file: LocatedFile, segment_index: int) -> list[ShardPlace]:
        """Shards of a segment as the owner placed them; empty where its placement does not say."""
        if file.placement is None:
            return []
        return [
            ShardPlace(shard_index, contact.peer_id)
            for shard_index, contact in file.placement.holders_of(segment_index)
        ]

    async def search_places(
        self, file: LocatedFile, segment: SegmentManifest, segment_index: int
    ) -> list[ShardPlace]:
        """Shards of a segment as its holders and the DHT know them: what repair and renewal moved."""
        return (await self.search(file, segment, segment_index)).places

    async def search(self, file: LocatedFile, segment: SegmentManifest, segment_index: int) -> Whereabouts:
        """Where a segment is, as its holders and the DHT know it.

        Providers of the segment id say themselves what they hold; rosters name the others.
        """
        places: dict[ShardPlace, None] = {}
        known: list[Lease] = []
        answered = 0
        today = self._holders.clock.now_s() // DAY_S

        async def ask(contact: Contact, on_stale: Callable[[], None]) -> bool | None:
            nonlocal answered
            async with self._holders.session(contact, on_stale=on_stale) as session:
                _, shard_indexes = await session.manifest(segment.segment_id)
                places.update((ShardPlace(index, contact.peer_id), None) for index in shard_indexes)
                file.learn([contact])
                roster = await self.roster(session, segment)
                known.extend(roster)
                places.update((_place(lease), None) for lease in live_leases(roster, today=today))
            answered += 1
            return True if answered == ROSTERS_WANTED else None

        with trio.move_on_after(limits.SEARCH_TIMEOUT_S):
            await self._race_segment(file, segment_index, ask)
        promised = {_place(lease) for lease in known if lease.end_day > today}
        kept = {_place(lease) for lease in live_leases(known, today=today)}
        return Whereabouts(list(places), frozenset(promised - kept))

    async def roster(self, session: HolderSession, segment: SegmentManifest) -> list[Lease]:
        """The leases of a segment that a holder knows, ended ones included, each verified."""
        leases = []
        for data in await session.roster(segment.segment_id):
            with blaming(session.peer_id):
                lease = Lease.decode(data, network=self._holders.network)
                check_lease(lease, segment)
            leases.append(lease)
        return leases

    def _sources(self, file_hash: FileHash) -> list[Callable[[], Awaitable[Sequence[Contact]]]]:
        """Who may have a file's manifest: what is remembered, providers, the owner's hint."""
        directory, clock = self._holders.directory, self._holders.clock

        remembered = self._known_holders(file_hash) if self._known_holders else ()

        async def known() -> Sequence[Contact]:
            return remembered

        async def give_a_start() -> None:
            if remembered:
                await trio.sleep(HEAD_START_S)

        async def provided() -> Sequence[Contact]:
            await give_a_start()
            return await directory.find_providers(multihash(file_hash), wanted=PROVIDERS_WANTED)

        async def hinted() -> Sequence[Contact]:
            await give_a_start()
            key = hint_key(file_hash)
            value = await directory.get_value(key)
            if value is None:
                return ()
            try:
                hint = validate_hint(key, value, now_s=clock.now_s(), network=self._holders.network)
            except (ProtocolError, CryptoError):
                return ()  # whoever answered with it is the DHT's to judge
            return hint.holders

        return [known, provided, hinted]

    async def _fetch(self, session: HolderSession, file_hash: FileHash) -> LocatedFile | None:
        """All that a holder of segment 0 knows, in one round trip; None if it has no manifest."""
        for kind in _ATTACHMENTS:
            await session.request_attachment(kind, file_hash)
        manifest = await session.receive_attachment(messages.ATTACHED_MANIFEST)
        with blaming(session.peer_id):
            found = LocatedFile(_decoded(FileManifest.decode, manifest, file_hash, "the file's manifest"))
        try:
            placement = await session.receive_attachment(messages.ATTACHED_PLACEMENT)
            with blaming(session.peer_id):
                found.placement = Placement.decode(placement, network=self._holders.network)
                found.placement.check_file(file_hash, found.manifest.owner_key)
            found.learn(found.placement.holders)
            bundle = await session.receive_attachment(messages.ATTACHED_BUNDLE)
            with blaming(session.peer_id):
                found.segments.update(enumerate(decode_bundle(bundle, found.manifest)))
        except RefusedError:
            pass  # the file is too large for a bundle; the rest is found segment by segment
        return found

    async def _race_segment(self, file: LocatedFile, segment_index: int, ask: Ask[T]) -> T | None:
        """The first answer of a holder of a segment, as the placement and the DHT name them."""
        key = multihash(file.manifest.segment_id(segment_index))

        async def placed() -> Sequence[Contact]:
            peers = dict.fromkeys(place.holder for place in self.placed(file, segment_index))
            return [file.contact(peer_id) for peer_id in peers]

        async def provided() -> Sequence[Contact]:
            return await self._holders.directory.find_providers(key, wanted=SEGMENT_PROVIDERS_WANTED)

        return await self._race(ask, [placed, provided])

    async def _race(
        self,
        ask: Ask[T],
        sources: Sequence[Callable[[], Awaitable[Sequence[Contact]]]],
    ) -> T | None:
        """The first answer of the peers that several sources name, all of them asked at once."""
        send, receive = trio.open_memory_channel[Contact](limits.LOCATE_CANDIDATES_MAX)

        async def feed(
            source: Callable[[], Awaitable[Sequence[Contact]]], channel: trio.MemorySendChannel[Contact]
        ) -> None:
            async with channel:
                try:
                    contacts = await source()
                except NodeError:
                    return  # one way to find holders fails; there are others
                for contact in contacts:
                    await channel.send(contact)

        answer: T | None = None
        error: OwnerInconsistentError | None = None
        async with receive, trio.open_nursery() as nursery:
            with send:
                for source in sources:
                    nursery.start_soon(feed, source, send.clone())
            try:
                answer = await first_answer(receive, ask, blame=self._holders.blame)
            except OwnerInconsistentError as caught:
                error = caught
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        return answer


def _place(lease: Lease) -> ShardPlace:
    return ShardPlace(lease.shard_index, lease.holder)


def _decoded(decode: Callable[[bytes], T], data: bytes, digest: bytes, what: str) -> T:
    """A manifest under its hash.

    Raises:
        ProtocolError: these are not the bytes that the hash names.
        OwnerInconsistentError: they are, and make no manifest: no holder could have sent better ones.
    """
    if blake3_256(data) != digest:
        raise ProtocolError("a manifest of another hash than the one asked for")
    try:
        return decode(data)
    except ProtocolError as error:
        raise OwnerInconsistentError(f"{what} is malformed, and the file is refused: {error}") from error
