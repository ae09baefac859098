"""Two accounts over the wire: one set, one balance, signed by both, whatever is lost, repeated or forged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.credit.fold import Fold
from node.credit.pair_ledger import balance
from node.credit.pair_records import PairRecord, Records
from node.credit.units import period_of
from node.errors import CreditError
from node.ports import KeyValue, WriteTransaction
from node.records.charge import Charge
from node.records.lease import Lease
from node.records.offer import DeviceCert
from node.records.pair_state import PairState
from node.units import DAY_S, MIB, OwnerKey
from tests.credit.actors import (
    CREDIT,
    DAY,
    NETWORK,
    Actor,
    charge_of,
    lease_of,
    receipt_of,
    release_of,
    served,
)
from tests.credit.neighbours import Neighbour, Street

T = TypeVar("T")
STRANGER = Actor(9)
PERIOD = period_of(DAY)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Street, Neighbour, Neighbour]]:
    """Two nodes that have met."""
    street = Street()
    one, other = street.neighbours(2)
    async with AsyncExitStack() as stack:
        for each in (one, other):
            await stack.enter_async_context(each.living())
        await one.service.sync(other.contact)
        yield street, one, other


def gave(giver: Neighbour, taker: Neighbour, number: int = 0, *, days: int = 10) -> list[PairRecord]:
    """A lease at `giver` that `taker` pays for, passed on its tenth day."""
    lease = lease_of(taker.actor, giver.actor, number, days=days)
    passed = receipt_of([lease], taker.actor.owner, DAY + days - 1, nonce=number)
    return [lease, charge_of(lease, taker.actor), passed]


async def test_both_ends_come_to_one_set_and_one_balance(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        street.clock.time_s += 20 * DAY_S
        kept, given_back = gave(one, other), gave(other, one, 1)
        one.add(other, *kept[:2], served(one.actor, other.actor, DAY, 3 * MIB))
        other.add(one, *kept, *given_back)
        await other.service.sync(one.contact)
        whole = Records.of([*kept, *given_back, served(one.actor, other.actor, DAY, 3 * MIB)])
        expected = balance(one.balance_with(other).pair, whole, today=street.day)
        for end, far in ((one, other), (other, one)):
            found = end.balance_with(far)
            assert (found.low, found.high) == (expected.low, expected.high)
            assert found.net(one.actor.account) == 90 * CREDIT
        assert (await one.service.balance(other.actor.account)).balance == 90 * CREDIT
        agreed = one.service.pairing.agreed(other.actor.account)
        assert agreed == other.service.pairing.agreed(one.actor.account)
        assert agreed is not None
        agreed.verify()
        assert sorted((agreed.low_to_high, agreed.high_to_low)) == [10 * CREDIT, 100 * CREDIT]


async def test_nothing_new_costs_one_question_and_signs_nothing(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        street.clock.time_s += 20 * DAY_S
        one.add(other, *gave(one, other))
        await one.service.sync(other.contact)
        state = one.service.pairing.agreed(other.actor.account)
        assert state is not None
        for _ in range(3):
            await one.service.sync(other.contact)
            await other.service.sync(one.contact)
        assert one.service.pairing.agreed(other.actor.account) == state


async def test_a_month_offline_and_a_lost_disk_are_made_up_for(autojump_clock: MockClock) -> None:
    street = Street()
    one, other = street.neighbours(2)
    async with one.living():
        async with other.living():
            await one.service.sync(other.contact)
        street.clock.time_s += 38 * DAY_S
        one.add(other, *gave(one, other))
        one.add(other, *gave(one, other, 2, days=30))
        async with other.living():
            await other.service.sync(one.contact)
            assert other.balance_with(one).net(one.actor.account) == 40 * CREDIT
            first = other.service.pairing.agreed(one.actor.account)
        other.__post_init__()  # a new disk, the same keys
        async with other.living():
            await other.service.sync(one.contact)
            assert other.balance_with(one).net(one.actor.account) == 40 * CREDIT
            assert other.service.pairing.agreed(one.actor.account) == first
            one.add(other, *gave(one, other, 3, days=20))
            await other.service.sync(one.contact)
            assert one.balance_with(other).net(one.actor.account) == 60 * CREDIT
            chain = one.service.ledger.store.read(
                lambda view: one.service.ledger.states(view, other.actor.account)
            )
            assert len({state.slot for state in chain}) == len({state.record_id() for state in chain})


async def test_nothing_is_signed_before_the_other_side_s_states_are_known(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        one.service.pairing._synced.clear()
        street.clock.time_s += 20 * DAY_S
        one.add(other, *gave(one, other))
        with pytest.raises(CreditError, match="before the other side"):
            one.service.pairing.propose(other.actor.account, day=street.day)
        await one.service.sync(other.contact)
        assert one.service.pairing.agreed(other.actor.account) is not None


def forgeries(one: Neighbour, other: Neighbour) -> list[list[PairRecord]]:
    """What `other` may send and `one` must not count."""
    lease, charge, passed = gave(other, one)
    assert isinstance(lease, Lease)
    assert isinstance(charge, Charge)
    foreign = lease_of(one.actor, other.actor, 5)
    return [
        [replace(lease, rate=10 * CREDIT), charge, passed],
        [lease, replace(charge, signature=bytes(64)), passed],
        [lease, charge_of(lease, STRANGER), passed],
        [lease, charge_of(lease, other.actor), passed],
        [lease, passed],
        [charge, passed],
        [foreign, charge, passed],
        [lease_of(one.actor, STRANGER), charge_of(lease_of(one.actor, STRANGER), one.actor)],
        [served(STRANGER, one.actor, DAY, MIB)],
        [served(other.actor, STRANGER, DAY, MIB)],
        [replace(served(other.actor, one.actor, DAY, MIB), byte_count=2 * MIB)],
        [served(other.actor, one.actor, DAY + 90, MIB)],
    ]


@pytest.mark.parametrize("number", range(12))
async def test_forgeries_have_no_effect(number: int, autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        street.clock.time_s += 20 * DAY_S
        before = one.balance_with(other)
        forged = forgeries(one, other)[number]
        one.service.pairing.take(
            other.actor.account, [(record.TYPE, record.encode()) for record in forged], day=street.day
        )
        after = one.balance_with(other)
        assert (after.low, after.high) == (before.low, before.high)
        # What is true counts although it came with forgeries.
        true = gave(other, one, 7)
        mixed = [(record.TYPE, record.encode()) for record in (*forged, *true)]
        assert one.service.pairing.take(other.actor.account, mixed, day=street.day)
        assert one.balance_with(other).net(other.actor.account) == 10 * CREDIT


async def test_another_network_another_type_and_noise_have_no_effect(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        lease, charge, _ = gave(other, one)
        assert isinstance(lease, Lease)
        elsewhere = replace(lease, network="elsewhere")
        noise = [
            ("lease", elsewhere.encode()), ("charge", lease.encode()), ("lease", charge.encode()),
            ("lease", b""), ("no such thing", b"x"), ("gift", b"short"), ("equivocation", b"\xc1"),
        ]  # fmt: skip
        assert one.service.pairing.take(other.actor.account, noise, day=street.day) == 0


async def test_order_and_repetition_do_not_matter(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        street.clock.time_s += 20 * DAY_S
        entries = [(r.TYPE, r.encode()) for n in range(3) for r in gave(other, one, n)]
        for order in (entries[::-1], entries, entries[::2], entries[::-1]):
            one.service.pairing.take(other.actor.account, order, day=street.day)
        assert one.balance_with(other).net(other.actor.account) == 30 * CREDIT


async def test_of_a_session_the_largest_receipt_counts_and_alone_is_kept(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        for mib in (3, 1, 7, 5):
            one.add(other, served(one.actor, other.actor, DAY, mib * MIB))
        assert one.balance_with(other).net(one.actor.account) == 210 * CREDIT
        assert len(one.service.pairing.ids(other.actor.account, day=street.day)) == 1
        await other.service.sync(one.contact)
        assert other.balance_with(one).net(one.actor.account) == 210 * CREDIT


async def test_a_fork_is_found_told_to_others_and_freezes_once(autojump_clock: MockClock) -> None:
    street = Street()
    one, other, third = street.neighbours(3)
    liar = one.actor
    async with AsyncExitStack() as stack:
        for each in (one, other, third):
            await stack.enter_async_context(each.living())
        await other.service.sync(one.contact)
        await third.service.sync(other.contact)
        low, high = sorted((liar.account, other.actor.account))
        for total in (5, 6):
            state = PairState(NETWORK, low, high, PERIOD, 40, b"", total, 0).sign(liar.key)
            entry = (PairState.TYPE, state.encode())
            other.service.pairing.take(liar.account, [entry], day=street.day)
        assert (await other.service.balance(liar.account)).is_frozen
        await third.service.sync(other.contact)
        for end in (other, third):
            standing = end.service.ledger.store.read(
                lambda view, end=end: end.service.ledger.standing(view, liar.account, day=street.day)  # type: ignore[misc]
            )
            assert standing.is_frozen
        street.clock.time_s += 31 * DAY_S
        await third.service.sync(other.contact)
        standing = third.service.ledger.store.read(
            lambda view: third.service.ledger.standing(view, liar.account, day=street.day)
        )
        assert not standing.is_frozen
        assert not (await other.service.balance(liar.account)).is_frozen


async def test_an_older_device_of_the_account_exchanges_nothing(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        newer = DeviceCert(
            NETWORK, other.actor.account, STRANGER.peer_id, street.clock.now_s() + 60, (DAY + 9) * DAY_S
        ).sign(other.actor.key)
        one.service.ledger.learn(newer)
        with pytest.raises(Exception, match="newer device"):
            await other.service.sync(one.contact)


async def test_a_put_and_news_are_exchanged_by_themselves(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        street.clock.time_s += 20 * DAY_S
        lease, charge, passed = gave(one, other)
        one.add(other, lease, charge)
        other.add(one, lease, charge)
        await other.service.audited([passed])  # type: ignore[list-item]
        await one.service.served(served(one.actor, other.actor, DAY, MIB))
        await trio.sleep(30)
        assert one.balance_with(other).net(one.actor.account) == 40 * CREDIT
        assert other.balance_with(one).net(one.actor.account) == 40 * CREDIT
        exchanges = one.service.exchange.exchanges + other.service.exchange.exchanges
        await trio.sleep(90 * DAY_S)  # nothing wakes
        assert one.service.exchange.exchanges + other.service.exchange.exchanges == exchanges


class GrowingStore:
    """Runs every change twice, as a store does that has to grow in between; the first run is undone."""

    def __init__(self, inner: KeyValue) -> None:
        self._inner = inner
        self.view = inner.view
        self.close = inner.close

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        def in_vain(transaction: WriteTransaction) -> None:
            change(transaction)
            raise KeyError

        with suppress(KeyError):
            self._inner.update(in_vain)
        return self._inner.update(change)


async def test_a_store_that_grows_loses_nothing(autojump_clock: MockClock) -> None:
    street = Street()
    one, other = street.neighbours(2)
    disk = one.tables
    one.tables = GrowingStore(disk)  # type: ignore[assignment]
    street.clock.time_s += 20 * DAY_S
    async with other.living():
        async with one.living():
            await one.service.sync(other.contact)
            for mib in (1, 2):
                await one.service.served(served(one.actor, other.actor, DAY, mib * MIB))
            assert one.add(other, *gave(one, other)) == 3
        one.tables = disk
        async with one.living():
            assert one.balance_with(other).net(one.actor.account) == 70 * CREDIT


async def test_a_release_reaches_the_other_side(autojump_clock: MockClock) -> None:
    async with two() as (street, one, other):
        lease, charge, _ = gave(one, other)
        one.add(other, lease, charge)
        assert (await one.service.balance(other.actor.account)).open_leases == 10 * CREDIT
        one.add(other, release_of(lease, other.actor))  # type: ignore[arg-type]
        assert (await one.service.balance(other.actor.account)).open_leases == 0
        await one.service.sync(other.contact)
        assert len(other.service.pairing.ids(one.actor.account, day=street.day)) == 3


async def test_the_file_s_owner_releases_a_third_party_s_lease(autojump_clock: MockClock) -> None:
    """The holder has looked up who owns the file; to the payer it is the holder's word against itself."""
    async with two() as (street, donor, payer):
        lease, charge, _ = gave(donor, payer)
        assert isinstance(lease, Lease)
        for end, far in ((donor, payer), (payer, donor)):
            end.add(far, lease, charge)
        by_owner = replace(release_of(lease, payer.actor), signer=OwnerKey(STRANGER.owner.public))
        by_owner = by_owner.sign(STRANGER.owner)
        # Whoever pays can't shake off its claims by some key's release.
        entry = (by_owner.TYPE, by_owner.encode())
        assert donor.service.pairing.take(payer.actor.account, [entry], day=street.day) == 0
        assert (await donor.service.balance(payer.actor.account)).open_leases == 10 * CREDIT
        await donor.service.admission.released([by_owner])
        assert (await donor.service.balance(payer.actor.account)).open_leases == 0
        await donor.service.sync(payer.contact)
        open_there = payer.service.ledger.store.read(
            lambda view: payer.service.ledger.book(view, donor.actor.account).unvested(
                payer.actor.account, today=street.day
            )
        )
        assert open_there == 0
        assert set(donor.service.pairing.ids(payer.actor.account, day=street.day)) == set(
            payer.service.pairing.ids(donor.actor.account, day=street.day)
        )


def fold_at(end: Neighbour, far: Neighbour) -> Fold | None:
    ledger = end.service.ledger
    return ledger.store.read(lambda view: ledger.fold(view, far.actor.account))


async def test_an_exchange_closes_what_is_over_on_both_sides(autojump_clock: MockClock) -> None:
    street = Street()
    one, other = street.neighbours(2)
    street.clock.time_s += 50 * DAY_S
    async with one.living():
        async with other.living():
            await one.service.sync(other.contact)
            for number in range(20):
                one.add(other, *gave(one, other, number))
            await one.service.sync(other.contact)
            assert len(one.service.pairing.ids(other.actor.account, day=street.day)) > 60
            assert fold_at(one, other) is None
            street.clock.time_s += 50 * DAY_S
            before = one.balance_with(other)
            await one.service.sync(other.contact)
            for end, far in ((one, other), (other, one)):
                assert len(end.service.pairing.ids(far.actor.account, day=street.day)) < 6
                after = end.balance_with(far)
                assert (after.low, after.high) == (before.low, before.high)
        other.__post_init__()  # a new disk, the same keys
        async with other.living():
            await other.service.sync(one.contact)
            owed = before.net(one.actor.account)
            assert other.balance_with(one).net(one.actor.account) == owed
            assert fold_at(one, other) == fold_at(other, one) is not None
            await one.service.served(served(one.actor, other.actor, street.day, MIB))
            await other.service.sync(one.contact)
            assert other.balance_with(one).net(one.actor.account) == owed + 30 * CREDIT


async def test_a_state_of_the_last_number_ends_no_node(autojump_clock: MockClock) -> None:
    """Whoever uses up the numbers of a period has nothing more signed in it, and takes nobody down."""
    async with two() as (street, one, other):
        low, high = sorted((one.actor.account, other.actor.account))
        last = PairState(NETWORK, low, high, period_of(DAY), limits.PAIR_SEQUENCE_MAX, b"", 1, 0)
        entry = (PairState.TYPE, last.sign(other.actor.key).encode())
        one.service.pairing.take(other.actor.account, [entry], day=street.day)
        street.clock.time_s += 12 * DAY_S
        one.add(other, *gave(one, other))
        await one.service.sync(other.contact)
        assert other.balance_with(one).net(one.actor.account) == 10 * CREDIT
        assert one.service.pairing.agreed(other.actor.account) is None
