"""What attackers can take from honest donors, over the program's own rules of admission, ledgers and clears.

Every record is signed, every decision is the cores'. Attackers never keep what they say they keep, sign what
suits them, and store as much as each donor admits. What they took is the whole value of the leases that
donors accepted; what they gave is what they truly served for honest nodes. Nothing lapses within the 29 days
of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from node.credit.admission import UNLIMITED, Exposure, Policy, Standing, decide, exposure_of
from node.credit.clearing import ClearBook
from node.credit.pair_ledger import balance
from node.credit.pair_records import Pair, PairRecord, Records
from node.credit.standing import standing_of
from node.credit.units import (
    MICROS_PER_CREDIT,
    PERIOD_DAYS,
    SERVE_MICROS_PER_MIB,
    lease_value,
    served_micros,
)
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CreditError, ProtocolError
from node.records.charge import BILLED_EXTRA_BYTES, Charge
from node.records.clear import Abort, Clear
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome, ServeReceipt, join_lease_ids, session_of
from node.units import DAY_S, GIB, MIB, AccountId, LeaseId, OwnerKey, PeerId, SegmentId
from simulations.models.report import Table

NETWORK = "cairn-model"
DAY = 20_010
"""The first of a period."""
DAYS = (DAY, DAY + 9, DAY + 19, DAY + 29)
"""When attackers come: the last time on the period's last day, when the whole pledge is out."""
DONATED_BYTES = 100 * GIB
LEASE_DAYS = 30


class Party:
    """An account with its node and an owner key."""

    def __init__(self, number: int, *, seed: int, subnet: str | None = None) -> None:
        self.key, self.device, self.owner = (
            KeyPair.from_seed(bytes([part]) + seed.to_bytes(8, "big") + number.to_bytes(23, "big"))
            for part in (1, 2, 3)
        )
        self.account = AccountId(self.key.public)
        self.peer_id: PeerId = peer_id_of(self.device.public)
        self.subnet = subnet
        self.worked = 0
        """Micro-credits of what it truly kept and served for honest nodes."""


class Donor(Party):
    """An honest node: it believes what verifies, and accepts and signs what the cores let it."""

    def __init__(self, number: int, *, seed: int) -> None:
        super().__init__(1_000_000 + number, seed=seed)
        self.policy = Policy.of(DONATED_BYTES)
        self.book = ClearBook(self.account)
        self.parties: dict[AccountId, Party] = {}
        self.records: dict[AccountId, Records] = {}
        self.subnets: dict[AccountId, str | None] = {}
        self.taken: dict[AccountId, int] = {}
        self._day = -1
        self._seen: dict[AccountId, tuple[Standing, Exposure]] = {}

    def learn(self, other: Party, news: Iterable[PairRecord]) -> None:
        """Records of the pair with `other`. Raises `CryptoError` for one that does not verify."""
        self.parties[other.account] = other
        known = self.records.get(other.account, Records())
        self.records[other.account] = known.merge(Records.of(news))
        self._seen.pop(other.account, None)

    def pair(self, other: Party) -> Pair:
        """Every auditor counts as assigned: the draw is taken to favour the attackers."""
        low, high = sorted((self, other), key=lambda party: party.account)
        return Pair(
            low.account, high.account, frozenset({low.peer_id}), frozenset({high.peer_id}),
            manifest_bytes={}, is_assigned=lambda receipt, lease: True,
        )  # fmt: skip

    def owed(self, other: Party, day: int) -> int:
        """What this node owes `other` as far as it has seen for itself."""
        known = self.records.get(other.account, Records())
        return balance(self.pair(other), known, today=day).confirmed(other.account)

    def store(self, asker: Party, day: int, number: int) -> int:
        """The largest lease that the donor admits; its value."""
        own = self._standing(asker, day)
        have = decide(self.policy, own, self._others(asker, own.subnet, day), cost=UNLIMITED, day=day).have
        billed = have * MIB // (LEASE_DAYS * MICROS_PER_CREDIT)
        if billed <= BILLED_EXTRA_BYTES:
            return 0
        lease = lease_of(asker, self, number, day=day, byte_count=billed - BILLED_EXTRA_BYTES)
        value = lease_value(lease, 0)
        assert decide(self.policy, own, self._others(asker, own.subnet, day), cost=value, day=day).accepted
        self.learn(asker, [lease, Charge.of(lease, asker.account).sign(asker.key)])
        self.subnets[asker.account] = own.subnet
        self.taken[asker.account] = self.taken.get(asker.account, 0) + value
        return value

    def ask_to_sign(self, clear: Clear, day: int) -> Clear | None:
        """Its signature under a clear, if it owes what is cleared and the rules let it."""
        creditor = self.parties.get(clear.creditor_of(self.account))
        try:
            known = self.book.add(clear)
            debt = 0 if creditor is None else self.owed(creditor, day)
            self.book.check_sign(known, debt=debt, cap=self.policy.pledge, period=day // PERIOD_DAYS)
        except (CreditError, ProtocolError):
            return None
        return self.book.add(known.sign(self.key))

    def see_clear(self, clear: Clear, parties: Sequence[Party]) -> None:
        """A clear that came back; complete, it counts in both pairs that it touches here."""
        known = self.book.add(clear)
        if len(known.signers()) == len(known.cycle):
            for party in parties:
                if party.account in (known.creditor_of(self.account), known.debtor_of(self.account)):
                    self.learn(party, [known])

    def _standing(self, other: Party, day: int) -> Standing:
        known = self.records.get(other.account)
        if known is None:
            return Standing(subnet=other.subnet)
        stands = standing_of(other.account, self.pair(other), known, self.book, self.policy, today=day)
        stayed = stands.position > 0
        return replace(
            stands, subnet=self.subnets.get(other.account, other.subnet) if stayed else other.subnet
        )

    def _others(self, asker: Party, subnet: str | None, day: int) -> Exposure:
        if day != self._day:
            self._day = day
            self._seen.clear()
        known = newcomers = crowd = 0
        for account in self.records:
            if account == asker.account:
                continue
            if account not in self._seen:
                standing = self._standing(self.parties[account], day)
                self._seen[account] = standing, exposure_of(self.policy, standing)
            standing, exposure = self._seen[account]
            known += exposure.known
            newcomers += exposure.newcomers
            crowd += exposure.subnet if standing.subnet == subnet else 0
        return Exposure(known, newcomers, crowd)


def lease_of(owner: Party, holder: Party, number: int, *, day: int, byte_count: int) -> Lease:
    """A lease, signed by both."""
    unsigned = Lease(
        network=NETWORK,
        lease_id=LeaseId(number.to_bytes(16, "big")),
        segment_id=SegmentId(number.to_bytes(32, "big")),
        shard_index=0,
        root=bytes(32),
        byte_count=byte_count,
        owner_key=OwnerKey(owner.owner.public),
        holder=holder.peer_id,
        start_day=day,
        end_day=day + LEASE_DAYS,
        rate=MICROS_PER_CREDIT,
        egress_cap_bytes=0,
        nonce=number.to_bytes(16, "big"),
    )
    return unsigned.sign_as_owner(owner.owner).countersign(holder.device)


@dataclass(slots=True)
class Battle:
    """Attackers against donors, and a counter for everything that needs a number."""

    donors: list[Donor]
    attackers: list[Party]
    counter: int = 0
    lies: list[Lease] = field(default_factory=list)

    def number(self) -> int:
        """A fresh one."""
        self.counter += 1
        return self.counter

    def store_all(self, day: int) -> None:
        """Every attacker takes what it gets, everywhere."""
        for donor in self.donors:
            for attacker in self.attackers:
                donor.store(attacker, day, self.number())

    def serve(self, donor: Party, reader: Party, byte_count: int) -> None:
        """Honest bytes, and the reader's receipt for them."""
        receipt = ServeReceipt(
            NETWORK, session_of(DAY, self.number().to_bytes(12, "big")), donor.peer_id, reader.account,
            LeaseId(bytes(16)), byte_count,
        ).sign(reader.key)  # fmt: skip
        for one, other in ((donor, reader), (reader, donor)):
            if isinstance(one, Donor):
                one.learn(other, [receipt])
        if isinstance(reader, Donor):
            donor.worked += served_micros(byte_count)

    def vouch(self, owner: Donor, holder: Party, day: int, *, byte_count: int) -> None:
        """`holder` drops the owner's shard at once; two others swear that it is there."""
        lease = lease_of(owner, holder, self.number(), day=DAY, byte_count=byte_count)
        owner.learn(holder, [lease, Charge.of(lease, owner.account).sign(owner.key)])
        liars = [attacker for attacker in self.attackers if attacker is not holder][:2]
        for liar in liars:
            receipt = AuditReceipt(
                NETWORK, join_lease_ids([lease.lease_id]), day, self.number().to_bytes(32, "big"),
                9, 9, 0, day * DAY_S, Outcome.PASSED, liar.peer_id, holder.peer_id,
            ).sign(liar.device)  # fmt: skip
            owner.learn(holder, [receipt])

    def clear_again(self, initiator: Party, donor: Donor, middle: Donor, *, rounds: int, day: int) -> None:
        """One debt of `middle`, signed away again and again, given up each time, completed at the end."""
        amount = middle.owed(initiator, day)
        signed = []
        for _ in range(rounds if amount > 0 else 0):
            cycle = (initiator.account, donor.account, middle.account)
            clear = Clear(
                NETWORK, self.number().to_bytes(16, "big"), cycle, amount, (bytes(32),) * 3,
                initiator.account, day // PERIOD_DAYS + 1,
            )  # fmt: skip
            for member in (middle, donor):
                clear = member.ask_to_sign(clear, day) or clear
            if len(clear.signers()) < 2:
                break
            abort = Abort(NETWORK, clear.record_id(), initiator.account).sign(initiator.key)
            for member in (middle, donor):
                member.book.add_abort(abort)
            signed.append(clear)
        for clear in signed:
            complete = clear.sign(initiator.key)
            for member in (middle, donor):
                member.see_clear(complete, [initiator, donor, middle])

    def invent_debts(self, day: int) -> None:
        """A ring whose members owe each other fortunes tries to clear them through every honest node."""
        for place, donor in enumerate(self.donors):
            one, two = self.attackers[2 * place % len(self.attackers)], self.attackers[-1 - place]
            if one is two:
                continue
            clear = Clear(
                NETWORK, self.number().to_bytes(16, "big"), (one.account, donor.account, two.account),
                donor.policy.pledge, (bytes(32),) * 3, one.account, day // PERIOD_DAYS + 1,
            )  # fmt: skip
            signed = donor.ask_to_sign(clear.sign(two.key), day)
            if signed is not None:
                donor.see_clear(signed.sign(one.key), [one, two])


@dataclass(frozen=True, slots=True)
class AttackFigures:
    """What one attack came to; credits, at all donors together."""

    attack: str
    attackers: int
    donors: int
    taken: float
    worked: float
    bound: float
    """What the rules allow: gains over it are a bug."""
    allowance: float
    """One newcomer's at one donor."""

    @property
    def gain(self) -> float:
        """Taken beyond what was given."""
        return self.taken - self.worked


def _finish(name: str, battle: Battle, bound: int) -> AttackFigures:
    taken = sum(sum(donor.taken.values()) for donor in battle.donors)
    worked = sum(attacker.worked for attacker in battle.attackers)
    return AttackFigures(
        attack=name,
        attackers=len(battle.attackers),
        donors=len(battle.donors),
        taken=taken / MICROS_PER_CREDIT,
        worked=worked / MICROS_PER_CREDIT,
        bound=bound * len(battle.donors) / MICROS_PER_CREDIT,
        allowance=battle.donors[0].policy.account_cap / MICROS_PER_CREDIT,
    )


def _battle(attackers: int, donors: int, seed: int, *, subnets: int) -> Battle:
    return Battle(
        [Donor(number, seed=seed) for number in range(donors)],
        [Party(n, seed=seed, subnet=f"203.0.{n % subnets}.0/24") for n in range(attackers)],
    )


def newcomer(attackers: int, donors: int, seed: int) -> AttackFigures:
    """What one honest newcomer may have: the measure of the others."""
    battle = _battle(1, donors, seed, subnets=1)
    for day in DAYS:
        battle.store_all(day)
    return _finish("one newcomer", battle, battle.donors[0].policy.account_cap)


def one_subnet(attackers: int, donors: int, seed: int) -> AttackFigures:
    """Invented identities of one subnet, and as many again under new names every time."""
    battle = _battle(attackers // 6, donors, seed, subnets=1)
    for turn, day in enumerate(DAYS):
        battle.store_all(day)
        battle.attackers += [
            Party(10_000 * (turn + 1) + n, seed=seed, subnet="203.0.0.0/24") for n in range(attackers // 24)
        ]
    return _finish("invented, whitewashed: one subnet", battle, battle.donors[0].policy.account_cap)


def moving(attackers: int, donors: int, seed: int) -> AttackFigures:
    """Store from one subnet, go on to a second, and leave the first to the next."""
    battle = _battle(attackers // 6, donors, seed, subnets=1)
    for donor in battle.donors:
        for attacker in battle.attackers:
            attacker.subnet = "203.0.0.0/24"
            donor.store(attacker, DAY, battle.number())
            attacker.subnet = "203.0.1.0/24"
            donor.store(attacker, DAY, battle.number())
    return _finish("moving between two subnets", battle, 2 * battle.donors[0].policy.account_cap)


def many_subnets(attackers: int, donors: int, seed: int) -> AttackFigures:
    """One subnet each."""
    battle = _battle(attackers, donors, seed, subnets=attackers)
    for day in DAYS:
        battle.store_all(day)
    return _finish("invented: a subnet each", battle, battle.donors[0].policy.pledge)


def splitting(attackers: int, donors: int, seed: int) -> AttackFigures:
    """The work of one, a little over `c0` at each donor, done by fifty names of one subnet."""
    battle = _battle(attackers // 6, donors, seed, subnets=1)
    for donor in battle.donors:
        share = donor.policy.account_cap * 11 // 10 // len(battle.attackers)
        for attacker in battle.attackers:
            battle.serve(attacker, donor, share * MIB // SERVE_MICROS_PER_MIB)
    for day in DAYS:
        battle.store_all(day)
    return _finish("one that worked, split", battle, battle.donors[0].policy.account_cap)


def ring(attackers: int, donors: int, seed: int) -> AttackFigures:
    """Debts among attackers, cleared through honest nodes."""
    battle = _battle(attackers, donors, seed, subnets=1)
    for day in DAYS:
        battle.invent_debts(day)
        battle.store_all(day)
    return _finish("ring with invented debts", battle, battle.donors[0].policy.account_cap)


def false_receipts(attackers: int, donors: int, seed: int) -> AttackFigures:
    """Shards that nobody keeps, vouched for by two others."""
    battle = _battle(attackers, donors, seed, subnets=1)
    for donor in battle.donors:
        for attacker in battle.attackers[:40]:
            battle.vouch(donor, attacker, DAY + 29, byte_count=GIB)
    battle.store_all(DAY + 29)
    return _finish("false receipts", battle, battle.donors[0].policy.account_cap)


def late_clears(attackers: int, donors: int, seed: int) -> AttackFigures:
    """Honest donors owe each other in a circle; one of them owes the attacker, once."""
    battle = _battle(1, donors, seed, subnets=1)
    initiator = battle.attackers[0]
    for place, donor in enumerate(battle.donors):
        battle.serve(battle.donors[(place + 1) % donors], donor, 8 * GIB)
        battle.serve(initiator, donor, GIB)
    for place, donor in enumerate(battle.donors):
        battle.clear_again(initiator, donor, battle.donors[(place + 1) % donors], rounds=8, day=DAY)
    battle.store_all(DAY)
    return _finish("one debt cleared many times", battle, battle.donors[0].policy.account_cap)


def everything(attackers: int, donors: int, seed: int) -> AttackFigures:
    """All of it, from sixty subnets, some after honest work."""
    battle = _battle(attackers, donors, seed, subnets=max(2, attackers // 5))
    for place, donor in enumerate(battle.donors):
        battle.serve(battle.donors[(place + 1) % donors], donor, 8 * GIB)
        for attacker in battle.attackers[: attackers // 10]:
            battle.serve(attacker, donor, GIB // 4 + (attacker.key.public[0] & 7) * 150 * MIB)
    for day in DAYS:
        for place, donor in enumerate(battle.donors):
            battle.vouch(donor, battle.attackers[-1 - place], day, byte_count=GIB)
            middle = battle.donors[(place + 1) % donors]
            battle.clear_again(battle.attackers[place], donor, middle, rounds=4, day=day)
        battle.invent_debts(day)
        battle.store_all(day)
    policy = battle.donors[0].policy
    return _finish("all of it at once", battle, policy.pledge + policy.known)


ATTACKS: tuple[Callable[[int, int, int], AttackFigures], ...] = (
    newcomer, one_subnet, moving, many_subnets, splitting, ring, false_receipts, late_clears, everything,
)  # fmt: skip


def table(figures: Sequence[AttackFigures]) -> Table:
    """The figures as people read them."""
    rows = [
        (
            row.attack,
            f"{row.attackers}",
            f"{row.taken:,.0f}",
            f"{row.worked:,.0f}",
            f"{row.gain:,.0f}",
            f"{row.bound:,.0f}",
            f"{row.gain / row.allowance / row.donors:.2f}",
        )
        for row in figures
    ]
    headings = (
        "attack", "identities", "taken", "given", "gained", "the rules allow", "allowances a donor",
    )  # fmt: skip
    donors = figures[0].donors
    return Table(
        f"Attackers against {donors} donors that give {DONATED_BYTES // GIB} GiB each; credits, 29 days",
        headings,
        rows,
        [asdict(row) | {"gain": row.gain} for row in figures],
        (f"An allowance is what one newcomer may have at one donor: {figures[0].allowance:,.0f} credits.",),
        [
            f"{row.attack}: {row.gain:,.0f} credits gained, the rules allow {row.bound:,.0f}"
            for row in figures
            if row.gain > row.bound
        ],
    )


def tables(*, seed: int, attackers: int = 300, donors: int = 6) -> list[Table]:
    """All attacks."""
    return [table([attack(attackers, donors, seed) for attack in ATTACKS])]
