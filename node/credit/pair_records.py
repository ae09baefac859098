"""Two accounts, their terms, and the set of records between them. Layer 2, pure.

Invariants: a set holds verified records only; merging is union. Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from node.credit.units import SERVE_MICROS_PER_MIB
from node.errors import ProtocolError
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId, SegmentId

PairRecord = Lease | Release | Charge | AuditReceipt | ServeReceipt | PairState | Clear
"""What a balance rests on: a pair's ledger takes nothing else, gifts aside."""


@dataclass(frozen=True, slots=True)
class Records:
    """A set of verified records. The only ways to make one are `of` and `merge`."""

    items: frozenset[PairRecord] = frozenset()

    @classmethod
    def of(cls, records: Iterable[PairRecord]) -> Records:
        """The set. Raises `CryptoError` if a signature is missing or does not hold."""
        checked = frozenset(records)
        for record in checked:
            record.verify()
        return cls(checked)

    def merge(self, other: Records) -> Records:
        """The union."""
        return Records(self.items | other.items)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two accounts in byte order, and what both must agree on for their balances to agree.

    `low_peers` and `high_peers` are the peer ids that give on an account's behalf: those that both an offer
    (signed by the peer) and a device certificate (signed by the account) name. `manifest_bytes` is what a
    lease of a segment is billed for its manifests. `is_assigned` says whether a receipt's auditor was due to
    audit that lease on that day. `gifts` are leases accepted under a friend line: nothing is owed for them.
    """

    low: AccountId
    high: AccountId
    low_peers: frozenset[PeerId]
    high_peers: frozenset[PeerId]
    manifest_bytes: Mapping[SegmentId, int]
    is_assigned: Callable[[AuditReceipt, Lease], bool]
    gifts: Collection[LeaseId] = frozenset()
    serve_micros_per_mib: int = SERVE_MICROS_PER_MIB

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ProtocolError("a pair is two accounts in byte order")
        if self.low_peers & self.high_peers:
            raise ProtocolError("one peer can't give on behalf of both accounts of a pair")
