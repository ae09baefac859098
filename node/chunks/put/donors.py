"""The donors of one put: asked for offers, counted, and left out once they failed. Layer 4.

Invariants: an offer counts only with the donor's signature; what is promised to one segment is not promised
to another; this node is never among its own donors. A donor is used up to its free space and to the credit
that it gives the payer: one that refuses for credit is like one that is full, but the pool knows the
difference. Source: design.md, section 4 (put); credit.md, "Spending".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import trio

from node import limits
from node.chunks.admission import Payer
from node.chunks.client import HolderClient
from node.chunks.placement import SHARD_OVERHEAD_BYTES, Donor
from node.chunks.scores import Scoreboard
from node.errors import CryptoError, ProtocolError, RefusedError, RemoteError
from node.ports import Clock, Directory, Network
from node.records.offer import PRICE_MICROCREDITS, Offer
from node.subnets import subnet_of
from node.units import AccountId, Contact, PeerId

ASK_AT_ONCE: Final = 16
ROUNDS_MAX: Final = 6
"""Rounds of random look-ups for more contacts; each brings new peers or is the last."""
OFFER_DEADLINE_S: Final = 8.0
"""Seconds that one peer has for its offer, dial included: slow ones make bad holders."""


@dataclass(frozen=True, slots=True)
class CreditRefusals:
    """Donors whose space can't be used for want of credit: `shards` more would fit there."""

    donors: int
    shards: int
    have: int
    """Micro-credits that all donors together would accept."""


class DonorPool:
    """Who may keep shards of this put."""

    def __init__(
        self,
        *,
        network: Network,
        client: HolderClient,
        directory: Directory,
        clock: Clock,
        scores: Scoreboard,
        wanted_bytes: int,
        shard_bytes: int,
        total_shards: int,
        shard_price: int = 0,
        payer: Payer | None = None,
    ) -> None:
        """`wanted_bytes` is what all segments together store, `shard_bytes` the largest shard.

        `shard_price` is what the lease of the largest shard comes to, in micro-credits.
        """
        self._shard_price = shard_price
        self._payer = payer
        self._credits: dict[PeerId, int] = {}
        self._without_credit: dict[PeerId, int] = {}
        self._network = network
        self._client = client
        self._directory = directory
        self._clock = clock
        self._scores = scores
        self._wanted_bytes = wanted_bytes
        self._shard_bytes = shard_bytes
        self._total_shards = total_shards
        self._donors: dict[PeerId, Donor] = {}
        self._offers: dict[PeerId, Offer] = {}
        self._asked: set[PeerId] = {network.peer_id}
        self._failed: set[PeerId] = set()
        self._lock = trio.Lock()

    @property
    def asked_count(self) -> int:
        """Peers that were asked so far."""
        return len(self._asked) - 1

    @property
    def failed(self) -> frozenset[PeerId]:
        """Donors that failed during this put."""
        return frozenset(self._failed)

    def donors(self) -> list[Donor]:
        """Donors that have not failed, here or in audits, with what they have left."""
        takes = self._scores.reputations.takes_new_shards
        return [
            donor for peer_id, donor in self._donors.items() if peer_id not in self._failed and takes(peer_id)
        ]

    def contact(self, peer_id: PeerId) -> Contact:
        """Where a donor of this pool listens."""
        return self._donors[peer_id].contact

    def price(self, peer_id: PeerId) -> int:
        """Micro-credits a MiB and day that the donor asked for."""
        offer = self._offers.get(peer_id)
        return PRICE_MICROCREDITS if offer is None else offer.price

    def account(self, peer_id: PeerId) -> AccountId | None:
        """The account that the donor gives for, as its offer says."""
        offer = self._offers.get(peer_id)
        return None if offer is None else offer.account

    @property
    def credit_refusals(self) -> CreditRefusals:
        """What donors that have space lack in credit for the payer."""
        return CreditRefusals(
            donors=len(self._without_credit),
            shards=sum(self._without_credit.values()),
            have=sum(self._credits.get(peer_id, 0) for peer_id in self._offers),
        )

    def take(self, peer_id: PeerId, shard_count: int, shard_bytes: int) -> None:
        """Count shards as promised to this donor."""
        self._add(peer_id, -shard_count * (shard_bytes + SHARD_OVERHEAD_BYTES))

    def give_back(self, peer_id: PeerId, shard_count: int, shard_bytes: int) -> None:
        """The shards go elsewhere."""
        self._add(peer_id, shard_count * (shard_bytes + SHARD_OVERHEAD_BYTES))

    def full(self, peer_id: PeerId) -> None:
        """The donor said that it has no room."""
        if peer_id in self._donors:
            self._donors[peer_id] = replace(self._donors[peer_id], free_bytes=0)

    def no_credit(self, peer_id: PeerId) -> None:
        """The donor said that the payer has not the credit."""
        donor = self._donors.get(peer_id)
        if donor is not None:
            shards = donor.free_bytes // (self._shard_bytes + SHARD_OVERHEAD_BYTES)
            self._without_credit[peer_id] = self._without_credit.get(peer_id, 0) + max(1, shards)
            self._credits[peer_id] = 0
            self.full(peer_id)

    def fail(self, peer_id: PeerId) -> None:
        """Ask nothing more of this donor during this put."""
        self._failed.add(peer_id)
        self._scores.failed(peer_id, now_s=self._clock.now_s())

    async def gather(self, on_offer: Callable[[int], None] = lambda _: None) -> None:
        """Ask peers for offers until there are three for each shard, or nobody new is known.

        Whoever is connected is asked while the network is searched for others. A search that finds fewer than
        it was asked for has found everybody: no second one follows.
        """
        enough = 3 * self._total_shards
        async with self._lock:
            connected = [Contact(peer_id) for peer_id in self._network.connected()]
            for _ in range(ROUNDS_MAX):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask_all, self._fresh(connected, 2 * enough))
                    sample = await self._directory.sample_contacts(2 * enough)
                connected = []
                fresh = self._fresh(sample, 2 * enough) if len(self.donors()) < enough else []
                await self._ask_all(fresh)
                on_offer(len(self._donors))
                if not fresh or len(sample) < 2 * enough or len(self.donors()) >= enough:
                    return

    def _fresh(self, contacts: Iterable[Contact], count_max: int) -> list[Contact]:
        """Those that were not asked yet; from now on they were."""
        fresh = {c.peer_id: c for c in contacts if c.peer_id not in self._asked}
        self._asked.update(list(fresh)[:count_max])
        return list(fresh.values())[:count_max]

    async def _ask_all(self, contacts: list[Contact]) -> None:
        limiter = trio.CapacityLimiter(ASK_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for contact in contacts:
                nursery.start_soon(self._ask, contact, limiter)

    async def _ask(self, contact: Contact, limiter: trio.CapacityLimiter) -> None:
        cert = b"" if self._payer is None else self._payer.cert()
        async with limiter:
            started_s = trio.current_time()
            with trio.move_on_after(OFFER_DEADLINE_S) as scope:
                try:
                    async with self._client.session(contact) as session:
                        reply = await session.offer(self._wanted_bytes, self._total_shards, cert)
                    offer = Offer.decode(reply.record, network=self._client.preamble.network_id)
                    offer.verify()
                    if offer.donor != contact.peer_id:
                        raise ProtocolError("an offer of somebody else")
                except RefusedError:
                    return  # no donor, or too busy: no fault
                except RemoteError:
                    self._scores.failed(contact.peer_id, now_s=self._clock.now_s())
                    return
                except (ProtocolError, CryptoError):
                    self._scores.misbehaved(contact.peer_id, now_s=self._clock.now_s())
                    return
            if scope.cancelled_caught or offer.is_expired(now_s=self._clock.now_s()):
                return
            latency_s = trio.current_time() - started_s
            self._scores.answered(contact.peer_id, latency_s=latency_s, now_s=self._clock.now_s())
            credit = reply.credit
            if self._payer is not None and credit < self._wanted_price:
                credit = await self._payer.make_room(contact, offer, need=self._wanted_price, have=credit)
            self._accept(contact, offer, credit)

    @property
    def _wanted_price(self) -> int:
        """What a donor's part comes to where every donor keeps one shard of every segment."""
        return self._shard_price * max(
            1, self._wanted_bytes // max(1, self._shard_bytes * self._total_shards)
        )

    def _accept(self, contact: Contact, offer: Offer, credit: int) -> None:
        peer_id = contact.peer_id
        addresses = contact.addresses or self._network.addresses_of(peer_id)
        self._donors[peer_id] = Donor(
            contact=Contact(peer_id, addresses[: limits.PLACEMENT_ADDRESSES_MAX]),
            free_bytes=self._usable_bytes(offer, credit),
            uptime_permille=offer.uptime_permille,
            expected_s=self._scores.expected_s(
                peer_id, byte_count=self._shard_bytes, now_s=self._clock.now_s()
            ),
            subnet=subnet_of(self._network.observed_address(peer_id)),
            is_vetted=self._scores.reputations.is_vetted(peer_id),
            preference=0 if self._payer is None else self._payer.preference(offer),
        )
        self._offers[peer_id] = offer
        places = offer.free_bytes // (self._shard_bytes + SHARD_OVERHEAD_BYTES)
        self._credits[peer_id] = min(credit, places * self._shard_price)

    def _usable_bytes(self, offer: Offer, credit: int) -> int:
        """Free space, as far as the credit reaches."""
        if self._payer is None or not self._shard_price:
            return offer.free_bytes
        cost = self._shard_bytes + SHARD_OVERHEAD_BYTES
        by_space, by_credit = offer.free_bytes // cost, credit // self._shard_price
        if by_credit >= by_space:
            return offer.free_bytes
        self._without_credit[offer.donor] = by_space - by_credit
        return by_credit * cost

    def _add(self, peer_id: PeerId, byte_count: int) -> None:
        donor = self._donors.get(peer_id)
        if donor is not None:
            self._donors[peer_id] = replace(donor, free_bytes=max(0, donor.free_bytes + byte_count))
