"""Pair states: an honest account never forks its chain, whatever is lost; a liar's forks are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.credit.pair_chain import Chain, Freezes, may_sign
from node.errors import CreditError, CryptoError, ProtocolError
from node.records.offer import DeviceCert
from node.records.pair_state import Equivocation, PairState
from tests.conftest import FULL
from tests.credit.actors import CREDIT, DAY, NETWORK, Actor, agreed

LOW, HIGH = sorted((Actor(0), Actor(1)), key=lambda actor: actor.account)
STRANGER = Actor(2)
PERIOD = DAY // 30


def chain(me: Actor = LOW, other: Actor = HIGH) -> Chain:
    return Chain(me.account, other.account).synced()


def proposed(me: Chain, given: int, received: int, period: int = PERIOD) -> PairState:
    return me.propose(network=NETWORK, period=period, given=given, received=received)


def test_two_sides_agree_step_by_step() -> None:
    low, high = chain(), chain(HIGH, LOW)
    for step in range(1, 5):
        proposer, other, key, other_key = (
            (low, high, LOW.key, HIGH.key) if step % 2 else (high, low, HIGH.key, LOW.key)
        )
        state = proposed(proposer, step * CREDIT, step * CREDIT).sign(key)
        other.check_countersign(state, received=step * CREDIT)
        both = state.sign(other_key)
        both.verify()
        low, high = low.add([both]), high.add([both])
        assert low.newest_agreed() == high.newest_agreed() == both
    newest = low.newest_agreed()
    assert newest is not None
    following = proposed(low, 0, 0, PERIOD + 1)
    assert (following.sequence, following.previous) == (0, newest.record_id())
    assert low.forks() == []
    with pytest.raises(CreditError, match="later period"):
        proposed(low.add([following.sign(LOW.key).sign(HIGH.key)]), 0, 0)


def test_each_side_has_its_own_numbers() -> None:
    low, high = chain(), chain(HIGH, LOW)
    for number in range(3):
        low = low.add([proposed(low, number, 0).sign(LOW.key)])
        high = high.add([proposed(high, number, 0).sign(HIGH.key)])
    assert {state.sequence for state in low.states} == {0, 2, 4}
    assert {state.sequence for state in high.states} == {1, 3, 5}
    wrong = replace(proposed(chain(), 0, 0), sequence=1).sign(LOW.key)
    with pytest.raises(ProtocolError, match="out of turn"):
        chain(HIGH, LOW).check_countersign(wrong, received=0)


def test_what_is_not_countersigned() -> None:
    state = proposed(chain(), 9 * CREDIT, 0)
    high = chain(HIGH, LOW)
    with pytest.raises(CryptoError):
        high.check_countersign(state, received=9 * CREDIT)
    with pytest.raises(CryptoError):
        high.check_countersign(replace(state.sign(LOW.key), low_to_high=1), received=9 * CREDIT)
    with pytest.raises(CreditError, match="claims more"):
        high.check_countersign(state.sign(LOW.key), received=9 * CREDIT - 1)
    with pytest.raises(ProtocolError):
        chain(HIGH, STRANGER).check_countersign(state.sign(LOW.key), received=9 * CREDIT)
    with pytest.raises(CreditError, match="before the other side"):
        Chain(HIGH.account, LOW.account).check_countersign(state.sign(LOW.key), received=9 * CREDIT)
    before = agreed(LOW, HIGH, PERIOD, 3, (5 * CREDIT, 5 * CREDIT))
    high = high.add([before])
    late = replace(state, sequence=2).sign(LOW.key)
    with pytest.raises(CreditError, match="later state"):
        high.check_countersign(late, received=9 * CREDIT)
    with pytest.raises(CreditError, match="does not follow"):
        high.check_countersign(replace(state, sequence=4).sign(LOW.key), received=9 * CREDIT)
    shrunk = replace(state, sequence=4, previous=before.record_id(), low_to_high=CREDIT).sign(LOW.key)
    with pytest.raises(ProtocolError, match="never shrink"):
        high.check_countersign(shrunk, received=9 * CREDIT)


def test_a_proposal_never_goes_below_what_was_agreed() -> None:
    low = chain().add([agreed(LOW, HIGH, PERIOD, 3, (5 * CREDIT, 7 * CREDIT))])
    state = proposed(low, CREDIT, CREDIT)
    assert (state.low_to_high, state.high_to_low, state.sequence) == (5 * CREDIT, 7 * CREDIT, 4)


def test_states_of_others_and_false_signatures_are_refused() -> None:
    with pytest.raises(ProtocolError):
        chain().add([agreed(LOW, STRANGER, PERIOD, 0, (0, 0))])
    state = agreed(LOW, HIGH, PERIOD, 0, (0, 0))
    with pytest.raises(CryptoError):
        chain().add([replace(state, low_to_high=1)])


class HonestSigner(RuleBasedStateMachine):
    """An honest account against a counterparty that lies, crashes and restores of its own notwithstanding.

    Signatures leave after they are durable, so the counterparty never has one that the disk lacks; a restore
    of an old backup may forget them, which is why nothing is signed before the other side's states came back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signed: set[PairState] = set()
        self.backup: frozenset[PairState] = frozenset()

    @initialize(is_low=st.booleans())
    def start(self, is_low: bool) -> None:
        self.me, self.other = (LOW, HIGH) if is_low else (HIGH, LOW)
        self.chain = chain(self.me, self.other)

    @rule(given=st.integers(0, 5), received=st.integers(0, 5), later=st.integers(0, 1))
    def propose(self, given: int, received: int, later: int) -> None:
        try:
            state = proposed(self.chain, given, received, PERIOD + later).sign(self.me.key)
        except CreditError:
            return
        self.chain = self.chain.add([state])
        self.signed.add(state)

    @rule(sequence=st.integers(0, 7), totals=st.tuples(st.integers(0, 5), st.integers(0, 5)), data=st.data())
    def counterparty_sends_anything(
        self, sequence: int, totals: tuple[int, int], data: st.DataObject
    ) -> None:
        low, high = LOW.account, HIGH.account
        previous = data.draw(st.sampled_from([b"", *sorted(state.record_id() for state in self.signed)]))
        state = PairState(NETWORK, low, high, PERIOD, sequence, previous, *totals).sign(self.other.key)
        try:
            self.chain.check_countersign(state, received=5)
        except (CreditError, ProtocolError):
            return
        both = state.sign(self.me.key)
        self.chain = self.chain.add([both])
        self.signed.add(both)

    @precondition(lambda self: self.signed)
    @rule(data=st.data())
    def counterparty_countersigns(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.signed, key=PairState.encode)))
        self.chain = self.chain.add([chosen.sign(self.other.key)])

    @rule()
    def back_up(self) -> None:
        self.backup = self.chain.states

    @rule()
    def restore_and_try_to_sign(self) -> None:
        self.chain = Chain(self.me.account, self.other.account, self.backup)
        with pytest.raises(CreditError):
            proposed(self.chain, 5, 5)
        # The counterparty sends what it has: of this account's signatures, all that ever left.
        self.chain = self.chain.add(self.signed).synced()

    @invariant()
    def no_fork_can_be_proved(self) -> None:
        everything = chain(self.other, self.me).add(self.signed)
        assert [fork for fork in everything.forks() if fork.signer == self.me.account] == []

    @invariant()
    def agreed_totals_never_shrink(self) -> None:
        both = sorted(
            (s for s in self.signed if s.low_signature and s.high_signature),
            key=lambda s: (s.period, s.sequence),
        )
        for number, later in enumerate(both):
            for earlier in both[:number]:
                if earlier.period == later.period and later.previous == earlier.record_id():
                    assert later.low_to_high >= earlier.low_to_high
                    assert later.high_to_low >= earlier.high_to_low


TestHonestSigner = HonestSigner.TestCase
TestHonestSigner.settings = settings(
    max_examples=500 if FULL else 50, stateful_step_count=50 if FULL else 20, deadline=None
)


def test_a_fork_is_found_whoever_holds_its_halves() -> None:
    """Invariant 8: also where the two signatures come in different copies."""
    one = agreed(LOW, HIGH, PERIOD, 2, (CREDIT, 0))
    other = replace(one, low_to_high=2 * CREDIT, low_signature=b"", high_signature=b"").sign(LOW.key)
    (proof,) = chain(HIGH, LOW).add([one, other]).forks()
    assert proof.signer == LOW.account
    proof.verify()
    half = replace(one, low_signature=b"")
    both_halves = chain(HIGH, LOW).add([half, replace(one, high_signature=b""), other]).forks()
    assert both_halves == [proof]
    assert chain(HIGH, LOW).add([half, other]).forks() == []
    again = Equivocation.decode(proof.encode(), network=NETWORK)
    assert again == proof


def test_a_fork_freezes_unsecured_credit_for_a_period_once() -> None:
    one = agreed(LOW, HIGH, PERIOD, 2, (CREDIT, 0))
    forks = [
        Equivocation.of(LOW.account, one, agreed(LOW, HIGH, PERIOD, 2, (amount, 0))) for amount in (2, 3)
    ]
    freezes = Freezes.none().add(forks[0], today=DAY)
    assert freezes.is_frozen(LOW.account, today=DAY)
    assert freezes.is_frozen(LOW.account, today=DAY + 29)
    assert not freezes.is_frozen(LOW.account, today=DAY + 30)
    assert not freezes.is_frozen(HIGH.account, today=DAY)
    again = freezes.add(forks[0], today=DAY + 40).add(forks[1], today=DAY + 40)
    assert not again.is_frozen(LOW.account, today=DAY + 40)
    with pytest.raises(CryptoError):
        Freezes.none().add(replace(forks[0], signer=STRANGER.account), today=DAY)
    unsigned = replace(one, low_signature=b"", low_to_high=9)
    with pytest.raises(CryptoError):
        Freezes.none().add(Equivocation.of(LOW.account, one, unsigned), today=DAY)


def test_only_the_newest_device_signs() -> None:
    def cert(device: Actor, epoch: int, expires_s: int = 100) -> DeviceCert:
        return DeviceCert(NETWORK, LOW.account, device.peer_id, epoch, expires_s)

    old, new = Actor(5), Actor(6)
    both = [cert(old, 1), cert(new, 2)]
    assert may_sign(both, LOW.account, new.peer_id, now_s=0)
    assert not may_sign(both, LOW.account, old.peer_id, now_s=0)
    assert not may_sign(both, LOW.account, new.peer_id, now_s=100)
    assert not may_sign([*both, cert(old, 2)], LOW.account, new.peer_id, now_s=0)
    assert not may_sign(both, HIGH.account, new.peer_id, now_s=0)
