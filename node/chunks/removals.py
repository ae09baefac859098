"""Ends the leases of removed files at holders that were away, once they are back. Layer 4.

Invariants: what is to go is durable before `rm` returns; it is asked for once an interval until every holder
that is known has let go, or its leases have ended by their dates; a node that waits for nobody wakes for
nothing. Source: design.md, section 4 (renew, delete).
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import islice
from typing import Final

import trio

from node.chunks.catalogue import Catalogue
from node.chunks.get.renew import Renewer
from node.errors import NodeError, NotFoundError
from node.ports import Clock, Offload
from node.units import FileHash

FILES_PER_ROUND: Final = 256
"""Files asked for in one round; the rest has its turn in the next ones."""

_logger = logging.getLogger(__name__)


class Removals:
    """One account's removals that are not complete. Run `run` in a nursery."""

    def __init__(
        self, *, catalogue: Catalogue, renewer: Renewer, clock: Clock, offload: Offload, interval_s: float
    ) -> None:
        self._catalogue = catalogue
        self._renewer = renewer
        self._clock = clock
        self._offload = offload
        self._interval_s = interval_s
        self._begun = trio.Event()
        self._start = b""

    async def begin(self, file_hash: FileHash, until_s: int) -> None:
        """Go on asking for a file; durable."""
        await self._offload.run(partial(self._catalogue.begin_removal, file_hash, until_s))
        self._begun.set()

    async def end(self, file_hash: FileHash) -> None:
        """Ask no more."""
        await self._offload.run(partial(self._catalogue.end_removal, file_hash))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not await self._offload.run(self._catalogue.removals):
                await self._begun.wait()
            self._begun = trio.Event()
            await trio.sleep(self._interval_s)
            await self.round()

    async def round(self) -> None:
        """Ask for every file that is to go, or the next ones of very many."""
        removals = await self._offload.run(self._catalogue.removals)
        due = list(islice((each for each in removals if each >= self._start), FILES_PER_ROUND))
        self._start = due[-1] + b"\0" if len(due) == FILES_PER_ROUND else b""
        for file_hash in due:
            if await self._is_gone(file_hash, removals[file_hash]):
                await self._offload.run(partial(self._forget, file_hash))

    async def _is_gone(self, file_hash: FileHash, until_s: int) -> bool:
        try:
            report = await self._renewer.release(file_hash)
        except NotFoundError:
            return until_s <= self._clock.now_s()
        except NodeError as error:
            _logger.info("a removed file is not gone yet: %s", error)
            return until_s <= self._clock.now_s()
        if report.leases:
            _logger.info("%d leases of a removed file ended at holders that were away", report.leases)
        return not report.unreachable_holders

    def _forget(self, file_hash: FileHash) -> None:
        """Blocks on the disk."""
        if file_hash in self._catalogue.removals():  # or somebody renewed it meanwhile
            self._catalogue.remove(file_hash)
            self._catalogue.end_removal(file_hash)
