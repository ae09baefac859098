"""A network for lookups alone: nodes with honest tables drawn when first asked, dead ones, and liars."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random

from node import limits
from node.dht.distance import Prefix, key_of, nearest
from node.dht.lookup import Lookup
from node.dht.routing_table import RoutingTable
from node.units import Contact, PeerId
from tests.dht.support import contact_of

Lie = Callable[[int], Sequence[Contact]]


class LookupModel:
    """`count` honest nodes; some may be dead, others lie."""

    def __init__(self, rng: Random, count: int) -> None:
        self.rng = rng
        self.contacts = {contact.peer_id: contact for contact in map(contact_of, range(1, count + 1))}
        self.keys = {peer_id: key_of(peer_id) for peer_id in self.contacts}
        self._by_key = sorted((key, peer_id) for peer_id, key in self.keys.items())
        self._tables: dict[PeerId, RoutingTable] = {}
        self.dead: set[PeerId] = set()
        self.liars: dict[PeerId, Lie] = {}
        self.asked: list[PeerId] = []

    def kill(self, share: float) -> None:
        """A share of the honest nodes dies; tables still name them."""
        self.dead = {peer_id for peer_id in self.contacts if self.rng.random() < share}

    def bury(self) -> None:
        """Tables no longer name the dead."""
        self._by_key = [(key, peer_id) for key, peer_id in self._by_key if peer_id not in self.dead]
        self._tables.clear()

    def table_of(self, peer_id: PeerId) -> RoutingTable:
        """Up to 20 random nodes of every bucket, as a long-lived node has them."""
        table = self._tables.get(peer_id)
        if table is None:
            table = self._tables[peer_id] = RoutingTable(self.keys[peer_id])
            for length in range(1, 257):
                subtree = Prefix.of(self.keys[peer_id], length)
                for _, other in self._sample(subtree.sibling()):
                    table.answered(self.contacts[other], subnet=None, now_s=0.0)
                if len(self._range(subtree)) <= 1:
                    break
        return table

    def live_nearest(self, target: int, count: int) -> list[PeerId]:
        """The truth."""
        live = [peer_id for peer_id in self.contacts if peer_id not in self.dead]
        return nearest(live, target, count, key=lambda peer_id: self.keys[peer_id])

    def run(self, lookup: Lookup) -> Lookup:
        """Answer a lookup's questions in random order until it ends."""
        in_flight: list[Contact] = []
        while not lookup.is_finished:
            new = lookup.next_queries()
            in_flight += new
            assert len(in_flight) <= limits.DHT_LOOKUP_PARALLEL
            assert in_flight
            contact = in_flight.pop(self.rng.randrange(len(in_flight)))
            self.asked.append(contact.peer_id)
            if contact.peer_id in self.liars:
                lookup.on_reply(contact.peer_id, self.liars[contact.peer_id](lookup.target))
            elif contact.peer_id in self.dead or contact.peer_id not in self.contacts:
                lookup.on_failure(contact.peer_id)
            else:
                lookup.on_reply(contact.peer_id, self.table_of(contact.peer_id).nearest(lookup.target, 20))
        assert lookup.next_queries() == []
        return lookup

    def _range(self, subtree: Prefix) -> range:
        low = bisect_left(self._by_key, (subtree.first, b""))
        return range(low, bisect_left(self._by_key, (subtree.end, b""), low))

    def _sample(self, subtree: Prefix) -> list[tuple[int, PeerId]]:
        found = self._range(subtree)
        chosen = self.rng.sample(found, min(len(found), limits.DHT_BUCKET_CONTACTS))
        return [self._by_key[index] for index in chosen]
