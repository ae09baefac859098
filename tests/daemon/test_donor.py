"""A donor under pressure: its cap and its rate hold at every instant."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import accumulate
from pathlib import Path

import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.daemon.compose import Node
from node.daemon.memory import Donation
from node.errors import NodeError
from node.units import MIB, PeerId
from tests.daemon.worlds import Machine, World, contact_of

CAP_BYTES = 64_000_000
RATE_BYTES_S = 2 * MIB


def worst_ten_seconds(events: list[tuple[float, int]]) -> int:
    sums = [0, *accumulate(count for _, count in events)]
    worst = end = 0
    for start, (at, _) in enumerate(events):
        while end < len(events) and events[end][0] < at + 10:
            end += 1
        worst = max(worst, sums[end] - sums[start])
    return worst


async def test_six_uploaders_push_a_donor_neither_over_its_cap_nor_over_its_rate(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Each wants 20 MB kept: twice what fits. All they send is counted, handshakes of the DHT included."""
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    allocated: list[int] = []
    arrived: list[tuple[float, int]] = []
    refused = 0
    async with AsyncExitStack() as stack:
        donor = await stack.enter_async_context(world.node(machine))
        machine.disk.watch = allocated.append
        await donor.set_donation(Donation(CAP_BYTES, RATE_BYTES_S))
        people = [
            await stack.enter_async_context(world.node(Machine(f"sharer {n}"), listed=[contact_of(donor)]))
            for n in range(6)
        ]
        for person in people:
            assert await person.wait_joined(30)

        def note(sender: PeerId, receiver: PeerId, data: bytes) -> None:
            if donor.keys.peer_id in (sender, receiver):
                arrived.append((trio.current_time(), len(data)))

        world.internet.on_sent = note

        async def push(person: Node, number: int) -> None:
            nonlocal refused
            source = tmp_path / f"file {number}"
            source.write_bytes(bytes([number]) * 2_000_000)
            for _ in range(10):
                try:
                    await person.uploader.put(source, PutOptions(code=Code(1, 1)))
                except NodeError:
                    refused += 1

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number, person in enumerate(people):
                nursery.start_soon(push, person, number)
        took = trio.current_time() - began
        store = donor.statistics().store
    assert max(allocated) <= CAP_BYTES
    assert store.used_bytes > 0.8 * CAP_BYTES
    assert refused
    assert sum(count for _, count in arrived) > 0.8 * CAP_BYTES
    assert took > 0.8 * CAP_BYTES / RATE_BYTES_S
    # Ahead of what the donor takes, each of the twelve streams may have a window on its way.
    assert worst_ten_seconds(arrived) <= 1.05 * 10 * RATE_BYTES_S + 12 * 256 * 1024
