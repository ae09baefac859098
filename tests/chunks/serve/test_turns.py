"""Turns: a few a peer at once, and nothing remembered afterwards. Precedence: a moment's wait, no more."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.chunks.serve.turns import Precedence, Turns
from node.units import PeerId

GREEDY, OTHER = PeerId(b"greedy"), PeerId(b"other")


async def test_a_peer_waits_for_its_own_turns_only(autojump_clock: MockClock) -> None:
    turns = Turns(2)
    served: list[PeerId] = []
    now = 0
    most = 0

    async def take(peer_id: PeerId) -> None:
        nonlocal now, most
        async with turns.turn(peer_id):
            now += peer_id == GREEDY
            most = max(most, now)
            await trio.sleep(1)
            now -= peer_id == GREEDY
            served.append(peer_id)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take, GREEDY)
        await wait_all_tasks_blocked()
        nursery.start_soon(take, OTHER)
    assert most == 2
    assert served.index(OTHER) < 3
    assert served.count(GREEDY) == 5
    assert len(turns) == 0


async def test_whoever_gives_up_waiting_leaves_no_trace(autojump_clock: MockClock) -> None:
    turns = Turns(1)
    async with turns.turn(GREEDY):
        with pytest.raises(trio.TooSlowError), trio.fail_after(1):
            async with turns.turn(GREEDY):
                raise AssertionError("one turn only")
    assert len(turns) == 0
    async with turns.turn(GREEDY):
        assert len(turns) == 1


async def test_who_gives_way_waits_while_others_are_served_and_never_for_long(
    autojump_clock: MockClock,
) -> None:
    precedence = Precedence(1.0)
    start = trio.current_time()
    await precedence.give_way()
    assert trio.current_time() == start  # nobody is ahead

    async def be_ahead(seconds: float) -> None:
        with precedence.ahead():
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_ahead, 0.25)
        nursery.start_soon(be_ahead, 0.5)
        await wait_all_tasks_blocked()
        await precedence.give_way()
        assert trio.current_time() == start + 0.5
        nursery.start_soon(be_ahead, 60)
        await wait_all_tasks_blocked()
        await precedence.give_way()
        assert trio.current_time() == start + 1.5
