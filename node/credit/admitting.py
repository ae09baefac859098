"""The donor's side of spending: who may have what kept here. Layer 4.

The implementation of `node.chunks.admission.Admission` over the ledger. Invariants: decisions are one at a
time; what running uploads have reserved counts like what is settled, and is void at a restart; a claim is
durable before its lease is countersigned to anybody, and undone, at once or at the next start, where the
shard never became durable; a decision costs the accounts it concerns, running sums stand for all others.
Source: credit.md, "Spending".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from node import limits
from node.chunks.admission import Asker, Paid, Wanted
from node.credit.admission import (
    Decision,
    Exposure,
    Rule,
    Standing,
    decide,
    decide_granted,
    exposure_of,
    line_of,
)
from node.credit.ledger import Ledger
from node.credit.ledger_store import LedgerChange, LedgerView
from node.credit.pair_chain import may_sign
from node.credit.pair_records import PairRecord
from node.credit.pair_set import Gift
from node.credit.units import format_micros, granted_manifest_bytes, lease_value
from node.errors import CreditError, CryptoError, ProtocolError
from node.ports import Clock, Network, Offload
from node.records.charge import BILLED_EXTRA_BYTES, Charge
from node.records.lease import Lease, Release
from node.records.offer import PRICE_MICROCREDITS, DeviceCert
from node.records.repair import RepairGrant
from node.subnets import ip_of, is_local, subnet
from node.units import DAY_S, MIB, AccountId, LeaseId, PeerId

T = TypeVar("T")

NEWER_DEVICE = "this account acts through a newer device"
"""So begins what a donor says to a machine of an account that another one acts for by now."""
UNPLACED_SUBNET = "relayed"
"""Newcomers whose address says nothing share one allowance."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody asks from."""

    is_local: bool
    subnet: str | None


@dataclass(frozen=True, slots=True)
class _Reservation:
    account: AccountId
    place: Place
    micros: int


class CreditAdmission:
    """Rules 0 to 5, with what is running."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        network: Network,
        clock: Clock,
        offload: Offload,
        lock: trio.Lock,
    ) -> None:
        """`lock` is held while the ledger is read or changed."""
        self._ledger = ledger
        self._network = network
        self._clock = clock
        self._offload = offload
        self._lock = lock
        self._reservations: dict[bytes, _Reservation] = {}
        self._confirmed: set[LeaseId] = set()

    @property
    def day(self) -> int:
        """Today."""
        return self._clock.now_s() // DAY_S

    @property
    def reserved_micros(self) -> int:
        """What running uploads have reserved."""
        return sum(each.micros for each in self._reservations.values())

    async def run(self, work: Callable[[], T]) -> T:
        """Work on the ledger, alone."""
        async with self._lock:
            return await self._offload.run(work)

    async def recover(self, is_kept: Callable[[LeaseId], bool]) -> None:
        """At the start: undo claims whose shards a crash kept from becoming durable."""

        def look() -> list[LeaseId]:
            waiting = self._ledger.store.read(LedgerView.unconfirmed)
            lost = [lease_id for lease_id in waiting if not is_kept(lease_id)]

            def change(ledger: LedgerChange) -> None:
                for lease_id in waiting:
                    ledger.confirm(lease_id)

            self._drop(lost)
            if waiting:
                self._ledger.update(change)
            return lost

        await self.run(look)

    # --- the port -----------------------------------------------------------------------------------------

    async def room(self, asker: Asker) -> int:
        """As the port says: nothing for whoever shows no certificate that holds."""
        try:
            account, place = await self._account_of(asker)
        except (ProtocolError, CreditError, CryptoError):
            return 0
        return (await self.run(lambda: self._decide(account, place, cost=0))).have

    async def reserve(self, name: bytes, asker: Asker, wanted: Wanted) -> None:
        """As the port says."""
        account, place = await self._account_of(asker)
        if wanted.rate < PRICE_MICROCREDITS:
            raise CreditError(f"this donor asks {format_micros(PRICE_MICROCREDITS)} credits a MiB and day")
        billed = wanted.shard_bytes + wanted.manifest_bytes + BILLED_EXTRA_BYTES
        cost = wanted.lease_count * (billed * wanted.days * wanted.rate // MIB)
        async with self._lock:
            decision = await self._offload.run(lambda: self._decide(account, place, cost=cost))
            decision.raise_for_refusal()
            self._reservations[name] = _Reservation(account, place, cost)

    def cancel(self, name: bytes) -> None:
        """As the port says."""
        self._reservations.pop(name, None)

    async def settle(self, name: bytes, asker: Asker, paid: Sequence[Paid]) -> None:
        """As the port says."""
        account, place = await self._account_of(asker)
        charges = [self._check_charge(account, each) for each in paid]

        def settle(reserved: int) -> None:
            known = self._ledger.store.read(lambda view: {
                each.lease.lease_id for each in paid
                if view.lease_place(each.lease.lease_id, each.lease.holder) is not None
            })  # fmt: skip
            new = [
                (each, charge)
                for each, charge in zip(paid, charges, strict=True)
                if each.lease.lease_id not in known
            ]
            cost = sum(lease_value(each.lease, each.manifest_bytes) for each, _ in new)
            decision = self._decide(account, place, cost=cost, without=name)
            if cost > reserved:
                decision.raise_for_refusal()
            self._claim(account, place, new, is_gift=self._is_gift(account, decision))

        async with self._lock:
            reservation = self._reservations.get(name)
            reserved = 0 if reservation is None or reservation.account != account else reservation.micros
            await self._offload.run(lambda: settle(reserved))
            self._reservations.pop(name, None)

    async def settled(self, lease_ids: Sequence[LeaseId], *, kept: bool) -> None:
        """As the port says. What is kept is written down with the next claim, since a start looks anyway."""
        if kept:
            self._confirmed.update(lease_ids)
            return
        await self.run(lambda: self._drop(lease_ids))

    async def admit_granted(
        self, lease: Lease, grant: RepairGrant, manifest_bytes: int, peer_id: PeerId
    ) -> None:
        """As the port says. Billed is the longest manifest that a segment of these numbers may have."""
        cost = lease_value(lease, max(manifest_bytes, granted_manifest_bytes(lease)))
        place = self.place_of(peer_id)

        def admit() -> None:
            def change(ledger: LedgerChange) -> None:
                if ledger.lease_place(lease.lease_id, lease.holder) is not None:
                    return
                payer = ledger.account(grant.account).standing
                decision = decide_granted(
                    self._ledger.policy,
                    self._everyone(ledger),
                    cost=cost,
                    payer=replace(payer, is_local=place.is_local),
                )
                if not decision.accepted:
                    raise CreditError(
                        f"this donor has {format_micros(decision.have)} credits left for repairs, and "
                        f"{format_micros(cost)} are needed: ask another one"
                    )
                ledger.mark_unconfirmed(lease.lease_id)
                # What was accepted for strangers stays under their caps, whoever repairs it later.
                is_clean = payer.position <= 0 and not payer.granted
                is_local = place.is_local and (payer.is_local or is_clean)
                self._ledger.place(ledger, grant.account, is_local=is_local, subnet=payer.subnet)
                self._ledger.add(ledger, grant.account, [lease], day=self.day)

            self._ledger.update(change)

        await self.run(admit)

    async def released(self, releases: Sequence[Release]) -> None:
        """As the port says."""

        def release() -> None:
            def change(ledger: LedgerChange) -> None:
                for record in releases:
                    place = ledger.lease_place(record.lease_id, record.holder)
                    if place is not None:
                        self._ledger.add(ledger, place[0], [record], day=self.day)

            self._ledger.update(change)

        await self.run(release)

    # --- decisions ----------------------------------------------------------------------------------------

    def decide(self, account: AccountId, place: Place, *, cost: int) -> Decision:
        """What the rules say now, on the ledger's thread."""
        return self._decide(account, place, cost=cost)

    def _decide(self, account: AccountId, place: Place, *, cost: int, without: bytes = b"") -> Decision:
        day = self._ledger.today(self.day)
        if self._ledger.store.read(lambda view: view.due(day)):
            self._ledger.update(lambda ledger: self._ledger.refresh_due(ledger, day=day))

        def look(view: LedgerView) -> Decision:
            standing = self._ledger.standing(view, account, day=day)
            in_subnet = self._subnet_of(standing, account, place)
            asker = replace(
                standing,
                unvested=standing.unvested + self._reserved(account, without),
                is_local=place.is_local,
                subnet=in_subnet,
            )
            others = self._others(view, account, in_subnet)
            return decide(self._ledger.policy, asker, others, cost=cost, day=day)

        return self._ledger.store.read(look)

    def _subnet_of(self, standing: Standing, account: AccountId, place: Place) -> str | None:
        """That in which the account's oldest open claim was accepted: moving on frees no quota."""
        if standing.position > 0:
            return standing.subnet
        running = (each.place.subnet for each in self._reservations.values() if each.account == account)
        return next(running, place.subnet)

    def _reserved(self, account: AccountId, without: bytes = b"") -> int:
        return sum(
            each.micros
            for name, each in self._reservations.items()
            if each.account == account and name != without
        )

    def _others(self, view: LedgerView, account: AccountId, in_subnet: str | None) -> Exposure:
        """What everybody else has open: the sums, and what running uploads add to them."""
        own = view.account(account)
        total = self._everyone(view, leave_out=account)
        subnet_open = view.in_subnet(in_subnet)
        if own.standing.subnet == in_subnet:
            subnet_open -= own.counted.subnet
        subnet_open += sum(
            added.subnet
            for other, added in self._running(view)
            if other[0] != account and other[1] == in_subnet
        )
        return Exposure(total.known - own.counted.known, total.newcomers - own.counted.newcomers, subnet_open)

    def _everyone(self, view: LedgerView, leave_out: AccountId | None = None) -> Exposure:
        sums = view.everyone()
        running = [added for (other, _), added in self._running(view) if other != leave_out]
        return Exposure(
            sums.known + sum(added.known for added in running),
            sums.newcomers + sum(added.newcomers for added in running),
        )

    def _running(self, view: LedgerView) -> list[tuple[tuple[AccountId, str | None], Exposure]]:
        """What running uploads add, an account each; they are few (`limits.PUTS_OPEN_MAX`)."""
        accounts = {each.account: each.place for each in self._reservations.values()}
        added = []
        for account, place in accounts.items():
            row = view.account(account)
            in_subnet = self._subnet_of(row.standing, account, place)
            now = replace(
                row.standing,
                unvested=row.standing.unvested + self._reserved(account),
                is_local=place.is_local,
                subnet=in_subnet,
            )
            after = exposure_of(self._ledger.policy, now)
            stayed = row.standing.subnet == in_subnet
            added.append((
                (account, in_subnet),
                Exposure(
                    after.known - row.counted.known,
                    after.newcomers - row.counted.newcomers,
                    after.subnet - (row.counted.subnet if stayed else 0),
                ),
            ))  # fmt: skip
        return added

    def _is_gift(self, account: AccountId, decision: Decision) -> bool:
        """Whether a friend's line, and nothing else, covers it."""
        if decision.rule is not Rule.LINE:
            return False
        standing = self._ledger.store.read(lambda view: self._ledger.standing(view, account, day=self.day))
        friendly = replace(standing, is_local=False)
        # What it is owed stays owed: a gift comes out of the line alone.
        return decision.need <= line_of(self._ledger.policy, friendly) - max(0, friendly.position)

    # --- claims -------------------------------------------------------------------------------------------

    def _claim(
        self, account: AccountId, place: Place, new: Sequence[tuple[Paid, Charge]], *, is_gift: bool
    ) -> None:
        confirmed = sorted(self._confirmed)
        records: list[PairRecord | Gift] = []
        for each, charge in new:
            records += [each.lease, charge]
            if is_gift:
                records.append(Gift(each.lease.record_id()))

        def change(ledger: LedgerChange) -> None:
            for lease_id in confirmed:
                ledger.confirm(lease_id)
            for each, _ in new:
                ledger.mark_unconfirmed(each.lease.lease_id)
            self._ledger.place(ledger, account, is_local=place.is_local, subnet=place.subnet)
            self._ledger.add(ledger, account, records, day=self.day)

        if new:
            self._ledger.update(change)
            self._confirmed.difference_update(confirmed)

    def _drop(self, lease_ids: Sequence[LeaseId]) -> None:
        """Undo claims on shards that are not kept."""
        holder = self._network.peer_id

        def change(ledger: LedgerChange) -> None:
            for lease_id in lease_ids:
                ledger.confirm(lease_id)
                place = ledger.lease_place(lease_id, holder)
                if place is not None:
                    self._ledger.withdraw(ledger, *place, day=self.day)

        if lease_ids:
            self._ledger.update(change)

    def _check_charge(self, account: AccountId, paid: Paid) -> Charge:
        lease = paid.lease
        charge = Charge.decode(paid.charge, network=self._ledger.store.network)
        if charge.account != account:
            raise ProtocolError("a charge of another account than the one that was opened for")
        if charge.lease_record != lease.record_id() or charge.manifest_bytes != paid.manifest_bytes:
            raise ProtocolError("a charge of another lease")
        if lease.rate < PRICE_MICROCREDITS:
            raise CreditError(f"this donor asks {format_micros(PRICE_MICROCREDITS)} credits a MiB and day")
        charge.verify()
        return charge

    # --- who asks -----------------------------------------------------------------------------------------

    async def _account_of(self, asker: Asker) -> tuple[AccountId, Place]:
        """The account that pays, and where from. Raises `CreditError`, `ProtocolError`, `CryptoError`."""
        if not asker.cert:
            raise CreditError(
                "this donor keeps shards for accounts only: the put shows no certificate of one"
            )
        cert = DeviceCert.decode(asker.cert, network=self._ledger.store.network)
        if cert.peer_id != asker.peer_id:
            raise ProtocolError("the certificate of another peer")
        if cert.account == self._ledger.me:
            raise CreditError("this donor is of the same account: who would owe whom?")
        await self.run(lambda: self.check_cert(cert))
        return cert.account, self.place_of(asker.peer_id)

    def check_cert(self, cert: DeviceCert) -> None:
        """Accept a certificate that its own peer shows: the newest epoch of its account only.

        Raises `CryptoError`, `CreditError`.
        """
        cert.verify()
        now_s = self._clock.now_s()
        if cert.is_expired(now_s=now_s):
            raise CreditError("the certificate of this device has expired: set its clock, or restart it")
        if cert.expires_s > now_s + limits.DEVICE_CERT_LIFE_S_MAX or cert.epoch > now_s + DAY_S:
            raise CreditError("a device certificate from the future: set the clock of one of the two nodes")
        self._ledger.learn(cert)
        known = self._ledger.store.read(lambda view: view.certs(cert.account))
        if not may_sign(known, cert.account, cert.peer_id, now_s=now_s):
            raise CreditError(
                f"{NEWER_DEVICE}: to have this one pay again, stop its node, say `cairn recovery restore` "
                "there, and start it"
            )

    def place_of(self, peer_id: PeerId) -> Place:
        """Where a connected peer is."""
        address = self._network.observed_address(peer_id)
        ip = None if address is None else ip_of(address)
        if ip is None:
            return Place(is_local=False, subnet=UNPLACED_SUBNET)
        return Place(is_local=is_local(ip), subnet=subnet(ip))
