"""The invariants of storage credit, with adversaries as actors: honest nodes lose what they agreed to.

Numbers are those of the specification's list. Each machine must be able to fail: `mutations.py` names, for
each invariant, a bug in the core that it finds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from node.credit.pair_ledger import balance
from node.credit.pair_records import PairRecord, Records
from node.errors import CryptoError, NodeError, ProtocolError
from node.records.base import Record
from node.records.clear import Clear
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, ServeReceipt
from tests.conftest import FULL
from tests.credit.actors import CREDIT, DAY, Actor
from tests.credit.world import POLICY, Honest, World, small_world
from tests.records import credit_samples as samples

WINDOW_DAYS = 30
"""Nothing lapses before; later, what was written off has been given away."""
CLEARED = 20 * CREDIT
"""Of the 30 that each honest node owes two of the attackers."""


class Adversaries(RuleBasedStateMachine):
    """Three honest nodes and six attackers who may do anything in any order, alone and by plan."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World = small_world()
        self.totals: dict[tuple[Actor, Actor, Actor], dict[int, int]] = {}

    def honest(self, data: st.DataObject) -> Honest:
        return data.draw(st.sampled_from(self.world.honest))

    def attacker(self, data: st.DataObject) -> Actor:
        return data.draw(st.sampled_from(self.world.attackers))

    # Alone.

    @rule(data=st.data(), days=st.integers(1, 20), mib=st.integers(1, 3))
    def attacker_stores(self, data: st.DataObject, days: int, mib: int) -> None:
        self.world.store(self.attacker(data), self.honest(data), days=days, mib=mib)

    @rule(data=st.data(), days=st.integers(1, 20), mib=st.integers(1, 3))
    def honest_node_stores(self, data: st.DataObject, days: int, mib: int) -> None:
        donor = self.honest(data)
        payer = self.honest(data)
        if donor is not payer:
            self.world.store(payer.actor, donor, days=days, mib=mib)

    @rule(data=st.data(), days=st.integers(1, 20), keeps=st.booleans())
    def honest_node_places(self, data: st.DataObject, days: int, keeps: bool) -> None:
        self.world.place(self.honest(data), self.attacker(data), days=days, mib=1, keeps=keeps)

    @precondition(lambda self: self.world.kept)
    @rule(data=st.data())
    def attacker_drops(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(list(self.world.kept)))
        self.world.day += 1  # a day on which it was proved was a day on which it was kept
        self.world.kept[lease] = min(self.world.kept[lease], self.world.day)

    @rule(data=st.data())
    def owner_audits(self, data: st.DataObject) -> None:
        self.look(self.honest(data))

    def look(self, owner: Honest) -> None:
        leases = [
            record
            for records in owner.records.values()
            for record in records.items
            if isinstance(record, Lease) and record.owner_key == owner.actor.owner.public
        ]
        for lease in sorted(leases, key=Lease.record_id)[-2:]:
            self.world.audit(lease)

    @rule(data=st.data(), amount=st.integers(1, 2**20))
    def attacker_serves(self, data: st.DataObject, amount: int) -> None:
        self.world.serve(self.attacker(data), self.honest(data).actor, amount)

    @rule(data=st.data(), amount=st.integers(1, 2**20))
    def attacker_reads(self, data: st.DataObject, amount: int) -> None:
        self.world.serve(self.honest(data).actor, self.attacker(data), amount)

    @rule(data=st.data(), subnet=st.sampled_from("abcd"))
    def attacker_moves(self, data: st.DataObject, subnet: str) -> None:
        self.world.subnets[self.attacker(data)] = subnet

    @rule(days=st.integers(1, 9))
    def time_passes(self, days: int) -> None:
        self.world.day += days

    # Clears: any cycle, signed, given up and delivered in any order.

    @rule(data=st.data(), length=st.sampled_from([3, 4]), amount=st.integers(1, 40))
    def clear_is_proposed(self, data: st.DataObject, length: int, amount: int) -> None:
        members = data.draw(st.permutations(self.world.actors[:6]).map(lambda order: order[:length]))
        self.world.propose_clear(members, amount * CREDIT)

    @precondition(lambda self: self.world.clears)
    @rule(data=st.data(), gives_up=st.booleans())
    def clear_goes_on(self, data: st.DataObject, gives_up: bool) -> None:
        record_id = data.draw(st.sampled_from(list(self.world.clears)))
        clear = self.world.clears[record_id]
        liars = [actor for actor in self.world.attackers if actor.account in clear.cycle]
        if gives_up and liars:
            self.world.abort(record_id, liars[0])
        else:
            self.world.attackers_sign(record_id)
        for node in data.draw(st.permutations(self.world.honest)):
            if node.actor.account in clear.cycle:
                self.world.ask_to_sign(record_id, node)
        for node in data.draw(st.sets(st.sampled_from(self.world.honest))):
            self.world.deliver_clear(record_id, node)

    # By plan.

    @rule(data=st.data(), rounds=st.integers(2, 3), lapses=st.booleans())
    def one_debt_is_cleared_again_and_again(self, data: st.DataObject, rounds: int, lapses: bool) -> None:
        """The initiator gives up, or waits, and completes all of it at the end."""
        world = self.world
        initiator = data.draw(st.sampled_from((world.attackers[1], world.attackers[5])))
        place = data.draw(st.integers(0, 2))
        donor, middle = world.honest[place], world.honest[(place + 1) % 3]
        found = []
        for _ in range(rounds):
            record_id = world.propose_clear([initiator, donor.actor, middle.actor], CLEARED)
            for node in (middle, donor):
                world.ask_to_sign(record_id, node)
            if lapses:
                world.day += 9
            else:
                world.abort(record_id, initiator)
            found.append(record_id)
        for record_id in found:
            world.attackers_sign(record_id)
            for node in (middle, donor):
                world.deliver_clear(record_id, node)
        self.store_all(initiator, donor)

    @rule(data=st.data(), days=st.integers(5, 20))
    def ring_vouches(self, data: st.DataObject, days: int) -> None:
        """A shard that nobody keeps, two liars who say they saw it, and the credit spent at once."""
        owner, holder = self.honest(data), self.attacker(data)
        lease = self.world.place(owner, holder, days=days, mib=9, keeps=False)
        self.world.day += data.draw(st.integers(1, 5))
        self.world.vouch(lease, [liar for liar in self.world.attackers if liar is not holder][:2])
        self.store_all(holder, owner)

    @rule(data=st.data(), days=st.integers(1, 6))
    def holder_drops_what_was_proved(self, data: st.DataObject, days: int) -> None:
        lease = self.world.place(self.honest(data), self.attacker(data), days=20, mib=1, keeps=True)
        self.world.day += days
        self.world.audit(lease)
        self.totals_only_grow()
        self.world.day += 1
        self.world.kept[lease] = self.world.day
        self.world.audit(lease)

    @rule(data=st.data())
    def one_splits_into_many(self, data: st.DataObject) -> None:
        """Every identity of a subnet, after a byte of honest work, takes what it gets."""
        donor, subnet = self.honest(data), data.draw(st.sampled_from("ab"))
        for identity in [one for one, where in self.world.subnets.items() if where == subnet]:
            self.world.serve(identity, donor.actor, 1)
            self.store_all(identity, donor)

    @rule(data=st.data())
    def one_stores_and_moves_on(self, data: st.DataObject) -> None:
        donor = self.honest(data)
        for identity in self.world.attackers[:3]:
            self.world.subnets[identity] = "a"
            self.store_all(identity, donor)
            self.world.subnets[identity] = "d"
            self.world.store(identity, donor, days=1, mib=1)

    @rule(data=st.data())
    def friends_use_their_line(self, data: st.DataObject) -> None:
        """One who turned stores without end, one who is honest keeps an eye on its shards."""
        world = self.world
        for _ in range(8):
            world.store(world.attackers[0], world.honest[0], days=10, mib=1)
        world.store(world.honest[2].actor, world.honest[1], days=data.draw(st.integers(1, 20)), mib=1)
        self.look(world.honest[2])

    def store_all(self, identity: Actor, donor: Honest) -> None:
        for mib in (20, 5, 1):
            for _ in range(5):
                if not self.world.store(identity, donor, days=5, mib=mib):
                    break

    # Forgery and replay.

    @rule(data=st.data())
    def forged_records_are_refused(self, data: st.DataObject) -> None:
        """Invariant 9: of another network, another amount, another holder."""
        node = self.honest(data)
        other, records = data.draw(st.sampled_from(list(node.records.items())))
        record = data.draw(st.sampled_from(sorted(records.items, key=lambda r: r.encode())))
        forged: list[PairRecord]
        match record:
            case ServeReceipt():
                forged = [replace(record, byte_count=record.byte_count + 1)]
            case AuditReceipt():
                forged = [replace(record, time_s=record.time_s + 86_400)]
            case Clear():
                forged = [replace(record, amount=record.amount + 1)]
            case _:
                forged = []
        for item in [*forged, replace(record, network="cairn-other")]:
            before = node.records[other]
            try:
                node.learn(other, [item])
            except CryptoError:
                continue
            assert node.records[other] == before, "a forged record was believed"

    @rule(data=st.data())
    def everything_is_replayed(self, data: st.DataObject) -> None:
        """Invariants 6 and 9: again, in another order, in two halves."""
        node = self.honest(data)
        for other, records in list(node.records.items()):
            items = data.draw(st.permutations(sorted(records.items, key=lambda r: r.encode())))
            before = self.world.balance(node, other)
            half = len(items) // 2
            again = Records.of(items[:half]).merge(Records.of(items[half:])).merge(Records.of(items[:1]))
            assert again == records == records.merge(again) == again.merge(records)
            pair = self.world.pair(node.actor, other)
            after = balance(pair, again, today=self.world.day)
            assert (after.low, after.high) == (before.low, before.high)

    # What must hold.

    @invariant()
    def positions_add_up(self) -> None:
        """Invariants 1 to 3: over all that exists, nobody's position comes out of nothing."""
        world = self.world
        complete = [c for c in world.clears.values() if len(c.signers()) == len(c.cycle)]
        net = dict.fromkeys(world.actors, 0)
        earned = dict.fromkeys(world.actors, 0)
        for number, one in enumerate(world.actors):
            for other in world.actors[number + 1 :]:
                known = Records(frozenset(complete))
                for me, them in ((one, other), (other, one)):
                    if me in world.nodes:
                        known = known.merge(world.nodes[me].records.get(them, Records()))
                if not known.items:
                    continue
                outcome = balance(world.pair(one, other), known, today=world.day)
                for me, them in ((one, other), (other, one)):
                    mine, theirs = outcome.given_by(me.account), outcome.given_by(them.account)
                    net[me] += outcome.net(me.account)
                    earned[me] += mine.total - mine.gifts - mine.written_off
                    earned[me] -= theirs.total - theirs.gifts - theirs.written_off
        assert sum(net.values()) == 0
        assert net == earned  # clears change nothing

    @invariant()
    def open_claims_stay_under_the_caps(self) -> None:
        """Invariant 4, at every moment.

        What a donor served is given when it is given, and what it paid for ahead, by a clear of its own, it
        chose to give: neither is counted.
        """
        for node in self.world.honest:
            unsecured = []
            for other in node.records:
                standing = self.world.standing(node, other)
                stored = standing.position - self.read_by(node, other) - self.world.paid_ahead(node, other)
                gifts = self.world.gifted(node, other)
                unsecured.append(max(0, stored - max(0, node.lines.get(other, 0) - gifts)))
                assert gifts <= node.lines.get(other, 0)
            assert sum(unsecured) <= POLICY.pledge + POLICY.known
            assert max(unsecured, default=0) <= POLICY.account_cap

    def read_by(self, node: Honest, actor: Actor) -> int:
        """What the account was served, and what it gave and let lapse, which it had spent before perhaps."""
        outcome = self.world.balance(node, actor)
        served = outcome.given_by(node.actor.account).served
        return served + outcome.given_by(actor.account).written_off

    @invariant()
    def nobody_takes_more_than_it_gave(self) -> None:
        """Invariant 5: for all attackers together, at each donor and at all of them."""
        world = self.world
        if world.day >= DAY + WINDOW_DAYS:
            return
        worked = sum(world.worked(attacker) for attacker in world.attackers)
        caps = (POLICY.pledge + POLICY.known) * len(world.honest)
        lines = sum(node.lines.get(attacker, 0) for node in world.honest for attacker in world.attackers)
        bought = sum(
            world.paid_ahead(node, attacker) for node in world.honest for attacker in world.attackers
        )
        assert world.taken(world.attackers) - worked - bought <= caps + lines
        for node in world.honest:
            cleared = {account for clear in node.book.complete() for account in clear.cycle}
            for attacker in world.attackers:
                if attacker.account not in cleared:
                    gain = world.taken([attacker], node) - world.worked(attacker, node.actor)
                    assert gain <= POLICY.account_cap + node.lines.get(attacker, 0)
            # A friend has its line wherever it asks from.
            gains: dict[str, int] = {}
            for attacker in world.attackers:
                done = world.worked(attacker, node.actor)
                if attacker in node.subnets and attacker.account not in cleared and done < POLICY.account_cap:
                    gain = world.taken([attacker], node) - done - node.lines.get(attacker, 0)
                    home = node.subnets[attacker]
                    gains[home] = gains.get(home, 0) + max(0, gain)
            for gain in gains.values():
                assert gain <= POLICY.account_cap, "a subnet took more than one newcomer may"

    @staticmethod
    def value(lease: Lease) -> int:
        return (lease.byte_count + 4096) // 2**20 * CREDIT * (lease.end_day - lease.start_day)

    @invariant()
    def nobody_is_credited_for_what_it_did_not_do(self) -> None:
        """Invariant 5 against false receipts: what an honest node lets an attacker spend, it has had."""
        for node in self.world.honest:
            for attacker in self.world.attackers:
                given = self.world.balance(node, attacker).given_by(attacker.account)
                done = self.world.worked(attacker, node.actor)
                assert given.total - given.vouched <= done
                assert sum(total for _, total in given.by_period) <= done

    @invariant()
    def a_unit_of_debt_clears_once(self) -> None:
        """Invariant 7: all that an honest end ever signed away, complete or not, it owed."""
        for node in self.world.honest:
            me = node.actor.account
            for other in self.world.actors:
                signed = sum(
                    clear.amount
                    for clear in node.book.clears.values()
                    if me in clear.signers()
                    and me != clear.initiator
                    and (me, other.account) in clear.debts()
                )
                if signed:
                    given = self.world.balance(node, other).given_by(other.account)
                    assert signed <= given.total - given.vouched + self.turned(node, other)

    def turned(self, node: Honest, other: Actor) -> int:
        """Claims of `other` on an honest node that came out of clears which the node itself initiated."""
        mine = (node.actor.account, other.account)
        return sum(
            clear.amount
            for clear in node.book.complete()
            if clear.initiator in mine and (mine[1], mine[0]) in clear.debts()
        )

    @invariant()
    def totals_only_grow(self) -> None:
        """Invariant 11, period by period, and no lease vests more than its value."""
        for node in self.world.honest:
            for other in node.records:
                outcome = self.world.balance(node, other)
                for giver in (node.actor, other):
                    before = self.totals.get((node.actor, other, giver), {})
                    now = dict(outcome.given_by(giver.account).by_period)
                    assert all(now.get(period, 0) >= total for period, total in before.items())
                    self.totals[node.actor, other, giver] = now
                leases = [r for r in node.records[other].items if isinstance(r, Lease)]
                kept = outcome.low.kept + outcome.high.kept
                assert kept <= sum(self.value(lease) for lease in leases)


class Wire(RuleBasedStateMachine):
    """An attacker who changes bytes of records on their way, and passes one off as another (9 and 10)."""

    RECORDS = (*samples.SIGNED, samples.LEASE)

    def __init__(self) -> None:
        super().__init__()
        self.seen = [record.encode() for record in self.RECORDS]

    @rule(data=st.data(), position=st.integers(0, 2**16), value=st.integers(0, 255), grows=st.booleans())
    def bytes_change(self, data: st.DataObject, position: int, value: int, grows: bool) -> None:
        encoded = bytearray(data.draw(st.sampled_from(self.seen)))
        place = position % len(encoded)
        encoded[place : place + (not grows)] = bytes([value])
        self.seen = [*self.seen[-40:], bytes(encoded)]

    @rule(data=st.data(), kind=st.sampled_from(sorted({type(r) for r in RECORDS}, key=lambda t: t.TYPE)))
    def arrives(self, data: st.DataObject, kind: type[Record]) -> None:
        """As a record of any type: what decodes encodes to itself; what verifies is what was signed."""
        encoded = data.draw(st.sampled_from(self.seen))
        try:
            record = kind.decode(encoded, network=samples.NETWORK)
            assert record.encode() == encoded
            record.verify()
        except NodeError:
            return
        assert any(type(known) is kind and known.body() == record.body() for known in self.RECORDS)

    @rule(record=st.sampled_from(RECORDS))
    def arrives_in_another_network(self, record: Record) -> None:
        with pytest.raises(ProtocolError):
            type(record).decode(record.encode(), network="cairn-other")


TestAdversaries = Adversaries.TestCase
TestWire = Wire.TestCase
TestWire.settings = settings(max_examples=500 if FULL else 40, stateful_step_count=50, deadline=None)
TestAdversaries.settings = settings(
    max_examples=400 if FULL else 30, stateful_step_count=60 if FULL else 25, deadline=None
)
