"""Donors in virtual time that can be killed, and files put by a node that leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from node.chunks.geometry import Code
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.daemon.compose import Node
from node.daemon.config import Config, build_config
from node.units import MIB, SegmentId
from tests.daemon.worlds import Machine, World, contact_of

if TYPE_CHECKING:
    from trio_typing import TaskStatus

CAP_BYTES = 64 * MIB
SETTINGS = {
    "repair.check_interval_s": 60,
    "repair.dead_after_s": 300,
    "repair.stagger_s": 20,
    "audit.interval_s": 60,
}


@dataclass
class Swarm:
    """Donors that can be killed, and a sharer that can leave."""

    world: World
    config: Config
    donors: list[Node] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    stops: list[trio.Event] = field(default_factory=list)
    gone: list[trio.Event] = field(default_factory=list)

    async def add(self, nursery: trio.Nursery, count: int, *, cap_bytes: int = CAP_BYTES) -> None:
        """More nodes."""
        for _ in range(count):
            machine = Machine(f"donor {len(self.machines)}")
            machine.give(cap_bytes)
            self.machines.append(machine)
            stop, over = trio.Event(), trio.Event()
            self.stops.append(stop)
            self.gone.append(over)
            self.donors.append(await nursery.start(self._run, machine, stop, over))

    async def _run(
        self,
        machine: Machine,
        stop: trio.Event,
        over: trio.Event,
        task_status: TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        listed = [contact_of(self.donors[0])] if self.donors else []
        async with self.world.node(machine, listed=listed, config=self.config) as node:
            task_status.started(node)
            await stop.wait()
        over.set()

    def node(self, machine: Machine) -> AbstractAsyncContextManager[Node]:
        """A life of a machine, which joins through a donor that lives."""
        return self.world.node(machine, listed=[contact_of(self.living()[0])], config=self.config)

    async def kill(self, number: int) -> None:
        """End a node; its disk stays."""
        self.stops[number].set()
        await self.gone[number].wait()

    def living(self) -> list[Node]:
        return [node for node, over in zip(self.donors, self.gone, strict=True) if not over.is_set()]

    def shards(self, segment_id: SegmentId) -> dict[int, int]:
        """How many living donors have each shard."""
        found: dict[int, int] = {}
        for node in self.living():
            for index in node.store.shards_of(segment_id):
                found[index] = found.get(index, 0) + 1
        return found

    def holders(self, segment_id: SegmentId) -> list[int]:
        """Numbers of the living donors that hold something of it."""
        return [
            number
            for number, node in enumerate(self.donors)
            if not self.gone[number].is_set() and node.store.shards_of(segment_id)
        ]


@asynccontextmanager
async def swarm_of(donors: int, **settings: object) -> AsyncIterator[tuple[Swarm, trio.Nursery]]:
    """Donors that know each other."""
    config = build_config({**SETTINGS, **settings})
    swarm = Swarm(World(), config)
    async with trio.open_nursery() as nursery:
        await swarm.add(nursery, donors)
        for node in swarm.donors:
            assert await node.wait_joined(30)
        yield swarm, nursery
        nursery.cancel_scope.cancel()


async def put(swarm: Swarm, path: Path, code: Code) -> tuple[PutReport, list[SegmentId]]:
    """Store a file from a node that then leaves."""
    async with swarm.node(Machine(f"sharer of {path.name}")) as sharer:
        assert await sharer.wait_joined(30)
        report = await sharer.uploader.put(path, PutOptions(code=code))
        segments = [segment.segment_id for segment in sharer.catalogue.segments(report.file_hash)]
    return report, segments


async def comes_true(condition: Callable[[], bool], timeout_s: int) -> bool:
    """Whether it does, in virtual time."""
    for _ in range(timeout_s // 5):
        if condition():
            return True
        await trio.sleep(5)
    return condition()
