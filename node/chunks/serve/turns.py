"""What a peer may have going on at once, and who goes first; the rest waits. Layer 4.

A refusal would hit a reader of several files; a turn that is waited for costs a stream, and those are few.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from node.units import PeerId


class Turns:
    """A number of turns for each peer, remembered only while some are taken or waited for."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._by_peer: dict[PeerId, trio.Semaphore] = {}

    def __len__(self) -> int:
        """How many peers have one."""
        return len(self._by_peer)

    @asynccontextmanager
    async def turn(self, peer_id: PeerId) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the context."""
        turns = self._by_peer.setdefault(peer_id, trio.Semaphore(self._count))
        await turns.acquire()
        try:
            yield
        finally:
            turns.release()
            if turns.value == self._count:
                del self._by_peer[peer_id]


class Precedence:
    """Some requests give way to others, for a moment; alone they wait for nothing."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._ahead = 0
        self._free = trio.Event()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Be given way to for the context."""
        self._ahead += 1
        try:
            yield
        finally:
            self._ahead -= 1
            if not self._ahead:
                self._free.set()
                self._free = trio.Event()

    async def give_way(self) -> None:
        """Wait until nobody is ahead, though not for longer than a moment."""
        with trio.move_on_after(self._wait_s):
            while self._ahead:
                await self._free.wait()
