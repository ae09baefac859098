"""Composed nodes under the rules for newcomers: what is refused, what it says, and that nothing leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.credit.admission import UNLIMITED, Policy
from node.credit.ledger_store import AccountRow
from node.daemon.compose import Node
from node.daemon.config import build_config
from node.errors import CreditError
from node.units import DAY_S, MIB
from tests.daemon.test_leases import call
from tests.daemon.worlds import Machine, World, contact_of

STRICT = build_config({"credit.local_line": 0, "credit.newcomer_credits": 60, "credit.pledge": 0.0625})
"""A donor of 64 MiB gives 1,920 credits a period: 120 to newcomers, 60 of them at once, 60 an account."""
CAP_BYTES = 64 * MIB


@asynccontextmanager
async def swarm(world: World, donors: int) -> AsyncIterator[tuple[list[Node], Node]]:
    """Donors that give strangers little, and a sharer that gives nothing."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(donors + 1):
            machine = Machine(f"node {number}")
            machine.give(CAP_BYTES if number < donors else 0)
            listed = [contact_of(nodes[0])] if nodes else []
            nodes.append(await stack.enter_async_context(world.node(machine, listed=listed, config=STRICT)))
        for node in nodes:
            assert await node.wait_joined(30)
        yield nodes[:donors], nodes[donors]


def row_at(donor: Node, owner: Node) -> AccountRow:
    """How the owner stands with the donor."""
    return donor.credit.ledger.store.read(lambda view: view.account(owner.keys.account_id))


def options(*, days: int) -> PutOptions:
    return PutOptions(code=Code(1, 2), lease_days=days)


def source_of(folder: Path, size: int) -> Path:
    path = folder / f"{size} bytes"
    path.write_bytes(bytes(range(256)) * (size // 256))
    return path


async def test_a_newcomer_stores_up_to_its_allowance_and_learns_what_more_would_take(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(World(), donors=2) as (donors, sharer):
        report = await sharer.uploader.put(source_of(tmp_path, MIB), options(days=30))
        assert report.holders == 2
        open_claims = sum(row_at(donor, sharer).standing.unvested for donor in donors)
        assert 0 < open_claims <= report.price_microcredits <= open_claims + 2 * 30  # rounded up
        large = source_of(tmp_path, 8 * MIB)
        with pytest.raises(CreditError, match=r"needs 4\d\d\.\d credits .*cairn donate.*cairn credit line"):
            await sharer.uploader.put(large, options(days=30))
        with pytest.raises(CreditError, match=r"needs 1\d,\d\d\d\.\d credits "):
            await sharer.uploader.put(source_of(tmp_path, 16 * MIB), options(days=390))
        assert sum(row_at(donor, sharer).standing.unvested for donor in donors) == open_claims
        assert all(donor.server.statistics().open_puts == 0 for donor in donors)
        estimate = await sharer.uploader.estimate(large, options(days=1))
        # What is too much for a month is not for a day.
        report = await sharer.uploader.put(large, options(days=1))
        assert 0.999 < report.price_microcredits / estimate.price_microcredits <= 1


async def test_a_donor_without_credit_for_us_is_passed_over_like_a_full_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(World(), donors=3) as (donors, sharer):
        await donors[0].credit.set_policy(Policy(0, 0, 0, 0))
        report = await sharer.uploader.put(source_of(tmp_path, MIB), options(days=1))
        assert report.holders == 2
        assert row_at(donors[0], sharer) == AccountRow()


async def test_an_interrupted_put_leaves_nothing_reserved(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm(World(), donors=2) as (donors, sharer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sharer.uploader.put, source_of(tmp_path, MIB), options(days=1))
            while not all(donor.credit.admission.reserved_micros for donor in donors):  # noqa: ASYNC110
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        await trio.sleep(300)
        for donor in donors:
            assert donor.server.statistics().open_puts == 0
            assert donor.credit.admission.reserved_micros == 0
            assert row_at(donor, sharer).standing.unvested == 0


async def test_removing_a_file_gives_the_credit_back(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm(World(), donors=2) as (donors, sharer):
        report = await sharer.uploader.put(source_of(tmp_path, MIB), options(days=30))
        assert all(row_at(donor, sharer).standing.unvested for donor in donors)
        await sharer.renewer.release(report.file_hash)
        assert not any(row_at(donor, sharer).standing.unvested for donor in donors)


async def test_the_owner_sees_why_its_files_are_not_renewed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World()
    async with swarm(world, donors=2) as (donors, sharer):
        small = tmp_path / "small"
        small.write_bytes(b"for years")
        kept = PutOptions(code=Code(1, 2), lease_days=30, renews=True)
        await sharer.uploader.put(small, kept)
        for donor in donors:
            await donor.credit.set_policy(Policy(0, 0, 0, 0))
        world.clock.ahead_s += 25 * DAY_S
        assert await sharer.leases.renew_due() == 1
        (why,) = sharer.leases.failing.values()
        assert "nothing was renewed" in why
        assert "cairn donate" in why
        result, _ = await call(sharer, "status")
        assert result["renewals"] == {"failing": 1, "why": why}
        for donor in donors:
            await donor.credit.set_policy(Policy.of(CAP_BYTES, local_line=UNLIMITED))
        assert await sharer.leases.renew_due() == 0
        assert not sharer.leases.failing
        result, _ = await call(sharer, "status")
        assert result["renewals"] == {"failing": 0, "why": None}
