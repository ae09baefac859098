"""Housekeeping: expiry, compaction, the weekly scrub, forgotten puts, the scoreboard, the DHT mode. Layer 5.

Invariants: each step is short and runs through `Offload`; a fault of the disk in one step is logged and
tried again a round later, since a donor with a sick disk must still serve what it can read. The scrub keeps
its place across restarts. Source: design.md, section 6.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import trio

from node.chunks.losses import LossTeller
from node.chunks.put.upload import Uploader
from node.chunks.score_store import save_scores
from node.chunks.scores import Scoreboard
from node.chunks.serve.announcing import AnnouncingTurns
from node.chunks.serve.suspension import StoreCare
from node.chunks.store.shard_store import ShardStore
from node.daemon.memory import DaemonMemory
from node.daemon.uptime import UptimeLog
from node.dht.service import DhtService
from node.errors import AvailabilityError, StoreError
from node.limits import BLOCK_BYTES
from node.net.reachability import Standing
from node.ports import Clock, KeyValue, Offload
from node.units import DAY_S, MIB, MINUTE_S, format_duration

ROUND_S = MINUTE_S
COMPACT_STEP_BYTES = 8 * MIB  # a step of some 20 ms on a slow disk, so that puts and gets get between
COMPACT_PAUSE_S = 0.25
SHORT_SHARE = 10
RELEASES_S = 2.0
SCRUB_INTERVAL_S = 7 * DAY_S
SCRUB_CHECK_S = 3_600.0  # between looks whether a week has passed
SCRUB_STEP_BLOCKS = 32
SCRUB_BYTES_S = 4 * MIB  # a tenth of what the slowest disks read; 1 TB takes under three days
DROP_STALE_INTERVAL_S = DAY_S
UPTIME_SAVE_S = 5 * MINUTE_S  # one small commit; half of what counts as an outage after a kill

_logger = logging.getLogger(__name__)


class _Wake:
    """Ends a pause before its time; what is said meanwhile counts for the next one."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """End the pause."""
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Pause."""
        with trio.move_on_after(timeout_s):
            await self._event.wait()
            await trio.sleep(RELEASES_S)  # a file's releases come segment by segment
        self._event = trio.Event()


@dataclass(frozen=True, slots=True)
class _Tidied:
    """What one step of tidying the store came to."""

    expired: int
    is_urgent: bool
    has_losses: bool
    more: bool
    """Whether there is more to compact."""


class Housekeeping:
    """What a node does for itself, forever."""

    def __init__(
        self,
        *,
        store: ShardStore,
        uploader: Uploader,
        dht: DhtService,
        scores: Scoreboard,
        memory: DaemonMemory,
        turns: AnnouncingTurns,
        state: KeyValue,
        care: StoreCare,
        uptime: UptimeLog,
        standing: Callable[[], Standing],
        clock: Clock,
        offload: Offload,
        losses: LossTeller,
    ) -> None:
        self._losses = losses
        self._store = store
        self._uploader = uploader
        self._dht = dht
        self._care = care
        self._standing = standing
        self._scores = scores
        self._memory = memory
        self._turns = turns
        self._state = state
        self._clock = clock
        self._offload = offload
        self._uptime = uptime
        self._uptime_saved_s = 0
        self._said: dict[str, str] = {}  # the latest fault of each step
        self._released = _Wake()
        self.on_outage: Callable[[int], None] = lambda seconds: None
        """Called, on whatever thread, when the node was stopped for so many seconds."""

    def note_released(self) -> None:
        """Owners ended leases: give the space back soon."""
        self._released.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_rounds)
            nursery.start_soon(self._repeat, "scrub", SCRUB_CHECK_S, self.scrub)
            nursery.start_soon(self._repeat, "end of announcements", DAY_S, self._turns.drop_gone)
            nursery.start_soon(self._repeat, "forgotten puts", DROP_STALE_INTERVAL_S, self._drop_stale)

    async def tidy(self) -> None:
        """End what has expired, give its space back, tell of what is lost. Raises `StoreError`."""
        tidied = await self._care.while_well(self._tidy_store)
        if tidied is not None:
            await self._finish_tidying(tidied)
        # On the event loop, which owns the scoreboard; it is one small commit.
        save_scores(self._scores, self._state)

    async def _finish_tidying(self, tidied: _Tidied) -> None:
        if tidied.expired:
            _logger.info("%d leases have expired", tidied.expired)
            await self._turns.drop_gone()
        if tidied.has_losses:
            await self._losses.tell()
        more = tidied.more
        while more:
            self._uptime.look(self._clock.now_s())  # a long compaction is no outage
            await trio.sleep(COMPACT_PAUSE_S)
            step = partial(self._store.compact, COMPACT_STEP_BYTES, urgent=tidied.is_urgent)
            more = await self._offload.run(step)

    def _tidy_store(self) -> _Tidied:
        """Mostly there is nothing to do, which one visit to a thread a minute is to find out. Blocks on the
        disk."""
        expired = self._store.expire(self._clock.now_s())
        now = self._store.statistics()
        # Where room is short, little that is dead in a pack is worth the copying too.
        is_urgent = now.free_bytes < now.cap_bytes // SHORT_SHARE
        more = self._store.compact(COMPACT_STEP_BYTES, urgent=is_urgent)
        return _Tidied(expired, is_urgent, self._store.has_losses(), more)

    async def scrub(self) -> None:
        """Verify all that is kept, if the last time is a week ago. Raises `StoreError`."""
        cursor, done_s = self._memory.scrub()
        if self._clock.now_s() - done_s < SCRUB_INTERVAL_S:
            return
        place: bytes | None = cursor
        steps = 0
        while place is not None:
            place = await self._offload.run(partial(self._store.scrub, place, block_limit=SCRUB_STEP_BLOCKS))
            steps += 1
            if place is not None and steps % 32 == 0:  # a commit every few seconds of reading is plenty
                await self._offload.run(partial(self._memory.set_scrub, place, done_s))
            await trio.sleep(SCRUB_STEP_BLOCKS * BLOCK_BYTES / SCRUB_BYTES_S)
        await self._offload.run(partial(self._memory.set_scrub, b"", self._clock.now_s()))
        bad = self._store.statistics().quarantined
        _logger.info("scrub done: %s", f"{bad} bad shards" if bad else "every block is good")

    async def change_turns(self) -> None:
        """With a new week, announce what is this node's turn now. Raises `StoreError`.

        In the week that a file is put its owner sees to the announcements.
        """
        week = self._turns.week
        known = self._memory.turns_week()
        if known == week:
            return
        if known is not None:
            count = await self._turns.change()
            _logger.info("announcing %d keys this week", count)
        await self._offload.run(partial(self._memory.set_turns_week, week))

    async def _look_around(self) -> None:
        # A node that nobody can dial must not stand in others' routing tables.
        self._dht.set_serving(self._standing().serves)
        now_s = self._clock.now_s()
        outage_s = self._uptime.look(now_s)
        if outage_s:
            _logger.warning("this node was stopped for %s", format_duration(outage_s))
            await self._offload.run(partial(self.on_outage, outage_s))
        if outage_s or abs(now_s - self._uptime_saved_s) >= UPTIME_SAVE_S:
            await self._offload.run(self.save_uptime)
            self._uptime_saved_s = now_s

    def save_uptime(self) -> None:
        """Write down that the node was up until the latest look. Raises `StoreError`."""
        self._memory.set_uptime(self._uptime)

    async def _drop_stale(self) -> None:
        dropped = await self._uploader.drop_stale()
        if dropped:
            _logger.info("dropped %d puts that nobody resumed", dropped)

    async def _keep_rounds(self) -> None:
        """What is looked at every minute, in one go: a node at rest should hardly wake up."""
        while True:
            await self._try("a look around", ROUND_S, self._look_around)
            await self._try("change of announcers", ROUND_S, self.change_turns)
            await self._try("expiry and compaction", ROUND_S, self.tidy)
            await self._released.wait(ROUND_S)

    async def _repeat(self, name: str, interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._try(name, interval_s, step)
            await trio.sleep(interval_s)

    async def _try(self, name: str, interval_s: float, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
            self._said.pop(name, None)
        except (StoreError, AvailabilityError) as error:
            # A disk that is gone for a day must not fill the log with it.
            level = logging.DEBUG if self._said.get(name) == str(error) else logging.WARNING
            self._said[name] = str(error)
            _logger.log(level, "%s failed, again in %d s: %s", name, interval_s, error)
