"""What `ls` says of a file's health, as the daemon answers it: what it can't know is unknown."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.control.api import control_handlers
from node.control.server import Events
from node.daemon.compose import Node
from tests.daemon.healing_swarm import swarm_of
from tests.daemon.worlds import Machine


async def send(_event: object) -> None:
    """Nobody reads it."""


async def listed(node: Node) -> tuple[str, int | None]:
    (file,) = (await control_handlers(node)["ls"]({}, Events(send)))["files"]
    return file["health"], file["last_proved"]


async def test_a_node_that_reaches_nobody_calls_nothing_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(6, **{"audit.interval_s": 86_400, "repair.check_interval_s": 86_400}) as (swarm, _):
        (tmp_path / "file").write_bytes(bytes(100_000))
        sharer = Machine("sharer")
        async with swarm.node(sharer) as node:
            assert await node.wait_joined(30)
            report = await node.uploader.put(tmp_path / "file", PutOptions(code=Code(2, 5)))
            (segment,) = node.catalogue.segments(report.file_hash)
            word, proved_s = await listed(node)
            assert word == "healthy"
            assert proved_s is not None
            holders = swarm.holders(segment.segment_id)
            (other,) = set(range(6)) - set(holders)
            for number in holders[1:]:
                await swarm.kill(number)
            assert await listed(node) == ("lost", None)
            await swarm.kill(holders[0])
            assert await listed(node) == ("lost", None)  # a peer is there, and nobody has it
            await swarm.kill(other)
            assert await listed(node) == ("unknown", None)
        async with swarm.world.node(sharer, config=swarm.config) as node:
            assert await listed(node) == ("unknown", None)
