"""`cairn drain` as the daemon answers it: what finds no place is said, and goes once there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.control.api import control_handlers
from node.control.server import Events
from node.daemon.memory import Donation
from node.units import DAY_S
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
