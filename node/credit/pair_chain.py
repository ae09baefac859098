"""The states that two accounts sign: which may come next, forks, and what a fork costs. Layer 2, pure.

Invariants: an honest account signs at most one state for a pair, period and sequence, so no fork can be
proved against it. The low account proposes even sequences, the high one odd ones: two proposals at once never
meet at one number. A node signs nothing for a pair before it has the counterparty's states (a restored
backup forgets its own signatures), and only with the newest device certificate. An account with a proved fork
gets no unsecured credit for a period, by anyone who has seen the proof; a proof counts once.
Source: credit.md, "Records".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from node import limits
from node.credit.units import PERIOD_DAYS
from node.errors import CreditError, ProtocolError
from node.records.offer import DeviceCert
from node.records.pair_state import Equivocation, PairState
from node.units import AccountId, PeerId


@dataclass(frozen=True, slots=True)
class Chain:
    """Every state of one pair that a node knows, half-signed ones included; signatures are verified.

    `is_synced` says that the counterparty's states are among them since this node last started.
    """

    me: AccountId
    other: AccountId
    states: frozenset[PairState] = frozenset()
    is_synced: bool = False

    def add(self, states: Iterable[PairState]) -> Chain:
        """With more states. Raises `ProtocolError` for another pair, `CryptoError` for a false signature."""
        new = frozenset(states)
        for state in new:
            if {state.low, state.high} != {self.me, self.other}:
                raise ProtocolError("a state of another pair")
            _verify_halves(state)
        return Chain(self.me, self.other, self.states | new, self.is_synced)

    def synced(self) -> Chain:
        """After the counterparty has sent all it has."""
        return Chain(self.me, self.other, self.states, True)

    def newest_agreed(self) -> PairState | None:
        """The last state that both have signed."""
        agreed = [state for state in self._united() if state.low_signature and state.high_signature]
        return max(agreed, key=_order, default=None)

    def propose(
        self, *, network: str, period: int, given: int, received: int, fold_id: bytes = b""
    ) -> PairState:
        """The unsigned state for this node to sign first: its totals of the period so far.

        A state that closes older periods names their fold, which names the state before.

        Raises `CreditError` while the node may not sign.
        """
        self._check_may_sign()
        agreed = self.newest_agreed()
        if agreed is not None and agreed.period > period:
            raise CreditError("the pair has agreed on a later period")
        low, high = sorted((self.me, self.other))
        sequence = max((s.sequence + 1 for s in self.states if s.period == period), default=0)
        sequence += (sequence + (self.me == high)) % 2
        if sequence > limits.PAIR_SEQUENCE_MAX:
            raise CreditError("the pair has signed all the states that a period may have")
        totals = (given, received) if self.me == low else (received, given)
        same = [s for s in self.states if s.period == period and s.low_signature and s.high_signature]
        return PairState(
            network, low, high, period, sequence,
            fold_id or (b"" if agreed is None else agreed.record_id()),
            max([totals[0], *(s.low_to_high for s in same)]),
            max([totals[1], *(s.high_to_low for s in same)]),
        )  # fmt: skip

    def check_countersign(self, state: PairState, *, received: int, fold_id: bytes = b"") -> None:
        """Accept a state that the other has signed for this account's signature.

        `received` is this node's own total of the period: the other one may not claim to have given more than
        this node has evidence of. What this node gave may be understated: a later state makes up for it. A
        state that closes periods names `fold_id`, a fold that names the last agreed state.

        Raises:
            ProtocolError: another pair, out of turn, or totals that shrink.
            CryptoError: the other's signature does not hold.
            CreditError: this node may not sign it, or does not agree.
        """
        if {state.low, state.high} != {self.me, self.other}:
            raise ProtocolError("a state of another pair")
        state.verify_half(self.other)
        self._check_may_sign()
        if state.sequence % 2 != (self.other == state.high):
            raise ProtocolError("a state out of turn")
        for known in self.states:
            if known.is_signed_by(self.me) and known.slot == state.slot and known.body() != state.body():
                raise CreditError("this account has signed another state of that number")
        agreed = self.newest_agreed()
        if agreed is not None and _order(state) <= _order(agreed):
            raise CreditError("the pair has agreed on a later state")
        if state.previous != (fold_id or (b"" if agreed is None else agreed.record_id())):
            raise CreditError("the state does not follow the last one that both signed")
        same = [
            known
            for known in self.states
            if known.period == state.period and known.low_signature and known.high_signature
        ]
        if any(state.low_to_high < k.low_to_high or state.high_to_low < k.high_to_low for k in same):
            raise ProtocolError("totals of a period never shrink")
        theirs = state.high_to_low if self.me == state.low else state.low_to_high
        if theirs > received:
            raise CreditError("the other side claims more than was received")

    def forks(self) -> list[Equivocation]:
        """Proofs of every two states that one side signed at one number."""
        by_slot: dict[object, list[PairState]] = {}
        for state in self._united():
            by_slot.setdefault(state.slot, []).append(state)
        return [
            Equivocation.of(signer, one, other)
            for states in by_slot.values()
            for one, other in combinations(sorted(states, key=PairState.record_id), 2)
            for signer in (one.low, one.high)
            if one.is_signed_by(signer) and other.is_signed_by(signer)
        ]

    def _united(self) -> list[PairState]:
        """Each state once, with all its signatures."""
        united: dict[bytes, PairState] = {}
        for state in self.states:
            known = united.get(state.record_id(), state)
            united[state.record_id()] = PairState(
                state.network, state.low, state.high, state.period, state.sequence, state.previous,
                state.low_to_high, state.high_to_low,
                max(state.low_signature, known.low_signature),
                max(state.high_signature, known.high_signature),
            )  # fmt: skip
        return list(united.values())

    def _check_may_sign(self) -> None:
        if not self.is_synced:
            raise CreditError("nothing is signed before the other side's states have been seen")


@dataclass(frozen=True, slots=True)
class Freezes:
    """Accounts with a proved fork, and until when they get no unsecured credit here.

    `seen` maps the slot and signer of each fork to the day it was first seen, so that the same fraud, shown
    again or with other pairs of its states, starts nothing anew.
    """

    seen: Mapping[tuple[AccountId, object], int]

    @classmethod
    def none(cls) -> Freezes:
        """Nobody is frozen."""
        return cls({})

    def add(self, proof: Equivocation, *, today: int) -> Freezes:
        """With a proof. Raises `CryptoError` if it proves nothing."""
        proof.verify()
        key = (proof.signer, proof.states()[0].slot)
        return Freezes({**self.seen, key: min(today, self.seen.get(key, today))})

    def is_frozen(self, account: AccountId, *, today: int) -> bool:
        """Whether the account's unsecured credit is frozen on that day."""
        return any(
            signer == account and first <= today < first + PERIOD_DAYS
            for (signer, _), first in self.seen.items()
        )


def may_sign(certs: Iterable[DeviceCert], account: AccountId, peer_id: PeerId, *, now_s: int) -> bool:
    """Whether that peer is the account's device of the newest epoch; certificates are verified.

    Two peers certified at one epoch may neither sign: somebody restored a backup, and a newer one settles it.
    """
    own = [cert for cert in certs if cert.account == account]
    newest = max((cert.epoch for cert in own), default=-1)
    peers = {cert.peer_id for cert in own if cert.epoch == newest and not cert.is_expired(now_s=now_s)}
    return peers == {peer_id}


def _order(state: PairState) -> tuple[int, int, bytes]:
    return state.period, state.sequence, state.record_id()


def _verify_halves(state: PairState) -> None:
    for account in (state.low, state.high):
        if state.is_signed_by(account):
            state.verify_half(account)
