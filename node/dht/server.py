"""Answers other nodes of the DHT. Layer 4.

A stream carries any number of requests, each to arrive within a deadline; how many streams there are is
bounded by `Network.serve`. What is refused (a quota, an invalid value, a provider that is not the sender)
ends the stream with a reset, so that the other side can tell it from what was taken. Nothing is
acknowledged before it is durable.
"""

from __future__ import annotations

from collections.abc import Callable

from node import limits
from node.dht import messages
from node.dht.addresses import dialable
from node.dht.committer import Committer
from node.dht.distance import key_of
from node.dht.exchange import Exchange
from node.dht.messages import Message, MessageType, Record
from node.dht.record_store import RecordStore
from node.dht.records import ProviderRecord, ValueRules, check_multihash, restore_due_s
from node.dht.routing_table import RoutingTable
from node.errors import ProtocolError, RefusedError
from node.ports import Clock, Network, Stream
from node.units import Contact, PeerId


class DhtServer:
    """Serves what this node keeps and whom it knows."""

    def __init__(
        self,
        network: Network,
        table: RoutingTable,
        store: RecordStore,
        committer: Committer,
        rules: ValueRules,
        clock: Clock,
        *,
        on_request: Callable[[PeerId], None],
    ) -> None:
        """`on_request` hears who asks: a peer that does may be a node worth knowing."""
        self._network = network
        self._table = table
        self._store = store
        self._committer = committer
        self._rules = rules
        self._clock = clock
        self._on_request = on_request
        self._own_key = key_of(network.peer_id)
        self.is_serving = False
        self.served_count = 0

    def start(self) -> None:
        """Serve the protocol. Idempotent."""
        if not self.is_serving:
            self.is_serving = True
            self._network.serve(
                messages.PROTOCOL,
                self.handle,
                streams_max=limits.DHT_STREAMS_MAX,
                streams_max_per_peer=limits.DHT_STREAMS_PER_PEER_MAX,
            )

    def stop(self) -> None:
        """Answer nobody any more: others drop this node from their tables."""
        self.is_serving = False

    async def handle(self, stream: Stream) -> None:
        """One incoming stream. Raises a `NodeError` to have it reset."""
        if not self.is_serving:
            raise RefusedError(
                messages.id_text(stream.peer_id), "protocol", "this node does not serve the DHT"
            )
        self._on_request(stream.peer_id)
        exchange = Exchange(stream)
        while True:
            request = await exchange.receive(limits.DHT_IDLE_S)
            if request is None:
                return
            self.served_count += 1
            reply = await self.answer(stream.peer_id, request)
            if reply is not None:
                await exchange.send(reply)

    async def answer(self, sender_id: PeerId, request: Message) -> Message | None:
        """The reply to a request. Raises `ProtocolError` for what is refused."""
        match request.type:
            case MessageType.PING:
                return Message(MessageType.PING)
            case MessageType.FIND_NODE:
                return Message(
                    MessageType.FIND_NODE, request.key, closer=self._closer(sender_id, request.key)
                )
            case MessageType.GET_PROVIDERS:
                return self._providers(sender_id, request.key)
            case MessageType.ADD_PROVIDER:
                await self._add_provider(sender_id, request)
                return None
            case MessageType.GET_VALUE:
                return self._value(sender_id, request.key)
            case MessageType.PUT_VALUE:
                await self._put_value(sender_id, request)
                return request

    def _closer(self, sender_id: PeerId, key: bytes) -> tuple[Contact, ...]:
        """The nearest contacts, without the sender; this node first where it is what is looked for."""
        found = self._table.nearest(key_of(key), limits.DHT_BUCKET_CONTACTS + 1)
        others = [contact for contact in found if contact.peer_id != sender_id]
        if key == self._network.peer_id:
            others.insert(0, self._own_contact())
        return tuple(others[: limits.DHT_BUCKET_CONTACTS])

    def _providers(self, sender_id: PeerId, key: bytes) -> Message:
        providers = self._store.providers(key, now_s=self._clock.now_s())
        if self._store.is_provided(key):
            providers.insert(0, self._own_contact())
        return Message(
            MessageType.GET_PROVIDERS,
            key,
            closer=self._closer(sender_id, key),
            providers=messages.fitting_providers(providers),
        )

    async def _add_provider(self, sender_id: PeerId, request: Message) -> None:
        check_multihash(request.key)
        told = next((peer for peer in request.providers if peer.peer_id == sender_id), None)
        if told is None:
            raise ProtocolError("a provider record must be the sender's own")
        addresses = dialable(told.addresses, teller=self._network.observed_address(sender_id))
        now_s = self._clock.now_s()
        record = ProviderRecord(
            request.key, Contact(sender_id, addresses), now_s + limits.DHT_PROVIDER_EXPIRY_S
        )
        taken = await self._committer.submit(
            lambda transaction: self._store.add_provider(transaction, record, now_s=now_s)
        )
        if not taken:
            raise ProtocolError("no room for more provider records")

    def _value(self, sender_id: PeerId, key: bytes) -> Message:
        stored = self._store.value(key, now_s=self._clock.now_s())
        record = None
        if stored is not None:
            record = Record(key, stored.value, messages.received_text(stored.received_s))
        return Message(MessageType.GET_VALUE, key, record, closer=self._closer(sender_id, key))

    async def _put_value(self, sender_id: PeerId, request: Message) -> None:
        record = request.record
        if record is None or record.key != request.key:
            raise ProtocolError("a value without its record")
        if not await self.store_value(record.key, record.value, sender_id=sender_id):
            raise ProtocolError("no room for the value, or a better one is here")

    async def store_value(self, key: bytes, value: bytes, *, sender_id: PeerId) -> bool:
        """Check a value and keep it if it is the best one; whether it was kept. Raises `ProtocolError`."""
        now_s = self._clock.now_s()
        self._rules.check(key, value, now_s=now_s)
        record = self._rules.record(key, value, now_s=now_s)
        due_s = restore_due_s(key, self._own_key, received_s=now_s)
        return await self._committer.submit(
            lambda transaction: self._store.put_value(
                transaction, record, sender_id=sender_id, rules=self._rules, due_s=due_s
            )
        )

    def _own_contact(self) -> Contact:
        return Contact(self._network.peer_id, self._network.listen_addresses())
