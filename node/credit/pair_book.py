"""One pair's balance, kept up to date as records come in. Layer 2, pure.

Invariant: `balance` and `unvested` equal those of `node.credit.pair_ledger` over the same records and terms,
whatever the order and repetition; a record costs what it changes, not what is there. Source: credit.md,
"Records", "Earning".
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from node.credit.fold import Fold, FoldedSide, amounts_of
from node.credit.lapsing import KNOWN_LAPSE_DAYS, NEWCOMER_LAPSE_DAYS, collect
from node.credit.pair_ledger import Balance, Given, payer_by_grant
from node.credit.pair_records import Pair, PairRecord
from node.credit.units import PERIOD_DAYS, lease_micros, lease_value, period_of, served_micros
from node.credit.vesting import LATE_PASS_DAYS, vestings
from node.records.charge import Charge
from node.records.clear import Clear
from node.records.lease import Lease, Release
from node.records.pair_state import PairState
from node.records.receipt import AuditReceipt, ServeReceipt
from node.units import AccountId, LeaseId, PeerId

_Key = tuple[LeaseId, PeerId]


@dataclass(slots=True)
class _Side:
    """What one account gave."""

    kept: int = 0
    served: int = 0
    gifts: int = 0
    cleared: int = 0
    evidence: Counter[int] = field(default_factory=Counter)
    vouched: Counter[int] = field(default_factory=Counter)
    by_day: Counter[int] = field(default_factory=Counter)
    agreed: dict[int, int] = field(default_factory=dict)
    """By period: the most that both have signed."""

    @classmethod
    def of(cls, folded: FoldedSide) -> _Side:
        """With what closed periods came to."""
        return cls(
            kept=folded.kept,
            served=folded.served,
            gifts=folded.gifts,
            cleared=folded.cleared,
            evidence=Counter(dict(folded.evidence)),
            vouched=Counter(dict(folded.vouched)),
            by_day=Counter(dict(folded.days)),
            agreed=dict(folded.agreed),
        )


@dataclass(frozen=True, slots=True)
class _Dated:
    cleared: int
    dated: list[tuple[int, int]]


@dataclass(slots=True)
class _Kept:
    """A lease that somebody pays for, and what it has come to so far."""

    lease: Lease
    payer: AccountId
    manifest_bytes: int
    vested: list[tuple[int, bool]] = field(default_factory=list)
    """The day on which each of its first days vested, and whether by co-holders alone."""
    is_released: bool = False


class PairBook:
    """All records of one pair. `terms` are read at each use: what it maps and names may grow, with `add`."""

    def __init__(self, terms: Pair, fold: Fold | None = None) -> None:
        """`fold` stands for the records of closed periods."""
        self.terms = terms
        self._ids: set[bytes] = set(() if fold is None else fold.clears)
        folded = [FoldedSide() if fold is None else fold.side(each) for each in (terms.low, terms.high)]
        self._sides = {terms.low: _Side.of(folded[0]), terms.high: _Side.of(folded[1])}
        self._leases: dict[bytes, Lease] = {}
        self._payers: dict[bytes, AccountId] = {}
        self._kept: dict[bytes, _Kept] = {}
        self._by_key: dict[_Key, list[bytes]] = {}
        self._receipts: dict[_Key, list[AuditReceipt]] = {}
        self._releases: set[_Key] = set()
        self._served: dict[tuple[bytes, PeerId, AccountId, LeaseId], int] = {}
        self._waiting: list[AuditReceipt | ServeReceipt] = []
        """Dated later than the last day asked for."""
        self._today = 0
        self._gift_ends: dict[bytes, int] = {}
        """Value of the gifts that run, by lease."""
        self._grant_ends: dict[bytes, int] = {}
        """Value of leases under grants that may still vest, by lease."""
        self._unvested: dict[AccountId, int] = {terms.low: 0, terms.high: 0}
        self._open_ends: dict[bytes, int] = {}
        self._days: list[int] = []
        """A heap of days on which time alone may change something."""
        self._known_days: set[int] = set()
        for side in folded:
            for day, _ in side.days:
                self._look_for_lapse(day)
            for period, _ in side.agreed:
                self._look_for_agreed(period)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, record: PairRecord) -> bool:
        """Take in a verified record; whether it is new."""
        record_id = record.record_id()
        if record_id in self._ids:
            return False
        self._ids.add(record_id)
        match record:
            case Lease():
                self._leases[record_id] = record
                payer = payer_by_grant(record)
                if payer is not None and payer in self._sides:
                    self._payers.setdefault(record_id, payer)
                self._by_key.setdefault((record.lease_id, record.holder), []).append(record_id)
                self._pay(record_id)
            case Charge():
                if record.account in self._sides:
                    self._payers.setdefault(record.lease_record, record.account)
                    self._pay(record.lease_record)
            case Release():
                self._release(record)
            case AuditReceipt() | ServeReceipt():
                if record.day > self._today:
                    self._waiting.append(record)
                    self._look_on(record.day)
                else:
                    self._date(record)
            case PairState():
                self._agree(record)
            case Clear():
                self._clear(record)
        return True

    def balance(self, *, today: int) -> Balance:
        """As `pair_ledger.balance`."""
        self._come_to(today)
        low, high = self.terms.low, self.terms.high
        added, dated = {low: 0, high: 0}, {}
        evidence, vouched = {}, {}
        for account, side in self._sides.items():
            by_day, totals, unsure = Counter(side.by_day), Counter(side.evidence), Counter(side.vouched)
            for period, total in side.agreed.items():
                if period > period_of(today):
                    continue
                sure = totals[period] - unsure[period]
                unsure[period] -= min(unsure[period], max(0, total - sure))
                missing = total - totals[period]
                if missing > 0:
                    added[account] += missing
                    by_day[(period + 1) * PERIOD_DAYS - 1] += missing
                    totals[period] += missing
            dated[account] = _Dated(side.cleared, [(day, micros) for day, micros in by_day.items() if micros])
            evidence[account], vouched[account] = totals, unsure
        cleared = self._sides[low].cleared or self._sides[high].cleared
        low_knows, high_knows = (bool(evidence[debtor].total() or cleared) for debtor in (high, low))
        lapsed = collect(dated[low], dated[high], low_knows, high_knows, today)
        given = [
            Given(
                kept=side.kept,
                served=side.served,
                agreed=added[account],
                gifts=side.gifts,
                written_off=written_off,
                cleared=side.cleared,
                vouched=vouched[account].total(),
                by_period=tuple(sorted((evidence[account] - vouched[account]).items())),
            )
            for (account, side), written_off in zip(self._sides.items(), lapsed, strict=True)
        ]
        return Balance(self.terms, given[0], given[1])

    def folded(self, *, today: int) -> tuple[FoldedSide, FoldedSide]:
        """All that it has come to, of the low and of the high account."""
        self._come_to(today)
        low, high = (
            FoldedSide(
                kept=side.kept,
                served=side.served,
                gifts=side.gifts,
                cleared=side.cleared,
                days=amounts_of(side.by_day),
                evidence=amounts_of(side.evidence),
                vouched=amounts_of(side.vouched),
                agreed=amounts_of(side.agreed),
            )
            for side in (self._sides[self.terms.low], self._sides[self.terms.high])
        )
        return low, high

    def unvested(self, debtor: AccountId, *, today: int) -> int:
        """As `pair_ledger.unvested`."""
        self._come_to(today)
        return self._unvested[debtor]

    def gifts_open(self, friend: AccountId, *, today: int) -> int:
        """Micro-credits of running leases that the other one keeps for `friend` as gifts."""
        self._come_to(today)
        return sum(
            micros for record_id, micros in self._gift_ends.items() if self._kept[record_id].payer == friend
        )

    def granted_open(self, payer: AccountId, *, today: int) -> int:
        """Micro-credits of leases under repair grants that `payer` pays for, while they may vest."""
        self._come_to(today)
        return sum(
            micros for record_id, micros in self._grant_ends.items() if self._kept[record_id].payer == payer
        )

    def next_change(self, *, today: int) -> int | None:
        """The next day on which time alone may change something; None if it changes nothing."""
        self._come_to(today)
        while self._days and self._days[0] <= today:
            self._known_days.discard(heapq.heappop(self._days))
        return self._days[0] if self._days else None

    # --- one record at a time -----------------------------------------------------------------------------

    def _come_to(self, today: int) -> None:
        """Let what was dated later count, and what ended be closed."""
        if today < self._today:
            raise ValueError("a pair's book does not go back in time")
        if today == self._today:
            return
        self._today = today
        due = [record for record in self._waiting if record.day <= today]
        if due:
            self._waiting = [record for record in self._waiting if record.day > today]
            for record in due:
                self._date(record)
        ended = [
            record_id
            for record_id in self._open_ends
            if self._leases[record_id].end_day + LATE_PASS_DAYS <= today
        ]
        for record_id in ended:
            self._set_open(record_id, 0)
        for record_id in list(self._grant_ends):
            if self._leases[record_id].end_day + LATE_PASS_DAYS <= today:
                del self._grant_ends[record_id]
        for record_id in [each for each in self._gift_ends if self._leases[each].end_day <= today]:
            del self._gift_ends[record_id]

    def _creditor_of(self, lease: Lease) -> AccountId | None:
        if lease.holder in self.terms.low_peers:
            return self.terms.low
        return self.terms.high if lease.holder in self.terms.high_peers else None

    def _other(self, account: AccountId) -> AccountId:
        return self.terms.high if account == self.terms.low else self.terms.low

    def _pay(self, record_id: bytes) -> None:
        lease, payer = self._leases.get(record_id), self._payers.get(record_id)
        if lease is None or payer is None or record_id in self._kept:
            return
        creditor = self._creditor_of(lease)
        if creditor is None or creditor == payer:
            return
        kept = _Kept(lease, payer, self.terms.manifest_bytes.get(lease.segment_id, 0))
        kept.is_released = (lease.lease_id, lease.holder) in self._releases
        self._kept[record_id] = kept
        self._vest(record_id)

    def _release(self, release: Release) -> None:
        self._releases.add((release.lease_id, release.holder))
        for record_id in self._by_key.get((release.lease_id, release.holder), ()):
            kept = self._kept.get(record_id)
            if kept is not None:
                kept.is_released = True
                self._set_open(record_id, 0)
                self._gift_ends.pop(record_id, None)
                self._grant_ends.pop(record_id, None)

    def _date(self, record: AuditReceipt | ServeReceipt) -> None:
        if isinstance(record, ServeReceipt):
            self._serve(record)
            return
        for lease_id in record.lease_ids():
            key = (lease_id, record.donor)
            self._receipts.setdefault(key, []).append(record)
            for record_id in self._by_key.get(key, ()):
                self._vest(record_id)

    def _vest(self, record_id: bytes) -> None:
        """Count a lease anew, with all receipts for it."""
        kept = self._kept.get(record_id)
        if kept is None:
            return
        lease = kept.lease
        receipts: Iterable[AuditReceipt] = self._receipts.get((lease.lease_id, lease.holder), ())
        vested = vestings(lease, kept.payer, receipts, self.terms, self._today)
        creditor = self._other(kept.payer)
        is_gift = lease.lease_id in self.terms.gifts
        for sign, days in ((-1, kept.vested), (1, vested)):
            for index, (day, is_vouched) in enumerate(days):
                micros = sign * (
                    lease_micros(lease, kept.manifest_bytes, index + 1)
                    - lease_micros(lease, kept.manifest_bytes, index)
                )
                self._sides[creditor].kept += micros
                period = period_of(lease.start_day + index)
                self._owe(creditor, period, day, micros, is_gift=is_gift)
                if is_vouched and not is_gift:
                    self._sides[creditor].vouched[period] += micros
        kept.vested = vested
        is_over = kept.is_released or is_gift or lease.end_day + LATE_PASS_DAYS <= self._today
        left = lease_value(lease, kept.manifest_bytes) - lease_micros(lease, kept.manifest_bytes, len(vested))
        self._set_open(record_id, 0 if is_over else left)
        if lease.is_granted and not is_over:
            self._grant_ends[record_id] = lease_value(lease, kept.manifest_bytes)
            self._look_on(lease.end_day + LATE_PASS_DAYS)
        if is_gift and not kept.is_released and lease.end_day > self._today:
            self._gift_ends[record_id] = lease_value(lease, kept.manifest_bytes)
            self._look_on(lease.end_day)

    def _set_open(self, record_id: bytes, micros: int) -> None:
        payer = self._kept[record_id].payer
        self._unvested[payer] += micros - self._open_ends.pop(record_id, 0)
        if micros:
            self._open_ends[record_id] = micros
            self._look_on(self._leases[record_id].end_day + LATE_PASS_DAYS)

    def _serve(self, receipt: ServeReceipt) -> None:
        donor_is_low = receipt.donor in self.terms.low_peers
        if not donor_is_low and receipt.donor not in self.terms.high_peers:
            return
        creditor = self.terms.low if donor_is_low else self.terms.high
        if receipt.reader != self._other(creditor):
            return
        key = (receipt.session, receipt.donor, receipt.reader, receipt.lease_id)
        before = self._served.get(key, 0)
        if receipt.byte_count <= before:
            return
        self._served[key] = receipt.byte_count
        rate = self.terms.serve_micros_per_mib
        micros = served_micros(receipt.byte_count, rate) - served_micros(before, rate)
        self._sides[creditor].served += micros
        is_gift = receipt.lease_id in self.terms.gifts
        self._owe(creditor, period_of(receipt.day), receipt.day, micros, is_gift=is_gift)

    def _owe(self, creditor: AccountId, period: int, vest_day: int, micros: int, *, is_gift: bool) -> None:
        side = self._sides[creditor]
        side.evidence[period] += micros
        if is_gift:
            side.gifts += micros
            return
        side.by_day[vest_day] += micros
        self._look_for_lapse(vest_day)

    def _look_for_lapse(self, vest_day: int) -> None:
        for lapse_days in (NEWCOMER_LAPSE_DAYS, KNOWN_LAPSE_DAYS):
            self._look_on(vest_day + lapse_days + 1)

    def _look_for_agreed(self, period: int) -> None:
        for wait_days in (-PERIOD_DAYS, NEWCOMER_LAPSE_DAYS, KNOWN_LAPSE_DAYS):
            self._look_on((period + 1) * PERIOD_DAYS + wait_days)

    def _look_on(self, day: int) -> None:
        if day > self._today and day not in self._known_days:
            self._known_days.add(day)
            heapq.heappush(self._days, day)

    def _agree(self, state: PairState) -> None:
        if (state.low, state.high) != (self.terms.low, self.terms.high):
            return
        for account, total in ((state.low, state.low_to_high), (state.high, state.high_to_low)):
            agreed = self._sides[account].agreed
            agreed[state.period] = max(agreed.get(state.period, 0), total)
        self._look_for_agreed(state.period)

    def _clear(self, clear: Clear) -> None:
        for debtor, creditor in clear.debts():
            if {debtor, creditor} == {self.terms.low, self.terms.high}:
                self._sides[creditor].cleared += clear.amount
