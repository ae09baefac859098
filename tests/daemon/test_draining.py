"""`cairn drain` as the daemon answers it: what finds no place is said, and goes once there is one."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from node.chunks.geometry import Code
from node.control.api import control_handlers
from node.control.server import Events
from node.daemon.memory import Donation
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
