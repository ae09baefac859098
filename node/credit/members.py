"""Asking one account one question, wherever it is: what clearing needs of exchanges. Layer 4."""

from __future__ import annotations

from typing import Protocol

from node.credit import messages
from node.credit.exchange import Exchange
from node.errors import RemoteError
from node.units import AccountId, Contact, PeerId


class Addresses(Protocol):
    """Where peers are: the part of the directory that clearing needs."""

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """Fresh addresses of a peer, or None."""
        ...


class Members:
    """Reaches the members of a cycle."""

    def __init__(self, exchange: Exchange, addresses: Addresses | None) -> None:
        self._exchange = exchange
        self._addresses = addresses

    async def ask(
        self,
        contact: Contact,
        account: AccountId,
        request: messages.Message,
        *kinds: type[messages.Message],
    ) -> messages.Message:
        """The reply of one of these kinds. Raises `RemoteError`, also where another account answers."""
        session, framed = await self._exchange.open(contact)
        try:
            if session.other != account:
                raise RemoteError(framed.peer, "acts for another account than it did")
            reply = await session.ask(request, *kinds)
        except BaseException:
            await framed.reset()
            raise
        await framed.aclose()
        return reply

    async def contact(self, peer_id: PeerId) -> Contact:
        """Where a member is: connected, or to be looked up."""
        network = self._exchange.network
        if peer_id in network.connected() or self._addresses is None:
            return Contact(peer_id, network.addresses_of(peer_id))
        return await self._addresses.find_peer(peer_id) or Contact(peer_id)
