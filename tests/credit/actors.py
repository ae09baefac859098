"""Accounts with their devices, and signed records between them, for the tests of credit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from node.credit.pair_records import Pair
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, Outcome, ServeReceipt, join_lease_ids, session_of
from node.units import DAY_S, MIB, AccountId, LeaseId, OwnerKey, PeerId, SegmentId

NETWORK = "cairn-test"
CREDIT = 1_000_000
DAY = 20_010  # the first of a period
SHARD_BYTES = MIB - 4096
"""Billed as exactly 1 MiB: one credit a day."""


@dataclass(frozen=True)
class Actor:
    """An account, its node, and one owner key."""

    number: int

    def _key(self, part: int) -> KeyPair:
        return KeyPair.from_seed(part.to_bytes(1, "big") * 16 + self.number.to_bytes(16, "big"))

    @cached_property
    def key(self) -> KeyPair:
        return self._key(1)

    @cached_property
    def device(self) -> KeyPair:
        return self._key(2)

    @cached_property
    def owner(self) -> KeyPair:
        return self._key(3)

    @cached_property
    def account(self) -> AccountId:
        return AccountId(self.key.public)

    @cached_property
    def peer_id(self) -> PeerId:
        return peer_id_of(self.device.public)


def pair_of(one: Actor, other: Actor, *, assigned: bool = True, gifts: Iterable[LeaseId] = ()) -> Pair:
    """The pair of two actors; every auditor is assigned, or none."""
    low, high = sorted((one, other), key=lambda actor: actor.account)
    return Pair(
        low.account,
        high.account,
        frozenset({low.peer_id}),
        frozenset({high.peer_id}),
        manifest_bytes={},
        is_assigned=lambda receipt, lease: assigned,
        gifts=frozenset(gifts),
    )


def lease_of(
    owner: Actor, holder: Actor, number: int = 0, *, day: int = DAY, days: int = 30, rate: int = CREDIT,
    mib: int = 1,
) -> Lease:  # fmt: skip
    """A lease of `mib` credits a day, signed by both."""
    unsigned = Lease(
        network=NETWORK,
        lease_id=LeaseId(number.to_bytes(16, "big")),
        segment_id=SegmentId(number.to_bytes(32, "big")),
        shard_index=0,
        root=b"r" * 32,
        byte_count=SHARD_BYTES + (mib - 1) * MIB,
        owner_key=OwnerKey(owner.owner.public),
        holder=holder.peer_id,
        start_day=day,
        end_day=day + days,
        rate=rate,
        egress_cap_bytes=0,
        nonce=number.to_bytes(16, "big"),
    )
    return unsigned.sign_as_owner(owner.owner).countersign(holder.device)


def charge_of(lease: Lease, payer: Actor) -> Charge:
    return Charge.of(lease, payer.account).sign(payer.key)


def receipt_of(
    leases: Sequence[Lease], auditor: KeyPair, day: int, *, outcome: Outcome = Outcome.PASSED, nonce: int = 0
) -> AuditReceipt:
    """An audit on a day; all leases are of one holder."""
    counts = {Outcome.PASSED: (9, 9, 0), Outcome.SLOW: (9, 9, 0), Outcome.FAILED: (9, 8, 1)}
    asked, passed, failed = counts.get(outcome, (9, 0, 0))
    return AuditReceipt(
        NETWORK,
        join_lease_ids(lease.lease_id for lease in leases),
        day,
        nonce.to_bytes(32, "big"),
        asked,
        passed,
        failed,
        day * DAY_S + 60,
        outcome,
        peer_id_of(auditor.public),
        leases[0].holder,
    ).sign(auditor)


def served(donor: Actor, reader: Actor, day: int, byte_count: int, session: int = 0) -> ServeReceipt:
    return ServeReceipt(
        NETWORK, session_of(day, session.to_bytes(12, "big")), donor.peer_id, reader.account,
        LeaseId(b"l" * 16), byte_count,
    ).sign(reader.key)  # fmt: skip


def agreed(one: Actor, other: Actor, period: int, sequence: int, totals: tuple[int, int]) -> PairState:
    """What both signed: `totals` are what the low and the high account gave."""
    low, high = sorted((one, other), key=lambda actor: actor.account)
    state = PairState(NETWORK, low.account, high.account, period, sequence, b"", *totals)
    return state.sign(low.key).sign(high.key)


def unsigned_clear(
    cycle: Sequence[Actor], amount: int, *, number: int = 0, end_period: int = DAY // 30 + 1
) -> Clear:
    return Clear(
        NETWORK,
        number.to_bytes(16, "big"),
        tuple(actor.account for actor in cycle),
        amount,
        (bytes(32),) * len(cycle),
        cycle[0].account,
        end_period,
    )


def signed_clear(cycle: Sequence[Actor], amount: int, *, number: int = 0) -> Clear:
    clear = unsigned_clear(cycle, amount, number=number)
    for actor in (*cycle[1:], cycle[0]):
        clear = clear.sign(actor.key)
    return clear


def release_of(lease: Lease, owner: Actor) -> Release:
    release = Release(NETWORK, lease.lease_id, lease.holder, OwnerKey(owner.owner.public))
    return release.sign(owner.owner)
