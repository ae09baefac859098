"""Deliberate bugs in the rules of credit and repair, and the machine that finds each.

One table for all 14 invariants: a test that finds nothing proves nothing, unless it is known to find what is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import msgpack
from hypothesis.stateful import RuleBasedStateMachine

from node.chunks import repair, roster
from node.chunks.store.space import PackUse, SpaceBudget
from node.credit import (
    admission,
    closing,
    ledger,
    pair_book,
    pair_chain,
    pair_ledger,
    pair_records,
    pairing,
    reputation,
    standing,
    vesting,
)
from node.credit.clearing import ClearBook
from node.credit.fold import FoldedSide
from node.records.base import Record
from node.records.clear import Clear
from node.records.receipt import Outcome
from tests.chunks.store.test_invariants_space import Uploaders
from tests.chunks.test_invariants_partition import Partition
from tests.credit.test_invariants import Adversaries, Wire
from tests.credit.test_invariants_closing import ClosingPeriods
from tests.credit.test_invariants_offline import HonestDonor
from tests.credit.test_pair_chain import HonestSigner


@dataclass(frozen=True, slots=True)
class Mutation:
    """One bug: `apply` puts it in for a while; `machine` finds it within `EXAMPLES_MAX` histories."""

    name: str
    invariants: tuple[int, ...]
    machine: type[RuleBasedStateMachine]
    apply: Callable[[ExitStack], None]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The core with the bug."""
        with ExitStack() as stack:
            self.apply(stack)
            yield


def _put(owner: Any, name: str, new: Any) -> Callable[[ExitStack], None]:
    def apply(stack: ExitStack) -> None:
        stack.enter_context(patch.object(owner, name, new))

    return apply


def _one_sided_net(self: pair_ledger.Balance, account: Any) -> int:
    return self.low.claim - self.high.claim


def _clears_of_low(pair: Any, records: Any, claims: Any, folded: Any) -> None:
    for record in records.items:
        if isinstance(record, Clear) and (pair.high, pair.low) in set(record.debts()):
            claims[pair.low].cleared += record.amount


def _claim_with_gifts(self: pair_ledger.Given) -> int:
    return self.total - self.written_off - self.cleared


def _room_of_one(policy: Any, asker: admission.Standing, others: Any, day: int) -> int:
    cap: int = policy.account_cap - admission.unsecured(policy, asker)
    return max(0, cap)


def _reserved_while_open(self: ClearBook, debtor: Any, creditor: Any) -> int:
    period = max((clear.end_period - 1 for clear in self.clears.values()), default=0)
    return sum(
        clear.amount for clear in self._open_signed(period) if (debtor, creditor) in set(clear.debts())
    )


def _larger_set(self: pair_records.Records, other: pair_records.Records) -> pair_records.Records:
    return max(self, other, key=lambda records: len(records.items))


def _unverified(cls: Any, records: Any) -> pair_records.Records:
    return pair_records.Records(frozenset(records))


def _failure_takes_all_back(
    lease: Any, payer: Any, receipts: Any, pair: Any, today: int
) -> list[tuple[int, bool]]:
    seen = list(receipts)
    failed = any(receipt.outcome is Outcome.FAILED for receipt in seen)
    return [] if failed else _VESTINGS(lease, payer, seen, pair, today)


_VESTINGS = vesting.vestings
_PROPOSE = pair_chain.Chain.propose


def _proposes_a_number_again(self: pair_chain.Chain, **totals: Any) -> Any:
    """Looks at what both have signed only, not at what this account signed alone."""
    agreed = frozenset(state for state in self.states if state.low_signature and state.high_signature)
    return _PROPOSE(pair_chain.Chain(self.me, self.other, agreed, self.is_synced), **totals)


def _free_by_what_is_written(self: SpaceBudget, packs: PackUse, shard_count: int) -> int:
    return max(0, self.cap_bytes - packs.allocated_bytes)


def _lenient(data: bytes, *, size_max: int) -> list[Any]:
    return list(msgpack.unpackb(data, raw=False, strict_map_key=False))


def _decoded_as_it_comes(cls: Any, data: bytes, *, network: str) -> Any:
    body, *signatures = _lenient(data, size_max=0)
    items = _lenient(body, size_max=0)
    return cls._from_fields(network, items[3:], signatures)


def _only_too_old(record: Any, fold: Any) -> bool:
    return fold is not None and closing.is_too_old(record, fold.period)


def _knows_no_folded_clear(self: pair_book.PairBook, terms: Any, fold: Any = None) -> None:
    _NEW_BOOK(self, terms, fold)
    self._ids.clear()


_NEW_BOOK = pair_book.PairBook.__init__


def _folded_clears_count_again(stack: ExitStack) -> None:
    for module in (ledger, pairing):
        stack.enter_context(patch.object(module, "is_over", _only_too_old))
    stack.enter_context(patch.object(pair_book.PairBook, "__init__", _knows_no_folded_clear))


def _without_names(records: Any, gifts: Any, fold: Any) -> list[Any]:
    return list(closing.split(records, gifts, fold.period).ended)


def _agrees_to_any(proposed: Any, own: Any, me: Any) -> None:
    """Any fold will do that follows the one before."""


def _forgets_what_was_folded(*arguments: Any, **named: Any) -> Any:
    return replace(_FOLD_OF(*arguments, **named), low_side=FoldedSide(), high_side=FoldedSide())


_FOLD_OF = closing.fold_of


def _away_is_a_failure(self: reputation.Reputation) -> reputation.Reputation:
    return self.failed()


def _copies_of_mine_stay(shard_index: int, holders: Any) -> list[Any]:
    return sorted(holders)[2:]


def _any_root(lease: Any, manifest: Any) -> None:
    lease.verify()


MUTATIONS: Sequence[Mutation] = (
    Mutation("both sides are owed", (1,), Adversaries, _put(pair_ledger.Balance, "net", _one_sided_net)),
    Mutation(
        "a clear counts at one end", (2,), Adversaries, _put(pair_ledger, "_add_clears", _clears_of_low)
    ),
    Mutation(
        "gifts are owed for", (3,), Adversaries, _put(pair_ledger.Given, "claim", property(_claim_with_gifts))
    ),
    Mutation(
        "caps of one account only", (4, 5), Adversaries,
        _put(admission, "_unsecured_room", _room_of_one),
    ),
    Mutation("gifts leave the line", (4,), Adversaries, _put(standing, "gifted", lambda *_, **__: 0)),
    Mutation(
        "strangers' word is spent", (5,), Adversaries,
        _put(pair_ledger.Balance, "confirmed", pair_ledger.Balance.net),
    ),
    Mutation(
        "known for a byte", (5,), Adversaries,
        _put(admission.Policy, "knows", lambda self, given: given > 0),
    ),
    Mutation("the larger set wins", (6,), Adversaries, _put(pair_records.Records, "merge", _larger_set)),
    Mutation(
        "what is over is free again", (7, 2), Adversaries, _put(ClearBook, "reserved", _reserved_while_open)
    ),
    Mutation("a folded clear counts again", (7, 2), ClosingPeriods, _folded_clears_count_again),
    Mutation(
        "a late clear goes with a fold", (2,), ClosingPeriods,
        _put(ledger, "stood_for", _without_names),
    ),
    Mutation("any fold is signed", (11,), ClosingPeriods, _put(pairing, "check_fold", _agrees_to_any)),
    Mutation(
        "a closing forgets", (2, 11), ClosingPeriods, _put(ledger, "fold_of", _forgets_what_was_folded)
    ),
    Mutation(
        "signs two states of a number", (8,), HonestSigner,
        _put(pair_chain.Chain, "propose", _proposes_a_number_again),
    ),
    Mutation(
        "signs from an old backup", (8,), HonestSigner,
        _put(pair_chain.Chain, "_check_may_sign", lambda self: None),
    ),
    Mutation(
        "signatures are not checked", (9,), Adversaries,
        _put(pair_records.Records, "of", classmethod(_unverified)),
    ),
    Mutation(
        "any network will do", (9, 10), Wire,
        _put(Record, "decode", classmethod(_decoded_as_it_comes)),
    ),
    Mutation(
        "a failure takes back", (11,), Adversaries,
        _put(pair_ledger, "vestings", _failure_takes_all_back),
    ),
    Mutation(
        "the cap is checked after writing", (12,), Uploaders,
        _put(SpaceBudget, "free_bytes", _free_by_what_is_written),
    ),
    Mutation(
        "being away is a failure", (13,), HonestDonor,
        _put(reputation.Reputation, "unreachable", _away_is_a_failure),
    ),
    Mutation("two copies stay", (14,), Partition, _put(repair, "surplus", _copies_of_mine_stay)),
    Mutation("any root will do", (14,), Partition, _put(roster, "check_lease", _any_root)),
)  # fmt: skip
