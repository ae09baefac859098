"""Requests to other nodes of the DHT, short and with deadlines, and the lookups made of them. Layer 4.

Whoever answers is known to serve the protocol, and `on_answer` hears of it; whoever does not is reported to
`on_failure`. Requests in flight are bounded over all lookups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from node import limits
from node.dht import addresses, messages
from node.dht.exchange import Exchange
from node.dht.lookup import Lookup
from node.dht.messages import Message, MessageType
from node.errors import PeerMisbehavedError, ProtocolError, RefusedError, RemoteError, UnreachableError
from node.ports import Network
from node.units import Contact, PeerId

Ask = Callable[[Contact], Awaitable[Sequence[Contact]]]


class DhtClient:
    """Asks other nodes."""

    def __init__(
        self,
        network: Network,
        *,
        on_answer: Callable[[Contact], None],
        on_failure: Callable[[PeerId, RemoteError | None], None],
    ) -> None:
        self._network = network
        self._on_answer = on_answer
        self._on_failure = on_failure
        self._limiter = trio.CapacityLimiter(limits.DHT_REQUESTS_IN_FLIGHT_MAX)
        self.sent_count = 0
        self.failed_count = 0

    async def find_node(self, contact: Contact, key: bytes) -> Sequence[Contact]:
        """The contacts that a peer knows nearest to a key. Raises `RemoteError`."""
        reply = await self.request(contact, Message(MessageType.FIND_NODE, key))
        return reply.closer

    async def ask(self, contact: Contact, message: Message) -> Message:
        """A question about a record. Raises `RemoteError`.

        A peer that breaks the stream over it is asked for closer contacts only: other implementations refuse
        keys that they can't read, and still know their neighbours.
        """
        try:
            return await self.request(contact, message, is_last_try=False)
        except PeerMisbehavedError:
            return await self.request(contact, Message(MessageType.FIND_NODE, message.key))

    async def request(self, contact: Contact, message: Message, *, is_last_try: bool = True) -> Message:
        """One request and its reply, on a stream of its own.

        Raises:
            UnreachableError: no connection, or no reply in time.
            RefusedError: the peer does not serve the protocol, or is busy.
            PeerMisbehavedError: the stream broke, or the reply is no reply to this.
        """
        self.sent_count += 1
        async with self._limiter:
            try:
                with trio.move_on_after(limits.DHT_REQUEST_S):
                    reply = await self._exchange(contact, message)
                    self._answered(contact)
                    return reply
                raise UnreachableError(messages.id_text(contact.peer_id), "did not answer in time")
            except RemoteError as error:
                if is_last_try or not isinstance(error, PeerMisbehavedError):
                    self._failed(contact, error)
                raise

    async def add_provider(self, contact: Contact, keys: Sequence[bytes], own: Contact) -> Sequence[bytes]:
        """Announce keys to one peer over one stream; those that it took. Never raises `RemoteError`.

        The specification has no reply to an announcement. A ping after each one stands in for it: messages
        of a stream are answered in order, and a peer that refuses an announcement resets the stream.
        """
        taken: list[bytes] = []
        self.sent_count += 1
        async with self._limiter:
            try:
                await self._announce(contact, keys, own, taken)
            except RemoteError as error:
                if not taken:
                    self._failed(contact, error)
            else:
                self._answered(contact)
        return taken

    async def search(
        self,
        target: int,
        seeds: Sequence[Contact],
        ask: Ask,
        *,
        radius: int = 0,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> Lookup:
        """Run a lookup to its end, or until `is_enough` after a reply. The lookup tells who answered.

        `ask` puts the question to one contact and returns the closer ones it named; it may raise
        `RemoteError`.
        """
        lookup = Lookup(target, seeds, own_id=self._network.peer_id, radius=radius)
        slow: set[PeerId] = set()
        asked: deque[tuple[float, PeerId]] = deque()
        is_watched = False
        async with trio.open_nursery() as nursery:

            def go_on() -> None:
                nonlocal is_watched
                for contact in lookup.next_queries():
                    nursery.start_soon(put_question, contact)
                    asked.append((trio.current_time() + limits.DHT_LOOKUP_SLOW_S, contact.peer_id))
                    if not is_watched:
                        is_watched = True
                        nursery.start_soon(notice_slow)
                if lookup.is_finished:
                    nursery.cancel_scope.cancel()

            async def put_question(contact: Contact) -> None:
                try:
                    closer = await ask(contact)
                except RemoteError:
                    lookup.on_failure(contact.peer_id)
                except trio.Cancelled:
                    if contact.peer_id in slow:  # the lookup ended without it: that counts as no answer
                        self._on_failure(contact.peer_id, None)
                    raise
                else:
                    lookup.on_reply(contact.peer_id, self.credible(contact.peer_id, closer))
                    if is_enough():
                        lookup.stop()
                go_on()

            async def notice_slow() -> None:
                """One timer for all questions: they turn slow in the order in which they were put."""
                nonlocal is_watched
                while asked:
                    slow_s, peer_id = asked.popleft()
                    await trio.sleep_until(slow_s)
                    if lookup.on_slow(peer_id):
                        slow.add(peer_id)
                        go_on()
                is_watched = False

            go_on()
        return lookup

    def credible(self, teller_id: PeerId, contacts: Sequence[Contact]) -> list[Contact]:
        """Contacts with those of their addresses that this teller may make us dial."""
        teller = self._network.observed_address(teller_id)
        return [
            contact
            if (allowed := addresses.dialable(contact.addresses, teller=teller)) == contact.addresses
            else replace(contact, addresses=allowed)
            for contact in contacts
        ]

    async def _exchange(self, contact: Contact, message: Message) -> Message:
        """The reply to a message; the deadline is the caller's."""
        stream = await self._network.open_stream(contact, messages.PROTOCOL)
        name = messages.id_text(contact.peer_id)
        try:
            reply = await Exchange(stream).ask(message)
        except (ProtocolError, UnreachableError) as error:
            await stream.reset()
            raise PeerMisbehavedError(name, str(error)) from error
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        await stream.aclose()
        if reply is None or reply.type is not message.type:
            raise PeerMisbehavedError(name, "did not reply to a request")
        return reply

    async def _announce(
        self, contact: Contact, keys: Sequence[bytes], own: Contact, taken: list[bytes]
    ) -> None:
        name = messages.id_text(contact.peer_id)
        with trio.move_on_after(limits.DHT_REQUEST_S) as scope:
            stream = await self._network.open_stream(contact, messages.PROTOCOL)
        if scope.cancelled_caught:
            raise UnreachableError(name, "did not answer in time")
        try:
            exchange = Exchange(stream)
            for start in range(0, len(keys), limits.DHT_ANNOUNCE_BATCH_KEYS):
                batch = keys[start : start + limits.DHT_ANNOUNCE_BATCH_KEYS]
                await exchange.send(*(message for key in batch for message in _announcement(key, own)))
                for key in batch:
                    reply = await exchange.receive(limits.DHT_REQUEST_S)
                    if reply is None or reply.type is not MessageType.PING:
                        raise PeerMisbehavedError(name, "did not take a provider record")
                    taken.append(key)
        except ProtocolError as error:
            raise PeerMisbehavedError(name, str(error)) from error
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    def _answered(self, contact: Contact) -> None:
        """Hand on where the peer was reached, which is better known than where it was said to be."""
        dialled = self._network.addresses_of(contact.peer_id)
        known = (*dialled, *(address for address in contact.addresses if address not in dialled))
        self._on_answer(replace(contact, addresses=known[: limits.DHT_CONTACT_ADDRESSES_MAX]))

    def _failed(self, contact: Contact, error: RemoteError) -> None:
        self.failed_count += 1
        if not (isinstance(error, RefusedError) and error.code != "protocol"):
            self._on_failure(contact.peer_id, error)


def _announcement(key: bytes, own: Contact) -> tuple[Message, Message]:
    return Message(MessageType.ADD_PROVIDER, key, providers=(own,)), Message(MessageType.PING)
