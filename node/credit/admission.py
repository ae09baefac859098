"""May an account store on this donor? Layer 2, pure.

Invariants: the whole value of a lease counts when it is accepted; what newcomers have open stays under the
released part of the pledge, what known accounts and repair grants have open under theirs, each account and
each subnet of newcomers under `c0`, each friend under its line; so all open unsecured claims stay under
their sum, whatever identities ask. Whoever becomes known takes along what it has open; both caps together
hold all the same. A refusal says what was needed and what there is, in numbers.

An account's position is what it owes after everything accepted has been kept to its end: net debt, value of
its leases still to vest, and debts of this donor that open clears may still take away. Below zero the donor
owes it (rule 1); a friend's line lifts that (rule 2); the rest is unsecured (rules 3 and 4).
Source: credit.md, "Spending".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from node.credit.units import MICROS_PER_CREDIT, PERIOD_DAYS, format_micros
from node.errors import CreditError
from node.units import MIB, AccountId

UNLIMITED: Final = 2**62
"""A line that never binds, in micro-credits."""
PLEDGE_AT_ONCE_PERCENT: Final = 50
"""The part of a period's pledge that its first newcomers may take; the rest accrues by the day."""
C0_PLEDGE_DIVISOR: Final = 8


class Rule(Enum):
    """What a lease was accepted under, or what refused it; the largest number that took part."""

    GRANT = 0
    OWED = 1
    LINE = 2
    KNOWN = 3
    NEWCOMER = 4
    CLEAR = 5
    """None of the others: first clear a debt through a cycle."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A donor's caps in micro-credits, fixed for a period."""

    pledge: int
    """`P_new`: what all newcomers together may have open."""
    known: int
    """`P_known`: the same for accounts that have given, and for repair grants."""
    account_cap: int
    """`c0`: what one account, or all newcomers of one subnet, may have open."""
    local_line: int = UNLIMITED
    """The line of peers on loopback and private networks."""

    @classmethod
    def of(
        cls,
        donated_bytes: int,
        *,
        pledge_permille: int = 100,
        known_permille: int = 200,
        newcomer_credits: int = 4096,
        local_line: int = UNLIMITED,
    ) -> Policy:
        """The caps of a donor that gives `donated_bytes`."""
        period_micros = donated_bytes * PERIOD_DAYS * MICROS_PER_CREDIT // MIB
        pledge = period_micros * pledge_permille // 1000
        return cls(
            pledge=pledge,
            known=period_micros * known_permille // 1000,
            account_cap=max(newcomer_credits * MICROS_PER_CREDIT, pledge // C0_PLEDGE_DIVISOR),
            local_line=local_line,
        )

    def knows(self, given: int) -> bool:
        """Whether an account that has given so much, clears included, is no newcomer any more.

        As much as it may then have open: so the allowances of many known identities cost what one identity
        would have earned, and a byte served does not buy a way out of the subnet's quota.
        """
        return given >= self.account_cap

    def released(self, day: int) -> int:
        """The part of the pledge that is there on a day: half at once, all on the period's last day."""
        at_once = self.pledge * PLEDGE_AT_ONCE_PERCENT // 100
        elapsed = day % PERIOD_DAYS
        return at_once + (self.pledge - at_once) * elapsed // (PERIOD_DAYS - 1)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an account stands with the donor. All amounts in micro-credits."""

    owes: int = 0
    """Net: what the account owes the donor; negative where the donor owes it, as far as the donor has seen
    for itself (`Balance.confirmed`)."""
    unvested: int = 0
    """Value of its accepted leases that may still vest, reservations of running uploads included."""
    reserved: int = 0
    """What incomplete clears, signed by the donor, may still take off its debt to the account
    (`ClearBook.reserved`)."""
    line: int = 0
    """The friend line that the donor set."""
    is_known: bool = False
    """Whether it has given to the donor, or cleared with it, as much as `Policy.knows` asks."""
    is_frozen: bool = False
    """Whether a fork has been proved against it."""
    is_local: bool = False
    """On loopback or a private network: gets the local line, and no subnet counts."""
    subnet: str | None = None
    """Its /24 or /48 when its oldest open claim was accepted: moving on frees no quota. None where that says
    nothing."""
    granted: int = 0
    """What its leases under repair grants have open, vested or not: not in its position. They use its line up
    first; what is beyond that counts with the known."""
    served: int = 0
    """The part of `owes` that is for reading. It counts in the pair, under `c0`; it takes nothing from what
    others may have kept, or readers could use up a pledge that is for storage."""

    @property
    def position(self) -> int:
        """What it owes once everything accepted has been kept."""
        return self.owes + self.unvested - self.granted + self.reserved


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a lease is accepted. `have` is the most expensive lease that would be, in micro-credits."""

    accepted: bool
    rule: Rule
    need: int
    have: int

    def raise_for_refusal(self) -> None:
        """Raises `CreditError` that says need, have and what would help."""
        if self.accepted:
            return
        missing_mib = -(-(self.need - self.have) // (PERIOD_DAYS * MICROS_PER_CREDIT))
        raise CreditError(
            f"this donor would keep {format_micros(self.have)} credits for you and "
            f"{format_micros(self.need)} are needed: give {missing_mib} MiB more for {PERIOD_DAYS} days "
            "(cairn donate), or ask its owner for a line (cairn credit line)"
        )


@dataclass(frozen=True, slots=True)
class Exposure:
    """What accounts have open beyond what they are owed and their lines, added up, in micro-credits."""

    known: int = 0
    """Of known accounts and repair grants."""
    newcomers: int = 0
    subnet: int = 0
    """The newcomers' of one subnet: of the asker's where that says anything."""


def whole_line_of(policy: Policy, standing: Standing) -> int:
    """The line that an account has."""
    return max(standing.line, policy.local_line if standing.is_local else 0)


def line_of(policy: Policy, standing: Standing) -> int:
    """What is left of the line besides leases under repair grants, which use it up first."""
    return max(0, whole_line_of(policy, standing) - standing.granted)


def unsecured(policy: Policy, standing: Standing) -> int:
    """What an account has open beyond what it is owed and its line."""
    return max(0, standing.position - line_of(policy, standing))


def unsecured_kept(policy: Policy, standing: Standing) -> int:
    """The part of that which is for keeping."""
    return max(0, unsecured(policy, standing) - standing.served)


def granted_unsecured(policy: Policy, standing: Standing) -> int:
    """What an account's leases under repair grants come to beyond its line."""
    return max(0, standing.granted - whole_line_of(policy, standing))


def exposure_of(policy: Policy, standing: Standing) -> Exposure:
    """What one account adds to what is open."""
    own, granted = unsecured_kept(policy, standing), granted_unsecured(policy, standing)
    if standing.is_known:
        return Exposure(known=granted + own)
    return Exposure(known=granted, newcomers=own, subnet=own if standing.subnet is not None else 0)


def decide(policy: Policy, asker: Standing, others: Exposure, *, cost: int, day: int) -> Decision:
    """Rules 1 to 5 for a lease that comes to `cost`; `others` leaves the asker out."""
    free = line_of(policy, asker) - asker.position
    have = max(0, free) + _unsecured_room(policy, asker, others, day)
    if cost <= free:
        rule = Rule.OWED if cost <= -asker.position else Rule.LINE
        return Decision(True, rule, cost, have)
    rule = Rule.KNOWN if asker.is_known else Rule.NEWCOMER
    if cost <= have:
        return Decision(True, rule, cost, have)
    return Decision(False, Rule.CLEAR, cost, have)


def decide_granted(
    policy: Policy, everyone: Exposure, *, cost: int, payer: Standing | None = None
) -> Decision:
    """Rule 0 for a lease that a checked grant covers: within what known accounts have left.

    Without that, a file whose owner, holders and witnesses are all invented would fill the donor. Before it
    comes the line that the `payer` has left; `is_local` there says where the repairer asks from.
    """
    room = policy.known - everyone.known
    room = max(0, min(room, room + policy.pledge - everyone.newcomers))
    line = 0 if payer is None else max(0, line_of(policy, payer) - max(0, payer.position))
    have = room + line
    if cost <= line:
        return Decision(True, Rule.LINE, cost, have)
    return Decision(cost <= have, Rule.GRANT if cost <= have else Rule.CLEAR, cost, have)


def _unsecured_room(policy: Policy, asker: Standing, others: Exposure, day: int) -> int:
    if asker.is_frozen:
        return 0
    rooms = [policy.account_cap - unsecured(policy, asker)]
    own = unsecured_kept(policy, asker)
    open_known = others.known + granted_unsecured(policy, asker)
    # Newcomers that become known take what they have open along; the sum of both caps holds all the same.
    rooms.append(policy.pledge + policy.known - open_known - others.newcomers - own)
    if asker.is_known:
        rooms.append(policy.known - open_known - own)
    else:
        rooms.append(policy.released(day) - others.newcomers - own)
        if asker.subnet is not None and not asker.is_local:
            rooms.append(policy.account_cap - others.subnet - own)
    return max(0, min(rooms))


@dataclass(frozen=True, slots=True)
class Ledger:
    """Every account that stands with the donor, and its caps: the rules as they are written.

    A donor with many accounts keeps running sums instead of adding up for each decision.
    """

    policy: Policy
    standings: Mapping[AccountId, Standing]

    def decide(self, account: AccountId, asker: Standing, *, cost: int, day: int) -> Decision:
        """Rules 1 to 5 for a lease that comes to `cost`.

        `asker` replaces what `standings` has of the account, so that its address of now counts.
        """
        others = Ledger(self.policy, {a: s for a, s in self.standings.items() if a != account})
        exposure = Exposure(
            others.open_known(),
            others.open_newcomers(),
            0 if asker.subnet is None else others.open_newcomers(asker.subnet),
        )
        return decide(self.policy, asker, exposure, cost=cost, day=day)

    def decide_granted(self, *, cost: int, payer: Standing | None = None) -> Decision:
        """Rule 0 for a lease that a checked grant covers, on behalf of `payer`."""
        everyone = Exposure(self.open_known(), self.open_newcomers())
        return decide_granted(self.policy, everyone, cost=cost, payer=payer)

    def unsecured(self, standing: Standing) -> int:
        """What an account has open beyond what it is owed and its line."""
        return unsecured(self.policy, standing)

    def open_known(self) -> int:
        """What known accounts and repair grants have open."""
        return sum(exposure_of(self.policy, standing).known for standing in self.standings.values())

    def open_newcomers(self, subnet: str | None = None) -> int:
        """What newcomers have open: all of them, or those of one subnet."""
        return sum(
            exposure_of(self.policy, standing).newcomers
            for standing in self.standings.values()
            if subnet is None or standing.subnet == subnet
        )
