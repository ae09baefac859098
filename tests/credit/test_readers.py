"""Whoever invents readers makes a donor keep no more than so many rows, and takes nothing from others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.credit import ledger_store as tables
from node.credit.ledger_store import AccountRow, LedgerView
from node.records.offer import DeviceCert
from node.records.pair_state import Equivocation
from node.records.receipt import ServeReceipt
from node.units import DAY_S, KIB, MIB, AccountId
from tests.credit.actors import CREDIT, DAY, NETWORK, Actor, agreed, charge_of, lease_of, served
from tests.credit.neighbours import Neighbour, Street

ROWS = 40
INVENTED = [Actor(number) for number in range(1000, 1200)]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "READER_ROWS_MAX", ROWS)


def rows(donor: Neighbour) -> dict[str, int]:
    """What each table of the ledger has."""
    names = [getattr(tables, name) for name in ("RECORDS", "ACCOUNTS", "CERTS", "PEERS", "DUE", "READERS")]
    with donor.tables.view() as view:
        return {name: view.count(name) for name in names}


async def heard(donor: Neighbour, receipts: Sequence[ServeReceipt]) -> None:
    """As streams that end report it."""
    donor.service.serving.has_served(receipts)
    await trio.sleep(30)


def row(donor: Neighbour, account: AccountId) -> AccountRow:
    return donor.service.ledger.store.read(lambda view: view.account(account))


async def test_a_flood_of_invented_readers_leaves_a_bounded_ledger(autojump_clock: MockClock) -> None:
    street = Street()
    donor, payer, friend, honest = street.neighbours(4)
    async with donor.living():
        lease = lease_of(payer.actor, donor.actor)
        donor.add(payer, lease, charge_of(lease, payer.actor))
        await donor.service.set_line(friend.actor.account, MIB)
        await heard(donor, [served(donor.actor, payer.actor, DAY, MIB, 1)])
        await heard(donor, [served(donor.actor, friend.actor, DAY, MIB, 2)])
        before = rows(donor)
        for start in range(0, len(INVENTED), 20):
            some = INVENTED[start : start + 20]
            await heard(donor, [served(donor.actor, each, DAY, 64 * KIB, each.number) for each in some])
            for each in some:  # it may also come with a certificate, on one connection
                cert = DeviceCert(NETWORK, each.account, some[0].peer_id, DAY * DAY_S, (DAY + 9) * DAY_S)
                donor.service.ledger.learn(cert.sign(each.key))
        assert all(count - before[name] <= ROWS for name, count in rows(donor).items())
        assert donor.service.ledger.store.read(LedgerView.reader_rows) <= ROWS
        sums = donor.service.ledger.store.read(LedgerView.everyone)
        assert sums.newcomers == row(donor, payer.actor.account).counted.newcomers
        # What others have stays, and whoever reads now is heard.
        assert row(donor, payer.actor.account).standing.unvested
        assert row(donor, payer.actor.account).standing.owes == 30 * CREDIT
        assert row(donor, friend.actor.account).line
        assert row(donor, friend.actor.account).standing.owes == 30 * CREDIT
        await heard(donor, [served(donor.actor, honest.actor, DAY, MIB, 3)])
        assert row(donor, honest.actor.account).standing.owes == 30 * CREDIT
        count = rows(donor)
    donor.crash()
    async with donor.living():
        assert rows(donor) == count


async def test_a_reader_that_was_forgotten_brings_its_receipts_again(autojump_clock: MockClock) -> None:
    street = Street()
    donor, reader = street.neighbours(2)
    async with donor.living(), reader.living():
        await reader.service.sync(donor.contact)
        receipt = served(donor.actor, reader.actor, DAY, MIB)
        await reader.service.served(receipt)
        await heard(donor, [receipt])
        await reader.service.sync(donor.contact)
        assert (
            donor.service.pairing.agreed(reader.actor.account) is None
        )  # nothing is signed for reading alone
        await heard(donor, [served(donor.actor, each, DAY, KIB, each.number) for each in INVENTED])
        assert row(donor, reader.actor.account) == AccountRow()
        await reader.service.sync(donor.contact)
        assert donor.balance_with(reader).net(donor.actor.account) == 30 * CREDIT
        assert reader.balance_with(donor).net(donor.actor.account) == 30 * CREDIT


async def test_who_read_much_is_an_account_like_others(autojump_clock: MockClock) -> None:
    street = Street()
    donor, reader = street.neighbours(2)
    async with donor.living(), reader.living():
        receipts = [
            served(donor.actor, reader.actor, DAY, limits.READER_BYTES_MAX // 8, number)
            for number in range(9)
        ]
        await reader.service.sync(donor.contact)
        for receipt in receipts:
            await reader.service.served(receipt)
        await heard(donor, receipts)
        await heard(donor, [served(donor.actor, each, DAY, KIB, each.number) for each in INVENTED])
        await reader.service.sync(donor.contact)
        assert row(donor, reader.actor.account).standing.owes == 9 * 8 * 30 * CREDIT
        assert donor.service.pairing.agreed(reader.actor.account) is not None


async def test_one_reader_has_so_many_receipts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READER_RECEIPTS_MAX", 10)
    street = Street()
    donor, reader = street.neighbours(2)
    async with donor.living():
        for number in range(30):
            await heard(donor, [served(donor.actor, reader.actor, DAY, KIB, number)])
        assert rows(donor)["credit_records"] == 10


async def test_forks_of_invented_pairs_are_kept_up_to_a_bound(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROOFS_KEPT_MAX", 5)
    street = Street()
    donor, other = street.neighbours(2)
    async with donor.living():

        def forked(liar: Actor) -> None:
            states = [
                agreed(liar, Actor(1), DAY // 30, 40, totals) for totals in ((1, 0), (2, 0))
            ]  # fmt: skip
            proof = Equivocation.of(liar.account, *states)
            donor.service.pairing.take(
                other.actor.account, [(Equivocation.TYPE, proof.encode())], day=street.day
            )

        for liar in INVENTED[:8]:
            forked(liar)
        assert len(donor.service.ledger.store.read(lambda view: list(view.proofs()))) == 5
        street.clock.time_s += 31 * DAY_S
        forked(INVENTED[8])
        ((_, proof),) = donor.service.ledger.store.read(lambda view: list(view.proofs()))
        assert proof.signer == INVENTED[8].account


async def test_receipts_may_be_switched_off(autojump_clock: MockClock) -> None:
    street = Street()
    donor, reader = street.neighbours(2)
    donor.takes_receipts = False
    async with donor.living():
        await heard(donor, [served(donor.actor, reader.actor, DAY, MIB)])
        assert rows(donor)["credit_records"] == 0
