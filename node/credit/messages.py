"""The messages of `/cairn/credit/1`: a table from tags to fields, each with its bound. Layer 2, pure.

A stream is one exchange between the accounts of its two ends, driven by its opener:

| request | then, from the opener | reply | then, from the other |
|---|---|---|---|
| Hello | | Hello | |
| Ask | | Answers | |
| Want | | Body | entries |
| Give | a body: entries | Done | |
| Settled | | Done | |
| Propose | | Signed or Declined | |
| FindCycle | | Cycles | |
| SignClear | | Signed or Declined | |
| AbortClear | | Done | |

A body is raw frames with header [offset], in order, `body_bytes` in all; of entries, an array of [tag,
record]. Declining an exchange is an error frame (node/framing.py). Invariant: every field is bounded before
anything is allocated for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node import limits, wire
from node.credit.reconcile import ID_BYTES, Answer, Range
from node.errors import ProtocolError
from node.tagged import Table, array, exactly, integer, text, up_to
from node.wire import Value

PROTOCOL: Final = "/cairn/credit/1"
REFUSED_DEVICE: Final = "device"
REFUSED_INVALID: Final = "invalid"
REFUSED_FULL: Final = "full"

EntryData = tuple[str, bytes]
"""The tag of an entry and its record, as sent."""


@dataclass(frozen=True, slots=True)
class Hello:
    """This peer's device certificate; the opener speaks first."""

    cert: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """What have you in these ranges of our pair's set?"""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """One for each range, in order."""

    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """Send me these entries."""

    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Give:
    """Entries that you lack follow."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Settled:
    """You have now all that I have: this is the whole of my set."""

    whole: Range


@dataclass(frozen=True, slots=True)
class Propose:
    """A pair state with my signature, for yours."""

    record: bytes


@dataclass(frozen=True, slots=True)
class FindCycle:
    """`asker` wants to store `amount` micro-credits more: who that you owe may owe it?

    `owes_me` is an encoded filter of the asker's debtors. Where the asker is not the account at this end of
    the stream, that account is the donor, and wants to know of cycles of four.
    """

    asker: bytes
    amount: int
    owes_me: bytes


@dataclass(frozen=True, slots=True)
class Cycles:
    """Accounts in order, the asker first, with the most that each cycle may clear; and where they are."""

    cycles: tuple[tuple[tuple[bytes, ...], int, tuple[bytes, ...]], ...]
    """(accounts, amount, a peer id each)."""


@dataclass(frozen=True, slots=True)
class SignClear:
    """A clear with the signatures that there are so far, for yours; complete, it is for your book."""

    record: bytes


@dataclass(frozen=True, slots=True)
class AbortClear:
    """The signed abort of a clear that its initiator has given up."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """The record with one signature more."""

    record: bytes


@dataclass(frozen=True, slots=True)
class Declined:
    """No signature, and why, in words; an abort, where that was said of a clear."""

    reason: str
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class Body:
    """Entries follow as a body."""

    body_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """Done; `count` says how many entries were news."""

    count: int


Message = (
    Hello | Ask | Answers | Want | Give | Settled | Propose | FindCycle | Cycles | SignClear | AbortClear
    | Signed | Declined | Body | Done
)  # fmt: skip

_MEMBERS = array(exactly(32), high=limits.CLEAR_MEMBERS_MAX)
_PLACES = array(up_to(64), high=limits.CLEAR_MEMBERS_MAX)


def _cycle(value: Value) -> object:
    accounts, amount, peers = wire.expect_list(value, count=3)
    members = _MEMBERS(accounts)
    places = _PLACES(peers)
    if len(members) != len(places):  # type: ignore[arg-type]
        raise ProtocolError("a peer for each account of a cycle")
    return members, wire.expect_int(amount, low=1, high=limits.CREDIT_MICRO_MAX), places


_BODY = integer(0, limits.CREDIT_BODY_BYTES_MAX)
_TEXT = text(4 * limits.ERROR_TEXT_CHARACTERS_MAX)
TABLE: Final = Table[Message](
    {
        "hello": (Hello, (up_to(limits.DEVICE_CERT_BYTES_MAX),)),
        "ask": (Ask, (array(Range.of_value, high=limits.CREDIT_RANGES_MAX),)),
        "answers": (Answers, (array(Answer.of_value, high=limits.CREDIT_RANGES_MAX),)),
        "want": (Want, (array(exactly(ID_BYTES), high=limits.CREDIT_ENTRIES_PER_MESSAGE_MAX),)),
        "give": (Give, (_BODY,)),
        "settled": (Settled, (Range.of_value,)),
        "propose": (Propose, (up_to(limits.PAIR_STATE_BYTES_MAX),)),
        "cycle?": (
            FindCycle,
            (exactly(32), integer(0, limits.CREDIT_MICRO_MAX), up_to(limits.BLOOM_FILTER_BYTES_MAX + 64)),
        ),
        "cycles": (Cycles, (array(_cycle, high=limits.CLEAR_CANDIDATES_MAX),)),
        "clear": (SignClear, (up_to(limits.CLEAR_BYTES_MAX),)),
        "abort": (AbortClear, (up_to(limits.ABORT_BYTES_MAX),)),
        "signed": (Signed, (up_to(limits.CLEAR_BYTES_MAX),)),
        "declined": (Declined, (_TEXT, up_to(limits.ABORT_BYTES_MAX))),
        "body": (Body, (_BODY,)),
        "done": (Done, (integer(0, 2**32),)),
    }
)

encode, decode = TABLE.encode, TABLE.decode


def pack_entries(entries: Sequence[EntryData]) -> bytes:
    """A body of entries."""
    return wire.encode([list(entry) for entry in entries])


def unpack_entries(body: bytes) -> list[EntryData]:
    """The entries of a body. Raises `ProtocolError`."""
    items = wire.decode(body, size_max=limits.CREDIT_BODY_BYTES_MAX)
    wire.expect_list(items, count_max=limits.CREDIT_ENTRIES_PER_MESSAGE_MAX)
    found = []
    for item in items:
        tag, data = wire.expect_list(item, count=2)
        found.append(
            (
                wire.expect_str(tag, bytes_max=32),
                wire.expect_bytes(data, size_max=limits.CREDIT_ENTRY_BYTES_MAX),
            )
        )
    return found
