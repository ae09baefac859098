"""Who is in the table: verifies the peers heard of, keeps the neighbourhood known, forgets the dead. Layer
4.

A peer enters the table only after it has answered a request that this node opened to it. What makes this
node try: somebody named it as a way in, it asked this node something, a connection to it came up (from a
place that is news, if it is in the table), or it was in the table before a restart. How many wait and how
many are tried at once is bounded; who does not serve the protocol is left alone for a while.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import trio

from node import limits
from node.dht.addresses import dialable
from node.dht.client import DhtClient
from node.dht.distance import common_prefix_bits, key_of
from node.dht.finder import Finder
from node.dht.routing_table import RoutingTable
from node.errors import RefusedError, RemoteError
from node.ports import Network
from node.subnets import IpAddress, ip_of, subnet_of
from node.units import Contact, Multiaddr, PeerId


class Membership:
    """Feeds the routing table."""

    def __init__(self, network: Network, table: RoutingTable) -> None:
        self.joined = trio.Event()
        self._network = network
        self._table = table
        self._queue, self._queued = trio.open_memory_channel[Contact](limits.DHT_VERIFY_QUEUE_MAX)
        self._waiting: set[PeerId] = set()  # in the queue, or being tried
        self._left_alone: OrderedDict[PeerId, float] = OrderedDict()  # until when
        self._found_at: OrderedDict[PeerId, IpAddress] = OrderedDict()  # who was asked where it listens now
        self._first_came = trio.Event()
        self._neighbourhood_due_s = float("-inf")
        self._neighbourhood_pause_s = limits.DHT_NEIGHBOURHOOD_FIRST_S

    # --- what happens ---------------------------------------------------------------------------------

    def suggest(self, contact: Contact, *, is_wanted: bool = False) -> None:
        """Try a peer soon; `is_wanted` tries it even if it failed just now. Never blocks."""
        peer_id = contact.peer_id
        if peer_id == self._network.peer_id or peer_id in self._waiting:
            return
        if is_wanted:
            self._left_alone.pop(peer_id, None)
        elif self._left_alone.get(peer_id, 0.0) > trio.current_time():
            return
        entry = self._table.entry(peer_id)
        if entry is None or entry.failures or self._has_moved(entry.contact):
            self._enqueue(contact)

    def _has_moved(self, known: Contact) -> bool:
        """Whether a peer is connected from where nobody has said that it is; of each such place once.

        Else this node would go on naming a peer that came back at another address where it was before: it
        counts as seen whenever it asks.
        """
        observed = self._network.observed_address(known.peer_id)
        ip = None if observed is None else ip_of(observed)
        if ip is None or ip == self._found_at.get(known.peer_id) or ip in map(ip_of, known.addresses):
            return False
        self._found_at[known.peer_id] = ip
        self._found_at.move_to_end(known.peer_id)
        if len(self._found_at) > limits.DHT_MOVED_PEERS_MAX:
            self._found_at.popitem(last=False)
        return True

    def on_answer(self, contact: Contact) -> None:
        """A peer answered a request: it is a node."""
        observed = self._network.observed_address(contact.peer_id)
        place = observed or next(iter(contact.addresses), None)
        entry = self._table.entry(contact.peer_id)
        if not contact.addresses and entry is None:
            return  # others could not reach it
        was_empty = len(self._table) == 0
        subnet = subnet_of(place)
        self._table.answered(contact, subnet=subnet, now_s=trio.current_time())
        self._left_alone.pop(contact.peer_id, None)
        if was_empty and len(self._table):
            self._neighbourhood_due_s = float("-inf")
            self._first_came.set()

    def on_failure(self, peer_id: PeerId, error: RemoteError | None) -> None:
        """A peer did not answer, or does not serve the protocol (any more)."""
        if isinstance(error, RefusedError):
            self._table.remove(peer_id)
        else:
            self._table.failed(peer_id, now_s=trio.current_time())
        self._left_alone[peer_id] = trio.current_time() + limits.DHT_LEFT_ALONE_S
        self._left_alone.move_to_end(peer_id)
        if len(self._left_alone) > limits.DHT_LEFT_ALONE_PEERS_MAX:
            self._left_alone.popitem(last=False)

    # --- tasks ----------------------------------------------------------------------------------------

    async def run_verifying(self, client: DhtClient) -> None:
        """Try suggested peers, a few at once; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(limits.DHT_VERIFY_PARALLEL):
                nursery.start_soon(self._try_queued, client)

    async def _try_queued(self, client: DhtClient) -> None:
        async for contact in self._queued:
            with suppress(RemoteError):  # on_failure has heard of it
                await self.verify(client, contact)
            self._waiting.discard(contact.peer_id)

    async def verify(self, client: DhtClient, contact: Contact) -> None:
        """Ask a peer for itself: that it answers, and where it listens. Raises `RemoteError`."""
        told = await client.find_node(contact, contact.peer_id)
        observed = self._network.observed_address(contact.peer_id)
        own = next((peer for peer in told if peer.peer_id == contact.peer_id), None)
        listens: Sequence[Multiaddr] = dialable(own.addresses, teller=observed) if own else ()
        known = dict.fromkeys((*self._network.addresses_of(contact.peer_id), *listens, *contact.addresses))
        addresses = tuple(known)[: limits.DHT_CONTACT_ADDRESSES_MAX]
        self.on_answer(replace(contact, addresses=addresses))

    async def keep_known(self, finder: Finder) -> None:
        """Refresh what is due; runs until cancelled."""
        while True:
            if len(self._table) and trio.current_time() >= self._neighbourhood_due_s:
                await self.find_neighbourhood(finder)
            self.check_doubtful()
            if self.joined.is_set():
                await self.refresh_stale(finder, age_s=limits.DHT_BUCKET_REFRESH_S)
            now_s = trio.current_time()
            if not len(self._table):
                self._neighbourhood_due_s = float("inf")
            self._first_came = trio.Event()
            with trio.move_on_at(min(self._neighbourhood_due_s, now_s + limits.DHT_MAINTENANCE_S)):
                await self._first_came.wait()

    async def find_neighbourhood(self, finder: Finder) -> None:
        """Look up the own key: whoever is asked then hears of this node."""
        known = {entry.contact.peer_id for _, entry in self._table.entries()}
        lookup = await finder.survey(self._network.peer_id)
        now_s = trio.current_time()
        nearest = lookup.closest()[: limits.DHT_BUCKET_CONTACTS]
        near = [key_of(contact.peer_id) for contact in nearest]
        is_everyone = len(near) < limits.DHT_BUCKET_CONTACTS
        # A network that has just begun shows somebody new each time; one that stands, hardly ever. Where
        # everyone is known, whoever comes introduces itself, and a look at the own neighbourhood asks all.
        has_shown = any(contact.peer_id not in known for contact in nearest)
        longest_s = (
            limits.DHT_BUCKET_REFRESH_S if is_everyone and not has_shown else limits.DHT_NEIGHBOURHOOD_S
        )
        self._neighbourhood_due_s = now_s + min(self._neighbourhood_pause_s, longest_s)
        self._neighbourhood_pause_s = min((2 if has_shown else 4) * self._neighbourhood_pause_s, longest_s)
        shared = -1 if is_everyone else min(common_prefix_bits(key, self._table.own_key) for key in near)
        if near:
            self._table.refreshed_from(shared + 1, now_s=now_s)
            self.joined.set()

    def check_doubtful(self) -> None:
        """Have contacts that were silent for long, or failed, asked for a sign of life."""
        for contact in self._table.doubtful(now_s=trio.current_time(), unseen_s=limits.DHT_UNSEEN_S):
            if contact.peer_id not in self._waiting:
                self._enqueue(contact)

    async def refresh_stale(self, finder: Finder, *, age_s: float) -> None:
        """Look up a key in every subtree that no lookup went to for `age_s`."""
        for subtree in self._table.stale(now_s=trio.current_time(), age_s=age_s):
            target = finder.target_in(subtree, [])
            if target is not None:
                await finder.survey(target)

    def _enqueue(self, contact: Contact) -> None:
        with suppress(trio.WouldBlock):  # full: whoever is worth knowing will be heard of again
            self._queue.send_nowait(contact)
            self._waiting.add(contact.peer_id)
