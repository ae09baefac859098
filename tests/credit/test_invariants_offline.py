"""An honest donor that comes and goes while the network does its worst (invariant 13): never disqualified."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.credit.reputation import UNANSWERED_MAX, Reputation, Standing
from tests.conftest import FULL


class HonestDonor(RuleBasedStateMachine):
    """Keeps every byte and answers when it can. What others do to it: cut it off, ask again, ask too much."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Reputation()
        self.unanswered: dict[bytes, int] = {}
        self.is_offline = False

    @rule(samples=st.integers(1, 60), late=st.booleans())
    def audit_passes(self, samples: int, late: bool) -> None:
        self.seen = self.seen.passed(samples, late=late)
        self.is_offline = False
        assert self.seen.standing is not Standing.DISQUALIFIED

    @rule(times=st.integers(1, 50))
    def cannot_be_dialled(self, times: int) -> None:
        for _ in range(times):
            self.seen = self.seen.unreachable()
        self.is_offline = True

    @rule()
    def comes_back(self) -> None:
        self.seen = self.seen.reachable()
        self.is_offline = False

    @rule(number=st.integers(0, 9))
    def is_cut_off_while_it_answers(self, number: int) -> None:
        """The same challenge again, or another one; a third time without an answer would be its own fault."""
        challenge = bytes([number])
        self.unanswered = {challenge: self.unanswered.get(challenge, 0) + 1}
        if self.unanswered[challenge] < UNANSWERED_MAX:
            self.seen = self.seen.left_unanswered(challenge)
            self.is_offline = False
        else:
            self.unanswered = {}
            self.audit_passes(1, late=True)

    @rule(times=st.integers(1, 30))
    def errors_say_nothing_of_the_bytes(self, times: int) -> None:
        for _ in range(times):
            self.seen = self.seen.erred()
        self.is_offline = False

    @rule()
    def declines_a_shard(self) -> None:
        self.seen = self.seen.refused()

    @rule()
    def auditor_restarts(self) -> None:
        self.seen = Reputation.decode(self.seen.encode())

    @invariant()
    def is_never_disqualified(self) -> None:
        assert self.seen.standing is not Standing.DISQUALIFIED
        assert not self.seen.contradicted
        assert self.seen.bad == 0

    @invariant()
    def away_means_suspended(self) -> None:
        if self.is_offline:
            assert self.seen.standing is Standing.SUSPENDED

    @invariant()
    def comes_back_by_itself(self) -> None:
        """Whatever was: some passes and it is as good as before."""
        again = self.seen.reachable()
        for _ in range(20):
            again = again.passed()
        assert again.standing is Standing.GOOD


TestHonestDonor = HonestDonor.TestCase
TestHonestDonor.settings = settings(
    max_examples=500 if FULL else 40, stateful_step_count=60 if FULL else 25, deadline=None
)
