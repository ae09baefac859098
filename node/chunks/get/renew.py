"""Renew and release: further leases on the shards of a file, and their end. Layer 4.

Invariants: every lease and release is signed by the key that derives from the account seed and the salt in
the file manifest: the owner's for a file of this account's, else a key that ends nothing but its own leases,
and by which nobody can link two files that one account pays for; a renewal begins when this account's present
lease ends, so that no day is paid for twice; only what a holder countersigned or
confirmed is counted; a lease that already lasts long enough is not doubled. Source: design.md, section 4
(renew, delete).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Payer
from node.chunks.client import HolderClient, HolderSession
from node.chunks.get.locate import KnownHolders, LocatedFile, Locator
from node.chunks.holders import Holders, blaming
from node.chunks.manifest import FileManifest, SegmentManifest
from node.chunks.put.granting import make_grant
from node.chunks.put.withdrawing import Withdrawal, withdraw
from node.chunks.scores import Scoreboard
from node.crypto.sealing import owner_key
from node.crypto.signing import KeyPair
from node.errors import (
    AvailabilityError,
    CreditError,
    NotFoundError,
    ProtocolError,
    RefusedError,
    RemoteError,
    UsageError,
)
from node.ports import Clock, Directory, Entropy
from node.records.lease import LEASE_ID_BYTES, LEASE_NONCE_BYTES, Lease, Release
from node.records.placement_hint import PlacementHint
from node.units import DAY_S, Contact, FileHash, LeaseId, OwnerKey, PeerId, SegmentId

HOLDERS_AT_ONCE = 16
RELEASE_ROUNDS_MAX = 32
"""Times a holder is asked for further leases to end."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """`leases` counts those that holders countersigned (renew) or ended (release)."""

    file_hash: FileHash
    leases: int
    unreachable_holders: int
    expires_s: int | None
    """Until when every segment has leases on `data_shards` shards or more, of those that answered; None where
    fewer answered, and after a release."""
    renewed: tuple[Lease, ...] = ()
    is_own: bool = True
    """Whether this account put the file."""


@dataclass(slots=True)
class _Tally:
    leases: int = 0
    failed: set[PeerId] = field(default_factory=set)
    end_days: dict[SegmentId, dict[int, int]] = field(default_factory=dict)
    """Of each segment: the last day of each shard's longest lease."""
    renewed: list[Lease] = field(default_factory=list)
    short_of_credit: RefusedError | None = None
    first_holders: set[PeerId] = field(default_factory=set)
    """Who answered for segment 0."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a renewal asks of every holder: its shards kept until the end of `end_day`, a day since 1970."""

    file: LocatedFile
    owner: KeyPair
    is_own: bool
    today: int
    end_day: int


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a holder showed of its own leases on a segment, by shard."""

    latest: dict[int, Lease]
    """The one that ends last, whoever signed it."""
    paid_until: dict[int, int]
    """The day until which this account pays already."""
    waiting: list[Lease]
    """This account's that have not begun."""

    @classmethod
    def of(cls, leases: Iterable[Lease], terms: _Terms) -> _Shown:
        """As far as it matters for these terms."""
        found = cls({}, {}, [])
        for lease in leases:
            if lease.owner_key == terms.owner.public and lease.start_day > terms.today:
                found.waiting.append(lease)
            elif lease.owner_key == terms.owner.public:
                known = found.paid_until.get(lease.shard_index, terms.today)
                found.paid_until[lease.shard_index] = max(lease.end_day, known)
            known_latest = found.latest.get(lease.shard_index)
            if known_latest is None or lease.end_day > known_latest.end_day:
                found.latest[lease.shard_index] = lease
        return found


_OwnLeases = Callable[[HolderSession], Awaitable[tuple[Lease, ...]]]
"""The leases that the session's holder countersigned itself: at most a few a shard, those that end last."""
_Act = Callable[[HolderSession, SegmentManifest, _OwnLeases, _Tally], Awaitable[None]]


class Renewer:
    """Keeps files for longer, or ends the leases that this account's keys may end."""

    def __init__(
        self,
        *,
        client: HolderClient,
        directory: Directory,
        clock: Clock,
        entropy: Entropy,
        scores: Scoreboard,
        account_seed: bytes,
        known_holders: KnownHolders | None = None,
        payer: Payer | None = None,
    ) -> None:
        """`known_holders` gives what this node remembers of a file's holders, `payer` pays for leases."""
        self._payer = payer
        self._holders = Holders(client=client, directory=directory, clock=clock, scores=scores)
        self._locator = Locator(self._holders, known_holders=known_holders)
        self._client = client
        self._clock = clock
        self._entropy = entropy
        self._account_seed = account_seed
        self._sessions = trio.CapacityLimiter(HOLDERS_AT_ONCE)

    async def renew(self, file_hash: FileHash, *, duration_s: int) -> LeaseReport:
        """Have every reachable shard kept until at least `duration_s` from now, whoever's file it is.

        Raises `NotFoundError`, `UsageError`, and `CreditError` where credit alone kept all holders from it.
        """
        today = self._clock.now_s() // DAY_S
        end_day = -(-(self._clock.now_s() + duration_s) // DAY_S)
        if not 0 < end_day - today <= limits.LEASE_DAYS_MAX:
            raise UsageError(f"a lease lasts 1 to {limits.LEASE_DAYS_MAX} days")
        file, owner, is_own = await self._keyed(file_hash)

        terms = _Terms(file, owner, is_own, today, end_day)
        extend = partial(self._extend, terms)
        tally = await self._each_holding(file, extend, range(file.manifest.segment_count))
        if tally.short_of_credit is not None and not tally.leases:
            raise CreditError(f"nothing was renewed: {tally.short_of_credit}")
        kept_until_s = _kept_until_s(file.manifest, tally.end_days)
        if is_own and tally.leases and kept_until_s is not None:
            await self._store_hint(file, owner, tally.first_holders, kept_until_s)
        return LeaseReport(
            file_hash, tally.leases, len(tally.failed), kept_until_s, tuple(tally.renewed), is_own
        )

    async def _extend(
        self,
        terms: _Terms,
        session: HolderSession,
        segment: SegmentManifest,
        own_leases: _OwnLeases,
        tally: _Tally,
    ) -> None:
        """Have a holder sign for what ends too early of what it keeps of a segment."""
        found = _Shown.of(await own_leases(session), terms)
        if segment.segment_id == terms.file.manifest.segment_id(0):
            tally.first_holders.add(session.peer_id)
        end_days = tally.end_days.setdefault(segment.segment_id, {})
        for lease in found.latest.values():
            end_days[lease.shard_index] = max(lease.end_day, end_days.get(lease.shard_index, 0))
        asked = [
            self._further(
                lease, terms.owner, found.paid_until.get(lease.shard_index, terms.today), terms.end_day
            )
            for lease in found.latest.values()
            if lease.end_day < terms.end_day
        ]
        if not asked:
            return
        signed = await self._signed(session, segment, asked)
        tally.leases += len(signed)
        tally.renewed.extend(signed)
        # What has not begun has a longer one in its place: nothing of it was earned.
        renewed = {lease.shard_index for lease in signed}
        replaced = [self._end(lease, terms.owner) for lease in found.waiting if lease.shard_index in renewed]
        if replaced:
            await session.release(replaced)
        end_days.update((lease.shard_index, terms.end_day) for lease in signed)
        if terms.is_own:
            grant = make_grant(segment, signed, terms.owner, KeyPair.from_seed(self._account_seed))
            await session.give_grant(segment.segment_id, grant.encode())

    async def _signed(
        self, session: HolderSession, segment: SegmentManifest, asked: Sequence[Lease]
    ) -> list[Lease]:
        """These leases with the holder's half. Raises `RemoteError`, also for other leases than those."""
        replies = await session.renew(
            segment.segment_id,
            [lease.encode() for lease in asked],
            self._charges(asked, len(segment.encoded)),
            b"" if self._payer is None else self._payer.cert(),
        )
        with blaming(session.peer_id):
            signed = [Lease.decode(data, network=self._holders.network) for data in replies]
            if [lease.body() for lease in signed] != [lease.body() for lease in asked]:
                raise ProtocolError("other leases than those asked for")
            for lease in signed:
                lease.verify()
        return signed

    async def release(self, file_hash: FileHash) -> LeaseReport:
        """End every lease of the file at every reachable holder; of another's file, this account's.

        Raises `NotFoundError`, and `UsageError` where nothing of the file is this account's.
        """
        file, owner, is_own = await self._keyed(file_hash)

        async def end_all(
            session: HolderSession, _segment: SegmentManifest, own_leases: _OwnLeases, tally: _Tally
        ) -> None:
            # A roster shows the leases that end last, so the others show once those have ended.
            for _ in range(RELEASE_ROUNDS_MAX):
                leases = await own_leases(session)
                if not is_own:
                    leases = tuple(lease for lease in leases if lease.owner_key == owner.public)
                if not leases:
                    return
                ended = await session.release([self._end(lease, owner) for lease in leases])
                tally.leases += ended

        # Segment 0 goes last: its holders keep the manifest that a release cut short needs to go on.
        tally = await self._each_holding(file, end_all, reversed(range(file.manifest.segment_count)))
        if not is_own and not tally.leases:
            raise UsageError("this file is not yours, and no lease of it is: there is nothing to remove")
        return LeaseReport(file_hash, tally.leases, len(tally.failed), None, is_own=is_own)

    async def release_known(
        self, leases: Sequence[Lease], owner_salt: bytes, contacts: Mapping[PeerId, Contact]
    ) -> int:
        """End leases of a file whose manifest nobody has any more, where holders answer; how many."""
        parts: dict[PeerId, Withdrawal] = {}
        for lease in leases:
            contact = contacts.get(lease.holder, Contact(lease.holder))
            parts.setdefault(lease.holder, Withdrawal(contact, [], [])).lease_ids.append(lease.lease_id)
        return await withdraw(self._client, owner_key(self._account_seed, owner_salt), parts.values())

    async def _store_hint(
        self, file: LocatedFile, owner: KeyPair, first_holders: Collection[PeerId], expires_s: int
    ) -> None:
        """The file's hint as of now: it lasts as long as the leases, and names who keeps segment 0 today."""
        hint = PlacementHint.make(
            network=self._holders.network,
            manifest=file.manifest.encoded,
            owner=owner,
            sequence=self._clock.now_s(),
            expires_s=expires_s,
            holders=[file.contact(peer_id) for peer_id in sorted(first_holders)],
        )
        with suppress(AvailabilityError):  # a cache: providers find the file as well
            await self._holders.directory.put_value(hint.key(), hint.encode())

    def _charges(self, leases: Sequence[Lease], manifest_bytes: int) -> list[bytes]:
        if self._payer is None:
            return []
        return [self._payer.charge(lease, manifest_bytes).encode() for lease in leases]

    def _end(self, lease: Lease, owner: KeyPair) -> bytes:
        """The owner's signed release of a lease."""
        release = Release(lease.network, lease.lease_id, lease.holder, OwnerKey(owner.public))
        return release.sign(owner).encode()

    async def _keyed(self, file_hash: FileHash) -> tuple[LocatedFile, KeyPair, bool]:
        """The file, the key of this account's that signs its leases, and whether that key owns it."""
        file = await self._locator.locate(file_hash)
        owner = owner_key(self._account_seed, file.manifest.owner_salt)
        return file, owner, owner.public == file.manifest.owner_key

    def _further(self, lease: Lease, owner: KeyPair, start_day: int, end_day: int) -> Lease:
        """A lease on the same shard from a day on, with the owner's half."""
        return Lease(
            network=lease.network,
            lease_id=LeaseId(self._entropy.random_bytes(LEASE_ID_BYTES)),
            segment_id=lease.segment_id,
            shard_index=lease.shard_index,
            root=lease.root,
            byte_count=lease.byte_count,
            owner_key=OwnerKey(owner.public),
            holder=lease.holder,
            start_day=start_day,
            end_day=end_day,
            rate=lease.rate,
            egress_cap_bytes=lease.egress_cap_bytes,
            nonce=self._entropy.random_bytes(LEASE_NONCE_BYTES),
        ).sign_as_owner(owner)

    async def _each_holding(self, file: LocatedFile, act: _Act, segment_indexes: Iterable[int]) -> _Tally:
        """Do something at every holder of segments, a segment at a time."""
        tally = _Tally()
        for index in segment_indexes:
            places = self._locator.placed(file, index)
            try:
                segment = await self._locator.segment_manifest(file, index)
            except NotFoundError:
                tally.failed.update(place.holder for place in places)
                continue
            found = await self._locator.search(file, segment, index)  # what repair has moved
            places = [*(place for place in places if place not in found.given_up), *found.places]
            async with trio.open_nursery() as nursery:
                for peer_id in dict.fromkeys(place.holder for place in places):
                    nursery.start_soon(self._at_holder, file, segment, peer_id, act, tally)
        return tally

    async def _at_holder(
        self, file: LocatedFile, segment: SegmentManifest, peer_id: PeerId, act: _Act, tally: _Tally
    ) -> None:
        """Ask a holder for its own leases, and act on them. What is its fault is scored and counted."""

        async def ask(session: HolderSession) -> tuple[Lease, ...]:
            leases = await self._locator.roster(session, segment)
            return tuple(lease for lease in leases if lease.holder == peer_id)

        try:
            async with self._sessions, self._holders.session(file.contact(peer_id)) as session:
                await act(session, segment, ask, tally)
        except RemoteError as error:
            self._holders.blame(peer_id, error)
            if isinstance(error, RefusedError) and error.code == messages.REFUSED_CREDIT:
                tally.short_of_credit = error
            missing = isinstance(error, RefusedError) and error.code == messages.REFUSED_MISSING
            if not missing:  # a holder that has nothing of the segment keeps nothing
                _logger.info("a holder did not do what its leases were about: %s", error)
                tally.failed.add(peer_id)


def _kept_until_s(manifest: FileManifest, end_days: Mapping[SegmentId, Mapping[int, int]]) -> int | None:
    """When the leases of the first segment leave fewer than `data_shards` shards; None where they do now."""
    needed = manifest.geometry.code.data_shards
    first: int | None = None
    for index in range(manifest.segment_count):
        days = sorted(end_days.get(manifest.segment_id(index), {}).values(), reverse=True)
        if len(days) < needed:
            return None
        first = days[needed - 1] if first is None else min(first, days[needed - 1])
    return None if first is None else first * DAY_S
