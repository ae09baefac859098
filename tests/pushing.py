"""People who want more kept than fits, on a real disk and on a simulated one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.daemon.compose import Node
from node.errors import NodeError


async def put_until_refused(people: Sequence[Node], folder: Path, *, times: int) -> int:
    """Everybody puts 2 MB of its own `times` times, all at once; how many puts were refused."""
    refused = 0

    async def push(person: Node, number: int) -> None:
        nonlocal refused
        source = folder / f"file {number}"
        source.write_bytes(bytes([number]) * 2_000_000)
        for _ in range(times):
            try:
                await person.uploader.put(source, PutOptions(code=Code(1, 1)))
            except NodeError:
                refused += 1

    async with trio.open_nursery() as nursery:
        for number, person in enumerate(people):
            nursery.start_soon(push, person, number)
    return refused
