"""Leases without anybody's care: renewed in time, let go of when removed, and space that comes back."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.lease_keeper import MARGIN_SHARE, is_due
from node.chunks.put.upload import PutOptions
from node.control.api import control_handlers
from node.control.server import Events
from node.crypto.hashing import cid_text
from node.daemon.compose import Node
from node.errors import NotFoundError, UsageError
from node.units import DAY_S, HOUR_S, MIB, MINUTE_S
from tests.clocks import START_S
from tests.daemon.test_recovery import donors, entry, member
from tests.daemon.worlds import Machine, World, contact_of

CODE = Code(2, 6)


async def forward(world: World, seconds: int) -> None:
    """Let time go by for the calendar, and as much of it for the nodes as they need to see that."""
    for _ in range(0, seconds, 6 * HOUR_S):
        world.clock.ahead_s += 6 * HOUR_S - 3 * MINUTE_S
        await trio.sleep(3 * MINUTE_S)


async def call(node: Node, command: str, **request: object) -> tuple[dict[str, object], list[str]]:
    notes: list[str] = []

    async def send(message: object) -> None:
        notes.append(str(message))

    result = await control_handlers(node)[command](request, Events(send))
    return dict(result), notes


@given(st.integers(1, 400), st.integers(-70 * DAY_S, 400 * DAY_S), st.booleans(), st.booleans())
def test_what_is_due(days: int, left_s: int, renews: bool, is_list: bool) -> None:

    file = replace(entry(1), expires_s=START_S + left_s, renews=renews, is_list=is_list)
    due = is_due(file, lease_days=days, now_s=START_S)
    kept = 365 if is_list else days
    assert due == (renews and -60 * DAY_S < left_s <= kept * DAY_S // MARGIN_SHARE)


async def test_a_node_renews_its_files_by_itself_and_no_others(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World()
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:0250}").write_bytes(b"x")
    once = tmp_path / "once"
    once.write_bytes(b"for a month")
    async with donors(world, 3) as known, member(world, Machine("owner"), known) as owner:
        kept = await owner.uploader.put(folder, PutOptions(code=CODE, lease_days=30, renews=True))
        ends = await owner.uploader.put(once, PutOptions(code=CODE, lease_days=30))
        first = {each.file_hash: each.expires_s for each in owner.catalogue.entries()}
        await forward(world, 20 * DAY_S)
        assert {each.file_hash: each.expires_s for each in owner.catalogue.entries()} == first
        assert sum(donor.statistics().store.leases for donor in known) == 3 * 6  # none of them doubled
        await forward(world, 60 * DAY_S)
        now_s = world.clock.now_s()
        assert kept.expires_s < now_s < first[kept.file_hash] + 60 * DAY_S
        for each in owner.catalogue.entries():
            assert (each.expires_s > now_s) == (each.file_hash != ends.file_hash)
        assert (await owner.health.check(kept.file_hash)).healthy
        with pytest.raises(NotFoundError):
            await owner.health.check(ends.file_hash)
        # What the list shows is what the holders promised.
        promised = {
            held.lease.expires_s
            for donor in known
            for segment in donor.store.segments()
            for held in donor.store.leases(segment)
        }
        shown = {each.expires_s for each in owner.catalogue.entries() if each.renews}
        assert shown <= {until_s - 14 * DAY_S for until_s in promised}
        assert sum(donor.statistics().store.leases for donor in known) <= 3 * 2 * 6


async def test_a_file_that_nobody_has_comes_off_the_list(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    async with donors(world, 1) as known:
        async with AsyncExitStack() as lost:
            machine = Machine("the holder")
            machine.give(64 * MIB)
            holder = await lost.enter_async_context(world.node(machine, listed=[contact_of(known[0])]))
            await holder.wait_joined(30)
            known[0].store.set_cap(0)
            owner = await lost.enter_async_context(member(world, Machine("owner"), known))
            report = await owner.uploader.put(source, PutOptions(code=CODE, renews=True))
            assert holder.statistics().store.shards == 6
            for segment in holder.store.segments():
                for held in holder.store.leases(segment):
                    holder.store.end_lease(held.lease.lease_id)
            result, notes = await call(owner, "rm", link=cid_text(report.file_hash))
            assert result["leases"] == 0
            assert any("off your list" in note for note in notes)
            assert owner.catalogue.files() == []
            with pytest.raises(NotFoundError):
                await call(owner, "rm", link=cid_text(report.file_hash))


async def test_what_is_removed_while_a_holder_is_away_goes_once_it_is_back(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    async with donors(world, 2) as known, member(world, Machine("owner"), known) as owner:
        machine = Machine("away")
        machine.give(64 * MIB)
        async with world.node(machine, listed=[contact_of(known[0])]) as away:
            await away.wait_joined(30)
            report = await owner.uploader.put(source, PutOptions(code=CODE, renews=True))
            assert away.statistics().store.shards == 2
        result, notes = await call(owner, "rm", link=cid_text(report.file_hash))
        assert result["leases"] == 4
        assert any("did not answer" in note for note in notes)
        (listed,) = owner.catalogue.files()
        assert not listed.renews
        await trio.sleep(2 * HOUR_S)
        assert owner.catalogue.files() != []
        async with world.node(machine, listed=[contact_of(known[0])]) as away:
            await away.wait_joined(30)
            # What is left of it suffices to make the rest again, which nobody wants.
            await trio.sleep(3 * HOUR_S)
            assert owner.catalogue.files() == []
            assert owner.catalogue.removals() == {}
            assert [each.statistics().store.leases for each in (away, *known)] == [0, 0, 0]


async def test_what_nobody_had_when_it_was_removed_is_remembered_for_whoever_returns_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    sharer, machine = Machine("owner"), Machine("away")
    machine.give(64 * MIB)
    async with donors(world, 2) as known:
        async with member(world, sharer, known) as owner:
            for each in known:
                each.store.set_cap(0)
            async with world.node(machine, listed=[contact_of(known[0])]) as away:
                await away.wait_joined(30)
                report = await owner.uploader.put(source, PutOptions(code=CODE, renews=True))
                assert away.statistics().store.shards == 6
            result, notes = await call(owner, "rm", link=cid_text(report.file_hash))
            assert result["leases"] == 0
            assert any("off your list" in note for note in notes)
            assert owner.catalogue.files() == []
        async with (
            member(world, sharer, known) as owner,
            world.node(machine, listed=[contact_of(known[0])]) as away,
        ):
            await away.wait_joined(30)
            assert list(owner.catalogue.removals()) == [report.file_hash]
            await trio.sleep(3 * HOUR_S)
            assert away.statistics().store.leases == 0
            assert owner.catalogue.removals() == {}


async def test_a_file_that_is_renewed_is_not_removed_after_all(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    async with donors(world, 2) as known, member(world, Machine("owner"), known) as owner:
        report = await owner.uploader.put(source, PutOptions(code=CODE, renews=True))
        await owner.removals.begin(report.file_hash, owner.ports.clock.now_s() + 30 * DAY_S)
        await call(owner, "renew", link=cid_text(report.file_hash), duration_s=60 * DAY_S)
        await trio.sleep(3 * HOUR_S)
        assert len(owner.catalogue.files()) == 1
        assert sum(each.statistics().store.shards for each in known) == 6


async def test_whoever_pays_keeps_another_account_s_file(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    async with donors(world, 3) as known, member(world, Machine("friend"), known) as friend:
        async with member(world, Machine("owner"), known) as owner:
            report = await owner.uploader.put(source, PutOptions(code=CODE, lease_days=30))
            with pytest.raises(UsageError, match="not yours"):
                await call(friend, "rm", link=cid_text(report.file_hash))
        renewed, notes = await call(friend, "renew", link=cid_text(report.file_hash), duration_s=90 * DAY_S)
        assert renewed["leases"] == 6
        assert any("yours to pay for" in note for note in notes)
        assert friend.catalogue.files() == []
        await forward(world, 60 * DAY_S)  # the owner's leases and their grace are over
        assert sum(donor.statistics().store.leases for donor in known) == 6
        got = await friend.downloader.save(report.link, tmp_path / "copy")
        assert got.path.read_bytes() == source.read_bytes()
        # The friend's key ends the friend's leases, and them alone.
        ended, _ = await call(friend, "rm", link=cid_text(report.file_hash))
        assert ended["leases"] == 6
        assert sum(donor.statistics().store.shards for donor in known) == 0


async def test_released_space_comes_back_within_a_round(autojump_clock: MockClock, tmp_path: Path) -> None:
    world = World()
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 40_000)
    async with donors(world, 2) as known, member(world, Machine("owner"), known) as owner:
        before = [donor.statistics().store.used_bytes for donor in known]
        report = await owner.uploader.put(source, PutOptions(code=Code(1, 2)))
        assert all(donor.statistics().store.used_bytes > 10_000_000 for donor in known)
        await call(owner, "rm", link=cid_text(report.file_hash))
        await trio.sleep(30)
        for donor, used_bytes in zip(known, before, strict=True):
            assert donor.statistics().store.used_bytes < used_bytes + MIB
