"""The messages of `/cairn/repair/1`: a table from tags to fields, each with its bound. Layer 2, pure.

| request | then, from the opener | reply | then, from the other side |
|---|---|---|---|
| Replace | a body: the case; after Ready, Block frames | Ready, then Body | leases with both halves |
| Intent | | Done | |
| Lost | | Done | |
| Witness | | Body | receipts |

The Body answers the last block. A Block frame has header [slot, block index], as while putting: slot i is the
i-th lease of the case. Declining is an error frame with a code of `node.chunks.messages`. Invariant: every
field is bounded before anything is allocated for it. Source: credit.md, "Repair".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node import limits, tagged, wire
from node.chunks.bad_answer import BadAnswer
from node.errors import ProtocolError
from node.records.lease import LEASE_ID_BYTES, Lease, Release
from node.records.receipt import AuditReceipt
from node.tagged import Table, array, exactly, integer, up_to
from node.units import LeaseId, SegmentId
from node.wire import Value

PROTOCOL: Final = "/cairn/repair/1"


@dataclass(frozen=True, slots=True)
class Replace:
    """Keep shards of this segment under this grant, in the place of others; the body says why (`Case`)."""

    manifest: bytes
    grant: bytes
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The case holds, and there is room: send the blocks."""


@dataclass(frozen=True, slots=True)
class Intent:
    """A signed `RepairIntent`."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """The opener's own word that it lost a shard: an encoded `BadAnswer` that it signed unasked."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Witness:
    """See for yourself whether the holders of these leases have their shards; sign it where they don't."""

    segment_id: SegmentId
    lease_ids: tuple[LeaseId, ...]


@dataclass(frozen=True, slots=True)
class Body:
    """A reply whose content follows as a body: an array of encoded records."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """Done."""

    count: int


Message = Replace | Ready | Intent | Lost | Witness | Body | Done

TABLE: Final = Table[Message](
    {
        "replace": (
            Replace,
            (
                up_to(limits.SEGMENT_MANIFEST_BYTES_MAX),
                up_to(limits.REPAIR_GRANT_BYTES_MAX),
                integer(1, limits.REPAIR_CASE_BYTES_MAX),
            ),
        ),
        "ready": (Ready, ()),
        "lost": (Lost, (up_to(limits.LOST_RECORD_BYTES_MAX),)),
        "intent": (Intent, (up_to(limits.REPAIR_INTENT_BYTES_MAX),)),
        "witness": (
            Witness,
            (exactly(32), array(exactly(LEASE_ID_BYTES), low=1, high=limits.TOTAL_SHARDS_MAX)),
        ),
        "body": (Body, (integer(0, limits.REPAIR_CASE_BYTES_MAX),)),
        "done": (Done, (integer(0, 2**32),)),
    }
)

encode, decode = TABLE.encode, TABLE.decode


@dataclass(frozen=True, slots=True)
class Case:
    """Why a new holder may sign leases that no owner signed. Nothing in it is verified yet."""

    leases: tuple[Lease, ...]
    """What is asked for: the new holder's leases, under the grant."""
    lost: tuple[LeaseId, ...]
    """Of each, the lease in whose place it comes."""
    roster: tuple[Lease, ...]
    """The segment's leases, the lost ones among them: who may bear witness."""
    receipts: tuple[AuditReceipt, ...] = ()
    """Co-holders' word that a holder did not answer, or did not have the shard."""
    bad_answers: tuple[BadAnswer, ...] = ()
    """Holders' own word."""
    releases: tuple[Release, ...] = ()
    """The owner's."""

    def encode(self) -> bytes:
        """The canonical encoding."""
        return wire.encode([
            [lease.encode() for lease in self.leases],
            list(self.lost),
            [lease.encode() for lease in self.roster],
            [receipt.encode() for receipt in self.receipts],
            [bad.encode() for bad in self.bad_answers],
            [release.encode() for release in self.releases],
        ])  # fmt: skip

    @classmethod
    def decode(cls, data: bytes, *, network: str) -> Case:
        """Raises `ProtocolError` for anything out of bounds."""
        leases, lost, roster, receipts, bad, releases = wire.expect_list(
            list(wire.decode(data, size_max=limits.REPAIR_CASE_BYTES_MAX)), count=6
        )
        roster_max = limits.ROSTER_LEASES_PER_SHARD_MAX * limits.TOTAL_SHARDS_MAX
        case = cls(
            tuple(Lease.decode(each, network=network) for each in _bytes(leases, limits.TOTAL_SHARDS_MAX)),
            tuple(LeaseId(each) for each in _bytes(lost, limits.TOTAL_SHARDS_MAX)),
            tuple(Lease.decode(each, network=network) for each in _bytes(roster, roster_max)),
            tuple(
                AuditReceipt.decode(each, network=network)
                for each in _bytes(receipts, limits.REPAIR_RECEIPTS_MAX)
            ),
            tuple(
                BadAnswer.decode(each, network=network) for each in _bytes(bad, limits.REPAIR_BAD_ANSWERS_MAX)
            ),
            tuple(
                Release.decode(each, network=network) for each in _bytes(releases, limits.TOTAL_SHARDS_MAX)
            ),
        )
        if not case.leases or len(case.lost) != len(case.leases):
            raise ProtocolError("a case names leases, and the lost lease of each")
        return case


def unpack_records(body: bytes, *, count_max: int) -> tuple[bytes, ...]:
    """The records of a body. Raises `ProtocolError`."""
    return tagged.unpack_records(body, size_max=limits.REPAIR_CASE_BYTES_MAX, count_max=count_max)


def _bytes(value: Value, count_max: int) -> tuple[bytes, ...]:
    return tuple(wire.expect_bytes(item) for item in wire.expect_list(value, count_max=count_max))
