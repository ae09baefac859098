"""Complete lookups: of a key's neighbourhood as the table shows it, and past a crowd that hides it. Layer
4.

Anyone can invent peer ids until many lie nearer to a key than every honest node; replies then name nobody
else. Such a crowd shows by its density: far more nodes around one key than the size of the network allows.
The honest nodes within the radius are then found through lookups of other keys near by. Source: Sridhar et
al., Content Censorship in the InterPlanetary File System (2023).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio

from node import limits
from node.dht.client import DhtClient
from node.dht.distance import (
    Prefix,
    SizeEstimate,
    crowded_subtrees,
    key_of,
    preimage_within,
    radius_of,
)
from node.dht.lookup import Lookup
from node.dht.routing_table import RoutingTable
from node.ports import Entropy
from node.units import Contact, PeerId


class Finder:
    """Runs lookups from this node's table and learns the size of the network from them."""

    def __init__(self, client: DhtClient, table: RoutingTable, entropy: Entropy) -> None:
        self._client = client
        self._table = table
        self._entropy = entropy
        self._size = SizeEstimate(limits.DHT_SIZE_SAMPLES)

    @property
    def network_nodes(self) -> float:
        """Estimated number of other nodes; never fewer than are known."""
        return max(self._size.nodes, float(len(self._table)))

    def radius(self) -> int:
        """Distance within which a key's records belong; 0 while the network's size is unknown."""
        nodes = self.network_nodes
        return radius_of(nodes, limits.DHT_BUCKET_CONTACTS) if nodes else 0

    async def find_nodes(self, key: bytes) -> Lookup:
        """A complete lookup of a raw key."""
        return await self.search(key_of(key), lambda contact: self._client.find_node(contact, key))

    async def survey(self, key: bytes) -> Lookup:
        """A complete lookup of a key of this node's own choice, from which it learns the network's size.

        Keys of records teach nothing: whoever crowds around one would choose what this node believes.
        """
        lookup = await self.find_nodes(key)
        near = lookup.closest()[: limits.DHT_BUCKET_CONTACTS]
        self._size.add(lookup.target, [key_of(contact.peer_id) for contact in near])
        return lookup

    async def search(
        self,
        target: int,
        ask: Callable[[Contact], Awaitable[Sequence[Contact]]],
        *,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> Lookup:
        """A lookup that puts a question of its own; over when nobody is left to ask, or at `is_enough`."""
        count = limits.DHT_BUCKET_CONTACTS
        seeds = self._table.nearest(target, count) or self._table.nearest(target, count, with_failing=True)
        lookup = await self._client.search(target, seeds, ask, radius=self.radius(), is_enough=is_enough)
        if not is_enough():
            self._table.refreshed(target, now_s=trio.current_time())
        return lookup

    async def holders(self, key: bytes, lookup: Lookup) -> list[Contact]:
        """Who should hold the records of a key, given the finished lookup of it: nearest first.

        The nearest, all others found within the radius, and whoever a crowd hides.
        """
        return lookup.closest() + await self.overlooked(key_of(key), lookup)

    async def overlooked(self, target: int, lookup: Lookup) -> list[Contact]:
        """Nodes within the radius that a lookup did not show, if there is a crowd around its target."""
        near = [key_of(contact.peer_id) for contact in lookup.closest()[: limits.DHT_BUCKET_CONTACTS]]
        known = {contact.peer_id for contact in lookup.closest()}
        found: dict[PeerId, Contact] = {}
        for subtree in crowded_subtrees(target, near, self.radius(), count=limits.DHT_BUCKET_CONTACTS):
            place = self.target_in(subtree, [contact.peer_id for contact in lookup.answered()])
            if place is None:
                continue
            beside = await self.find_nodes(place)
            for contact in beside.closest():
                if contact.peer_id not in known and key_of(contact.peer_id) ^ target <= self.radius():
                    found[contact.peer_id] = contact
        return list(found.values())

    def target_in(self, subtree: Prefix, known: Sequence[PeerId]) -> bytes | None:
        """Bytes whose key lies in a subtree: found by trying, or, if it is deep, someone known there."""
        if subtree.length <= limits.DHT_PREIMAGE_BITS:
            seed = self._entropy.random_bytes(16)
            return preimage_within(subtree, seed, tries_max=limits.DHT_PREIMAGE_TRIES_MAX)
        here = (peer_id for peer_id in known if key_of(peer_id) in subtree)
        return next(here, None) or self._table.peer_in(subtree)
