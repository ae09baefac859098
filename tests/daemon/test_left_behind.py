"""A copy whose lease rosters count no more goes, too, once its holder sees who has the shard now."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.repair import surplus
from node.chunks.roster import merge_leases
from node.credit.grants import REUSE_DAYS
from node.crypto.sealing import owner_key
from node.crypto.signing import KeyPair
from node.daemon.compose import Node
from node.records.lease import Lease, granted_nonce
from node.units import DAY_S, LeaseId, SegmentId
from tests.daemon.healing_swarm import SETTINGS, Swarm, comes_true, put, swarm_of
from tests.daemon.worlds import Machine, contact_of

# Nothing is repaired by itself.
CALM = {"repair.threshold": 1.0}
LONG_S = 50 * SETTINGS["repair.check_interval_s"]


async def back(swarm: Swarm, stack: AsyncExitStack, number: int) -> Node:
    """A killed donor, on the disk that it had."""
    return await stack.enter_async_context(
        swarm.world.node(swarm.machines[number], listed=[contact_of(swarm.living()[0])], config=swarm.config)
    )


async def signed_over(swarm: Swarm, folder: Path) -> tuple[SegmentId, int, int, list[int]]:
    """Sign a shard over while all who could confirm it are away: segment, shard, giver, who is away."""
    path = folder / "file"
    path.write_bytes(bytes(100_000))
    _, (segment_id,) = await put(swarm, path, Code(1, 3))
    # Donor 0 is whom the others join through: it stays.
    giver, *away = sorted(swarm.holders(segment_id), key=lambda number: number != 0)
    donor = swarm.donors[giver]
    (index,) = donor.store.shards_of(segment_id)
    for number in away:
        await swarm.kill(number)
    assert await donor.healing.mover.hand_over({segment_id: {index}}) == 0
    return segment_id, index, giver, away


async def test_what_was_handed_over_while_nobody_could_confirm_it_goes_later(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(5, **CALM) as (swarm, _), AsyncExitStack() as stack:
        segment_id, index, giver, away = await signed_over(swarm, tmp_path)
        donor = swarm.donors[giver]
        # Somebody has signed for it, and nobody else knows: both copies stay.
        assert swarm.shards(segment_id) == {index: 2}
        returned = [await back(swarm, stack, number) for number in away]
        assert await comes_true(lambda: not donor.store.shards_of(segment_id), LONG_S)
        assert swarm.shards(segment_id) == {index: 1}
        assert all(node.store.shards_of(segment_id) for node in returned)


async def test_a_copy_goes_where_the_lease_of_the_other_carries_somebody_elses_handover(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """A lease carries one handover, and of two of one day the larger stays: the other is told in vain."""
    deaf = {**CALM, "audit.interval_s": 10 * DAY_S}
    async with swarm_of(5, **deaf) as (swarm, _), AsyncExitStack() as stack:
        segment_id, index, giver, away = await signed_over(swarm, tmp_path)
        donor, former = swarm.donors[giver], swarm.donors[away[0]]
        known = donor.server.rosters.known_leases(segment_id)
        (told,) = (lease for lease in known if lease.half is not None and lease.half.handover is not None)
        assert told.half is not None
        own = told.half.handover
        assert own is not None
        # The giver had signed it over to somebody else before, who has given it up as well.
        before = replace(own, successor=former.keys.peer_id, signature=b"").sign(donor.keys.identity)
        rivals = []
        for name in (b"\0", b"\xff"):
            signed = signed_again(told, owner_of(donor, segment_id), former, days=0, name=name)
            over = replace(own, lease_id=signed.lease_id, holder=former.keys.peer_id, signature=b"")
            rival = told.with_handover(over.sign(former.keys.identity))
            rivals.append((rival.encode(), rival, signed.with_handover(before)))
        _, rival, earlier = max(rivals)
        assert merge_leases([told, rival], told.owner_key) == (rival,)
        returned = [await back(swarm, stack, number) for number in away]
        for node in returned:
            node.server.rosters.learn_leases(segment_id, [rival, earlier])
        assert told in donor.server.rosters.known_leases(segment_id)
        assert await comes_true(lambda: not donor.store.shards_of(segment_id), LONG_S)
        assert swarm.shards(segment_id) == {index: 1}


async def test_whoever_is_counted_no_more_asks_where_its_shard_has_gone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Whoever took the shard over died, and it was remade: those that rosters count heard of that."""
    deaf = {**CALM, "audit.interval_s": 10 * DAY_S}
    async with swarm_of(6, **deaf) as (swarm, _), AsyncExitStack() as stack:
        segment_id, index, giver, away = await signed_over(swarm, tmp_path)
        donor = swarm.donors[giver]
        (taker,) = (number for number in swarm.holders(segment_id) if number != giver)
        told = [lease for lease in donor.server.rosters.known_leases(segment_id) if lease.half is not None]
        donor.healing.leaving.set(True)  # it offers no room: the shard is made again elsewhere
        await swarm.kill(taker)
        returned = [await back(swarm, stack, number) for number in away]
        for node in returned:
            node.server.rosters.learn_leases(segment_id, told)
            view = node.healing.held.view(segment_id)
            assert view is not None
            node.healing.held.note(await node.healing.healer.survey(view))
        await trio.sleep(3 * SETTINGS["repair.dead_after_s"])
        swarm.world.clock.ahead_s += (REUSE_DAYS + 1) * DAY_S  # until it may be replaced again
        outcome = await returned[0].healing.service.repair_now(segment_id)
        assert outcome is not None
        assert [lease.shard_index for lease in outcome.leases] == [index]
        assert outcome.leases[0] not in donor.server.rosters.known_leases(segment_id)
        assert await comes_true(lambda: not donor.store.shards_of(segment_id), LONG_S)


async def test_a_copy_stays_where_the_other_one_goes_meanwhile(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two holders may each have seen the other's copy, and each be about to give its own up."""
    async with swarm_of(5, **CALM) as (swarm, _), AsyncExitStack() as stack:
        segment_id, index, giver, away = await signed_over(swarm, tmp_path)
        donor = swarm.donors[giver]
        (taker,) = (number for number in swarm.holders(segment_id) if number != giver)
        mover, asked = donor.healing.mover, 0
        make_known = mover._make_known

        async def goes_meanwhile(*words: Any) -> Any:
            nonlocal asked
            known = await make_known(*words)
            if known is not None and asked == 0:
                asked += 1
                for held in swarm.donors[taker].store.leases(segment_id):
                    swarm.donors[taker].store.end_lease(held.lease.lease_id)
            return known

        monkeypatch.setattr(mover, "_make_known", goes_meanwhile)
        for number in away:
            await back(swarm, stack, number)
        assert await comes_true(lambda: asked == 1, LONG_S)
        checks = donor.healing.service.statistics.checks
        assert await comes_true(lambda: donor.healing.service.statistics.checks > checks + 4, LONG_S)
        assert set(donor.store.shards_of(segment_id)) == {index}


async def test_what_is_only_here_stays_whatever_was_signed(autojump_clock: MockClock, tmp_path: Path) -> None:
    """Whoever took the shard over is gone: a handover is no reason to let the last copy go."""
    async with swarm_of(5, **CALM) as (swarm, _), AsyncExitStack() as stack:
        segment_id, index, giver, away = await signed_over(swarm, tmp_path)
        donor = swarm.donors[giver]
        (taker,) = (number for number in swarm.holders(segment_id) if number != giver)
        await swarm.kill(taker)
        for number in away:
            await back(swarm, stack, number)
        checks = donor.healing.service.statistics.checks
        assert await comes_true(lambda: donor.healing.service.statistics.checks > checks + 4, LONG_S)
        assert set(donor.store.shards_of(segment_id)) == {index}
        # Nor is it for one that is to move it: a drain of other shards of the segment, or a lower cap.
        assert await donor.healing.mover.hand_over({segment_id: {index}}) == 0
        assert set(donor.store.shards_of(segment_id)) == {index}


@pytest.mark.parametrize("had_it_before", [False, True])
async def test_a_copy_whose_lease_later_ones_pushed_out_goes(
    had_it_before: bool, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Also where rosters still have an older lease of its holder, who gave the shard up once."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    async with swarm_of(12, **CALM) as (swarm, _), AsyncExitStack() as stack:
        _, (segment_id,) = await put(swarm, path, Code(2, 4))
        first = max(swarm.holders(segment_id))
        (index,) = swarm.donors[first].store.shards_of(segment_id)
        dead: list[int] = []

        def holder() -> int:
            (number,) = (
                number
                for number in swarm.holders(segment_id)
                if index in swarm.donors[number].store.shards_of(segment_id)
            )
            return number

        for _ in range(3):
            dead.append(holder())
            await swarm.kill(dead[-1])
            await trio.sleep(3 * SETTINGS["repair.dead_after_s"])
            watcher = swarm.donors[swarm.holders(segment_id)[0]]
            outcome = await watcher.healing.service.repair_now(segment_id)
            assert outcome is not None
            assert len(outcome.leases) == 1
            swarm.world.clock.ahead_s += (REUSE_DAYS + 1) * DAY_S  # until it may be replaced again
        # Of the leases under the grant rosters keep the last two: the first one of them has fallen out.
        returned = await back(swarm, stack, dead[1])
        assert set(returned.store.shards_of(segment_id)) == {index}
        if had_it_before:
            (held,) = returned.store.leases(segment_id)
            lease = Lease.decode(held.lease.data, network=returned.healing.held.network)
            ended = signed_again(lease, owner_of(watcher, segment_id), returned, days=0, name=b"e")
            watcher.server.rosters.learn_leases(segment_id, [ended])
        # As co-holders tell it when they have audited the segment.
        returned.server.rosters.learn_leases(segment_id, watcher.server.rosters.known_leases(segment_id))
        known = returned.server.rosters.known_leases(segment_id)
        assert (returned.keys.peer_id in {lease.holder for lease in known}) == had_it_before
        assert await comes_true(lambda: not returned.store.shards_of(segment_id), LONG_S)
        assert swarm.shards(segment_id) == dict.fromkeys(range(4), 1)


def owner_of(node: Node, segment_id: SegmentId) -> KeyPair:
    """The key of whoever `put` the file "file"."""
    view = node.healing.held.view(segment_id)
    assert view is not None
    account_seed = Machine("sharer of file").keys().account.seed
    return owner_key(account_seed, view.manifest.owner_salt)


def signed_again(lease: Lease, owner: KeyPair, holder: Node, *, days: int, name: bytes) -> Lease:
    """A lease of the shard of `lease` that the owner and `holder` signed, so many days longer."""
    unsigned = replace(
        lease, lease_id=LeaseId(name * 16), holder=holder.keys.peer_id, end_day=lease.end_day + days,
        nonce=granted_nonce(0, name * 12), owner_signature=b"", holder_signature=b"",
    )  # fmt: skip
    return unsigned.sign_as_owner(owner).countersign(holder.keys.identity)


async def test_a_copy_that_the_owner_signed_for_goes_where_renewals_of_another_pushed_it_out(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    async with swarm_of(12, **CALM) as (swarm, _), AsyncExitStack() as stack:
        _, (segment_id,) = await put(swarm, path, Code(2, 4))
        first = max(swarm.holders(segment_id))
        (index,) = swarm.donors[first].store.shards_of(segment_id)
        await swarm.kill(first)
        await trio.sleep(3 * SETTINGS["repair.dead_after_s"])
        watcher = swarm.donors[swarm.holders(segment_id)[0]]
        outcome = await watcher.healing.service.repair_now(segment_id)
        assert outcome is not None
        (lease,) = outcome.leases
        (second,) = (node for node in swarm.donors if node.keys.peer_id == lease.holder)
        owner = owner_of(watcher, segment_id)
        renewals = [
            signed_again(lease, owner, second, days=30, name=b"r"),
            signed_again(lease, owner, second, days=60, name=b"s"),
        ]
        watcher.server.rosters.learn_leases(segment_id, renewals)
        returned = await back(swarm, stack, first)
        assert set(returned.store.shards_of(segment_id)) == {index}
        returned.server.rosters.learn_leases(segment_id, watcher.server.rosters.known_leases(segment_id))
        known = returned.server.rosters.known_leases(segment_id)
        assert returned.keys.peer_id not in {each.holder for each in known}
        # A drain owes it as long as it is here.
        assert await returned.healing.mover.owed() == 1
        assert await comes_true(lambda: not returned.store.shards_of(segment_id), LONG_S)
        assert swarm.shards(segment_id) == dict.fromkeys(range(4), 1)


async def test_two_holders_of_a_shard_hear_of_each_other_from_a_third(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Both halves of a partition made the same shard again, and no audit is due for days."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    deaf = {**CALM, "audit.interval_s": 10 * DAY_S}
    async with swarm_of(12, **deaf) as (swarm, _):
        _, (segment_id,) = await put(swarm, path, Code(1, 5))
        # Donor 0 is whom the others join through: it stays.
        dead, *holders = sorted(swarm.holders(segment_id), key=lambda number: -number)
        (lost,) = swarm.donors[dead].store.shards_of(segment_id)
        await swarm.kill(dead)
        spare = [number for number in range(12) if number != dead and number not in holders]
        halves = [holders[:2] + spare[:3], holders[2:] + spare[3:]]
        islands = [[swarm.donors[number].keys.peer_id for number in half] for half in halves]
        swarm.world.internet.partition(*islands)
        repairers = [swarm.donors[half[0]] for half in halves]
        for half in halves:
            for number in half[:2]:  # as audits would
                healing = swarm.donors[number].healing
                view = healing.held.view(segment_id)
                assert view is not None
                healing.held.note(await healing.healer.survey(view))
        await trio.sleep(3 * SETTINGS["repair.dead_after_s"])
        made: list[Lease] = []
        for node in repairers:
            outcome = await node.healing.service.repair_now(segment_id)
            assert outcome is not None
            made += [lease for lease in outcome.leases if lease.shard_index == lost]
        one, other = made
        swarm.world.internet.heal()
        # A third one hears of both, say from the owner. The two know of themselves alone.
        third = repairers[0]
        third.server.rosters.learn_leases(segment_id, [other])
        nodes = {node.keys.peer_id: node for node in swarm.living()}
        assert other not in nodes[one.holder].server.rosters.known_leases(segment_id)
        assert one not in nodes[other.holder].server.rosters.known_leases(segment_id)
        assert swarm.shards(segment_id)[lost] == 2
        assert await comes_true(lambda: swarm.shards(segment_id)[lost] == 1, LONG_S)


async def test_a_holder_missed_long_ago_is_looked_at_again(autojump_clock: MockClock, tmp_path: Path) -> None:
    """One of two holders of a shard looked in vain for the other, and no audit tells it that it is back."""
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    deaf = {**CALM, "audit.interval_s": 10 * DAY_S}
    async with swarm_of(7, **deaf) as (swarm, _), AsyncExitStack() as stack:
        _, (segment_id,) = await put(swarm, path, Code(1, 3))
        # Donor 0 is whom the others join through: it stays.
        first, helper = sorted(swarm.holders(segment_id), key=lambda number: -number)[:2]
        (index,) = swarm.donors[first].store.shards_of(segment_id)
        await swarm.kill(first)
        for number in swarm.holders(segment_id):  # as audits would
            healing = swarm.donors[number].healing
            view = healing.held.view(segment_id)
            assert view is not None
            healing.held.note(await healing.healer.survey(view))
        await trio.sleep(3 * SETTINGS["repair.dead_after_s"])
        outcome = await swarm.donors[helper].healing.service.repair_now(segment_id)
        assert outcome is not None
        (lease,) = outcome.leases
        (second,) = (number for number, node in enumerate(swarm.donors) if node.keys.peer_id == lease.holder)
        by_peer = {swarm.donors[number].keys.peer_id: number for number in (first, second)}
        (going,) = surplus(index, list(by_peer))
        stays = next(number for number in (first, second) if by_peer[going] != number)
        if by_peer[going] == second:
            node = swarm.donors[second]
        else:
            await swarm.kill(second)
            node = await back(swarm, stack, first)
            node.server.rosters.learn_leases(segment_id, [lease])

        def lease_that_stays() -> Lease:
            known = node.server.rosters.known_leases(segment_id)
            (found,) = (each for each in known if each.holder != going and each.shard_index == index)
            return found

        def misses() -> bool:
            return bool(node.healing.held.silent(segment_id, [lease_that_stays()]))

        assert await comes_true(misses, LONG_S)
        other = await back(swarm, stack, stays)
        assert misses()
        assert await comes_true(lambda: not node.store.shards_of(segment_id), LONG_S)
        assert set(other.store.shards_of(segment_id)) == {index}
