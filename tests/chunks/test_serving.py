"""When a reader signs for what it was served, and what a donor takes: few, rising, for what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.serving import MARKED_BYTES_MIN, MARKS, ServedShard, StreamSigner, StreamTally
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.receipt import ServeReceipt, session_of
from node.units import AccountId, Contact, LeaseId, PeerId, SegmentId

TODAY = 20_000
READER = KeyPair.from_seed(b"r" * 32)
DONOR = peer_id_of(KeyPair.from_seed(b"d" * 32).public)
LEASE, OTHER_LEASE = LeaseId(b"l" * 16), LeaseId(b"m" * 16)
SEGMENT = SegmentId(b"s" * 32)
SENT = 1_000_000


class Account:
    """Signs, and counts what it is asked for."""

    def __init__(self) -> None:
        self.signed: list[ServeReceipt] = []

    def new_session(self) -> bytes:
        return session_of(TODAY, bytes(12))

    def receipt(self, session: bytes, donor: PeerId, lease_id: LeaseId, byte_count: int) -> ServeReceipt:
        made = receipt(byte_count, session=session, donor=donor, lease_id=lease_id)
        self.signed.append(made)
        return made

    def was_served(self, contact: Contact, receipts: Sequence[ServeReceipt]) -> None:
        raise AssertionError("the stream says that, not its signer")


def receipt(
    byte_count: int,
    *,
    session: bytes = session_of(TODAY, bytes(12)),
    donor: PeerId = DONOR,
    lease_id: LeaseId = LEASE,
    reader: KeyPair = READER,
) -> ServeReceipt:
    return ServeReceipt("test", session, donor, AccountId(reader.public), lease_id, byte_count).sign(reader)


def tally() -> StreamTally:
    """A donor that has sent `SENT` bytes of a shard with two leases."""
    made = StreamTally(DONOR)
    made.add(SEGMENT, 0, ServedShard(frozenset((LEASE, OTHER_LEASE)), LEASE, sent_bytes=SENT))
    return made


@given(st.lists(st.integers(1, 65_472), min_size=1, max_size=70), st.integers(1, 64 * 65_472))
def test_receipts_rise_to_all_that_came_and_are_few(blocks: list[int], shard_bytes: int) -> None:
    account, donor = Account(), tally()
    signer = StreamSigner(account, DONOR, shard_bytes)
    shard = donor.shard(SEGMENT, 0)
    assert shard is not None
    shard.sent_bytes = sum(blocks)
    for block in blocks:
        due = signer.received(LEASE, block)
        if due is not None:
            donor.take(due, today=TODAY)
    for rest in signer.rest():
        donor.take(rest, today=TODAY)
    assert [each.byte_count for each in donor.latest()] == [sum(blocks)]
    assert signer.latest() == donor.latest()
    assert signer.rest() == []
    most = MARKS if shard_bytes >= MARKED_BYTES_MIN else 1
    assert most < limits.SERVE_RECEIPTS_PER_SHARD_MAX
    assert 1 <= len(account.signed) <= most


@pytest.mark.parametrize(
    "bad",
    [
        receipt(SENT + 1),
        receipt(600_000),
        receipt(500_000),
        receipt(700_000, donor=peer_id_of(READER.public)),
        receipt(700_000, lease_id=LeaseId(b"x" * 16)),
        receipt(700_000, lease_id=OTHER_LEASE),
        receipt(700_000, session=session_of(TODAY, b"another one!")),
        receipt(700_000, session=session_of(TODAY + 2, bytes(12))),
        receipt(700_000, reader=KeyPair.from_seed(b"x" * 32)),
        replace(receipt(700_000), byte_count=800_000),
    ],
    ids=[
        "more than sent", "the same", "shrinking", "donor", "foreign lease", "second lease", "second session",
        "day", "second reader", "forged",
    ],
)  # fmt: skip
def test_what_a_donor_refuses_changes_nothing(bad: ServeReceipt) -> None:
    donor = tally()
    good = receipt(600_000)
    donor.take(good, today=TODAY)
    with pytest.raises((ProtocolError, CryptoError)):
        donor.take(bad, today=TODAY)
    assert donor.latest() == [good]
    donor.take(receipt(SENT), today=TODAY)


def test_the_work_for_one_stream_is_bounded() -> None:
    donor = tally()
    for number in range(1, limits.SERVE_RECEIPTS_PER_SHARD_MAX + 1):
        donor.take(receipt(number), today=TODAY)
    with pytest.raises(ProtocolError, match="too many"):
        donor.take(receipt(SENT), today=TODAY)
    for index in range(1, 2 * limits.SERVED_SHARDS_PER_STREAM_MAX):
        donor.add(SEGMENT, index, ServedShard())
    assert len(donor._shards) == limits.SERVED_SHARDS_PER_STREAM_MAX
