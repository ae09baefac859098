"""Debts cleared around cycles of real services, with messages lost and doubled, and members that die."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.chunks.admission import Asker, Wanted
from node.credit.clearing import ClearState, Cycle
from node.credit.cycle_finder import Found
from node.credit.ledger_store import LedgerView
from node.errors import UnreachableError
from node.records.charge import BILLED_EXTRA_BYTES
from node.records.offer import PRICE_MICROCREDITS, Offer
from node.units import DAY_S, MIB, Contact
from tests.credit.actors import CREDIT, DAY, NETWORK, served, signed_clear
from tests.credit.neighbours import Neighbour, Street

DEBT = 90 * CREDIT
"""What 3 MiB served come to."""


def offer_of(donor: Neighbour) -> Offer:
    return Offer(
        NETWORK, donor.actor.peer_id, donor.actor.account, 10**9, PRICE_MICROCREDITS, 0, 1000, 10**9, 2**31
    ).sign(donor.actor.device)


@asynccontextmanager
async def ring(count: int, *, mib: int = 3) -> AsyncIterator[list[Neighbour]]:
    """Accounts of a cycle, each owing the next, the last the first; the first owes nothing yet."""
    street = Street()
    members = street.neighbours(count)
    async with AsyncExitStack() as stack:
        for each in members:
            await stack.enter_async_context(each.living())
        await members[0].service.sync(members[1].contact)
        for position in range(1, count):
            debtor, creditor = members[position], members[(position + 1) % count]
            await debtor.service.sync(creditor.contact)
            creditor.add(debtor, served(creditor.actor, debtor.actor, DAY, mib * MIB))
            await creditor.service.sync(debtor.contact)
        yield members


def nets(members: Sequence[Neighbour]) -> list[list[int]]:
    """What each is owed by each other one, as it sees that itself."""

    def row(each: Neighbour) -> list[int]:
        def look(view: LedgerView) -> list[int]:
            return [view.account(far.actor.account).standing.owes for far in members]

        return each.service.ledger.store.read(look)

    return [row(each) for each in members]


def wanted(credits: int) -> Wanted:
    return Wanted(1, credits * MIB - BILLED_EXTRA_BYTES, 0, 1, CREDIT)


async def settle(members: Sequence[Neighbour]) -> None:
    """Everybody exchanges with everybody it knows."""
    for _ in range(2):
        for one in members:
            for far in members:
                if far is not one:
                    await one.service.sync(far.contact)


@pytest.mark.parametrize("count", [3, 4])
async def test_a_refused_newcomer_clears_through_a_cycle_and_stores(
    count: int, autojump_clock: MockClock
) -> None:
    async with ring(count) as members:
        asker, donor = members[:2]
        who = Asker(asker.actor.peer_id, asker.service.wallet.cert())
        before = await donor.service.admission.room(who)
        have = await asker.service.wallet.make_room(
            donor.contact, offer_of(donor), need=before + DEBT, have=before
        )
        assert have == before + DEBT
        assert await donor.service.admission.room(who) == before + DEBT
        await donor.service.admission.reserve(b"put", who, wanted((before + DEBT) // CREDIT))
        await settle(members)
        assert all(each.service.clearing.book.open_total(period=DAY // 30) == 0 for each in members)
        # Nobody's net position has changed: the asker is now owed by the donor what its debtor owed it.
        everyone = nets(members)
        assert [sum(row) for row in everyone] == [DEBT, -DEBT, *[0] * (count - 2)]
        assert everyone[0][1] == DEBT
        assert all(everyone[a][b] == -everyone[b][a] for a in range(count) for b in range(count))


async def test_only_what_is_missing_is_cleared(autojump_clock: MockClock) -> None:
    async with ring(3) as members:
        asker, donor, middle = members
        have = await asker.service.wallet.make_room(
            donor.contact, offer_of(donor), need=50 * CREDIT, have=20 * CREDIT
        )
        assert have == 50 * CREDIT
        assert (await asker.service.balance(middle.actor.account)).balance == DEBT - 30 * CREDIT


async def test_less_than_a_clear_may_be_of_is_paid_with_the_least(autojump_clock: MockClock) -> None:
    async with ring(4) as members:
        asker, donor = members[:2]
        have = await asker.service.wallet.make_room(donor.contact, offer_of(donor), need=5, have=0)
        assert have == limits.CLEAR_MICROS_MIN
        await settle(members)
        assert nets(members)[0][1] == limits.CLEAR_MICROS_MIN


async def test_a_donor_that_denies_its_debt_is_not_paid_ahead_again(autojump_clock: MockClock) -> None:
    async with ring(3) as members:
        asker, donor, _ = members
        make_room = asker.service.wallet.make_room
        assert await make_room(donor.contact, offer_of(donor), need=50 * CREDIT, have=0) == 50 * CREDIT
        assert await make_room(donor.contact, offer_of(donor), need=50 * CREDIT, have=0) == 0
        assert await make_room(donor.contact, offer_of(donor), need=60 * CREDIT, have=0) == 10 * CREDIT
        await settle(members)
        assert nets(members)[0][1] == 60 * CREDIT


async def test_without_a_debtor_nothing_is_asked(autojump_clock: MockClock) -> None:
    street = Street()
    one, other = street.neighbours(2)
    nowhere = Contact(other.actor.peer_id)
    async with one.living():  # the other one is not even there
        assert (
            await one.service.wallet.make_room(nowhere, offer_of(other), need=9 * CREDIT, have=4 * CREDIT)
            == 4 * CREDIT
        )


async def test_a_member_that_is_gone_makes_the_clear_void(autojump_clock: MockClock) -> None:
    """The donor has signed by then: its amount stays reserved, the way is free for another clear."""
    street = Street()
    asker, donor, middle = street.neighbours(3)
    async with asker.living(), donor.living():
        async with middle.living():
            await asker.service.sync(donor.contact)
            for creditor, debtor in ((middle, donor), (asker, middle)):
                await creditor.service.sync(debtor.contact)
                creditor.add(debtor, served(creditor.actor, debtor.actor, DAY, 3 * MIB))
                await creditor.service.sync(debtor.contact)
        have = await asker.service.wallet.make_room(
            donor.contact, offer_of(donor), need=50 * CREDIT, have=20 * CREDIT
        )
        assert have == 20 * CREDIT
        book = donor.service.clearing.book
        assert book.reserved(donor.actor.account, middle.actor.account) == 30 * CREDIT
        assert book.open_total(period=DAY // 30) == 0  # the asker has told that it gave up
        standing = donor.service.ledger.store.read(lambda view: view.account(middle.actor.account)).standing
        assert standing.reserved == 30 * CREDIT
        async with middle.living():
            have = await asker.service.wallet.make_room(
                donor.contact, offer_of(donor), need=50 * CREDIT, have=20 * CREDIT
            )
            assert have == 50 * CREDIT


async def test_what_is_signed_away_is_neither_spent_nor_cleared_again(autojump_clock: MockClock) -> None:
    """The donor's decisions count an incomplete clear as complete, after a crash too."""
    street = Street()
    asker, donor, middle = street.neighbours(3)
    async with donor.living():
        async with middle.living():
            await middle.service.sync(donor.contact)
            middle.add(donor, served(middle.actor, donor.actor, DAY, 3 * MIB))
            await middle.service.sync(donor.contact)
            who = Asker(middle.actor.peer_id, middle.service.wallet.cert())
        room = await donor.service.admission.room(who)
        clear = signed_clear([asker.actor, donor.actor, middle.actor], 30 * CREDIT)
        unsigned = replace(clear, signatures=(b"",) * 4)
        donor.service.clearing.kept.sign(unsigned, day=DAY)
        assert await donor.service.admission.room(who) == room - 30 * CREDIT
        assert donor.service.clearing.finder.creditors() == {middle.actor.account: DEBT - 30 * CREDIT}
    donor.crash()
    async with donor.living():
        clearing = donor.service.clearing
        assert await donor.service.admission.room(who) == room - 30 * CREDIT
        assert clearing.finder.creditors() == {middle.actor.account: DEBT - 30 * CREDIT}
        street.clock.time_s += 90 * DAY_S  # it lapses, and counts all the same
        assert clearing.book.state(clear.record_id(), period=DAY // 30 + 3) is ClearState.LAPSED
        assert clearing.finder.creditors() == {middle.actor.account: DEBT - 30 * CREDIT}
        assert (
            len(clearing.kept.sign(clear, day=DAY + 90).signers()) == 3
        )  # late: now it is cleared, and nothing reserved
        assert clearing.finder.creditors()[middle.actor.account] == DEBT - 30 * CREDIT
        row = donor.service.ledger.store.read(lambda view: view.account(middle.actor.account))
        assert (row.standing.owes, row.standing.reserved) == (30 * CREDIT - DEBT, 0)


async def test_whoever_owes_nothing_declines(autojump_clock: MockClock) -> None:
    async with ring(3) as members:
        asker, donor, middle = members
        debtors = [middle.actor.account]
        clearing = asker.service.clearing
        (found,) = await clearing.finder.find(donor.contact, donor.actor.account, 10**12, debtors)
        assert found.cycle.amount == DEBT
        before = nets(members)
        assert not await clearing.clear(found, DEBT + 1)
        one, two, three = found.cycle.accounts
        backwards = Found(
            Cycle((one, three, two), 5 * CREDIT), (found.peers[0], found.peers[2], found.peers[1])
        )
        assert not await clearing.clear(backwards, 5 * CREDIT)
        await settle(members)
        assert nets(members) == before
        assert await clearing.clear(found, DEBT)


@pytest.mark.parametrize("crash_at", range(4))
async def test_an_initiator_that_dies_loses_nothing_that_was_complete(
    crash_at: int, autojump_clock: MockClock
) -> None:
    """It dies between two signatures, or right after its own; then everybody comes back and exchanges."""
    street = Street()
    members = street.neighbours(3)
    asker, donor, middle = members
    async with donor.living(), middle.living():
        async with asker.living():
            await asker.service.sync(donor.contact)
            for creditor, debtor in ((middle, donor), (asker, middle)):
                await creditor.service.sync(debtor.contact)
                creditor.add(debtor, served(creditor.actor, debtor.actor, DAY, 3 * MIB))
                await creditor.service.sync(debtor.contact)
            asked = 0
            asked_of = asker.service.clearing.members
            whole = asked_of.ask

            async def until_it_dies(*arguments: object) -> object:
                nonlocal asked
                asked += 1
                if asked > 1 + crash_at:
                    raise trio.EndOfChannel
                return await whole(*arguments)  # type: ignore[arg-type]

            asked_of.ask = until_it_dies  # type: ignore[method-assign, assignment]
            with pytest.raises(trio.EndOfChannel):
                await asker.service.wallet.make_room(
                    donor.contact, offer_of(donor), need=50 * CREDIT, have=20 * CREDIT
                )
        asker.crash()
        async with asker.living():
            await settle(members)
            everyone = nets(members)
            assert all(everyone[a][b] == -everyone[b][a] for a in range(3) for b in range(3))
            assert [sum(row) for row in everyone] == [DEBT, -DEBT, 0]
            moved = 30 * CREDIT if crash_at >= 2 else 0
            assert everyone[0][1] == moved
            assert donor.service.clearing.book.reserved(donor.actor.account, middle.actor.account) == (
                30 * CREDIT if crash_at == 1 else 0
            )


@pytest.mark.parametrize("count", [3, 4])
async def test_lost_and_doubled_messages_change_nothing(count: int, autojump_clock: MockClock) -> None:
    """Every other question of the initiator is lost on the way there or back, the rest are sent twice."""
    async with ring(count) as members:
        asker, donor = members[:2]
        asked_of, number = asker.service.clearing.members, 0
        whole = asked_of.ask

        async def over_a_bad_link(*arguments: object) -> object:
            nonlocal number
            number += 1
            if number % 4 == 2:
                raise UnreachableError("peer", "lost on the way there")
            await whole(*arguments)  # type: ignore[arg-type]
            if number % 4 == 0:
                raise UnreachableError("peer", "lost on the way back")
            return await whole(*arguments)  # type: ignore[arg-type]

        asked_of.ask = over_a_bad_link  # type: ignore[method-assign, assignment]
        have = await asker.service.wallet.make_room(donor.contact, offer_of(donor), need=DEBT, have=0)
        assert have == DEBT
        await settle(members)
        everyone = nets(members)
        assert [sum(row) for row in everyone] == [DEBT, -DEBT, *[0] * (count - 2)]
        assert everyone[0][1] == DEBT
