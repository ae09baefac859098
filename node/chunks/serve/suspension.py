"""A donor whose disk fails takes nothing, says so in words, and comes back by itself. Layer 4.

Invariants: a fault of the disk ends neither the node nor a promise; while it lasts nothing is accepted, and
what can be read is served; "suspended" is a refusal in words, never a bad block: whoever asks takes the donor
for offline and blames nobody. The way back is a recovery like that of a start, tried again until it succeeds.
Costs nothing while the disk is well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from node.chunks import messages
from node.chunks.serve.incoming import PutTable, RefusalError
from node.chunks.store.shard_store import ShardStore
from node.errors import StoreError
from node.ports import Clock, Offload

T = TypeVar("T")

RETRY_FIRST_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
PROBE_PAUSE_S: Final = 10.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Suspended:
    """Why a donor takes nothing, and since when."""

    reason: str
    since_s: int


class StoreCare:
    """Watches over one store."""

    def __init__(self, store: ShardStore, puts: PutTable, clock: Clock, offload: Offload) -> None:
        self._store = store
        self._puts = puts
        self._clock = clock
        self._offload = offload
        self._suspended: Suspended | None = None
        self._fell = trio.Event()
        self._probed = -PROBE_PAUSE_S

    @property
    def suspended(self) -> Suspended | None:
        """None while all is well."""
        return self._suspended

    def check(self) -> None:
        """Raises `RefusalError` while suspended: before anything is accepted."""
        if self._suspended is not None:
            raise self.refusal()

    def refusal(self) -> RefusalError:
        """What a peer is told."""
        return RefusalError(
            messages.REFUSED_SUSPENDED, "suspended: disk (its owner was told; it comes back by itself)"
        )

    async def on_fault(self) -> bool:
        """The store raised a `StoreError`: whether it is the disk as a whole, rather than one place on it.

        A peer that keeps asking for what can't be read makes it look at the disk no more than every 10 s.
        """
        now = trio.current_time()
        if now - self._probed >= PROBE_PAUSE_S:
            self._probed = now
            await self._look(self._store.probe)
        return self._suspended is not None

    async def while_well(self, work: Callable[[], T]) -> T | None:
        """Look whether the packs are there and no write has failed; suspend if not, else do some work in the
        same visit to a thread. None where nothing was done. Raises what `work` raises.
        """
        done: list[T] = []
        failed: list[StoreError] = []

        def look() -> None:
            self._store.examine()
            try:
                done.append(work())
            except StoreError as error:
                failed.append(error)

        await self._look(look)
        if failed:
            raise failed[0]
        return done[0] if done else None

    async def _look(self, look: Callable[[], None]) -> None:
        if self._suspended is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._offload.run(look)
        except StoreError as error:
            self._suspended = Suspended(str(error), self._clock.now_s())
            self._fell.set()
            _logger.warning("suspended, nothing is accepted until the disk is well again: %s", error)

    async def run(self) -> None:
        """Bring the store back whenever it fell, until cancelled."""
        while True:
            await self._fell.wait()
            await self._puts.end_all()  # their reservations and unsynced blocks go with the old store
            wait_s = RETRY_FIRST_S
            while self._suspended is not None:
                await trio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, 2 * wait_s)
                await self._try_again()

    async def _try_again(self) -> None:
        assert self._suspended is not None
        try:
            await self._offload.run(self._store.reopen)
        except StoreError as error:
            self._suspended = Suspended(str(error), self._suspended.since_s)
            return
        took_s = self._clock.now_s() - self._suspended.since_s
        _logger.warning("the disk is back after %d s: this node takes shards again", took_s)
        self._suspended = None
        self._fell = trio.Event()
