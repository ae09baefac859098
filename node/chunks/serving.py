"""Receipts for what is served: when a reader signs one, and which ones a donor takes. Layer 2, pure.

A reader signs a running total for each shard of a stream: at half of a large shard, and when the stream
ends. Chunks know nothing of ledgers: the two ports say who signs and where receipts go.

Invariants of the donor's side: a receipt counts only in the stream in which the bytes went out, for a lease
of a shard that was served there, for no more than was sent, and for more than the one before; there are few
a shard. Source: credit.md, "Earning".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from node import limits
from node.errors import ProtocolError
from node.records.receipt import ServeReceipt
from node.units import MIB, AccountId, Contact, LeaseId, PeerId, SegmentId

MARKS: Final = 2
"""A receipt is due between so many equal parts of a shard."""
MARKED_BYTES_MIN: Final = MIB
"""A smaller shard has one receipt, at its end."""


class Reader(Protocol):
    """The account that reads."""

    def new_session(self) -> bytes:
        """A name for one stream."""
        ...

    def receipt(self, session: bytes, donor: PeerId, lease_id: LeaseId, byte_count: int) -> ServeReceipt:
        """Signed."""
        ...

    def was_served(self, contact: Contact, receipts: Sequence[ServeReceipt]) -> None:
        """A stream ended, and these are the last receipts given for it. Never raises."""
        ...


class Serving(Protocol):
    """What a donor does with receipts, and whom it serves first."""

    def has_served(self, receipts: Sequence[ServeReceipt]) -> None:
        """A stream ended, and these were taken, checked. Never raises."""
        ...

    async def goes_first(self, peer_id: PeerId) -> bool:
        """Whether the peer acts for an account that owes nothing here. Never raises."""
        ...


def is_due(before: int, after: int, shard_bytes: int) -> bool:
    """Whether the bytes from `before` to `after` of a shard reach a point at which a receipt is due.

    None is at the end of the shard: the stream ends about then, and a message on its way would be cut off.
    """
    if shard_bytes < MARKED_BYTES_MIN:
        return False
    return before * MARKS // shard_bytes < min(MARKS - 1, after * MARKS // shard_bytes)


class StreamSigner:
    """The receipts of one stream from one donor."""

    def __init__(self, reader: Reader, donor: PeerId, shard_bytes: int) -> None:
        self._reader = reader
        self._donor = donor
        self._shard_bytes = shard_bytes
        self._session = reader.new_session()
        self._received: dict[LeaseId, int] = {}
        self._signed: dict[LeaseId, ServeReceipt] = {}

    def received(self, lease_id: LeaseId, byte_count: int) -> ServeReceipt | None:
        """Good bytes came; a receipt if one is due."""
        before = self._received.get(lease_id, 0)
        self._received[lease_id] = before + byte_count
        if not is_due(before, before + byte_count, self._shard_bytes):
            return None
        return self._sign(lease_id)

    def rest(self) -> list[ServeReceipt]:
        """Receipts for what came since the last ones."""
        return [
            self._sign(lease_id)
            for lease_id, byte_count in self._received.items()
            if lease_id not in self._signed or self._signed[lease_id].byte_count < byte_count
        ]

    def latest(self) -> list[ServeReceipt]:
        """The last receipt of each lease."""
        return list(self._signed.values())

    def _sign(self, lease_id: LeaseId) -> ServeReceipt:
        receipt = self._reader.receipt(self._session, self._donor, lease_id, self._received[lease_id])
        self._signed[lease_id] = receipt
        return receipt


@dataclass(slots=True)
class ServedShard:
    """A shard that is served in one stream, the leases on it, and the one that readers are told of."""

    lease_ids: frozenset[LeaseId] = frozenset()
    lease_id: LeaseId | None = None
    egress_cap_bytes: int = 0
    sent_bytes: int = 0
    receipt_count: int = 0
    latest: ServeReceipt | None = None


@dataclass(slots=True)
class StreamTally:
    """What a donor has sent in one stream, and the receipts for it."""

    donor: PeerId
    _shards: dict[tuple[SegmentId, int], ServedShard] = field(default_factory=dict)
    _session: tuple[bytes, AccountId] | None = None

    def shard(self, segment_id: SegmentId, shard_index: int) -> ServedShard | None:
        """A shard that was added."""
        return self._shards.get((segment_id, shard_index))

    def add(self, segment_id: SegmentId, shard_index: int, shard: ServedShard) -> ServedShard:
        """Count a shard; of too many in one stream the oldest is no longer counted."""
        if len(self._shards) >= limits.SERVED_SHARDS_PER_STREAM_MAX:
            del self._shards[next(iter(self._shards))]
        return self._shards.setdefault((segment_id, shard_index), shard)

    def take(self, receipt: ServeReceipt, *, today: int) -> None:
        """Take a receipt in. Raises `ProtocolError`, `CryptoError`: nothing has changed then."""
        if receipt.donor != self.donor:
            raise ProtocolError("a serving receipt for another donor")
        if abs(receipt.day - today) > 1:
            raise ProtocolError("a serving receipt of another day")
        session = (receipt.session, receipt.reader)
        if self._session not in (None, session):
            raise ProtocolError("serving receipts of two sessions in one stream")
        shard = next((each for each in self._shards.values() if receipt.lease_id in each.lease_ids), None)
        if shard is None:
            raise ProtocolError("a serving receipt for a lease that was not read here")
        if receipt.byte_count > shard.sent_bytes:
            raise ProtocolError("a serving receipt for more than was served")
        if shard.receipt_count >= limits.SERVE_RECEIPTS_PER_SHARD_MAX:
            raise ProtocolError("too many serving receipts for one shard")
        latest = shard.latest
        if receipt.byte_count <= (0 if latest is None else latest.byte_count):
            raise ProtocolError("a serving receipt for no more than the one before")
        if latest is not None and latest.lease_id != receipt.lease_id:
            raise ProtocolError("serving receipts for two leases of one shard")
        receipt.verify()
        self._session = session
        shard.receipt_count += 1
        shard.latest = receipt

    def latest(self) -> list[ServeReceipt]:
        """The last receipt of each shard."""
        return [shard.latest for shard in self._shards.values() if shard.latest is not None]
