"""Renews what this account keeps before its leases end, by itself. Layer 4.

All files that were put without an end of their own, indexes of large folders with them, and the parts of the
list of files. Invariants: nothing is renewed that its owner removed, or gave a day to end; a renewal asks for
nothing that lasts long enough already, so a round repeated costs questions, not leases; one file at a time.
At rest: one look at the catalogue in some hours. Source: design.md, section 4 (renew, delete).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from node.chunks.catalogue import Catalogue, CatalogueEntry
from node.chunks.get.renew import Renewer
from node.chunks.list_keeper import LIST_LEASE_DAYS
from node.errors import NodeError
from node.ports import Clock, Offload
from node.units import DAY_S, HOUR_S, MINUTE_S, FileHash

MARGIN_SHARE: Final = 4
"""A lease is renewed in its last quarter: a week of 30 days, and then there are the days of grace."""
ROUND_S_MAX: Final = 6 * HOUR_S
RETRY_S: Final = 30 * MINUTE_S
GIVE_UP_S: Final = 60 * DAY_S
"""So long after its leases ended nobody keeps a file any more, whatever the days of grace."""
JOIN_WAIT_S: Final = HOUR_S

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """A file whose leases are in their last quarter, and for how many days it is kept at a time."""

    file_hash: FileHash
    days: int


def renewal_days(entry: CatalogueEntry, *, lease_days: int) -> int:
    """For how many days a file of this account is kept at a time."""
    return LIST_LEASE_DAYS if entry.is_list else lease_days


def is_due(entry: CatalogueEntry, *, lease_days: int, now_s: int) -> bool:
    """Whether a file is to be renewed now."""
    margin_s = renewal_days(entry, lease_days=lease_days) * DAY_S // MARGIN_SHARE
    left_s = entry.expires_s - now_s
    return entry.renews and -GIVE_UP_S < left_s <= margin_s


class LeaseKeeper:
    """One account's renewals. Run `run` in a nursery."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        renewer: Renewer,
        clock: Clock,
        offload: Offload,
        lease_days: int,
        wait_joined: Callable[[float], Awaitable[bool]],
    ) -> None:
        """`lease_days` is how long a file is kept at a time."""
        self._catalogue = catalogue
        self._renewer = renewer
        self._clock = clock
        self._offload = offload
        self._lease_days = lease_days
        self._wait_joined = wait_joined
        self.failing: dict[FileHash, str] = {}
        """Files whose leases are about to end and could not be renewed in the last round, and why."""
        # Often enough that no quarter of a lease passes unseen.
        self._round_s = min(ROUND_S_MAX, lease_days * DAY_S / (2 * MARGIN_SHARE))

    async def run(self) -> None:
        """Until cancelled."""
        while not await self._wait_joined(JOIN_WAIT_S):
            pass
        while True:
            failed = await self.renew_due()
            await trio.sleep(min(RETRY_S, self._round_s) if failed else self._round_s)

    async def renew_due(self) -> int:
        """Renew what is due; how many files could not be."""
        failing: dict[FileHash, str] = {}
        for due in await self._offload.run(self._due):
            why = await self._renew(due)
            if why is not None:
                failing[due.file_hash] = why
        self.failing = failing
        return len(failing)

    def _due(self) -> list[Due]:
        now_s = self._clock.now_s()
        return [
            Due(entry.file_hash, renewal_days(entry, lease_days=self._lease_days))
            for entry in self._catalogue.entries()
            if is_due(entry, lease_days=self._lease_days, now_s=now_s)
        ]

    async def _renew(self, due: Due) -> str | None:
        """Why some segment has too few shards that are kept for longer now; None where all have enough."""
        try:
            report = await self._renewer.renew(due.file_hash, duration_s=due.days * DAY_S)
        except NodeError as error:
            # Holders that are away, no credit: whatever it is, the next round tries again.
            _logger.warning("a file's leases are about to end and could not be renewed: %s", error)
            return str(error)
        if report.expires_s is None:
            _logger.warning("too few holders of a file answered to renew its leases: again later")
            return "too few of its holders answered"
        expires_s = report.expires_s
        await self._offload.run(lambda: self._catalogue.set_expiry(due.file_hash, expires_s))
        _logger.info("renewed %d leases of a file", report.leases)
        return None
