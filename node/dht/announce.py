"""Announces what this node provides: at once when asked, and again in a sweep over the key space. Layer 4.

Keys are announced by region. A region is a subtree of the key space all of whose nodes are known and which
has at least `DHT_BUCKET_CONTACTS` of them, so that the nodes nearest to any key in it lie within: one
lookup or a few for the whole region, one stream to each node for all the keys it should hold. The sweep
goes once around the key space in `interval_s`; a key's turn comes at the time that matches its place, so
that the work is spread evenly, needs no record of when what was announced, and goes on after a restart
where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from node import limits
from node.dht.client import DhtClient
from node.dht.committer import Committer
from node.dht.distance import KEY_SPACE, Prefix, common_prefix_bits, key_of, nearest
from node.dht.finder import Finder
from node.dht.lookup import Lookup
from node.dht.record_store import RecordStore
from node.errors import StoreError
from node.ports import Clock, Network
from node.units import Contact, PeerId

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Region:
    """A subtree and everyone in it, and near it."""

    prefix: Prefix
    contacts: tuple[Contact, ...]


class Announcer:
    """Keeps provider records of this node at the nodes nearest to their keys."""

    def __init__(
        self,
        network: Network,
        client: DhtClient,
        store: RecordStore,
        committer: Committer,
        clock: Clock,
        finder: Finder,
        *,
        interval_s: int,
    ) -> None:
        self._network = network
        self._client = client
        self._store = store
        self._committer = committer
        self._clock = clock
        self._finder = finder
        self._interval_s = interval_s

    async def announce(self, keys: Sequence[bytes]) -> int:
        """Announce keys now; the least number of peers that took any of them."""
        waiting = sorted({(key_of(key), key) for key in keys})
        least: int | None = None
        while waiting:
            place, key = waiting[0]
            lookup = await self._finder.find_nodes(key)
            next_place = waiting[1][0] if len(waiting) > 1 else None
            region = await self.explore(place, lookup, next_place=next_place)
            batch = [key for place, key in waiting if place in region.prefix]
            waiting = waiting[len(batch) :]
            taken = await self._send(region.contacts, batch)
            least = taken if least is None else min(least, taken)
        return least or 0

    async def run_sweep(self) -> None:
        """Announce everything again and again; runs until cancelled."""
        while True:
            try:
                await self.sweep_step()
            except StoreError as error:
                logger.warning("announcing goes on once the disk is well: %s", error)
            await trio.sleep(limits.DHT_SWEEP_STEP_S)

    async def sweep_step(self) -> None:
        """Announce the regions whose turn has come since the last step."""
        due = self._clock.now_s() * KEY_SPACE // self._interval_s
        saved = self._store.sweep_place()
        # After a pause longer than a round everything is due, once; after a step back of the clock, nothing.
        place = due if saved is None else max(min(saved, due + KEY_SPACE), due - KEY_SPACE)
        has_announced = False
        while place <= due:
            turn, start = divmod(place, KEY_SPACE)
            end = min(KEY_SPACE, due + 1 - turn * KEY_SPACE)
            first = self._store.provided(start=start, end=end, count_max=1)
            if not first:
                place = turn * KEY_SPACE + end
                continue
            place_of_first, key = first[0]
            following = self._store.provided(start=place_of_first + 1, end=KEY_SPACE, count_max=1)
            region = await self.explore(
                place_of_first,
                await self._finder.find_nodes(key),
                next_place=following[0][0] if following else None,
            )
            if not region.contacts:
                break  # nobody is known: its turn comes again
            has_announced = True
            start = place_of_first
            while page := self._store.provided(
                start=start, end=region.prefix.end, count_max=limits.DHT_SWEEP_PAGE_KEYS
            ):
                least = await self._send(region.contacts, [key for _, key in page])
                logger.debug("announced %d keys, each at %d peers or more", len(page), least)
                start = page[-1][0] + 1
            place = turn * KEY_SPACE + region.prefix.end
        # Between announcements the place is saved rarely: what is lost is only looked at again.
        if has_announced or saved is None or abs(place - saved) >= KEY_SPACE // 24:
            await self._committer.submit(lambda transaction: self._store.set_sweep_place(transaction, place))

    async def explore(self, place: int, lookup: Lookup, *, next_place: int | None) -> Region:
        """The region around a key, beginning with the finished lookup of it; `next_place` is the next key's.

        The nearest contacts found share at least some number of leading bits with the key; that subtree is
        the region. The half of it that holds the key is known completely, since everyone in it is nearer than
        the farthest contact found; the other half takes lookups of its own. A key that has its region to
        itself needs none of them: its nearest are found.
        """
        known = {contact.peer_id: contact for contact in lookup.answered()}
        near = [key_of(contact.peer_id) for contact in lookup.closest()]
        # Fewer than a bucket are everyone only in a network that small: in a larger one some of the nearest
        # had gone, and the rest is the nearest all the same.
        is_everyone = self._finder.network_nodes <= limits.DHT_BUCKET_CONTACTS
        if not near or (len(near) < limits.DHT_BUCKET_CONTACTS and is_everyone):
            return Region(Prefix(0, 0), tuple(known.values()))
        shared = min(common_prefix_bits(key, place) for key in near[: limits.DHT_BUCKET_CONTACTS])
        region = Prefix.of(place, shared)
        hidden = await self._finder.overlooked(place, lookup)
        known.update((contact.peer_id, contact) for contact in hidden)
        if next_place is None or next_place not in region:
            return Region(region, (*lookup.closest(), *hidden))
        unknown = [Prefix.of(place, shared + 1).sibling()]
        for _ in range(limits.DHT_REGION_LOOKUPS_MAX):
            if not unknown:
                break
            subtree = unknown.pop()
            target = self._finder.target_in(subtree, list(known))
            if target is None:
                continue
            lookup = await self._finder.find_nodes(target)
            known.update((contact.peer_id, contact) for contact in lookup.answered())
            unknown += _still_unknown(subtree, key_of(target), lookup)
        return Region(region, tuple(known.values()))

    async def _send(self, contacts: Sequence[Contact], keys: Sequence[bytes]) -> int:
        """Announce each key to the contacts nearest to it; the least number that took any."""
        shares: dict[PeerId, list[bytes]] = {}
        radius = self._finder.radius()
        for key in keys:
            place = key_of(key)
            ranked = nearest(
                contacts, place, limits.DHT_HOLDERS_MAX, key=lambda contact: key_of(contact.peer_id)
            )
            for rank, contact in enumerate(ranked):
                if rank >= limits.DHT_BUCKET_CONTACTS and key_of(contact.peer_id) ^ place > radius:
                    break
                shares.setdefault(contact.peer_id, []).append(key)
        own = Contact(self._network.peer_id, self._network.listen_addresses())
        taken = dict.fromkeys(keys, 0)

        async def announce_to(contact: Contact, share: Sequence[bytes]) -> None:
            for key in await self._client.add_provider(contact, share, own):
                taken[key] += 1

        async with trio.open_nursery() as nursery:
            for contact in contacts:
                if contact.peer_id in shares:
                    nursery.start_soon(announce_to, contact, shares[contact.peer_id])
        return min(taken.values(), default=0)


def _still_unknown(subtree: Prefix, target: int, lookup: Lookup) -> list[Prefix]:
    """The parts of a subtree that a lookup within it does not show completely."""
    near = lookup.closest()[: limits.DHT_BUCKET_CONTACTS]
    if len(near) < limits.DHT_BUCKET_CONTACTS:
        return []
    shared = min(common_prefix_bits(key_of(contact.peer_id), target) for contact in near)
    return [Prefix.of(target, length).sibling() for length in range(subtree.length + 1, shared + 2)]
