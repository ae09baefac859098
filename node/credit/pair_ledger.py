"""What two accounts owe each other, as a function of a set of records. Layer 2, pure.

Invariants: a balance depends on the set of verified records, the day and the pair's terms, on nothing else,
so merging is set union, in any order and any number of times; more records never lower what either side has
given, but for what only co-holders vouched for and the owner then found missing; what a lease vests never
exceeds its value; what one side is owed the other one owes.

What is kept vests by audits (`vesting.py`); debts cancel and lapse (`lapsing.py`). What both sides signed as
a pair state counts where it is more than the evidence at hand. The records of closed periods can go: what
they came to is a fold (`fold.py`), that both sides signed. `PairBook` computes the same step by step.
Source: credit.md, "Earning", "Spending".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from node.credit.fold import Fold, FoldedSide
from node.credit.lapsing import collect
from node.credit.pair_records import Pair, Records
from node.credit.units import PERIOD_DAYS, lease_micros, lease_value, period_of, served_micros
from node.credit.vesting import LATE_PASS_DAYS, vestings
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId


@dataclass(frozen=True, slots=True)
class Given:
    """One side's part of a balance, in micro-credits."""

    kept: int = 0
    served: int = 0
    agreed: int = 0
    """What both signed beyond the evidence at hand."""
    gifts: int = 0
    """The part given under a friend line."""
    written_off: int = 0
    """The part that lapsed uncollected."""
    cleared: int = 0
    """The part that complete clears collected."""
    vouched: int = 0
    """The part of the claim that rests on co-holders alone: no owner's pass, no state that both signed."""
    by_period: tuple[tuple[int, int], ...] = ()
    """Totals of each period, gifts included, what is only vouched for not: what a pair state says."""

    @property
    def total(self) -> int:
        """All that was given."""
        return self.kept + self.served + self.agreed

    @property
    def claim(self) -> int:
        """What it entitles to, before the other side's part."""
        return self.total - self.gifts - self.written_off - self.cleared


@dataclass(frozen=True, slots=True)
class Balance:
    """What stands between two accounts."""

    pair: Pair
    low: Given
    high: Given

    def net(self, account: AccountId) -> int:
        """Micro-credits that `account` is owed; negative if it owes. Raises `ValueError` for a stranger."""
        low_net = self.low.claim - self.high.claim
        if account == self.pair.low:
            return low_net
        if account == self.pair.high:
            return -low_net
        raise ValueError("not an account of this pair")

    def confirmed(self, account: AccountId) -> int:
        """`net`, without what only co-holders say that `account` has given: what it may spend.

        Raises `ValueError` for a stranger.
        """
        return self.net(account) - self.given_by(account).vouched

    def given_by(self, account: AccountId) -> Given:
        """That account's part. Raises `ValueError` for a stranger."""
        if account not in (self.pair.low, self.pair.high):
            raise ValueError("not an account of this pair")
        return self.low if account == self.pair.low else self.high


@dataclass(slots=True)
class _Claims:
    """One direction while it is added up."""

    kept: int = 0
    served: int = 0
    gifts: int = 0
    cleared: int = 0
    evidence: Counter[int] = field(default_factory=Counter)
    """Totals by period."""
    vouched: Counter[int] = field(default_factory=Counter)
    """The part of `evidence` that is owed for and rests on co-holders alone."""
    dated: list[tuple[int, int]] = field(default_factory=list)
    """(day it vested, micro-credits) of what is owed for."""

    @classmethod
    def of(cls, folded: FoldedSide) -> _Claims:
        """With what closed periods came to."""
        return cls(
            kept=folded.kept,
            served=folded.served,
            gifts=folded.gifts,
            cleared=folded.cleared,
            evidence=Counter(dict(folded.evidence)),
            vouched=Counter(dict(folded.vouched)),
            dated=list(folded.days),
        )

    def add(self, period: int, vest_day: int, micros: int, *, is_gift: bool) -> None:
        self.evidence[period] += micros
        if is_gift:
            self.gifts += micros
        elif micros:
            self.dated.append((vest_day, micros))


def balance(pair: Pair, records: Records, *, today: int, fold: Fold | None = None) -> Balance:
    """The balance at the beginning of `today` plus one; receipts dated later than `today` wait.

    `fold` stands for the records of closed periods.
    """
    folded = {
        account: FoldedSide() if fold is None else fold.side(account) for account in (pair.low, pair.high)
    }
    claims = {account: _Claims.of(side) for account, side in folded.items()}
    _add_kept(pair, records, claims, today)
    _add_served(pair, records, claims, today)
    agreed = _add_agreed(pair, records, claims, today, folded)
    _add_clears(pair, records, claims, () if fold is None else fold.clears)
    knows = {
        creditor: bool(
            claims[debtor].evidence.total() or claims[pair.low].cleared or claims[pair.high].cleared
        )
        for creditor, debtor in ((pair.low, pair.high), (pair.high, pair.low))
    }
    written_off = collect(claims[pair.low], claims[pair.high], knows[pair.low], knows[pair.high], today)
    low, high = (
        Given(
            kept=side.kept,
            served=side.served,
            agreed=agreed[account],
            gifts=side.gifts,
            written_off=lapsed,
            cleared=side.cleared,
            vouched=side.vouched.total(),
            by_period=tuple(sorted((side.evidence - side.vouched).items())),
        )
        for (account, side), lapsed in zip(claims.items(), written_off, strict=True)
    )
    return Balance(pair, low, high)


def unvested(pair: Pair, records: Records, debtor: AccountId, *, today: int) -> int:
    """Micro-credits of leases that `debtor` pays for and that may still vest; gifts are not among them.

    A released lease is settled, and one that ended `LATE_PASS_DAYS` ago. Whose release it may be was asked
    when it came: the lease's signer's, or, where the holder says so, that of the file's owner.
    """
    open_micros = 0
    for lease, manifest_bytes, receipts in _unreleased(pair, records, debtor):
        if lease.end_day + LATE_PASS_DAYS > today and lease.lease_id not in pair.gifts:
            vested = len(vestings(lease, debtor, receipts, pair, today))
            open_micros += lease_value(lease, manifest_bytes) - lease_micros(lease, manifest_bytes, vested)
    return open_micros


def gifted(pair: Pair, records: Records, friend: AccountId, *, today: int) -> int:
    """Micro-credits of the leases under the other's line that `friend` has and that have not ended."""
    return sum(
        lease_value(lease, manifest_bytes)
        for lease, manifest_bytes, _ in _unreleased(pair, records, friend)
        if lease.end_day > today and lease.lease_id in pair.gifts
    )


def _unreleased(
    pair: Pair, records: Records, debtor: AccountId
) -> Iterator[tuple[Lease, int, list[AuditReceipt]]]:
    creditor = pair.high if debtor == pair.low else pair.low
    released = {(record.lease_id, record.holder) for record in records.items if isinstance(record, Release)}
    for lease, manifest_bytes, receipts in _charged(pair, records, debtor, creditor):
        if (lease.lease_id, lease.holder) not in released:
            yield lease, manifest_bytes, receipts


def _charged(
    pair: Pair, records: Records, payer: AccountId, creditor: AccountId
) -> Iterator[tuple[Lease, int, list[AuditReceipt]]]:
    """Leases that `payer` pays to `creditor`, with what their manifests are billed and their receipts."""
    peers = pair.low_peers if creditor == pair.low else pair.high_peers
    paid = {
        record.lease_record
        for record in records.items
        if isinstance(record, Charge) and record.account == payer
    }
    receipts: dict[tuple[LeaseId, PeerId], list[AuditReceipt]] = {}
    for record in records.items:
        if isinstance(record, AuditReceipt) and record.donor in peers:
            for lease_id in record.lease_ids():
                receipts.setdefault((lease_id, record.donor), []).append(record)
    leases = {
        record.record_id(): record
        for record in records.items
        if isinstance(record, Lease) and record.holder in peers
    }
    for record_id, lease in leases.items():
        if record_id in paid or payer_by_grant(lease) == payer:
            manifest_bytes = pair.manifest_bytes.get(lease.segment_id, 0)
            yield lease, manifest_bytes, receipts.get((lease.lease_id, lease.holder), [])


def payer_by_grant(lease: Lease) -> AccountId | None:
    """The account that signed the repair grant of a lease: it pays without a charge."""
    grant = lease.grant
    return None if grant is None else grant.account


def _add_kept(pair: Pair, records: Records, claims: dict[AccountId, _Claims], today: int) -> None:
    for creditor, payer in ((pair.low, pair.high), (pair.high, pair.low)):
        side = claims[creditor]
        for lease, manifest_bytes, receipts in _charged(pair, records, payer, creditor):
            is_gift = lease.lease_id in pair.gifts
            for kept, (vest_day, is_vouched) in enumerate(vestings(lease, payer, receipts, pair, today)):
                micros = lease_micros(lease, manifest_bytes, kept + 1) - lease_micros(
                    lease, manifest_bytes, kept
                )
                side.kept += micros
                period = period_of(lease.start_day + kept)
                side.add(period, vest_day, micros, is_gift=is_gift)
                if is_vouched and not is_gift:
                    side.vouched[period] += micros


def _add_served(pair: Pair, records: Records, claims: dict[AccountId, _Claims], today: int) -> None:
    most: dict[tuple[bytes, PeerId, AccountId, LeaseId], ServeReceipt] = {}
    for record in records.items:
        if isinstance(record, ServeReceipt) and record.day <= today:
            key = (record.session, record.donor, record.reader, record.lease_id)
            if key not in most or record.byte_count > most[key].byte_count:
                most[key] = record
    for creditor, reader, peers in (
        (pair.low, pair.high, pair.low_peers),
        (pair.high, pair.low, pair.high_peers),
    ):
        for receipt in most.values():
            if receipt.donor in peers and receipt.reader == reader:
                micros = served_micros(receipt.byte_count, pair.serve_micros_per_mib)
                claims[creditor].served += micros
                is_gift = receipt.lease_id in pair.gifts
                claims[creditor].add(period_of(receipt.day), receipt.day, micros, is_gift=is_gift)


def _add_agreed(
    pair: Pair,
    records: Records,
    claims: dict[AccountId, _Claims],
    today: int,
    folded: Mapping[AccountId, FoldedSide],
) -> dict[AccountId, int]:
    """Raise each period to what both have signed; how much that added, by account."""
    signed = [(account, period, total) for account, side in folded.items() for period, total in side.agreed]
    for record in records.items:
        if isinstance(record, PairState) and (record.low, record.high) == (pair.low, pair.high):
            signed.append((pair.low, record.period, record.low_to_high))
            signed.append((pair.high, record.period, record.high_to_low))
    added = {pair.low: 0, pair.high: 0}
    for account, period, total in signed:
        if period > period_of(today):
            continue
        side = claims[account]
        # What both signed bears out that much of the period, co-holders' word included.
        sure = side.evidence[period] - side.vouched[period]
        side.vouched[period] -= min(side.vouched[period], max(0, total - sure))
        missing = total - side.evidence[period]
        if missing > 0:
            added[account] += missing
            side.add(period, (period + 1) * PERIOD_DAYS - 1, missing, is_gift=False)
    return added


def _add_clears(
    pair: Pair, records: Records, claims: dict[AccountId, _Claims], folded: Collection[bytes]
) -> None:
    amounts = {
        (record.record_id(), debtor, creditor): record.amount
        for record in records.items
        if isinstance(record, Clear) and record.record_id() not in folded
        for debtor, creditor in record.debts()
    }
    for (_, debtor, creditor), amount in amounts.items():
        if {debtor, creditor} == {pair.low, pair.high}:
            claims[creditor].cleared += amount
