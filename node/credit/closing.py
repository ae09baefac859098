"""Closing the periods of a pair: which records go, what they came to, and what may be signed. Layer 2, pure.

Invariants: which records go depends on the set of them alone, so two equal sets keep equal rests; a record
goes only once no record that stays needs it, so the rest and the fold come to what all of them came to,
whatever is added later; nobody signs a fold that gives it less, or the other one more, than its own records
do. Two honest nodes with the same set differ in one thing: whose turn it was to audit. What only one of them
takes for vouched may go, in favour of the debtor. Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from node import limits
from node.credit.fold import Amounts, Fold, FoldedSide
from node.credit.pair_book import PairBook
from node.credit.pair_records import Pair, PairRecord
from node.credit.units import period_of
from node.credit.vesting import LATE_PASS_DAYS
from node.errors import CreditError
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId

CLOSE_AFTER_PERIODS = 2
"""A period is closed when a whole one lies between: evidence had that long to arrive."""


@dataclass(frozen=True, slots=True)
class Split:
    """A pair's records, as closing a period parts them."""

    ended: tuple[PairRecord, ...]
    rest: tuple[PairRecord, ...]


def last_closed(day: int) -> int:
    """The last period that may be closed on a day."""
    return period_of(day) - CLOSE_AFTER_PERIODS


def is_over(record: PairRecord, fold: Fold | None) -> bool:
    """Whether a record belongs to what is folded: it comes too late, or once more."""
    if fold is None:
        return False
    if isinstance(record, Clear):
        return record.record_id() in fold.clears  # one that completes late counts, whenever that is
    return is_too_old(record, fold.period)


def is_too_old(record: PairRecord, closed: int) -> bool:
    """Whether a record belongs to the closed periods by its dates."""
    match record:
        case Lease():
            return period_of(record.end_day + LATE_PASS_DAYS) <= closed
        case ServeReceipt():
            return period_of(record.day) <= closed
        case _:
            return False


def split(
    records: Iterable[PairRecord], gifts: Collection[LeaseId], period: int, *, before: Fold | None = None
) -> Split:
    """What goes when `period` is closed, and what stays; `before` is the fold that is there already.

    Leases go once nothing more of them can vest, with all that is said of them alone; receipts for what was
    served go with their day; complete clears go with the period in which they were to end, the oldest first,
    as far as the fold has room for their names. States stay: forks are found among them. A gift stays while a
    receipt that stays is for reading it.
    """
    every = tuple(records)
    ended_clears = _ended_clears(every, period, before)
    read = {r.lease_id for r in every if isinstance(r, ServeReceipt) and not is_too_old(r, period)}
    gone: set[tuple[LeaseId, PeerId]] = set()
    staying: set[tuple[LeaseId, PeerId]] = set()
    ended_leases: set[bytes] = set()
    for record in every:
        if isinstance(record, Lease):
            is_read = record.lease_id in gifts and record.lease_id in read
            if is_too_old(record, period) and not is_read:
                gone.add((record.lease_id, record.holder))
                ended_leases.add(record.record_id())
            else:
                staying.add((record.lease_id, record.holder))

    def goes(record: PairRecord) -> bool:
        match record:
            case Lease():
                return record.record_id() in ended_leases
            case Charge():
                return record.lease_record in ended_leases
            case Release():
                keys = {(record.lease_id, record.holder)}
            case AuditReceipt():
                keys = {(lease_id, record.donor) for lease_id in record.lease_ids()}
            case ServeReceipt():
                return is_too_old(record, period)
            case Clear():
                return record.record_id() in ended_clears
            case _:
                return False
        return bool(keys & gone) and not keys & staying

    ended = tuple(record for record in every if goes(record))
    dropped = set(ended)
    return Split(ended, tuple(record for record in every if record not in dropped))


def stood_for(records: Iterable[PairRecord], gifts: Collection[LeaseId], fold: Fold) -> list[PairRecord]:
    """Which of a pair's records a fold stands for: of clears those that it names, since others may have
    completed after it was signed."""
    every = tuple(records)
    ended = split(every, gifts, fold.period).ended
    return [
        *(record for record in ended if not isinstance(record, Clear)),
        *(record for record in every if isinstance(record, Clear) and record.record_id() in fold.clears),
    ]


def _ended_clears(records: Iterable[PairRecord], period: int, before: Fold | None) -> set[bytes]:
    ended = sorted(
        (record.end_period, record.record_id())
        for record in records
        if isinstance(record, Clear) and record.end_period <= period
    )
    room = limits.FOLD_CLEARS_MAX - (0 if before is None else len(before.clears))
    return {name for _, name in ended[: max(0, room)]}


def fold_of(
    pair: Pair,
    ended: Iterable[PairRecord],
    before: Fold | None,
    *,
    network: str,
    period: int,
    last_state: bytes,
    agreed: tuple[Amounts, Amounts],
    today: int,
) -> Fold:
    """What the records that go came to, with what had gone `before`.

    `agreed` is the most that both signed, by period, for the low and the high account.
    """
    book = PairBook(pair, before)
    clears = set() if before is None else set(before.clears)
    for record in ended:
        book.add(record)
        if isinstance(record, Clear):
            clears.add(record.record_id())
    low, high = (
        _with_agreed(side, totals, period)
        for side, totals in zip(book.folded(today=today), agreed, strict=True)
    )
    previous = b"" if before is None else before.fold_id()
    named = tuple(sorted(clears))
    return Fold(network, pair.low, pair.high, period, previous, last_state, low, high, named)


def _with_agreed(side: FoldedSide, totals: Amounts, last: int) -> FoldedSide:
    most = dict(side.agreed)
    for period, total in totals:
        if period <= last and total:
            most[period] = max(most.get(period, 0), total)
    return replace(side, agreed=tuple(sorted(most.items())))


def check_fold(proposed: Fold, own: Fold, me: AccountId) -> None:
    """Raises `CreditError` for a fold that this account should not sign.

    `own` is what this account's own records come to, of the same period.
    """
    if proposed == own:
        return
    stripped = {replace(fold, low_side=FoldedSide(), high_side=FoldedSide()) for fold in (proposed, own)}
    if len(stripped) > 1:
        raise CreditError("a fold that does not follow from the records of both")
    other = own.high if me == own.low else own.low
    theirs, theirs_here = proposed.side(other), own.side(other)
    mine, mine_here = proposed.side(me), own.side(me)
    for said, here in ((theirs, theirs_here), (mine, mine_here)):
        if (said.served, said.gifts, said.cleared) != (here.served, here.gifts, here.cleared):
            raise CreditError("a fold with other readings, gifts or clears than the records have")
    if not _is_no_more(theirs, theirs_here, slack=0):
        raise CreditError("the other side claims more for closed periods than the records have")
    if not _is_no_more(mine_here, mine, slack=sum(micros for _, micros in mine_here.vouched)):
        raise CreditError("the other side leaves out some of what it owes for closed periods")


def _is_no_more(less: FoldedSide, more: FoldedSide, *, slack: int) -> bool:
    """Whether one side of a fold claims nowhere more, and nothing later, than another, but for `slack`."""
    sure_less, sure_more = _sure(less), _sure(more)
    if any(micros > sure_more.get(period, 0) for period, micros in sure_less.items()):
        return False
    later_less = later_more = 0
    less_days, more_days = dict(less.days), dict(more.days)
    for day in sorted(less_days.keys() | more_days.keys(), reverse=True):
        later_less += less_days.get(day, 0)
        later_more += more_days.get(day, 0)
        if later_less > later_more + slack:
            return False
    return True


def _sure(side: FoldedSide) -> dict[int, int]:
    """By period: what was shown, or signed, without the word of co-holders alone."""
    sure = dict(side.evidence)
    for period, micros in side.vouched:
        sure[period] = sure.get(period, 0) - micros
    for period, total in side.agreed:
        sure[period] = max(sure.get(period, 0), total)
    return sure
