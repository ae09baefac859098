"""A node that restarts goes on where it was: who is silent stays so, and its own absence kills nobody."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.repair import Copy
from node.daemon.compose import Node
from node.units import PeerId, SegmentId
from tests.daemon.healing_swarm import SETTINGS, comes_true, put, swarm_of

DEAD_AFTER_S = SETTINGS["repair.dead_after_s"]
ROUND_S = SETTINGS["repair.check_interval_s"]


def copies_of(node: Node, segment_id: SegmentId) -> dict[PeerId, Copy]:
    """What a holder makes of the others, by peer."""
    view = node.healing.held.view(segment_id)
    assert view is not None
    return {lease.holder: copy for lease, copy in node.healing.held.copies(view).items()}


async def test_a_restart_forgets_no_silence_and_its_own_absence_does_not_count(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    # Nothing is repaired: what counts is what the holder makes of the others.
    async with swarm_of(7, **{"repair.threshold": 1.0}) as (swarm, _), AsyncExitStack() as stack:
        _, (segment_id,) = await put(swarm, path, Code(2, 6))
        holders = [number for number in swarm.holders(segment_id) if number]
        gone, watcher = holders[:2]
        dead = swarm.donors[gone].keys.peer_id
        await swarm.kill(gone)

        def since(node: Node) -> int | None:
            return copies_of(node, segment_id)[dead].silent_since_s

        assert await comes_true(lambda: since(swarm.donors[watcher]) is not None, 600)
        await trio.sleep(2 * ROUND_S)  # written down at the next check
        first_s = since(swarm.donors[watcher])
        assert first_s is not None
        await swarm.kill(watcher)
        off_s = 100 * DEAD_AFTER_S
        await trio.sleep(off_s)
        again = await stack.enter_async_context(swarm.node(swarm.machines[watcher]))
        started_s = swarm.world.clock.now_s()
        # Nobody is dead because this node was: not even who was missed before, until it is missed again.
        assert all(copy.silent_since_s is None for copy in copies_of(again, segment_id).values())
        assert await comes_true(lambda: since(again) is not None, 600)
        second_s = since(again)
        assert second_s is not None
        assert first_s + off_s <= second_s < started_s
        others = [copy for peer, copy in copies_of(again, segment_id).items() if peer != dead]
        assert all(copy.silent_since_s is None for copy in others)


async def test_who_came_back_meanwhile_is_not_silent(autojump_clock: MockClock, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))
    async with swarm_of(7, **{"repair.threshold": 1.0}) as (swarm, _), AsyncExitStack() as stack:
        _, (segment_id,) = await put(swarm, path, Code(2, 6))
        holders = [number for number in swarm.holders(segment_id) if number]
        away, watcher = holders[:2]
        peer = swarm.donors[away].keys.peer_id
        await swarm.kill(away)

        def since(node: Node) -> int | None:
            return copies_of(node, segment_id)[peer].silent_since_s

        assert await comes_true(lambda: since(swarm.donors[watcher]) is not None, 600)
        await trio.sleep(2 * ROUND_S)
        await swarm.kill(watcher)
        for number in (away, watcher):
            node = await stack.enter_async_context(swarm.node(swarm.machines[number]))
        for _ in range(20):
            assert since(node) is None
            await trio.sleep(ROUND_S)
