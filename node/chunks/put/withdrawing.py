"""Taking back what a put left with holders: all of a put that is dropped, else what was replaced. Layer 4.

Invariants: best effort at each holder and bounded in time, since reservations lapse by themselves and leases
end by their dates; a journal goes only after all were asked. Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from node.chunks.client import HolderClient
from node.chunks.messages import PutId
from node.chunks.put import journal as records
from node.chunks.put.journal import Journal
from node.chunks.put.publish import for_each
from node.chunks.put.put_file import PutServices
from node.crypto.sealing import owner_key
from node.crypto.signing import KeyPair
from node.records.lease import Lease, Release
from node.units import Contact, FileHash, LeaseId, OwnerKey, PeerId

WITHDRAW_DEADLINE_S: Final = 15.0


@dataclass(slots=True)
class Withdrawal:
    """What one holder is asked to forget."""

    contact: Contact
    put_ids: list[PutId]
    lease_ids: list[LeaseId]


async def withdraw(client: HolderClient, owner: KeyPair, withdrawals: Iterable[Withdrawal]) -> int:
    """Free reservations and end leases; how many leases ended."""
    network, signer = client.preamble.network_id, OwnerKey(owner.public)
    ended = 0

    async def tell(withdrawal: Withdrawal) -> None:
        nonlocal ended
        peer_id = withdrawal.contact.peer_id
        with trio.move_on_after(WITHDRAW_DEADLINE_S):
            async with client.session(withdrawal.contact) as session:
                for put_id in withdrawal.put_ids:
                    await session.abort_put(put_id)
                if withdrawal.lease_ids:
                    releases = (
                        Release(network, lease_id, peer_id, signer).sign(owner)
                        for lease_id in withdrawal.lease_ids
                    )
                    count = await session.release([release.encode() for release in releases])
                    ended += count

    await for_each(list(withdrawals), tell)
    return ended


def withdrawals(
    journal: Journal, network: str, *, everything: bool, reserved: bool = False
) -> list[Withdrawal]:
    """Who must be asked to forget what: of a put that is dropped everything, else what was replaced.

    `reserved`: also puts that are open, whose space is not to be held for a later try; leases stay.
    """
    closed: dict[PutId, tuple[bytes, ...]] = {}
    asked: dict[PutId, tuple[bytes, ...]] = {}
    opened: dict[PutId, Contact] = {}
    dropped: set[PutId] = set()
    for record in journal.records():
        match record:
            case records.PutOpened():
                opened[record.put_id] = journal.contacts[record.peer_id]
            case records.PutClosing():
                asked[record.put_id] = record.leases
            case records.PutClosed():
                closed[record.put_id] = record.leases
                if not everything:
                    opened.pop(record.put_id, None)
            case records.PutDropped():
                dropped.add(record.put_id)
            case _:
                pass
    by_holder: dict[PeerId, Withdrawal] = {}
    for put_id, contact in opened.items():
        is_over = everything or put_id in dropped
        if not is_over and not reserved:
            continue
        withdrawal = by_holder.setdefault(contact.peer_id, Withdrawal(contact, [], []))
        if is_over:
            leases = closed.get(put_id) or asked.get(put_id, ())
            withdrawal.lease_ids.extend(Lease.decode(lease, network=network).lease_id for lease in leases)
        if put_id not in closed:
            withdrawal.put_ids.append(put_id)
    return list(by_holder.values())


class Withdrawing:
    """Drops puts of one node."""

    def __init__(self, services: PutServices) -> None:
        self._services = services

    async def drop(self, journal: Journal) -> None:
        """Give up a put: free its reservations, end its leases, forget it."""
        with trio.CancelScope(shield=True):
            await self.withdraw(journal, everything=True)
            if journal.index is not None:
                await self._drop_index(journal.index.file_hash)
            await self._services.offload.run(journal.delete)

    async def withdraw(self, journal: Journal, *, everything: bool, reserved: bool = False) -> None:
        """Ask holders to forget what `withdrawals` says."""
        services = self._services
        network = services.client.preamble.network_id
        parts = await services.offload.run(
            lambda: withdrawals(journal, network, everything=everything, reserved=reserved)
        )
        owner = owner_key(services.account_seed, journal.started.owner_salt)
        await withdraw(services.client, owner, parts)

    async def _drop_index(self, file_hash: FileHash) -> None:
        services = self._services

        def collect() -> tuple[bytes, list[Withdrawal]] | None:
            entry = services.catalogue.get(file_hash)
            if entry is None:
                return None
            contacts = {contact.peer_id: contact for contact in services.catalogue.holders(file_hash)}
            parts: dict[PeerId, Withdrawal] = {}
            for segment in services.catalogue.segments(file_hash):
                for lease in segment.leases:
                    contact = contacts.get(lease.holder, Contact(lease.holder))
                    part = parts.setdefault(lease.holder, Withdrawal(contact, [], []))
                    part.lease_ids.append(lease.lease_id)
            return entry.owner_salt, list(parts.values())

        found = await services.offload.run(collect)
        if found is not None:
            salt, parts = found
            await withdraw(services.client, owner_key(services.account_seed, salt), parts)
            await services.offload.run(lambda: services.catalogue.remove(file_hash))
