"""How evidence lies in the tables: rows, times and what rows refer to. Layer 3, over the KeyValue port.

Invariants: every change leaves rows, times and records in step; a receipt about several leases is kept once,
as long as a row refers to it, and so is the answer behind several bad ones; of a lease at most
`EVIDENCE_PER_LEASE_MAX` rows stay, the newest. Layout: docs/formats/home.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final

from node import limits, wire
from node.chunks.bad_answer import BadAnswer
from node.chunks.findings import Finding, Role
from node.ports import ReadTransaction, WriteTransaction
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


def add_receipt(
    transaction: WriteTransaction, receipt: AuditReceipt, roles: Sequence[tuple[Lease, Role]]
) -> bool:
    """Rows for a receipt, of those leases, in those roles; whether any is new."""
    receipt_id = receipt.record_id()
    encoded = receipt.encode()
    is_new = False
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


def add_bad_answer(transaction: WriteTransaction, bad: BadAnswer) -> bool:
    """A row for a verified bad answer; whether it is new."""
    key = _bad_key(bad)
    if transaction.get(BAD_TABLE, key) is not None:
        return False
    answer_id = bad.answer.record_id()
    row = wire.encode([
        answer_id, bad.index, bad.block_index, bad.chunk_index, bad.sample.encode(), bad.lease.encode(),
        bad.lease.expires_s,
    ])  # fmt: skip
    transaction.put(BAD_TABLE, key, row)
    transaction.put(TIMES_TABLE, _time_key(bad.lease.expires_s, _OF_BAD, key), b"")
    _hold(transaction, ANSWERS_TABLE, answer_id, bad.answer.encode())
    return True


def is_due(view: ReadTransaction, before_s: int) -> bool:
    """Whether `expire` would drop anything."""
    first = next(iter(view.scan(TIMES_TABLE)), None)
    return first is not None and first[0][:_TIME_BYTES] < _time_bytes(before_s)


def expire(transaction: WriteTransaction, before_s: int) -> bool:
    """Drop what is older than `before_s`, a step's worth at most; whether there may be more."""
    before = _time_bytes(before_s)
    due: list[bytes] = []
    for key, _ in transaction.scan(TIMES_TABLE):
        if key[:_TIME_BYTES] >= before or len(due) == limits.EVIDENCE_EXPIRE_STEP_ROWS:
            break
        due.append(key)
    for key in due:
        drop = _drop if key[_TIME_BYTES:][:1] == _OF_ROW else _drop_bad
        drop(transaction, key[_TIME_BYTES + 1 :])
    return len(due) == limits.EVIDENCE_EXPIRE_STEP_ROWS


def forget(transaction: WriteTransaction, segment_id: SegmentId) -> None:
    """Drop all rows about a segment."""
    for key in [key for key, _ in transaction.scan(ROWS_TABLE, prefix=segment_id)]:
        _drop(transaction, key)
    for key in [key for key, _ in transaction.scan(BAD_TABLE, prefix=segment_id)]:
        _drop_bad(transaction, key)


def findings(view: ReadTransaction, segment_id: SegmentId) -> list[Finding]:
    """What receipts say of a segment's leases, in the order of their keys."""
    return [_finding(key, row) for key, row in view.scan(ROWS_TABLE, prefix=segment_id)]


def finding_of(view: ReadTransaction, receipt: AuditReceipt, lease: Lease) -> Finding | None:
    """What stands where a receipt's word on a lease belongs: perhaps a newer receipt's."""
    key = _row_key(receipt, lease)
    row = view.get(ROWS_TABLE, key)
    return None if row is None else _finding(key, row)


def receipt_bytes(view: ReadTransaction, receipt_id: bytes) -> bytes | None:
    """The encoded receipt, while a row refers to it."""
    return _held(view, RECEIPTS_TABLE, receipt_id)


def lost(view: ReadTransaction, segment_id: SegmentId) -> dict[LeaseId, tuple[int, PeerId]]:
    """(shard index, donor) of each lease of a segment with a signed bad answer."""
    keys = (key for key, _ in view.scan(BAD_TABLE, prefix=segment_id))
    return {
        LeaseId(key[-LEASE_ID_BYTES:]): (key[_ID_BYTES], PeerId(key[_ID_BYTES + 1 : -LEASE_ID_BYTES]))
        for key in keys
    }


def bad_answers(view: ReadTransaction, prefix: bytes, *, network: str) -> Iterator[BadAnswer]:
    """The proofs whose key begins with `prefix`: segment id, shard index (1 byte), donor, lease id."""
    for _, row in view.scan(BAD_TABLE, prefix=prefix):
        fields = _bad_fields(row)
        data = _held(view, ANSWERS_TABLE, wire.expect_bytes(fields[0], size=_ID_BYTES))
        assert data is not None  # rows and answers change in one transaction
        answer = AuditAnswer.decode(data, network=network)
        yield BadAnswer.decode(wire.encode([answer.encode(), *fields[1:-1]]), network=network)


def _row_key(receipt: AuditReceipt, lease: Lease) -> bytes:
    """Where what a receipt says of a lease stands: one row an auditor and kind of outcome."""
    return lease.segment_id + lease.lease_id + bytes([_KINDS[receipt.outcome]]) + receipt.auditor


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


def _bad_fields(row: bytes) -> list[wire.Value]:
    return list(wire.expect_list(wire.decode(row, size_max=_BAD_ROW_BYTES_MAX), count=7))


def _time_key(time_s: int, of: bytes, key: bytes) -> bytes:
    return _time_bytes(time_s) + of + key


def _time_bytes(time_s: int) -> bytes:
    return time_s.to_bytes(_TIME_BYTES, "big")
