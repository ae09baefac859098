"""The node's part in the DHT: joins, keeps its table and records healthy, finds and announces. Layer 4.

Implements `ports.Directory`. Construct it, run `run` in a nursery, and give it contacts to join through.
Source: Kademlia (Maymounkov and Mazières, 2002); S/Kademlia (Baumgart and Mies, 2007); libp2p kad-dht
specification.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from node import limits
from node.dht.announce import Announcer
from node.dht.client import Ask, DhtClient
from node.dht.committer import Committer
from node.dht.distance import KEY_SPACE, key_of
from node.dht.finder import Finder
from node.dht.membership import Membership
from node.dht.messages import Message, MessageType, Record, received_text
from node.dht.record_store import RecordStore
from node.dht.records import Validator, ValueRecord, ValueRules, check_multihash, restore_due_s
from node.dht.routing_table import RoutingTable
from node.dht.server import DhtServer
from node.errors import ProtocolError, RemoteError, StoreError
from node.ports import Clock, Entropy, KeyValue, Network, Offload, WriteTransaction
from node.units import Contact, PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """What a node may choose."""

    serve: bool = True
    """Server mode: answer others and be in their tables. False: only ask."""
    announce_interval_s: int = limits.DHT_ANNOUNCE_INTERVAL_S


@dataclass(frozen=True, slots=True)
class KnownContact:
    """A verified contact in the routing table, for `cairn peers`."""

    contact: Contact
    seen_s_ago: float
    failures: int


@dataclass(frozen=True, slots=True)
class DhtStatistics:
    """Counts for `cairn status`, pages and tests."""

    contacts: int
    replacements: int
    provider_records: int
    value_records: int
    provided_keys: int
    network_size: int
    """Estimated number of servers in the network, this node included."""
    joined: bool
    requests_sent: int
    requests_failed: int
    requests_served: int

    @property
    def records(self) -> int:
        """Records of others kept here."""
        return self.provider_records + self.value_records


class DhtService:
    """One node of the DHT; implements `ports.Directory`."""

    def __init__(
        self,
        network: Network,
        key_values: KeyValue,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        *,
        validators: Mapping[bytes, Validator],
        settings: DhtSettings | None = None,
    ) -> None:
        """`validators` maps a namespace without slashes (`b"cairn-hint"`) to its rules."""
        self._settings = settings or DhtSettings()
        self._network = network
        self._clock = clock
        self._entropy = entropy
        self._own_key = key_of(network.peer_id)
        self._rules = ValueRules(validators)
        self._store = RecordStore(key_values)
        self._committer = Committer(key_values, offload)
        self._table = RoutingTable(self._own_key)
        self._membership = Membership(network, self._table)
        self._client = DhtClient(
            network, on_answer=self._membership.on_answer, on_failure=self._membership.on_failure
        )
        self._finder = Finder(self._client, self._table, entropy)
        self._server = DhtServer(
            network,
            self._table,
            self._store,
            self._committer,
            self._rules,
            clock,
            on_request=self._suggest,
        )
        self._announcer = Announcer(
            network,
            self._client,
            self._store,
            self._committer,
            clock,
            self._finder,
            interval_s=self._settings.announce_interval_s,
        )
        self._corrections, self._to_correct = trio.open_memory_channel[tuple[Contact, bytes, bytes]](
            limits.DHT_CORRECTIONS_MAX
        )

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, verify, refresh, expire and announce until cancelled; started once it serves."""
        if self._settings.serve:
            self._server.start()
        self._network.on_connected(self._suggest)
        for contact in self._store.contacts():
            self._membership.suggest(contact)
        for peer_id in self._network.connected():
            self._suggest(peer_id)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._membership.run_verifying, self._client)
                nursery.start_soon(self._membership.keep_known, self._finder)
                nursery.start_soon(self._keep_expiring)
                nursery.start_soon(self._keep_saving)
                nursery.start_soon(self._keep_corrected)
                nursery.start_soon(self._announcer.run_sweep)
                task_status.started()
        finally:
            self._server.stop()

    def add_contact(self, contact: Contact) -> None:
        """Have a peer verified in the background and, if it answers, join through it. Never blocks."""
        self._membership.suggest(contact, is_wanted=True)

    async def wait_joined(self, timeout_s: float) -> bool:
        """Wait until a contact has answered and the own neighbourhood is known; False when time is up."""
        with trio.move_on_after(timeout_s):
            await self._membership.joined.wait()
        return self._membership.joined.is_set()

    async def refresh(self) -> None:
        """Look up the own key and a key in every subtree between it and the rest, now."""
        await self._membership.find_neighbourhood(self._finder)
        await self._membership.refresh_stale(self._finder, age_s=0.0)

    def set_serving(self, serve: bool) -> None:
        """Switch between server mode and client mode."""
        if serve:
            self._server.start()
        else:
            self._server.stop()

    def statistics(self) -> DhtStatistics:
        """Counts as of now."""
        counts = self._store.counts()
        return DhtStatistics(
            contacts=len(self._table),
            replacements=self._table.replacement_count,
            provider_records=counts.providers,
            value_records=counts.values,
            provided_keys=counts.provided,
            network_size=round(self._finder.network_nodes) + 1,
            joined=self._membership.joined.is_set(),
            requests_sent=self._client.sent_count,
            requests_failed=self._client.failed_count,
            requests_served=self._server.served_count,
        )

    def contacts(self) -> tuple[KnownContact, ...]:
        """Everyone in the routing table, farthest bucket first."""
        now_s = trio.current_time()
        return tuple(
            KnownContact(entry.contact, now_s - entry.seen_s, entry.failures)
            for _, entry in self._table.entries()
        )

    # --- ports.Directory ------------------------------------------------------------------------------

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """Fresh addresses of a peer, or None.

        A peer that answers tells them itself; else they are what others say.
        """
        answer: list[Contact] = []

        async def ask(contact: Contact) -> Sequence[Contact]:
            closer = await self._client.find_node(contact, peer_id)
            if contact.peer_id == peer_id:
                known = self._table.entry(peer_id)
                answer.append(known.contact if known else contact)
            return closer

        lookup = await self._finder.search(key_of(peer_id), ask, is_enough=lambda: bool(answer))
        if answer:
            return answer[0]
        told = lookup.contact_of(peer_id)
        return told if told is not None and told.addresses else None

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        """Up to `wanted` peers that announced `key`; ends early once that many are known.

        First those that most nodes named: a record is at 20 nodes, a lie at the liar's.
        """
        found: dict[PeerId, Contact] = {}
        votes: Counter[PeerId] = Counter()

        def add(providers: Sequence[Contact]) -> None:
            for provider in providers:
                if provider.peer_id == self._network.peer_id:
                    continue
                votes[provider.peer_id] += 1
                known = found.get(provider.peer_id)
                if known is None or not known.addresses:
                    found[provider.peer_id] = provider

        async def ask(contact: Contact) -> Sequence[Contact]:
            reply = await self._client.ask(contact, Message(MessageType.GET_PROVIDERS, key))
            add(self._client.credible(contact.peer_id, reply.providers))
            return reply.closer

        add(self._store.providers(key, now_s=self._clock.now_s()))
        if len(found) < wanted:
            await self._ask_around(key, ask, is_enough=lambda: len(found) >= wanted)
        return [found[peer_id] for peer_id, _ in votes.most_common(wanted)]

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce `keys` now and from now on; the least number of peers that took the record of any key.

        Raises `ProtocolError` if one of them is no multihash.
        """
        for key in keys:
            check_multihash(key)
        await self._committer.submit(lambda transaction: self._store.add_provided(transaction, keys))
        return await self._announcer.announce(keys)

    async def stop_providing(self, keys: Sequence[bytes]) -> None:
        """Announce these keys no longer. What others keep of them expires."""
        await self._committer.submit(lambda transaction: self._store.remove_provided(transaction, keys))

    def provided(self, *, after: bytes | None, limit: int) -> Sequence[bytes]:
        """Up to `limit` keys that this node announces, in key space order; go on after the last one."""
        start = 0 if after is None else key_of(after) + 1
        return [key for _, key in self._store.provided(start=start, end=KEY_SPACE, count_max=limit)]

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Store a value at every node near `key`; how many others took it.

        Raises `ProtocolError` if the value is not valid under its key.
        """
        taken, _, _ = await self._store_value(key, value)
        return taken

    async def _store_value(self, key: bytes, value: bytes) -> tuple[int, int, bool]:
        """How many others took a value, of how many, and whether this node is one of those that should have
        it."""
        self._rules.check(key, value, now_s=self._clock.now_s())
        lookup = await self._finder.find_nodes(key)
        holders = await self._finder.holders(key, lookup)
        farthest = max((key_of(contact.peer_id) ^ key_of(key) for contact in holders), default=0)
        is_near = len(holders) < limits.DHT_BUCKET_CONTACTS or self._own_key ^ key_of(key) < farthest
        if is_near:
            await self._server.store_value(key, value, sender_id=self._network.peer_id)
        taken = 0

        async def put(contact: Contact) -> None:
            nonlocal taken
            was_taken = await self._put_at(contact, key, value)
            taken += was_taken  # read after the wait: others count meanwhile

        async with trio.open_nursery() as nursery:
            for contact in holders:
                nursery.start_soon(put, contact)
        return taken, len(holders), is_near

    async def get_value(self, key: bytes) -> bytes | None:
        """The best valid value found, or None. Holders of a worse one are given the best."""
        found: dict[PeerId, tuple[Contact, bytes]] = {}
        best: bytes | None = None

        def add(contact: Contact, value: bytes) -> None:
            nonlocal best
            if not self._rules.is_valid(key, value, now_s=self._clock.now_s()):
                return
            found[contact.peer_id] = (contact, value)
            if best is None or self._rules.is_better(key, value, best):
                best = value

        async def ask(contact: Contact) -> Sequence[Contact]:
            reply = await self._client.ask(contact, Message(MessageType.GET_VALUE, key))
            if reply.record is not None and reply.record.key == key:
                add(contact, reply.record.value)
            return reply.closer

        def is_enough() -> bool:
            return sum(value == best for _, value in found.values()) >= limits.DHT_VALUE_QUORUM

        stored = self._store.value(key, now_s=self._clock.now_s())
        if stored is not None:
            add(Contact(self._network.peer_id), stored.value)
        await self._ask_around(key, ask, is_enough=is_enough)
        if best is not None:
            self._correct(key, best, found)
        return best

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        """Up to `count` live contacts from random parts of the key space, this node excluded."""
        live: dict[PeerId, Contact] = {}
        barren = 0
        while len(live) < count and barren < limits.DHT_SAMPLE_BARREN_MAX:
            known = len(live)
            lookup = await self._finder.survey(self._entropy.random_bytes(32))
            answered = lookup.answered()
            live.update((contact.peer_id, contact) for contact in answered)
            barren = barren + 1 if len(live) == known else 0
            if barren and len(answered) < limits.DHT_BUCKET_CONTACTS:
                break  # a lookup asks that many where there are: those are all
        return list(live.values())[:count]

    # --- within ---------------------------------------------------------------------------------------

    def _suggest(self, peer_id: PeerId) -> None:
        self._membership.suggest(Contact(peer_id, self._network.addresses_of(peer_id)))

    async def _ask_around(self, key: bytes, ask: Ask, *, is_enough: Callable[[], bool]) -> None:
        """Put a question to everyone who may hold records of a key, until the answers are enough."""
        lookup = await self._finder.search(key_of(key), ask, is_enough=is_enough)
        if is_enough():
            return
        hidden = await self._finder.overlooked(key_of(key), lookup)

        async def put_question(contact: Contact) -> None:
            with suppress(RemoteError):
                await ask(contact)

        async with trio.open_nursery() as nursery:
            for contact in hidden:
                nursery.start_soon(put_question, contact)

    async def _put_at(self, contact: Contact, key: bytes, value: bytes) -> bool:
        record = Record(key, value, received_text(self._clock.now_s()))
        try:
            await self._client.request(contact, Message(MessageType.PUT_VALUE, key, record))
        except RemoteError as error:
            logger.debug("a value was not taken: %s", error)
            return False
        return True

    def _correct(self, key: bytes, best: bytes, found: Mapping[PeerId, tuple[Contact, bytes]]) -> None:
        """Have holders of outdated values given the best one, as far as there is room in the queue."""
        for contact, value in found.values():
            if value != best:
                try:
                    self._corrections.send_nowait((contact, key, best))
                except trio.WouldBlock:
                    return

    async def _keep_corrected(self) -> None:
        async for contact, key, value in self._to_correct:
            if contact.peer_id != self._network.peer_id:
                await self._put_at(contact, key, value)
                continue
            with suppress(ProtocolError, StoreError):  # it was valid a moment ago; the disk may fail
                await self._server.store_value(key, value, sender_id=self._network.peer_id)

    async def _keep_expiring(self) -> None:
        """Drop what expired, step by step, and store again what is to live on."""
        while True:
            try:
                await self._expire()
                while await self._restore_step():
                    pass
            except StoreError as error:
                logger.warning("DHT records stay as they are for now: %s", error)
            await trio.sleep(limits.DHT_EXPIRE_PAUSE_S)

    async def _keep_saving(self) -> None:
        """Save the routing table now and then, and once more at the end."""
        try:
            while True:
                await trio.sleep(limits.DHT_SNAPSHOT_S)
                await self._save_contacts()
        finally:
            with trio.CancelScope(shield=True):
                await self._save_contacts()

    def set_record_room(self, byte_count: int | None) -> None:
        """Keep no more of others' records than fit so much of the disk; None: as much as limits.py allows.

        What is kept already stays until it expires.
        """
        self._store.room_bytes = byte_count

    async def _expire(self) -> None:
        def expire(transaction: WriteTransaction) -> int:
            return self._store.expire(
                transaction, now_s=self._clock.now_s(), count_max=limits.DHT_EXPIRE_STEP_RECORDS
            )

        while self._store.has_expired(now_s=self._clock.now_s()):
            await self._committer.submit(expire)

    async def _restore_step(self) -> bool:
        """Store some values again; whether more may be due."""
        due = self._store.due_values(now_s=self._clock.now_s(), count_max=limits.DHT_RESTORE_STEP_RECORDS)
        for record in due:
            await self._restore(record)
        return len(due) == limits.DHT_RESTORE_STEP_RECORDS

    async def _restore(self, record: ValueRecord) -> None:
        """Store a value at every node near its key. It is let go here once others nearer have it."""
        taken, asked, is_near = 0, 0, True
        with suppress(ProtocolError):  # it holds no more: its expiry is at hand
            taken, asked, is_near = await self._store_value(record.key, record.value)
        now_s = self._clock.now_s()
        if taken:
            due_s = restore_due_s(record.key, self._own_key, received_s=now_s)
        else:
            due_s = now_s + limits.DHT_RESTORE_RETRY_S
        if taken < min(asked, limits.DHT_BUCKET_CONTACTS // 2):
            await self.get_value(record.key)  # where a better one refused it, that one comes here
        # In a network that is away or falling apart what is here may be the last copy.
        is_kept = is_near or taken < limits.DHT_BUCKET_CONTACTS // 2
        await self._committer.submit(
            lambda transaction: self._store.restored(transaction, record, is_kept=is_kept, due_s=due_s)
        )

    async def _save_contacts(self) -> None:
        contacts = [entry.contact for _, entry in self._table.entries()]
        if not contacts:
            return  # nobody reachable now: those known before are the better memory
        try:
            await self._committer.submit(lambda transaction: self._store.save_contacts(transaction, contacts))
        except StoreError as error:
            logger.warning("the routing table was not saved: %s", error)
