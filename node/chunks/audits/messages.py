"""The messages of `/cairn/audits/1`: a table from tags to fields, each with its bound. Layer 2, pure.

One audit is one stream; the auditor opens it:

| message | then | reply | then |
|---|---|---|---|
| Ask: these leases, this round | | Ready: what may be asked of them | |
| Rosters: for each segment that Ready marks | a body: the auditor's leases | Body | the donor's |
| Challenge | | Answer | a body: the samples |
| Receipt: signed under what was shown | | none | |

Beside it, on a stream each or behind an audit:

| message | then | reply | then |
|---|---|---|---|
| Tell: receipts about some segments | a body: the receipts | Done | |
| TellBad: a bad answer | a body: the proof | Done | |
| Collect: what is known of these segments (after an owner's Ask) | | Body | receipts |

What both ends know is not sent: an answer is a signature under what the auditor makes of the samples, a
receipt one under what the donor answered. Declining is an error frame with one of the codes below.
Invariant: every field is bounded before anything is allocated for it. Source: credit.md, "Audits".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from node import limits, tagged, wire
from node.chunks.audit import Sample
from node.crypto.hashing import blake3_256
from node.crypto.signing import SIGNATURE_BYTES
from node.errors import ProtocolError
from node.records.lease import LEASE_ID_BYTES, Lease
from node.records.receipt import AUDIT_NONCE_BYTES, Outcome
from node.tagged import Table, array, exactly, integer, up_to
from node.units import LeaseId, PeerId, SegmentId
from node.wire import Value

PROTOCOL: Final = "/cairn/audits/1"
ASK_CONTEXT: Final = "audit-ask"
"""What an owner's signature under an Ask is made for."""
DIGEST_BYTES: Final = 8

REFUSED_DISK: Final = "disk"
"""The donor can't read what it keeps, now: says nothing of the bytes."""
REFUSED_BUSY: Final = "busy"
REFUSED_INVALID: Final = "invalid"

HELD, NOT_HELD, NOT_YOURS = 0, 1, 2
"""What Ready says of a lease: kept here, not kept here, not this auditor's turn by the donor's roster."""
OTHER_ROSTER: Final = 0x80
"""Added to that where the donor knows other leases of the segment than the auditor."""


@dataclass(frozen=True, slots=True)
class Ask:
    """May these leases (ascending ids, joined) be sampled in this round?

    `digests` has 8 bytes a lease: that of its segment's roster. An owner, whose node is no holder, shows its
    key and signs; a co-holder leaves both empty.
    """

    round_number: int
    leases: bytes
    digests: bytes
    owner_key: bytes = b""
    signature: bytes = b""

    def signed_bytes(self, network: str, auditor: PeerId, donor: PeerId) -> bytes:
        """What an owner signs: nobody can show it to another donor, or on another stream."""
        return wire.encode([network, auditor, donor, self.round_number, self.leases])

    def lease_ids(self) -> tuple[LeaseId, ...]:
        """The leases."""
        return _lease_ids(self.leases)


@dataclass(frozen=True, slots=True)
class Ready:
    """A byte for each lease asked for."""

    states: bytes


@dataclass(frozen=True, slots=True)
class Rosters:
    """The auditor's leases of a segment, as the body."""

    segment_id: SegmentId
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """Sample the leases that are held, in the order asked."""

    nonce: bytes
    sample_count: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The signature of the donor's `AuditAnswer`; the samples follow as a body."""

    signature: bytes
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """An `AuditReceipt` of this challenge without what the donor knows; no leases mean all of them."""

    leases: bytes
    asked_count: int
    passed_count: int
    failed_count: int
    time_s: int
    outcome: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Receipts about leases of these segments, as the body."""

    segment_ids: tuple[SegmentId, ...]
    body_bytes: int


@dataclass(frozen=True, slots=True)
class TellBad:
    """A bad answer, as the body."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Collect:
    """Receipts about these segments since then, that the donor got or that found something."""

    segment_ids: tuple[SegmentId, ...]
    since_s: int


@dataclass(frozen=True, slots=True)
class Body:
    """A reply whose content follows as a body."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """How many of what was told were news."""

    count: int


Message = Ask | Ready | Rosters | Challenge | Answer | Receipt | Tell | TellBad | Collect | Body | Done


def _leases(value: Value) -> object:
    data = wire.expect_bytes(value, size_max=limits.AUDIT_SAMPLES_MAX * LEASE_ID_BYTES)
    ids = _lease_ids(data)
    if len(data) % LEASE_ID_BYTES or list(ids) != sorted(set(ids)):
        raise ProtocolError("leases are named once each, in ascending order")
    return data


_COUNT = integer(0, limits.AUDIT_SAMPLES_MAX)
_TIME = integer(0, limits.RECORD_TIME_S_MAX)
_SEGMENTS = array(exactly(32), high=limits.AUDIT_TELL_SEGMENTS_MAX)
TABLE: Final = Table[Message](
    {
        "ask": (
            Ask,
            (
                _TIME,
                _leases,
                up_to(limits.AUDIT_SAMPLES_MAX * DIGEST_BYTES),
                exactly(0, 32),
                exactly(0, SIGNATURE_BYTES),
            ),
        ),
        "ready": (Ready, (up_to(limits.AUDIT_SAMPLES_MAX),)),
        "roster": (Rosters, (exactly(32), integer(0, limits.LEASES_BODY_BYTES_MAX))),
        "challenge": (Challenge, (exactly(AUDIT_NONCE_BYTES), integer(1, limits.AUDIT_SAMPLES_MAX))),
        "answer": (Answer, (exactly(SIGNATURE_BYTES), integer(0, limits.AUDIT_ANSWER_BODY_BYTES_MAX))),
        "receipt": (
            Receipt,
            (
                _leases,
                _COUNT,
                _COUNT,
                _COUNT,
                _TIME,
                integer(min(Outcome), max(Outcome)),
                exactly(SIGNATURE_BYTES),
            ),
        ),
        "tell": (Tell, (_SEGMENTS, integer(0, limits.AUDIT_TELL_BYTES_MAX))),
        "bad": (TellBad, (integer(0, limits.BAD_ANSWER_BYTES_MAX),)),
        "collect": (Collect, (_SEGMENTS, _TIME)),
        "body": (Body, (integer(0, limits.LEASES_BODY_BYTES_MAX),)),
        "done": (Done, (integer(0, 2**16),)),
    }
)

encode = TABLE.encode


def decode(values: Sequence[Value]) -> Message:
    """The message in an array that was received. Raises `ProtocolError` for a wrong tag, count or field."""
    message = TABLE.decode(values)
    if isinstance(message, Ask):
        _check_ask(message)
    return message


def _check_ask(ask: Ask) -> None:
    count = len(ask.leases) // LEASE_ID_BYTES
    if not count or len(ask.digests) != count * DIGEST_BYTES or bool(ask.owner_key) != bool(ask.signature):
        raise ProtocolError("an ask names leases, with a digest for each, and a key only with its signature")


def roster_digest(leases: Iterable[Lease]) -> bytes:
    """Tells two rosters apart."""
    return blake3_256(b"".join(sorted({lease.lease_id for lease in leases})))[:DIGEST_BYTES]


def pack_samples(samples: Sequence[Sample]) -> bytes:
    """The body of an answer."""
    return tagged.pack_records(sample.encode() for sample in samples)


def unpack_samples(body: bytes) -> list[Sample]:
    """The samples of a body. Raises `ProtocolError`."""
    items = tagged.unpack_records(
        body, size_max=limits.AUDIT_ANSWER_BODY_BYTES_MAX, count_max=limits.AUDIT_SAMPLES_MAX
    )
    return [Sample.decode(item) for item in items]


def pack_records(records: Iterable[bytes], *, size_max: int) -> bytes:
    """As many records, in order, as fit into a body."""
    packed: list[bytes] = []
    left = size_max - 8
    for record in records:
        left -= len(record) + 8
        if left < 0 or len(packed) == limits.WIRE_ARRAY_ITEMS_MAX:
            break
        packed.append(record)
    return tagged.pack_records(packed)


def unpack_records(body: bytes, *, size_max: int) -> tuple[bytes, ...]:
    """The records of a body. Raises `ProtocolError`."""
    return tagged.unpack_records(body, size_max=size_max)


def _lease_ids(data: bytes) -> tuple[LeaseId, ...]:
    return tuple(
        LeaseId(data[start : start + LEASE_ID_BYTES]) for start in range(0, len(data), LEASE_ID_BYTES)
    )
