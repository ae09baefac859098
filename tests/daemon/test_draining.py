"""`cairn drain` as the daemon answers it: what finds no place is said, and goes once there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.control.api import control_handlers
from node.control.server import Events
from node.daemon.compose import Node
from node.daemon.memory import Donation
from node.units import DAY_S, SegmentId
from tests.daemon.healing_swarm import CAP_BYTES, put, swarm_of


async def send(_event: object) -> None:
    """Nobody reads it."""


async def test_a_donor_that_gives_since_a_moment_ago_takes_what_found_no_place(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(2) as (swarm, _):
        leaver, other = swarm.donors
        await other.set_donation(Donation(0))
        (tmp_path / "file").write_bytes(bytes(100_000))
        _, (segment,) = await put(swarm, tmp_path / "file", Code(2, 5))
        calls, events = control_handlers(leaver), Events(send)
        assert await calls["drain"]({}, events) == {"moved": 0, "remaining": 5}
        assert (await calls["status"]({}, events))["donor"]["leaving"] is True
        await other.set_donation(Donation(CAP_BYTES))
        # At once: what the first drain was offered is still remembered.
        assert await calls["drain"]({}, events) == {"moved": 5, "remaining": 0}
        assert swarm.holders(segment) == [1]
        await calls["donate"]({"cap_bytes": CAP_BYTES}, events)
        assert (await calls["status"]({}, events))["donor"]["leaving"] is False


async def test_co_holders_that_are_not_connected_are_looked_up(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large network a holder is connected to few of its co-holders, and one of them has to know."""
    deaf = {"repair.check_interval_s": DAY_S, "audit.interval_s": 10 * DAY_S}
    async with swarm_of(8, **deaf) as (swarm, _):
        (tmp_path / "file").write_bytes(bytes(100_000))
        _, (segment,) = await put(swarm, tmp_path / "file", Code(2, 5))
        leaver = swarm.donors[max(swarm.holders(segment))]
        network, choose = leaver.ports.network, leaver.healing.healer.choose
        co_holders = {swarm.donors[number].keys.peer_id for number in swarm.holders(segment)}

        async def choose_among_strangers(*words: Any, **named: Any) -> Any:
            """Here all donors are asked for room, and connected by that."""
            chosen = await choose(*words, **named)
            for peer_id in co_holders - {leaver.keys.peer_id}:
                await network.disconnect(peer_id)
            assert not co_holders & set(network.connected())
            return chosen

        monkeypatch.setattr(leaver.healing.healer, "choose", choose_among_strangers)
        report = await leaver.healing.drain(lambda moved, remaining: None)
        assert (report.moved, report.remaining) == (1, 0)
        assert swarm.shards(segment) == dict.fromkeys(range(5), 1)
        told = [
            number
            for number in swarm.holders(segment)
            if len(swarm.donors[number].server.rosters.known_leases(segment)) == 6
        ]
        assert len(told) >= 2, "the new holder, and one that was looked up"


async def test_a_drain_that_was_cut_short_after_a_donor_signed_ends(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(2) as (swarm, nursery):
        leaver, other = swarm.donors
        await other.set_donation(Donation(0))
        (tmp_path / "file").write_bytes(bytes(100_000))
        _, (segment,) = await put(swarm, tmp_path / "file", Code(2, 5))
        await other.set_donation(Donation(CAP_BYTES))
        calls, events = control_handlers(leaver), Events(send)
        with trio.CancelScope() as cut:
            nursery.start_soon(_cut_once_it_is_there, other, segment, cut)
            await calls["drain"]({}, events)
        # Its answer did not arrive, and nobody else takes anything.
        assert cut.cancelled_caught
        assert (
            sorted(leaver.store.shards_of(segment)) == sorted(other.store.shards_of(segment)) == [*range(5)]
        )
        result = await calls["drain"]({}, events)
        assert result["remaining"] == 0
        assert list(leaver.store.shards_of(segment)) == []
        assert swarm.shards(segment) == dict.fromkeys(range(5), 1)


async def test_co_holders_that_keep_nothing_any_more_need_not_confirm(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(4, **{"repair.threshold": 1.0}) as (swarm, _):
        *holders, newcomer = swarm.donors
        await newcomer.set_donation(Donation(0))
        (tmp_path / "file").write_bytes(bytes(100_000))
        _, (segment,) = await put(swarm, tmp_path / "file", Code(1, 3))
        leaver, *others = holders
        for node in others:
            for held in node.store.leases(segment):
                node.store.end_lease(held.lease.lease_id)
        await newcomer.set_donation(Donation(CAP_BYTES))
        result = await control_handlers(leaver)["drain"]({}, Events(send))
        assert result == {"moved": 1, "remaining": 0}
        assert swarm.holders(segment) == [3]


async def _cut_once_it_is_there(taker: Node, segment: SegmentId, cut: trio.CancelScope) -> None:
    while not taker.store.shards_of(segment):  # noqa: ASYNC110 - no event for it
        await trio.sleep(0.001)
    cut.cancel()
