"""A Stream whose writes are its reads."""

from __future__ import annotations

from random import Random

import trio

from node.ports import Buffer
from node.units import PeerId

PEER = PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes(32))


class LoopStream:
    """A Stream whose writes are its reads, cut into pieces of given sizes."""

    def __init__(self, *, piece_sizes: Random | None = None) -> None:
        self.writes: list[bytes] = []
        self._bytes = bytearray()
        self._piece_sizes = piece_sizes
        self._ended = False
        self._more = trio.Event()

    @property
    def peer_id(self) -> PeerId:
        return PEER

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        self.writes.append(bytes(data))
        self._bytes.extend(data)
        self._more.set()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._bytes and not self._ended:
            self._more = trio.Event()
            await self._more.wait()
        size = max_bytes if self._piece_sizes is None else self._piece_sizes.randint(1, 9)
        taken = bytes(self._bytes[: min(size, max_bytes)])
        del self._bytes[: len(taken)]
        return taken

    async def close_write(self) -> None:
        self._ended = True
        self._more.set()

    async def aclose(self) -> None:
        self._ended = True

    async def reset(self) -> None:
        self._ended = True
