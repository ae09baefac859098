"""A few honest nodes and many attackers over the pure cores of credit: what each node knows, and the truth.

An honest node here does what a service does, and nothing more: it keeps the records of each of its pairs,
asks the cores before it accepts or signs, and believes what verifies. Attackers have every record and every
key of their own; they decide what arrives where, and when. The truth (who kept and served what) is kept
beside, so that what the nodes believe can be compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from node.credit.admission import Decision, Ledger, Policy, Rule, Standing
from node.credit.clearing import ClearBook
from node.credit.pair_ledger import Balance, balance, gifted, unvested
from node.credit.pair_records import Pair, PairRecord, Records
from node.credit.standing import standing_of
from node.credit.units import lease_value, served_micros
from node.errors import CreditError, NodeError
from node.records.clear import Abort, Clear
from node.records.lease import Lease
from node.records.receipt import Outcome
from node.units import LeaseId
from tests.credit.actors import (
    CREDIT,
    DAY,
    NETWORK,
    Actor,
    charge_of,
    lease_of,
    pair_of,
    receipt_of,
    served,
    unsigned_clear,
)

PERIOD_DAYS = 30
POLICY = Policy(pledge=60 * CREDIT, known=60 * CREDIT, account_cap=30 * CREDIT)
MIB_MICROS = 30 * CREDIT
"""What a MiB served comes to."""


@dataclass(eq=False, repr=False)
class Honest:
    """A node that does as it should."""

    actor: Actor
    policy: Policy = POLICY
    records: dict[Actor, Records] = field(default_factory=dict)
    lines: dict[Actor, int] = field(default_factory=dict)
    subnets: dict[Actor, str] = field(default_factory=dict)
    """Where an account was when the oldest of what it has open was accepted."""

    def __post_init__(self) -> None:
        self.book = ClearBook(self.actor.account)

    def learn(self, other: Actor, news: Iterable[PairRecord]) -> None:
        """Believe what verifies. Raises `CryptoError` for the rest."""
        known = self.records.get(other, Records())
        more = known.merge(Records.of(news))
        if more != known or other not in self.records:
            self.records[other] = more


@dataclass(eq=False, repr=False)
class World:
    """Everything there is. `honest` and `attackers` never share an actor."""

    honest: list[Honest]
    attackers: list[Actor]
    subnets: dict[Actor, str]
    day: int = DAY
    gifts: set[LeaseId] = field(default_factory=set)
    kept: dict[Lease, int] = field(default_factory=dict)
    """Leases of honest owners at attackers: the first day on which the shard is not kept."""
    served_micros: dict[tuple[Actor, Actor], int] = field(default_factory=dict)
    """(attacker, honest reader) to what was truly served."""
    accepted: list[tuple[Honest, Actor, Lease]] = field(default_factory=list)
    """Leases of attackers at honest donors."""
    clears: dict[bytes, Clear] = field(default_factory=dict)
    aborts: list[Abort] = field(default_factory=list)
    counter: int = 0
    _balances: dict[tuple[Honest, Actor], tuple[Records, int, int, Balance]] = field(default_factory=dict)
    _standings: dict[tuple[Honest, Actor], tuple[Records, int, int, Standing]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_account = {actor.account: actor for actor in self.actors}
        self.nodes = {node.actor: node for node in self.honest}

    @property
    def actors(self) -> list[Actor]:
        """All accounts, the honest ones first."""
        return [*(node.actor for node in self.honest), *self.attackers]

    def number(self) -> int:
        """A fresh one, for ids and nonces."""
        self.counter += 1
        return self.counter

    # What honest nodes know and decide.

    def pair(self, one: Actor, other: Actor) -> Pair:
        return pair_of(one, other, gifts=self.gifts)

    def balance(self, node: Honest, other: Actor) -> Balance:
        """As `node` sees it. Worked out once for the same records and day."""
        records = node.records.get(other, Records())
        known = self._balances.get((node, other))
        if known is None or known[0] is not records or known[1:3] != (self.day, len(self.gifts)):
            found = balance(self.pair(node.actor, other), records, today=self.day)
            known = self._balances[node, other] = (records, self.day, len(self.gifts), found)
        return known[3]

    def standing(self, node: Honest, other: Actor) -> Standing:
        records = node.records.get(other)
        if records is None:
            return Standing(line=node.lines.get(other, 0), subnet=self.subnets.get(other))
        known = self._standings.get((node, other))
        if known is None or known[0] is not records or known[1:3] != (self.day, len(self.gifts)):
            found = standing_of(
                other.account,
                self.pair(node.actor, other),
                records,
                node.book,
                node.policy,
                today=self.day,
                line=node.lines.get(other, 0),
            )
            known = self._standings[node, other] = (records, self.day, len(self.gifts), found)
        stands = replace(known[3], reserved=node.book.reserved(node.actor.account, other.account))
        now = self.subnets.get(other)
        is_open = stands.position > stands.line
        return replace(stands, subnet=node.subnets.get(other, now) if is_open else now)

    def ledger(self, node: Honest) -> Ledger:
        return Ledger(
            node.policy, {other.account: self.standing(node, other) for other in node.records}
        )  # fmt: skip

    def decide(self, node: Honest, other: Actor, cost: int) -> Decision:
        return self.ledger(node).decide(other.account, self.standing(node, other), cost=cost, day=self.day)

    def gifted(self, node: Honest, other: Actor) -> int:
        """What `other` has under its line, by what stands in the records."""
        records = node.records.get(other, Records())
        return gifted(self.pair(node.actor, other), records, other.account, today=self.day)

    # What happens.

    def store(self, payer: Actor, donor: Honest, *, days: int, mib: int) -> bool:
        """An upload to an honest donor, if it admits it."""
        number = self.number()
        lease = lease_of(payer, donor.actor, number, day=self.day, days=days, mib=mib)
        asker = self.standing(donor, payer)
        decision = self.decide(donor, payer, lease_value(lease, 0))
        if not decision.accepted:
            return False
        if asker.subnet is not None:
            donor.subnets[payer] = asker.subnet
        if decision.rule is Rule.LINE and decision.need <= asker.line - max(0, asker.position):
            self.gifts.add(lease.lease_id)
        news: list[PairRecord] = [lease, charge_of(lease, payer)]
        donor.learn(payer, news)
        if payer in self.nodes:
            self.nodes[payer].learn(donor.actor, news)
        else:
            self.accepted.append((donor, payer, lease))
        return True

    def place(self, owner: Honest, holder: Actor, *, days: int, mib: int, keeps: bool) -> Lease:
        """A shard of an honest owner at an attacker."""
        lease = lease_of(owner.actor, holder, self.number(), day=self.day, days=days, mib=mib)
        owner.learn(holder, [lease, charge_of(lease, owner.actor)])
        self.kept[lease] = lease.end_day if keeps else self.day
        return lease

    def holder_of(self, lease: Lease) -> Actor:
        return next(actor for actor in self.actors if actor.peer_id == lease.holder)

    def owner_of(self, lease: Lease) -> Honest:
        return next(node for node in self.honest if node.actor.owner.public == lease.owner_key)

    def audit(self, lease: Lease) -> None:
        """The owner looks for itself."""
        owner, holder = self.owner_of(lease), self.holder_of(lease)
        has_it = holder in self.nodes or self.kept[lease] > self.day
        outcome = Outcome.PASSED if has_it else Outcome.FAILED
        receipt = receipt_of([lease], owner.actor.owner, self.day, outcome=outcome, nonce=self.number())
        owner.learn(holder, [receipt])
        if holder in self.nodes:
            self.nodes[holder].learn(owner.actor, [receipt])

    def vouch(self, lease: Lease, liars: Sequence[Actor]) -> None:
        """Colluding co-holders swear that a shard is there; the draw of auditors favours them."""
        for liar in liars:
            receipt = receipt_of([lease], liar.device, self.day, nonce=self.number())
            self.owner_of(lease).learn(self.holder_of(lease), [receipt])

    def serve(self, donor: Actor, reader: Actor, byte_count: int) -> None:
        """`reader` gets bytes and signs for them."""
        receipt = served(donor, reader, self.day, byte_count, session=self.number())
        for one, other in ((donor, reader), (reader, donor)):
            if one in self.nodes:
                self.nodes[one].learn(other, [receipt])
        if donor not in self.nodes and reader in self.nodes:
            key = (donor, reader)
            self.served_micros[key] = self.served_micros.get(key, 0) + served_micros(byte_count)

    # Clears.

    def propose_clear(self, cycle: Sequence[Actor], amount: int) -> bytes:
        clear = unsigned_clear(
            cycle, amount, number=self.number(), end_period=self.day // PERIOD_DAYS + 1
        )  # fmt: skip
        self.clears[clear.record_id()] = clear
        for member in cycle:
            if member in self.nodes:
                try:
                    self.nodes[member].book.add(clear)
                except NodeError:
                    continue
        return clear.record_id()

    def ask_to_sign(self, record_id: bytes, node: Honest) -> bool:
        """An honest member signs if the rules let it."""
        clear = node.book.clears.get(record_id)
        if clear is None:
            return False
        creditor = self.by_account[clear.creditor_of(node.actor.account)]
        records = node.records.get(creditor, Records())
        on_its_way = unvested(self.pair(node.actor, creditor), records, creditor.account, today=self.day)
        debt = self.balance(node, creditor).confirmed(creditor.account) - on_its_way
        try:
            node.book.check_sign(clear, debt=debt, cap=node.policy.pledge, period=self.day // PERIOD_DAYS)
            if node.actor.account == clear.initiator:
                self.check_claim(clear, node)
            signed = node.book.add(node.book.clears[record_id].sign(node.actor.key))
        except NodeError:
            return False
        self.clears[record_id] = self.clears[record_id].merge(signed)
        self.count(node, record_id)
        return True

    def check_claim(self, clear: Clear, node: Honest) -> None:
        """Whoever turns a claim into another one makes sure that it has it."""
        debtor = self.by_account[clear.debtor_of(node.actor.account)]
        if self.balance(node, debtor).net(node.actor.account) < clear.amount:
            raise CreditError("nothing to clear")

    def attackers_sign(self, record_id: bytes) -> None:
        """All members that are attackers, in whatever order they like."""
        clear = self.clears[record_id]
        for actor in self.attackers:
            if actor.account in clear.cycle:
                place = clear.cycle.index(actor.account)
                signatures = [*clear.signatures]
                signatures[place] = clear.sign_body(actor.key)
                clear = replace(clear, signatures=tuple(signatures))
        self.clears[record_id] = clear

    def deliver_clear(self, record_id: bytes, to: Honest) -> None:
        if to.actor.account in self.clears[record_id].cycle:
            try:
                to.book.add(self.clears[record_id])
            except NodeError:
                return
            self.count(to, record_id)

    def abort(self, record_id: bytes, liar: Actor) -> None:
        """An attacker gives up and tells everybody, whatever it signs later."""
        clear = self.clears[record_id]
        abort = Abort(NETWORK, record_id, liar.account).sign(liar.key)
        self.aborts.append(abort)
        for node in self.honest:
            if node.actor.account in clear.cycle and record_id in node.book.clears:
                node.book.add_abort(abort)

    def count(self, node: Honest, record_id: bytes) -> None:
        """A complete clear goes into the records of both pairs that it touches at this node."""
        clear = node.book.clears[record_id]
        if len(clear.signers()) == len(clear.cycle):
            me = node.actor.account
            for other in (clear.creditor_of(me), clear.debtor_of(me)):
                node.learn(self.by_account[other], [clear])

    # The truth.

    def worked(self, attacker: Actor, reader: Actor | None = None) -> int:
        """What an attacker has truly kept and served for honest nodes, or for one of them."""
        total = sum(
            micros
            for (donor, whom), micros in self.served_micros.items()
            if donor == attacker and reader in (None, whom)
        )
        for lease, until in self.kept.items():
            if lease.holder == attacker.peer_id and reader in (None, self.owner_of(lease).actor):
                days = min(self.day + 1, until, lease.end_day) - lease.start_day
                total += lease_value(lease, 0) * max(0, days) // (lease.end_day - lease.start_day)
        return total

    def paid_ahead(self, node: Honest, other: Actor) -> int:
        """What `other` owes out of clears that the node itself initiated, to store there: its own choice."""
        me = node.actor.account
        return sum(
            clear.amount
            for clear in node.book.complete()
            if clear.initiator == me and clear.creditor_of(me) == other.account
        )

    def taken(self, attackers: Iterable[Actor], donor: Honest | None = None) -> int:
        """Whole value of the leases that honest donors have accepted from them; gifts are friends' own."""
        whose = set(attackers)
        return sum(
            lease_value(lease, 0)
            for node, payer, lease in self.accepted
            if payer in whose and donor in (None, node) and lease.lease_id not in self.gifts
        )


def small_world() -> World:
    """Three honest nodes that owe each other in a circle, and six attackers in three subnets.

    The first attacker was the first node's friend; two have done honest work before.
    """
    honest = [Honest(Actor(number)) for number in range(3)]
    attackers = [Actor(number) for number in range(10, 16)]
    subnets = dict(zip(attackers, ("a", "a", "a", "b", "b", "c"), strict=True))
    world = World(honest, attackers, subnets)
    honest[0].lines[attackers[0]] = 20 * CREDIT
    honest[1].lines[honest[2].actor] = 40 * CREDIT
    for node, creditor in zip(honest, [*honest[1:], honest[0]], strict=True):
        world.serve(creditor.actor, node.actor, 2 * 2**20)
        for worker in (attackers[1], attackers[5]):
            world.serve(worker, node.actor, 2**20)
    return world
