"""What a peer may have going on at once; more of it waits. Layer 4.

A refusal would hit a reader of several files; a turn that is waited for costs a stream, and those are few.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
