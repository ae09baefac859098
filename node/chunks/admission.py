"""What a holder asks before it promises to keep something, and what a putter brings. Layer 2, pure.

Chunks know nothing of ledgers: they name what leases come to, and these ports say whether that is accepted
and who pays. Compose wires them to credit; without one (None) everybody is accepted and nobody pays.

Invariants of an implementation: the whole value of a lease counts from `reserve` on; what is not settled is
void at `cancel` and at a restart; a settled claim is durable before `settle` returns, so before the shard is
acknowledged, and goes again with `settled(kept=False)`, or at the next start, where the shard was not kept.
Source: credit.md, "Spending".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.records.charge import Charge
from node.records.lease import Lease, Release
from node.records.offer import Offer
from node.records.repair import RepairGrant
from node.units import Contact, LeaseId, PeerId


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: the peer at the other end, and the device certificate that it showed, b"" for none."""

    peer_id: PeerId
    cert: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Leases that are asked for: how many, on shards of how many bytes, for how long, at which rate.

    `rate` is micro-credits a MiB and day.
    """

    lease_count: int
    shard_bytes: int
    manifest_bytes: int
    days: int
    rate: int


@dataclass(frozen=True, slots=True)
class Paid:
    """A lease with the payer's encoded charge for it, and the bytes of its segment manifest."""

    lease: Lease
    charge: bytes
    manifest_bytes: int


class Admission(Protocol):
    """Whether this holder keeps something for somebody. Every refusal is a `CreditError` in words."""

    async def room(self, asker: Asker) -> int:
        """The most that leases of this account may come to now, in micro-credits. Never raises."""
        ...

    async def reserve(self, name: bytes, asker: Asker, wanted: Wanted) -> None:
        """Count these leases as accepted, under a name of the caller's, until `settle` or `cancel`.

        Raises `CreditError`; `ProtocolError` or `CryptoError` for a certificate that does not hold.
        """
        ...

    def cancel(self, name: bytes) -> None:
        """Forget a reservation. Idempotent."""
        ...

    async def settle(self, name: bytes, asker: Asker, paid: Sequence[Paid]) -> None:
        """Turn a reservation (or, renewing, none) into claims, durably. Idempotent by lease.

        Raises `CreditError`; `ProtocolError` or `CryptoError` for a charge that does not hold.
        """
        ...

    async def settled(self, lease_ids: Sequence[LeaseId], *, kept: bool) -> None:
        """The shards of these claims are durable, or never will be."""
        ...

    async def admit_granted(
        self, lease: Lease, grant: RepairGrant, manifest_bytes: int, peer_id: PeerId
    ) -> None:
        """Rule 0: accept a lease under a repair grant that the caller has checked, with its evidence.

        `peer_id` asks for it: a repairer or a holder that moves, not the payer. The claim is durable then, as
        after `settle`, and `settled` is due. Raises `CreditError`.
        """
        ...

    async def released(self, releases: Sequence[Release]) -> None:
        """These leases have ended: what has not vested of them is open no more."""
        ...


class Payer(Protocol):
    """The account that pays for what this node puts."""

    def cert(self) -> bytes:
        """The encoded device certificate to show."""
        ...

    def charge(self, lease: Lease, manifest_bytes: int) -> Charge:
        """The signed charge of a lease."""
        ...

    def preference(self, offer: Offer) -> int:
        """How much rather than others this donor: 2 if it owes this account, 1 if they have dealt before."""
        ...

    async def make_room(self, contact: Contact, offer: Offer, *, need: int, have: int) -> int:
        """Try to get a donor to accept `need` micro-credits of leases where it would accept `have`.

        What it would accept now. Never raises.
        """
        ...

    def dealt_with(self, contact: Contact) -> None:
        """Leases were signed with this peer: exchange records with it soon."""
        ...
