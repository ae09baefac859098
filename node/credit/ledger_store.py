"""What a node keeps of credit: records by pair, standings, certificates, proofs. Layer 3, over KeyValue.

Invariants: what is written together is committed together: a claim with the standing it changes and the sums
over all standings; whatever is read back was verified before it was written. One table a kind of thing; keys
begin with the account at the other end, so that a pair is one range and nothing is read for another one.
Source: credit.md, "Records".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from node import limits, wire
from node.credit.admission import Exposure, Policy, Standing, exposure_of
from node.credit.pair_records import PairRecord
from node.credit.units import PERIOD_DAYS
from node.errors import StoreError
from node.ports import KeyValue, ReadTransaction, WriteTransaction
from node.records.charge import Charge
from node.records.clear import Abort, Clear
from node.records.lease import Lease, Release
from node.records.offer import DeviceCert
from node.records.pair_state import Equivocation, PairState
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId

T = TypeVar("T")

RECORDS: Final = "credit_records"
CERTS: Final = "credit_certs"
PEERS: Final = "credit_peers"
ACCOUNTS: Final = "credit_accounts"
DUE: Final = "credit_due"
SUMS: Final = "credit_sums"
LEASES: Final = "credit_leases"
UNCONFIRMED: Final = "credit_unconfirmed"
CLEARS: Final = "credit_clears"
PROOFS: Final = "credit_proofs"
META: Final = "credit_meta"
READERS: Final = "credit_readers"
READERS_IN_ORDER: Final = "credit_readers_in_order"

GIFT_TAG: Final = "gift"
KINDS: Final[dict[str, type[PairRecord]]] = {
    kind.TYPE: kind for kind in (Lease, Charge, Release, AuditReceipt, ServeReceipt, PairState, Clear)
}
_SUBNET = b"subnet/"
_EVERYONE = b"everyone"
_POLICY = b"policy"
_OWN_CERT = b"cert"
_READERS_SEEN = b"readers"
_READER_ROWS = b"reader rows"
_SIGNED_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class AccountRow:
    """How an account stands here, as last worked out; `frozen_until` and `due` are days.

    `counted` is what the sums contain of it, `subnet` those of the subnet that it is counted in.
    """

    standing: Standing = field(default_factory=Standing)
    frozen_until: int = 0
    due: int = 0
    """The day from which time alone changes this row; 0 for never."""
    counted: Exposure = field(default_factory=Exposure)
    line: int = 0
    """The friend line as set; the standing has what running gifts leave of it."""
    given: int = 0
    """What this account gave us, all in all, in micro-credits."""
    received: int = 0
    """What we gave it."""
    gifts: int = 0
    """The part of that which was given under a friend line."""

    def encode(self) -> bytes:
        """The canonical encoding."""
        standing, counted = self.standing, self.counted
        return wire.encode([
            standing.owes, standing.unvested, standing.reserved, standing.line, standing.is_known,
            standing.is_local, standing.subnet, standing.granted, self.frozen_until, self.due,
            counted.known, counted.newcomers, counted.subnet, self.line, self.given, self.received,
            self.gifts, standing.served,
        ])  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> AccountRow:
        """Raises `StoreError` for a damaged row."""
        match wire.decode(data, size_max=1024):
            case [
                int(owes), int(unvested), int(reserved), int(line), bool(is_known), bool(is_local),
                str() | None as subnet, int(granted), int(frozen_until), int(due), int(known),
                int(newcomers), int(in_subnet), int(friend_line), int(given), int(received), int(gifts),
                int(served),
            ]:  # fmt: skip
                standing = Standing(
                    owes=owes, unvested=unvested, reserved=reserved, line=line, is_known=is_known,
                    is_local=is_local, subnet=subnet, granted=granted, served=served,
                )  # fmt: skip
                counted = Exposure(known, newcomers, in_subnet)
                return cls(standing, frozen_until, due, counted, friend_line, given, received, gifts)
        raise StoreError("a damaged row in the ledger")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in a pair's set: a record, or the word of its holder that a lease is a gift."""

    tag: str
    entry_id: bytes
    data: bytes
    period: int
    """The period that it is of."""

    def record(self, network: str) -> PairRecord:
        """The record of an entry that is not a gift."""
        return KINDS[self.tag].decode(self.data, network=network)


class LedgerStore:
    """Typed access. Synchronous: services call it through `Offload`."""

    def __init__(self, key_values: KeyValue, network: str) -> None:
        self._key_values = key_values
        self.network = network

    def read(self, look: Callable[[LedgerView], T]) -> T:
        """The result of `look` over one consistent view."""
        with self._key_values.view() as transaction:
            return look(LedgerView(transaction, self.network))

    def update(self, change: Callable[[LedgerChange], T]) -> T:
        """Run `change`, maybe more than once, and commit it durably. Raises `StoreError`."""
        return self._key_values.update(lambda transaction: change(LedgerChange(transaction, self.network)))


class LedgerView:
    """What a transaction sees."""

    def __init__(self, transaction: ReadTransaction, network: str) -> None:
        self._read = transaction
        self.network = network

    def account(self, account: AccountId) -> AccountRow:
        """How an account stands; an unknown one stands at nothing."""
        data = self._read.get(ACCOUNTS, account)
        return AccountRow() if data is None else AccountRow.decode(data)

    def accounts(self, after: bytes = b"") -> Iterator[tuple[AccountId, AccountRow]]:
        """Every account with a row, in order."""
        for key, data in self._read.scan(ACCOUNTS, start=after):
            yield AccountId(key), AccountRow.decode(data)

    def due(self, today: int) -> list[AccountId]:
        """Accounts whose rows time has changed."""
        found = []
        for key, _ in self._read.scan(DUE):
            if int.from_bytes(key[:4], "big") > today:
                break
            found.append(AccountId(key[4:]))
        return found

    def everyone(self) -> Exposure:
        """The sums over all accounts."""
        data = self._read.get(SUMS, _EVERYONE)
        if data is None:
            return Exposure()
        known, newcomers = wire.expect_list(wire.decode(data, size_max=64), count=2)
        return Exposure(_int(known), _int(newcomers))

    def in_subnet(self, subnet: str | None) -> int:
        """The sum over newcomers of a subnet."""
        data = None if subnet is None else self._read.get(SUMS, _SUBNET + subnet.encode())
        return 0 if data is None else _int(wire.decode(data, size_max=64)[0])

    def policy_key(self) -> bytes | None:
        """What names the policy that the sums were made under."""
        return self._read.get(SUMS, _POLICY)

    def entries(self, other: AccountId, *, after_period: int = -1) -> Iterator[Entry]:
        """The set of the pair with `other`, in the order of ids; only what no closed period took."""
        for key, data in self._read.scan(RECORDS, prefix=other):
            entry = _decode_entry(key[len(other) :], data)
            if entry.period > after_period:
                yield entry

    def entry(self, other: AccountId, entry_id: bytes) -> Entry | None:
        """One entry of the pair's set."""
        data = self._read.get(RECORDS, other + entry_id)
        return None if data is None else _decode_entry(entry_id, data)

    def lease_place(self, lease_id: LeaseId, holder: PeerId) -> tuple[AccountId, bytes] | None:
        """In which pair's set a lease that is paid for stands, and its record id."""
        data = self._read.get(LEASES, lease_id + holder)
        return None if data is None else (AccountId(data[:32]), data[32:])

    def certs(self, account: AccountId) -> tuple[DeviceCert, ...]:
        """The certificates of an account's newest epoch that were seen."""
        data = self._read.get(CERTS, account)
        if data is None:
            return ()
        return tuple(
            DeviceCert.decode(wire.expect_bytes(item), network=self.network)
            for item in wire.decode(data, size_max=limits.DEVICE_CERTS_BYTES_MAX)
        )

    def account_of(self, peer_id: PeerId) -> AccountId | None:
        """The account that a peer last acted for."""
        data = self._read.get(PEERS, peer_id)
        return None if data is None else AccountId(data)

    def own_cert(self) -> DeviceCert | None:
        """This node's own certificate as last made."""
        data = self._read.get(META, _OWN_CERT)
        return None if data is None else DeviceCert.decode(data, network=self.network)

    def unconfirmed(self) -> list[LeaseId]:
        """Leases whose claims are durable, and whose shards may be not."""
        return [LeaseId(key) for key, _ in self._read.scan(UNCONFIRMED)]

    def clears(self) -> Iterator[Clear | Abort]:
        """Every clear and abort that was seen."""
        for _, data in self._read.scan(CLEARS):
            kind, record = wire.expect_list(wire.decode(data, size_max=2048), count=2)
            found: type[Clear] | type[Abort] = Clear if kind == Clear.TYPE else Abort
            yield found.decode(wire.expect_bytes(record), network=self.network)

    def proofs(self) -> Iterator[tuple[int, Equivocation]]:
        """Every proof of a fork, with the day it was first seen."""
        for _, data in self._read.scan(PROOFS):
            day, record = wire.expect_list(wire.decode(data, size_max=2048), count=2)
            yield _int(day), Equivocation.decode(wire.expect_bytes(record), network=self.network)

    def is_reader(self, account: AccountId) -> bool:
        """Whether there is nothing of an account but what it read here, and maybe its certificate."""
        return self._read.get(READERS, account) is not None

    def reader_rows(self) -> int:
        """Rows of all such accounts together: one for each, and one for each receipt."""
        return int.from_bytes(self._read.get(META, _READER_ROWS) or b"", "big")

    def oldest_reader(self) -> AccountId | None:
        """The one that has been such an account for the longest time."""
        return next((AccountId(account) for _, account in self._read.scan(READERS_IN_ORDER)), None)


class LedgerChange(LedgerView):
    """A transaction that writes."""

    def __init__(self, transaction: WriteTransaction, network: str) -> None:
        super().__init__(transaction, network)
        self._write = transaction

    def set_account(self, account: AccountId, row: AccountRow, policy: Policy) -> AccountRow:
        """Write a row and bring the sums up to it; the row as written."""
        old = self.account(account)
        counted = exposure_of(policy, row.standing)
        self._add(old.counted, old.standing.subnet, -1)
        self._add(counted, row.standing.subnet, 1)
        new = replace(row, counted=counted)
        if old.due:
            self._write.delete(DUE, old.due.to_bytes(4, "big") + account)
        if new.due:
            self._write.put(DUE, new.due.to_bytes(4, "big") + account, b"\x01")
        if new == AccountRow():
            self._write.delete(ACCOUNTS, account)
        else:
            self._write.put(ACCOUNTS, account, new.encode())
        return new

    def _add(self, counted: Exposure, subnet: str | None, sign: int) -> None:
        sums = self.everyone()
        known, newcomers = sums.known + sign * counted.known, sums.newcomers + sign * counted.newcomers
        self._write.put(SUMS, _EVERYONE, wire.encode([known, newcomers]))
        if subnet is not None and counted.subnet:
            total = self.in_subnet(subnet) + sign * counted.subnet
            key = _SUBNET + subnet.encode()
            if total:
                self._write.put(SUMS, key, wire.encode([total]))
            else:
                self._write.delete(SUMS, key)

    def recount(self, policy: Policy, key: bytes) -> None:
        """Make the sums anew under another policy."""
        for name, _ in list(self._read.scan(SUMS)):
            self._write.delete(SUMS, name)
        known = newcomers = 0
        subnets: dict[str, int] = {}
        for account, row in list(self.accounts()):
            counted = exposure_of(policy, row.standing)
            self._write.put(ACCOUNTS, account, replace(row, counted=counted).encode())
            known, newcomers = known + counted.known, newcomers + counted.newcomers
            if row.standing.subnet is not None and counted.subnet:
                subnets[row.standing.subnet] = subnets.get(row.standing.subnet, 0) + counted.subnet
        self._write.put(SUMS, _EVERYONE, wire.encode([known, newcomers]))
        for subnet, total in subnets.items():
            self._write.put(SUMS, _SUBNET + subnet.encode(), wire.encode([total]))
        self._write.put(SUMS, _POLICY, key)

    def add_entry(self, other: AccountId, entry: Entry) -> bool:
        """Put an entry into a pair's set; whether it is new."""
        if self._read.get(RECORDS, other + entry.entry_id) is not None:
            return False
        value = wire.encode([entry.tag, entry.period, entry.data])
        self._write.put(RECORDS, other + entry.entry_id, value)
        return True

    def list_reader(self, account: AccountId, *, more_rows: int = 0) -> None:
        """There is nothing of this account but what it reads; `more_rows` are receipts that came."""
        listed = self._read.get(READERS, account)
        if listed is None:
            number = int.from_bytes(self._read.get(META, _READERS_SEEN) or b"", "big")
            self._write.put(META, _READERS_SEEN, (number + 1).to_bytes(8, "big"))
            self._write.put(READERS_IN_ORDER, number.to_bytes(8, "big"), account)
            listed, more_rows = number.to_bytes(8, "big") + bytes(4), more_rows + 1
        rows = int.from_bytes(listed[8:], "big") + more_rows
        self._write.put(READERS, account, listed[:8] + rows.to_bytes(4, "big"))
        self._add_reader_rows(more_rows)

    def unlist_reader(self, account: AccountId) -> None:
        """There is more of it now, or nothing."""
        listed = self._read.get(READERS, account)
        if listed is not None:
            self._write.delete(READERS, account)
            self._write.delete(READERS_IN_ORDER, listed[:8])
            self._add_reader_rows(-int.from_bytes(listed[8:], "big"))

    def _add_reader_rows(self, count: int) -> None:
        self._write.put(META, _READER_ROWS, (self.reader_rows() + count).to_bytes(8, "big"))

    def forget_account(self, account: AccountId, policy: Policy) -> None:
        """Drop all that there is of an account but proofs against it."""
        self.unlist_reader(account)
        for key, _ in list(self._read.scan(RECORDS, prefix=account)):
            self._write.delete(RECORDS, key)
        for cert in self.certs(account):
            if self.account_of(cert.peer_id) == account:
                self._write.delete(PEERS, cert.peer_id)
        self._write.delete(CERTS, account)
        self.set_account(account, AccountRow(), policy)

    def drop_entry(self, other: AccountId, entry_id: bytes) -> None:
        """Take an entry out of a pair's set."""
        self._write.delete(RECORDS, other + entry_id)

    def place_lease(self, lease: Lease, other: AccountId) -> None:
        """Say in which pair's set a lease stands."""
        self._write.put(LEASES, lease.lease_id + lease.holder, other + lease.record_id())

    def forget_lease(self, lease: Lease) -> None:
        """The lease stands nowhere any more."""
        self._write.delete(LEASES, lease.lease_id + lease.holder)

    def set_certs(self, account: AccountId, certs: tuple[DeviceCert, ...]) -> None:
        """The certificates of an account's newest epoch."""
        self._write.put(CERTS, account, wire.encode([cert.encode() for cert in certs]))

    def set_account_of(self, peer_id: PeerId, account: AccountId) -> None:
        """The account that a peer acts for."""
        self._write.put(PEERS, peer_id, account)

    def set_own_cert(self, cert: DeviceCert) -> None:
        """This node's own certificate."""
        self._write.put(META, _OWN_CERT, cert.encode())

    def mark_unconfirmed(self, lease_id: LeaseId) -> None:
        """The claim is durable, the shard may be not."""
        self._write.put(UNCONFIRMED, lease_id, b"\x01")

    def confirm(self, lease_id: LeaseId) -> None:
        """Nothing is open about that claim."""
        self._write.delete(UNCONFIRMED, lease_id)

    def set_clear(self, record: Clear | Abort) -> None:
        """Keep a clear or an abort as it is now."""
        key = record.record_id()
        self._write.put(CLEARS, key, wire.encode([record.TYPE, record.encode()]))

    def drop_clear(self, record_id: bytes) -> None:
        """Forget one."""
        self._write.delete(CLEARS, record_id)

    def add_proof(self, proof: Equivocation, day: int) -> bool:
        """Keep a proof; whether it is of a fork that was not known."""
        first = proof.states()[0]
        key = proof.signer + wire.encode([first.low, first.high, first.period, first.sequence])
        if self._read.get(PROOFS, key) is not None or not self._has_room_for_proof(day):
            return False
        self._write.put(PROOFS, key, wire.encode([day, proof.encode()]))
        return True

    def _has_room_for_proof(self, day: int) -> bool:
        """Whether one more may be kept; those that freeze nobody any more make room."""
        if self._read.count(PROOFS) < limits.PROOFS_KEPT_MAX:
            return True
        for key, data in list(self._read.scan(PROOFS)):
            seen, _ = wire.expect_list(wire.decode(data, size_max=2048), count=2)
            if _int(seen) + PERIOD_DAYS <= day:
                self._write.delete(PROOFS, key)
        return self._read.count(PROOFS) < limits.PROOFS_KEPT_MAX


def entry_of(record: PairRecord, period: int) -> Entry:
    """The entry of a record. A pair state with one signature and the same with two are different entries."""
    data = record.encode()
    name = hashlib.sha256(data).digest() if isinstance(record, PairState) else record.record_id()
    return Entry(record.TYPE, name, data, period)


def _decode_entry(entry_id: bytes, data: bytes) -> Entry:
    match wire.decode(data, size_max=limits.CREDIT_ENTRY_BYTES_MAX):
        case [str(tag), int(period), bytes(content)]:
            return Entry(tag, entry_id, content, period)
    raise StoreError("a damaged entry in the ledger")


def _int(value: wire.Value) -> int:
    return wire.expect_int(value, low=-_SIGNED_MAX, high=_SIGNED_MAX)


def forget_own_cert(key_values: KeyValue) -> None:
    """The certificate of this node is made anew, with a newer epoch: it acts for its account from then on."""
    key_values.update(lambda transaction: transaction.delete(META, _OWN_CERT))
