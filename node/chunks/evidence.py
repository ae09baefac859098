"""What audits showed: receipts and signed bad answers, by segment and lease. Layer 3, over the KeyValue port.

Invariants: nothing enters that is not signed by whoever it names, is not about a lease of the roster shown
with it, or was not signed by somebody who may audit that lease; news merge by union, the newest receipt of
each auditor, lease and kind counts, so the order of news does not matter; of a lease at most
`EVIDENCE_PER_LEASE_MAX` receipts are kept and of a shard at one donor one bad answer, so what can be said of
a donor is bounded by the leases it signed; receipts go after
`EVIDENCE_LIFE_S`, bad answers as long after their lease has ended. A multi-lease receipt is kept
once, as long as a row refers to it. Source: credit.md, "Audits", "Earning", "Repair".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from node import limits, wire
from node.chunks.audit import is_auditor
from node.chunks.bad_answer import BadAnswer
from node.chunks.geometry import SegmentGeometry
from node.crypto.identity import peer_id_of
from node.errors import CryptoError, ProtocolError
from node.ports import KeyValue, ReadTransaction, WriteTransaction
from node.records.base import expect_peer_id
from node.records.lease import LEASE_ID_BYTES, Lease
from node.records.receipt import AuditAnswer, AuditReceipt, Outcome
from node.units import LeaseId, PeerId, SegmentId

RECEIPTS_TABLE: Final = "evidence.receipts"
ROWS_TABLE: Final = "evidence.rows"
TIMES_TABLE: Final = "evidence.times"
BAD_TABLE: Final = "evidence.bad"
ANSWERS_TABLE: Final = "evidence.answers"
_ID_BYTES: Final = 32
_TIME_BYTES: Final = 6
_ROW_BYTES_MAX: Final = 256
_OF_ROW: Final = b"r"
_OF_BAD: Final = b"b"
_BAD_ROW_BYTES_MAX: Final = 8_192


class Role(IntEnum):
    """What entitled an auditor, by the roster that its receipt came with."""

    OWNER = 1
    """The key that signed the lease, or another that pays for it."""
    ASSIGNED = 2
    """One of the three co-holders whose turn it was that week."""
    CO_HOLDER = 3
    """Another one: its receipts say whether the donor answers, and vest nothing."""


class _Kind(IntEnum):
    PROVED = 1
    SLOW = 2
    FAILED = 3
    NO_ANSWER = 4
    UNKNOWN = 5


_KINDS: Final = {
    Outcome.PASSED: _Kind.PROVED,
    Outcome.SLOW: _Kind.SLOW,
    Outcome.FAILED: _Kind.FAILED,
    Outcome.NO_ANSWER: _Kind.NO_ANSWER,
    Outcome.UNKNOWN: _Kind.UNKNOWN,
}
_PROVING: Final = (Outcome.PASSED, Outcome.SLOW)


@dataclass(frozen=True, slots=True)
class Finding:
    """One receipt, as far as it concerns one lease."""

    lease_id: LeaseId
    shard_index: int
    donor: PeerId
    auditor: PeerId
    role: Role
    outcome: Outcome
    time_s: int
    receipt_id: bytes

    @property
    def proves(self) -> bool:
        """Whether the donor had the bytes then, late or not."""
        return self.outcome in _PROVING


@dataclass(frozen=True, slots=True)
class Proof:
    """When a shard was last proved, and by whom."""

    time_s: int
    auditor: PeerId


@dataclass(frozen=True, slots=True)
class LeaseEvidence:
    """All that is known of one leased shard."""

    lease_id: LeaseId
    shard_index: int
    donor: PeerId
    findings: tuple[Finding, ...]
    """Oldest first."""
    is_lost: bool
    """The donor signed a bad answer: the shard counts as lost there."""

    @property
    def proved(self) -> Proof | None:
        """The last proof; None where that is unknown."""
        proofs = [finding for finding in self.findings if finding.proves]
        return Proof(proofs[-1].time_s, proofs[-1].auditor) if proofs else None

    @property
    def no_answers(self) -> tuple[Finding, ...]:
        """No-answer receipts since the last proof, one an auditor, oldest first."""
        since = self.proved
        return tuple(
            finding
            for finding in self.findings
            if finding.outcome is Outcome.NO_ANSWER and (since is None or finding.time_s > since.time_s)
        )


@dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """All that is known of one segment. What it does not mention is unknown."""

    leases: Mapping[LeaseId, LeaseEvidence] = field(default_factory=dict)

    def proved(self, shard_index: int, *, holder: PeerId | None = None) -> Proof | None:
        """The last proof of a shard (at `holder`, if given) that is not lost there since; None: unknown."""
        proofs = [
            lease.proved
            for lease in self.leases.values()
            if lease.shard_index == shard_index
            and not lease.is_lost
            and (holder is None or lease.donor == holder)
            and lease.proved is not None
        ]
        return max(proofs, key=lambda proof: proof.time_s) if proofs else None

    def lost(self) -> frozenset[tuple[int, PeerId]]:
        """(shard index, donor) where the donor's own signature says that the shard is lost."""
        return frozenset((each.shard_index, each.donor) for each in self.leases.values() if each.is_lost)


class Evidence:
    """The tables. Synchronous and short; services call it through `Offload`."""

    def __init__(self, key_values: KeyValue, *, network: str) -> None:
        self._key_values = key_values
        self._network = network
        self.on_receipts: Callable[[Sequence[AuditReceipt]], None] = lambda _: None
        """Called, on whatever thread, with receipts that were accepted and are durable."""

    # --- what enters --------------------------------------------------------------------------------------

    def add_receipts(
        self,
        receipts: Iterable[AuditReceipt],
        roster: Iterable[Lease],
        *,
        now_s: int,
        payers: Collection[PeerId] = (),
    ) -> int:
        """Verify and keep receipts, durably; how many said something new: the count of `take_receipts`."""
        return len(self.take_receipts(receipts, roster, now_s=now_s, payers=payers))

    def take_receipts(
        self,
        receipts: Iterable[AuditReceipt],
        roster: Iterable[Lease],
        *,
        now_s: int,
        payers: Collection[PeerId] = (),
    ) -> tuple[AuditReceipt, ...]:
        """Verify and keep receipts, durably; those that said something new.

        `roster` has the verified leases, of any segments, that they may be about, with all co-holders;
        `payers` may audit as the owner key does. What is false, of nobody's business here, too old or of the
        future is left out, without blame: it may have come through honest hands.
        """
        leases = {lease.lease_id: lease for lease in roster}
        holders: dict[SegmentId, set[PeerId]] = {}
        for lease in leases.values():
            holders.setdefault(lease.segment_id, set()).add(lease.holder)
        accepted: list[tuple[AuditReceipt, list[tuple[Lease, Role]]]] = []
        for receipt in receipts:
            roles = _roles(receipt, leases, holders, payers) if self._is_timely(receipt, now_s) else []
            if roles and _is_signed(receipt):
                accepted.append((receipt, roles))
        if not accepted:
            return ()
        news = self._key_values.update(
            lambda transaction: tuple(
                receipt for receipt, roles in accepted if _add(transaction, receipt, roles)
            )
        )
        self.on_receipts([receipt for receipt, _ in accepted])
        return news

    def add_bad_answer(self, bad: BadAnswer, segment_id: SegmentId, geometry: SegmentGeometry) -> bool:
        """Verify and keep proof that a shard is lost at its holder, durably; whether it is news.

        The geometry is that of the segment's manifest.

        Raises `ProtocolError`, `CryptoError` where it proves nothing.
        """
        bad.verify_in(segment_id, geometry)
        key = _bad_key(bad)
        answer_id = bad.answer.record_id()
        row = wire.encode([
            answer_id, bad.index, bad.block_index, bad.chunk_index, bad.sample.encode(), bad.lease.encode(),
            bad.lease.expires_s,
        ])  # fmt: skip

        def change(transaction: WriteTransaction) -> bool:
            if transaction.get(BAD_TABLE, key) is not None:
                return False
            transaction.put(BAD_TABLE, key, row)
            transaction.put(TIMES_TABLE, _time_key(bad.lease.expires_s, _OF_BAD, key), b"")
            _hold(transaction, ANSWERS_TABLE, answer_id, bad.answer.encode())
            return True

        return self._key_values.update(change)

    def expire(self, now_s: int) -> bool:
        """Forget a step's worth of what is too old; whether there may be more."""
        before = _time_bytes(max(0, now_s - limits.EVIDENCE_LIFE_S))

        def change(transaction: WriteTransaction) -> bool:
            due: list[bytes] = []
            for key, _ in transaction.scan(TIMES_TABLE):
                if key[:_TIME_BYTES] >= before or len(due) == limits.EVIDENCE_EXPIRE_STEP_ROWS:
                    break
                due.append(key)
            for key in due:
                drop = _drop if key[_TIME_BYTES:][:1] == _OF_ROW else _drop_bad
                drop(transaction, key[_TIME_BYTES + 1 :])
            return len(due) == limits.EVIDENCE_EXPIRE_STEP_ROWS

        with self._key_values.view() as view:
            first = next(iter(view.scan(TIMES_TABLE)), None)
        if first is None or first[0][:_TIME_BYTES] >= before:
            return False  # nothing is due: no commit
        return self._key_values.update(change)

    def forget(self, segment_id: SegmentId) -> None:
        """Drop all about a segment that this node keeps and owns no longer."""

        def change(transaction: WriteTransaction) -> None:
            for key in [key for key, _ in transaction.scan(ROWS_TABLE, prefix=segment_id)]:
                _drop(transaction, key)
            for key in [key for key, _ in transaction.scan(BAD_TABLE, prefix=segment_id)]:
                _drop_bad(transaction, key)

        self._key_values.update(change)

    # --- what it says -------------------------------------------------------------------------------------

    def of_segment(self, segment_id: SegmentId) -> SegmentEvidence:
        """When each shard was last proved, who had no answer since, and what is lost."""
        with self._key_values.view() as view:
            findings = [_finding(key, row) for key, row in view.scan(ROWS_TABLE, prefix=segment_id)]
            bad = {
                _lease_of_bad(key): _shard_of_bad(key) for key, _ in view.scan(BAD_TABLE, prefix=segment_id)
            }
        lost = frozenset(bad.values())
        by_lease: dict[LeaseId, list[Finding]] = {}
        for finding in findings:
            by_lease.setdefault(finding.lease_id, []).append(finding)
        leases = {
            lease_id: LeaseEvidence(
                lease_id,
                group[0].shard_index,
                group[0].donor,
                tuple(sorted(group, key=lambda each: (each.time_s, each.auditor, each.outcome))),
                (group[0].shard_index, group[0].donor) in lost,
            )
            for lease_id, group in by_lease.items()
        }
        for lease_id, (shard_index, donor) in bad.items():
            if lease_id not in leases:
                leases[lease_id] = LeaseEvidence(lease_id, shard_index, donor, (), is_lost=True)
        return SegmentEvidence(leases)

    def receipts(self, segment_id: SegmentId) -> tuple[AuditReceipt, ...]:
        """Every receipt that says something of a segment, for exchange; verified before it entered."""
        with self._key_values.view() as view:
            found = {
                finding.receipt_id: finding.time_s
                for finding in (_finding(key, row) for key, row in view.scan(ROWS_TABLE, prefix=segment_id))
            }
            ids = sorted(found, key=lambda receipt_id: (found[receipt_id], receipt_id))
            return tuple(self._receipt(view, receipt_id) for receipt_id in ids)

    def no_answers(self, segment_id: SegmentId, lease_id: LeaseId) -> tuple[AuditReceipt, ...]:
        """No-answer receipts on a lease since it was last proved, one an auditor, oldest first: two of
        different auditors are evidence of death."""
        evidence = self.of_segment(segment_id).leases.get(lease_id)
        return () if evidence is None else self._receipts_of(evidence.no_answers)

    def vesting(self, segment_id: SegmentId, lease_id: LeaseId) -> tuple[AuditReceipt, ...]:
        """Passed audits of a lease by its owner or by co-holders whose turn it was, oldest first: what makes
        the owner owe (the ledger asks for two different co-holders between two vestings)."""
        evidence = self.of_segment(segment_id).leases.get(lease_id)
        if evidence is None:
            return ()
        return self._receipts_of(
            finding
            for finding in evidence.findings
            if finding.outcome is Outcome.PASSED and finding.role is not Role.CO_HOLDER
        )

    def vests(self, receipt: AuditReceipt, lease: Lease) -> bool:
        """Whether a receipt is one of those that `vesting` tells of a lease: one look."""
        key = _row_key(receipt, lease)
        with self._key_values.view() as view:
            row = view.get(ROWS_TABLE, key)
        if row is None:
            return False
        finding = _finding(key, row)
        return (
            finding.outcome is Outcome.PASSED
            and finding.role is not Role.CO_HOLDER
            and finding.receipt_id == receipt.record_id()
        )

    def bad_answers(self, segment_id: SegmentId) -> tuple[BadAnswer, ...]:
        """The portable proofs against holders of a segment."""
        with self._key_values.view() as view:
            return tuple(self._bad_answer(view, row) for _, row in view.scan(BAD_TABLE, prefix=segment_id))

    def bad_answer(self, segment_id: SegmentId, shard_index: int, donor: PeerId) -> BadAnswer | None:
        """The proof that a shard is lost at a donor, if there is one."""
        prefix = segment_id + bytes([shard_index]) + donor
        with self._key_values.view() as view:
            for _, row in view.scan(BAD_TABLE, prefix=prefix):
                return self._bad_answer(view, row)
        return None

    # --- inside -------------------------------------------------------------------------------------------

    def _is_timely(self, receipt: AuditReceipt, now_s: int) -> bool:
        age_s = now_s - receipt.time_s
        return receipt.network == self._network and (
            -limits.EVIDENCE_AHEAD_S <= age_s < limits.EVIDENCE_LIFE_S
        )

    def _receipts_of(self, findings: Iterable[Finding]) -> tuple[AuditReceipt, ...]:
        with self._key_values.view() as view:
            found = (_held(view, RECEIPTS_TABLE, finding.receipt_id) for finding in findings)
            return tuple(
                AuditReceipt.decode(data, network=self._network) for data in found if data is not None
            )

    def _receipt(self, view: ReadTransaction, receipt_id: bytes) -> AuditReceipt:
        data = _held(view, RECEIPTS_TABLE, receipt_id)
        assert data is not None  # rows and receipts change in one transaction
        return AuditReceipt.decode(data, network=self._network)

    def _bad_answer(self, view: ReadTransaction, row: bytes) -> BadAnswer:
        fields = _bad_fields(row)
        data = _held(view, ANSWERS_TABLE, wire.expect_bytes(fields[0], size=_ID_BYTES))
        assert data is not None
        answer = AuditAnswer.decode(data, network=self._network)
        return BadAnswer.decode(wire.encode([answer.encode(), *fields[1:-1]]), network=self._network)


def _roles(
    receipt: AuditReceipt,
    leases: Mapping[LeaseId, Lease],
    holders: Mapping[SegmentId, Collection[PeerId]],
    payers: Collection[PeerId],
) -> list[tuple[Lease, Role]]:
    """The known leases that a receipt says something of, and what entitles its auditor to."""
    found: list[tuple[Lease, Role]] = []
    for lease_id in receipt.lease_ids():
        lease = leases.get(lease_id)
        if lease is None or lease.holder != receipt.donor or not lease.start_day - 1 <= receipt.day:
            continue
        role = _role(receipt, lease, holders[lease.segment_id], payers)
        if role is not None:
            found.append((lease, role))
    return found


def _role(
    receipt: AuditReceipt, lease: Lease, holders: Collection[PeerId], payers: Collection[PeerId]
) -> Role | None:
    if receipt.auditor == peer_id_of(lease.owner_key) or receipt.auditor in payers:
        return Role.OWNER
    if receipt.auditor not in holders:
        return None
    assigned = is_auditor(receipt.auditor, lease.segment_id, holders, lease.holder, now_s=receipt.time_s)
    return Role.ASSIGNED if assigned else Role.CO_HOLDER


def _is_signed(receipt: AuditReceipt) -> bool:
    try:
        AuditReceipt.decode(receipt.encode(), network=receipt.network).verify()
    except (CryptoError, ProtocolError):
        return False
    return True


def _row_key(receipt: AuditReceipt, lease: Lease) -> bytes:
    """Where what a receipt says of a lease stands: one row an auditor and kind of outcome."""
    return lease.segment_id + lease.lease_id + bytes([_KINDS[receipt.outcome]]) + receipt.auditor


def _add(transaction: WriteTransaction, receipt: AuditReceipt, roles: Sequence[tuple[Lease, Role]]) -> int:
    """Rows for a receipt; 1 if any is new."""
    receipt_id = receipt.record_id()
    encoded = receipt.encode()
    is_new = 0
    for lease, role in roles:
        key = _row_key(receipt, lease)
        known = transaction.get(ROWS_TABLE, key)
        if known is not None:
            finding = _finding(key, known)
            # Of two at the same second the larger id counts, so that all agree whatever came first.
            if (finding.time_s, finding.receipt_id) >= (receipt.time_s, receipt_id):
                continue
            _drop(transaction, key)
        row = wire.encode([
            receipt.time_s, lease.shard_index, receipt.donor, int(role), int(receipt.outcome), receipt_id,
        ])  # fmt: skip
        transaction.put(ROWS_TABLE, key, row)
        transaction.put(TIMES_TABLE, _time_key(receipt.time_s, _OF_ROW, key), b"")
        _hold(transaction, RECEIPTS_TABLE, receipt_id, encoded)
        _bound(transaction, lease)
        is_new |= transaction.get(ROWS_TABLE, key) is not None
    return is_new


def _bound(transaction: WriteTransaction, lease: Lease) -> None:
    """Drop the oldest of a lease's rows beyond the limit."""
    prefix = lease.segment_id + lease.lease_id
    rows = list(transaction.scan(ROWS_TABLE, prefix=prefix))
    if len(rows) > limits.EVIDENCE_PER_LEASE_MAX:
        oldest = min(rows, key=lambda item: (_finding(*item).time_s, _finding(*item).receipt_id))
        _drop(transaction, oldest[0])


def _drop(transaction: WriteTransaction, key: bytes) -> None:
    row = transaction.get(ROWS_TABLE, key)
    if row is None:
        return
    finding = _finding(key, row)
    transaction.delete(ROWS_TABLE, key)
    transaction.delete(TIMES_TABLE, _time_key(finding.time_s, _OF_ROW, key))
    _release(transaction, RECEIPTS_TABLE, finding.receipt_id)


def _drop_bad(transaction: WriteTransaction, key: bytes) -> None:
    row = transaction.get(BAD_TABLE, key)
    if row is None:
        return
    answer_id, *_, ends_s = _bad_fields(row)
    expires_s = wire.expect_int(ends_s, low=0, high=limits.RECORD_TIME_S_MAX)
    transaction.delete(BAD_TABLE, key)
    transaction.delete(TIMES_TABLE, _time_key(expires_s, _OF_BAD, key))
    _release(transaction, ANSWERS_TABLE, wire.expect_bytes(answer_id, size=_ID_BYTES))


def _hold(transaction: WriteTransaction, table: str, name: bytes, data: bytes) -> None:
    """Keep `data` once, with a count of the rows that refer to it."""
    known = transaction.get(table, name)
    count = 0 if known is None else int.from_bytes(known[:4], "big")
    transaction.put(table, name, (count + 1).to_bytes(4, "big") + data)


def _release(transaction: WriteTransaction, table: str, name: bytes) -> None:
    known = transaction.get(table, name)
    if known is None:
        return
    count = int.from_bytes(known[:4], "big")
    if count <= 1:
        transaction.delete(table, name)
    else:
        transaction.put(table, name, (count - 1).to_bytes(4, "big") + known[4:])


def _held(view: ReadTransaction, table: str, name: bytes) -> bytes | None:
    known = view.get(table, name)
    return None if known is None else known[4:]


def _finding(key: bytes, row: bytes) -> Finding:
    time_s, shard_index, donor, role, outcome, receipt_id = wire.expect_list(
        wire.decode(row, size_max=_ROW_BYTES_MAX), count=6
    )
    kind_at = _ID_BYTES + LEASE_ID_BYTES
    return Finding(
        lease_id=LeaseId(key[_ID_BYTES:kind_at]),
        shard_index=wire.expect_int(shard_index, low=0, high=limits.TOTAL_SHARDS_MAX - 1),
        donor=expect_peer_id(donor),
        auditor=PeerId(key[kind_at + 1 :]),
        role=Role(wire.expect_int(role, low=min(Role), high=max(Role))),
        outcome=Outcome(wire.expect_int(outcome, low=min(Outcome), high=max(Outcome))),
        time_s=wire.expect_int(time_s, low=0, high=limits.RECORD_TIME_S_MAX),
        receipt_id=wire.expect_bytes(receipt_id, size=_ID_BYTES),
    )


def _bad_key(bad: BadAnswer) -> bytes:
    return bad.segment_id + bytes([bad.shard_index]) + bad.donor + bad.lease.lease_id


def _lease_of_bad(key: bytes) -> LeaseId:
    return LeaseId(key[-LEASE_ID_BYTES:])


def _shard_of_bad(key: bytes) -> tuple[int, PeerId]:
    return key[_ID_BYTES], PeerId(key[_ID_BYTES + 1 : -LEASE_ID_BYTES])


def _bad_fields(row: bytes) -> list[wire.Value]:
    return list(wire.expect_list(wire.decode(row, size_max=_BAD_ROW_BYTES_MAX), count=7))


def _time_key(time_s: int, of: bytes, key: bytes) -> bytes:
    return _time_bytes(time_s) + of + key


def _time_bytes(time_s: int) -> bytes:
    return time_s.to_bytes(_TIME_BYTES, "big")
