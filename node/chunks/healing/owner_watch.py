"""The owner's watch over its own files: repairs them by itself, and at once. Layer 4.

While this node is online it waits for no turn and no threshold: what the evidence, or its own look, shows
to be lost in two rounds, a check interval apart, is made again; what a put could not place is placed as soon
as some donor has room. A shard is lost where its holder has not what it should, or is silent and nothing
proved it for `dead_after_s`: a holder that is off for the night is waited for. Where much of a segment is
silent in this node's own looks, the shorter patience of `repair.patience_s` counts from the first of them.

Invariants: a round looks at evidence, which costs no traffic, and at `LOOKS_PER_ROUND` segments in turn
besides; rounds of many files are spread over the interval; what repair moves a day is capped; a node without
files asks nobody anything; everything that is remembered is bounded. Source: credit.md, "Repair".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final

import trio

from node.chunks import repair
from node.chunks.catalogue import Catalogue, CatalogueEntry, CatalogueSegment
from node.chunks.evidence import Evidence
from node.chunks.findings import SegmentEvidence
from node.chunks.geometry import Code, FileGeometry
from node.chunks.get.locate import LocatedFile
from node.chunks.healing.budget import RepairBudget
from node.chunks.healing.on_demand import FileRepairer, OwnedLook
from node.chunks.healing.placing import Placer
from node.chunks.healing.prober import Seen
from node.chunks.roster import begun_leases
from node.crypto.signing import KeyPair
from node.errors import NodeError
from node.ports import Clock, Offload
from node.records.lease import Lease
from node.units import DAY_S, HOUR_S, FileHash, LeaseId

FILES_PER_ROUND: Final = 1_024
"""Files whose evidence is looked at in a round; the rest has its turn in the next ones."""
LOOKS_PER_ROUND: Final = 16
"""Segments that are looked at without a reason: 30 blocks each, so 30 MB an hour at most."""
SUSPECTS_PER_ROUND: Final = 256
"""Segments that are looked at for a reason."""
REMEMBERED_MAX: Final = 20_000
"""Leases whose proofs, and segments whose losses, are remembered: 3 MB."""
PATIENCE_SHARE: Final = 1 / 12
"""Of the time after which a holder counts as dead: so old may the knowledge be that it is away, in a look
that decides nothing."""
RETRY_S: Final = 600.0
"""Donors are asked so often for room while shards wait for some; never less than the interval."""
JOIN_WAIT_S: Final = HOUR_S

_logger = logging.getLogger(__name__)

_Key = tuple[FileHash, int]


@dataclass(slots=True)
class OwnerWatchStatistics:
    """Counts since the start."""

    rounds: int = 0
    looks: int = 0
    """Segments whose holders were asked."""
    shards_remade: int = 0


@dataclass(frozen=True, slots=True)
class _Suspicion:
    """What the catalogue and the evidence say of a segment."""

    unplaced: bool
    """Some shard has no lease."""
    lost: bool
    """Some shard is contradicted or silent wherever it should be."""


class OwnerWatch:
    """One account's files. Run `run` in a nursery."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        repairer: FileRepairer,
        placer: Placer,
        evidence: Evidence,
        budget: RepairBudget,
        clock: Clock,
        offload: Offload,
        check_interval_s: float,
        dead_after_s: int,
        urgent_after_s: int,
        wait_joined: Callable[[float], Awaitable[bool]],
    ) -> None:
        self._catalogue = catalogue
        self._repairer = repairer
        self._placer = placer
        self._evidence = evidence
        self._budget = budget
        self._clock = clock
        self._offload = offload
        self._check_interval_s = check_interval_s
        self._dead_after_s = dead_after_s
        self._urgent_after_s = urgent_after_s
        self._wait_joined = wait_joined
        self._started_s = clock.now_s()
        self._cursor = b""
        self._looks_left = 0
        self._suspects_left = 0
        self._proved: OrderedDict[LeaseId, int] = OrderedDict()
        self._silent: OrderedDict[LeaseId, int] = OrderedDict()
        """When this node first looked in vain for what it has not seen since."""
        self._alarming: OrderedDict[_Key, None] = OrderedDict()
        """Segments of which so much was silent that they are looked at in each round."""
        self._damaged: OrderedDict[_Key, int] = OrderedDict()
        """Segments below full health, with the round that found them so."""
        self._waiting: OrderedDict[_Key, None] = OrderedDict()
        """Segments with shards that wait for a donor."""
        self.statistics = OwnerWatchStatistics()

    async def run(self) -> None:
        """Until cancelled."""
        while not await self._wait_joined(JOIN_WAIT_S):
            pass
        while True:
            next_round = trio.current_time() + self._check_interval_s
            await self.round()
            while (left_s := next_round - trio.current_time()) > 0:
                if not self._waiting or left_s <= RETRY_S:
                    await trio.sleep(left_s)
                    break
                await trio.sleep(RETRY_S)
                await self._place_waiting()

    async def round(self) -> None:
        """Look once at every file, or at the next ones of very many, spread over an interval."""
        self.statistics.rounds += 1
        self._looks_left, self._suspects_left = LOOKS_PER_ROUND, SUSPECTS_PER_ROUND
        entries = await self._offload.run(self._next_entries)
        started_s = trio.current_time()
        for number, entry in enumerate(entries):
            await trio.sleep_until(started_s + number * self._check_interval_s / len(entries))
            try:
                await self._look_after(entry)
            except NodeError as error:
                _logger.warning("a file could not be looked after, again at the next round: %s", error)

    def _next_entries(self) -> list[CatalogueEntry]:
        """The files of a round. Blocks on the disk."""
        now_s = self._clock.now_s()
        page = list(islice(self._catalogue.entries(self._cursor), FILES_PER_ROUND))
        self._cursor = page[-1].file_hash + b"\0" if len(page) == FILES_PER_ROUND else b""
        removed = self._catalogue.removals()
        return [entry for entry in page if entry.expires_s > now_s and entry.file_hash not in removed]

    # --- one file -----------------------------------------------------------------------------------------

    async def _look_after(self, entry: CatalogueEntry) -> None:
        suspects = await self._offload.run(partial(self._suspects, entry))
        wanted: set[int] = set()
        for index, suspicion in suspects.items():
            if not self._suspects_left:
                break
            self._suspects_left -= 1
            if suspicion.lost or await self._has_room(entry, index):
                wanted.add(index)
        if self._looks_left:
            turn = self.statistics.rounds + int.from_bytes(entry.file_hash[:4], "big")
            wanted.add(turn % entry.segments)
            self._looks_left -= 1
        if wanted:
            file, owner = await self._repairer.locate(entry.file_hash)
            for index in sorted(wanted):
                await self._look(file, index, owner)

    def _suspects(self, entry: CatalogueEntry) -> dict[int, _Suspicion]:
        """Segments that may be below full health. Blocks on the disk."""
        found = {}
        today = self._clock.now_s() // DAY_S
        for segment in self._catalogue.segments(entry.file_hash):
            suspicion = self._suspicion(entry, segment, today)
            key = (entry.file_hash, segment.segment_index)
            if key in self._damaged or key in self._alarming:  # by an earlier look of this node's own
                suspicion = _Suspicion(suspicion.unplaced, lost=True)
            if suspicion.unplaced:
                self._remember_waiting(key)
            if suspicion.unplaced or suspicion.lost:
                found[segment.segment_index] = suspicion
        return found

    def _suspicion(self, entry: CatalogueEntry, segment: CatalogueSegment, today: int) -> _Suspicion:
        evidence = self._evidence.of_segment(segment.segment_id)
        placed: set[int] = set()
        kept: set[int] = set()
        for lease in begun_leases(segment.leases, today=today):
            placed.add(lease.shard_index)
            known = evidence.leases.get(lease.lease_id)
            is_silent = known is not None and bool(known.no_answers) and self._is_dead(lease, evidence)
            if known is None or not (known.is_lost or is_silent):
                kept.add(lease.shard_index)
        return _Suspicion(unplaced=len(placed) < entry.total_shards, lost=placed != kept)

    def _is_dead(self, lease: Lease, evidence: SegmentEvidence) -> bool:
        """Whether nothing proved a leased shard for so long that its holder's silence counts."""
        now_s = self._clock.now_s()
        known = evidence.leases.get(lease.lease_id)
        proved = None if known is None or known.is_lost else known.proved
        # A lease says its day, and nobody hears when it was made: where a day is long, the start counts.
        first_s = (lease.start_day + 1) * DAY_S if self._dead_after_s >= DAY_S else self._started_s
        seen_s = max(first_s, self._proved.get(lease.lease_id, 0), 0 if proved is None else proved.time_s)
        return now_s - min(seen_s, now_s) >= self._dead_after_s

    # --- one segment --------------------------------------------------------------------------------------

    async def _look(self, file: LocatedFile, index: int, owner: KeyPair) -> None:
        self.statistics.looks += 1
        key = (file.manifest.file_hash, index)
        # The look that decides whether something is made again goes by nothing of earlier.
        patience_s = 0.0 if key in self._damaged else self._dead_after_s * PATIENCE_SHARE
        look = await self._repairer.look(file, index, owner, patience_s=patience_s)
        if look is None:
            return
        self._note(key, look)
        lost = await self._offload.run(partial(self._lost, look))
        unplaced = look.unplaced()
        if unplaced:
            self._remember_waiting(key)
        if not lost:
            self._damaged.pop(key, None)
        elif self._damaged.get(key, self.statistics.rounds) == self.statistics.rounds:
            self._damaged[key] = self.statistics.rounds
            _trim(self._damaged)
            lost = {}  # a second look says whether it stays so
        if lost or unplaced:
            await self._mend(key, look, lost)
        else:
            self._waiting.pop(key, None)

    def _note(self, key: _Key, look: OwnedLook) -> None:
        """Remember what was seen."""
        now_s = self._clock.now_s()
        for lease, state in look.survey.seen.items():
            if state is Seen.SILENT:
                self._silent.setdefault(lease.lease_id, now_s)
            else:
                self._silent.pop(lease.lease_id, None)
            if state is Seen.PROVED:
                self._proved[lease.lease_id] = now_s
                self._proved.move_to_end(lease.lease_id)
        for table in (self._proved, self._silent):
            _trim(table)
        code = look.view.manifest.code
        if repair.may_become_urgent(code, self._copies(look).values()):
            self._alarming[key] = None
            _trim(self._alarming)
        else:
            self._alarming.pop(key, None)

    def _copies(self, look: OwnedLook) -> dict[Lease, repair.Copy]:
        """What this node's own looks say of each copy."""
        return {
            lease: repair.Copy(
                lease.shard_index,
                lease.holder,
                silent_since_s=self._silent.get(lease.lease_id) if state is Seen.SILENT else None,
                is_contradicted=state is Seen.BAD,
            )
            for lease, state in look.survey.seen.items()
        }

    def _lost(self, look: OwnedLook) -> dict[int, Lease]:
        """Shards that are lost by what was seen and by the evidence. Blocks on the disk."""
        evidence = self._evidence.of_segment(look.view.manifest.segment_id)
        now_s, copies = self._clock.now_s(), self._copies(look)
        allowed_s = repair.patience_s(
            look.view.manifest.code,
            copies.values(),
            now_s=now_s,
            dead_after_s=self._dead_after_s,
            urgent_after_s=self._urgent_after_s,
        )

        def is_kept(lease: Lease, state: Seen) -> bool:
            if state is Seen.SILENT:
                lasts = repair.standing(copies[lease], now_s=now_s, dead_after_s=allowed_s)
                return lasts is not repair.Standing.LOST and not self._is_dead(lease, evidence)
            return state is not Seen.BAD

        return look.lost(is_kept)

    async def _mend(self, key: _Key, look: OwnedLook, lost: dict[int, Lease]) -> None:
        geometry = look.view.manifest.geometry
        if self._budget.left() < 2 * geometry.code.data_shards * geometry.shard_bytes:
            _logger.info("repair has moved what it may today")
            return
        outcome = await self._repairer.mend(look, lost)
        await self._offload.run(partial(self._budget.spend, outcome.traffic.total_bytes))
        self.statistics.shards_remade += len(outcome.leases)
        _logger.info(
            "a segment of this account's: %d of %d missing shards remade%s",
            len(outcome.leases),
            outcome.lost,
            f"; {outcome.why_not}" if outcome.why_not else "",
        )
        if len(outcome.leases) == outcome.lost:
            self._damaged.pop(key, None)
            self._waiting.pop(key, None)

    # --- shards that wait for a donor ---------------------------------------------------------------------

    async def _place_waiting(self) -> None:
        """Try again for segments with shards that no donor had room for, where one has it now."""
        for file_hash, index in list(islice(self._waiting, LOOKS_PER_ROUND)):
            self._waiting.move_to_end((file_hash, index))
            entry = await self._offload.run(partial(self._catalogue.get, file_hash))
            removed = await self._offload.run(self._catalogue.removals)
            if entry is None or entry.expires_s <= self._clock.now_s() or file_hash in removed:
                self._waiting.pop((file_hash, index), None)
                continue
            try:
                if await self._has_room(entry, index):
                    file, owner = await self._repairer.locate(file_hash)
                    await self._look(file, index, owner)
            except NodeError as error:
                _logger.info("shards of a file still wait for a donor: %s", error)

    async def _has_room(self, entry: CatalogueEntry, index: int) -> bool:
        """Whether some donor would take a further shard of a segment: offers alone are asked for."""
        code = Code(entry.data_shards, entry.total_shards)
        geometry = FileGeometry.of(entry.size_bytes, code).segment(index)
        days = max(1, entry.expires_s // DAY_S - self._clock.now_s() // DAY_S)
        return await self._placer.has_room(geometry, days=days)

    def _remember_waiting(self, key: _Key) -> None:
        self._waiting.setdefault(key)
        _trim(self._waiting)


def _trim(table: OrderedDict[Any, Any]) -> None:
    """Forget the oldest where there are too many."""
    while len(table) > REMEMBERED_MAX:
        table.popitem(last=False)
