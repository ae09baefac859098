"""A year of files under the program's own placement and repair, among machines that come, go and leave.

The policy is the program's: `placement.assign` and `placement.replace`, `repair.is_due`, `is_open`,
`patience_s`, `lost_shards`, `order` and `wait_s`, with its settings; what a service would do is done at
once, at the hour. Holders take the pulse of each other every hour, by the program's rule. A shard is audited
once a day, tried again every hour until its holder and one of its three auditors of the week are online
together; it is silent from the first hour in which an auditor is online and its holder is not. Whoever is
about to repair looks itself first, as the program does. Losses are of bytes: a file is lost when fewer than
`data_shards` of its shards are on machines that will ever come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.chunks import placement, repair
from node.chunks.audit import due_days, sample_bytes
from node.chunks.geometry import BLOCK_BYTES, SEGMENT_STRIPES, Code, SegmentGeometry
from node.chunks.placement import Donor
from node.units import DAY_S, GIB, HOUR_S, Contact, PeerId, SegmentId
from simulations.churn import FREENET_2010
from simulations.models.churn import Bits, Indexes
from simulations.models.machines import Machines
from simulations.models.markov import Upkeep, fixed_delay_loss, outlook

SHARD_BYTES = SEGMENT_STRIPES * BLOCK_BYTES
CANDIDATES = 90
"""Donors that a placement chooses from: three times as many as shards."""
GONE = -1


@dataclass(frozen=True, slots=True)
class Settings:
    """One network and what is kept in it. Times are the program's defaults."""

    life_days: float = 180.0
    """Mean time until a machine leaves for good; another one takes its place at once."""
    files: int = 200
    machines: int = 300
    days: int = 365
    code: Code = field(default_factory=lambda: Code(10, 30))
    dead_after_s: int = 2 * DAY_S
    urgent_after_s: int = 16 * HOUR_S
    stagger_s: int = 900
    threshold: float = 0.5
    samples_a_shard: int = 1
    """Samples of one audit of one shard."""
    disaster_day: int | None = None
    """When half of all machines leave within an hour."""
    nightly: float = 0.0
    """Share of the machines that are off from 18:00 to 08:00, beside the mix's own comings and goings.
    Placement does not know which."""


@dataclass(slots=True)
class YearFigures:
    """What became of the files."""

    seeds: int
    files: int
    life_days: float
    lost: int = 0
    reported_lost: int = 0
    """By the rule, from evidence; a file that still has its shards is never among them."""
    expected_chain: float = 0.0
    """Losses that the Markov chain expects, repair after three days in the mean."""
    expected_fixed: float = 0.0
    """The same if repair takes exactly three days."""
    unavailable_share: float = 0.0
    """Share of all hours and files in which fewer than data_shards of its shards were online."""
    repairs: int = 0
    repair_traffic: float = 0.0
    """Multiples of the files a year."""
    chain_traffic: float = 0.0
    false_deaths: int = 0
    """Shards replaced whose holder came back: surplus, which goes again."""
    delay_hours: float = 0.0
    """Mean time from the departure that made a repair due until it was done."""
    delay_hours_max: float = 0.0
    left_min: int = 0
    """The fewest shards that any file ever had."""
    audit_month_percent: float = 0.0
    """Bytes of audits in 30 days, of the bytes kept."""
    whole_after_hours: float = 0.0
    """After a disaster: hours until the last file that could be repaired was."""
    missing_a_day_after: float = 0.0
    """Shards that a file lacks a day after the disaster, in the mean, of those not lost."""
    urgent: int = 0
    """Repairs that did not wait for `dead_after_s`."""
    missing_after: float = 0.0
    """Shards that a file lacks at the end, in the mean, of those not lost."""


class Year:
    """One seed."""

    def __init__(self, settings: Settings, *, seed: int) -> None:
        self.settings = settings
        self.random = np.random.default_rng([seed, settings.files, int(settings.life_days)])
        self.machines = Machines(
            self.random, settings.machines, settings.life_days * DAY_S, nightly=settings.nightly
        )
        self.online = self.machines.online(0.0)
        self.code = settings.code
        shape = (settings.files, self.code.total_shards)
        self.place: NDArray[np.int64] = np.zeros(shape, np.int64)
        """Where each shard is; GONE when its machine has left for good."""
        self.known_place = self.place.copy()
        """The same as the roster has it: who left is not known to have left."""
        self.silent_s = np.full(shape, np.inf)
        """When its holder was first missed since it was last proved."""
        self.looked_for = np.zeros(shape, np.bool_)
        """Missed in an alarm: looked for every hour until its holder is back."""
        self.remade_day = np.full(shape, -1_000)
        self.audit_hour = self.random.integers(0, 24, shape)
        self.audited_day = np.full(shape, -1)
        self.repair_at_s = np.full(settings.files, np.inf)
        self.due_since_s = np.full(settings.files, np.inf)
        self.segments = [SegmentId(self.random.bytes(32)) for _ in range(settings.files)]
        self.stand_ins: dict[tuple[int, int], tuple[int, int]] = {}
        """(file, shard) to the machine that was taken for dead, and its place."""
        self.figures = YearFigures(
            1, settings.files, settings.life_days, left_min=self.code.total_shards
        )  # fmt: skip
        self.lost = np.zeros(settings.files, np.bool_)
        self.reported = self.lost.copy()
        self.audits = self.unreachable_hours = 0
        self.delays: list[float] = []
        self.whole_s = 0.0
        self.disaster_s = -1.0 if settings.disaster_day is None else float(settings.disaster_day * DAY_S)
        for file in range(settings.files):
            self._put(file)

    def peer(self, place: int) -> PeerId:
        """The machine in a place."""
        number = int(self.machines.number[place])
        return PeerId(bytes([0, 36, 8, 1, 18, 32]) + number.to_bytes(8, "big") * 4)

    def donors(self) -> list[Donor]:
        """Offers of some of those who are online, as placement sees them."""
        online = np.flatnonzero(self.online)
        found = self.random.permutation(online)[:CANDIDATES]
        return [
            Donor(
                Contact(self.peer(int(place))),
                free_bytes=1000 * GIB,
                uptime_permille=round(1000 * FREENET_2010[self.machines.kind[place]].uptime),
                subnet=f"own-{place}",
            )
            for place in found
        ]

    def _places(self, donors: Sequence[Donor]) -> dict[PeerId, int]:
        return {donor.peer_id: int(str(donor.subnet)[4:]) for donor in donors}

    def _put(self, file: int) -> None:
        donors = self.donors()
        places = self._places(donors)
        for peer, shards in placement.assign(self.code, donors, shard_bytes=SHARD_BYTES).items():
            for shard in shards:
                self.place[file, shard] = self.known_place[file, shard] = places[peer]

    def run(self) -> YearFigures:
        """All of it."""
        settings = self.settings
        for hour in range(1, settings.days * 24 + 1):
            now_s = float(hour * HOUR_S)
            self.machines.advance(now_s)
            gone = np.flatnonzero(self.machines.leaves_s <= now_s)
            if settings.disaster_day is not None and hour == settings.disaster_day * 24:
                half = self.random.permutation(settings.machines)[: settings.machines // 2]
                gone = np.union1d(gone, half)
            if len(gone):
                self._leave(gone, now_s, replaced=settings.disaster_day is None)
            self.online = self.machines.online(now_s)
            online = np.append(self.online, False)[self.place]  # GONE is the last one
            self._audit(hour, now_s, online)
            self._take_pulse(now_s, online)
            self._repair(now_s)
            if hour == ((settings.disaster_day or 0) + 1) * 24:
                self.figures.missing_a_day_after = float((self.place[~self.lost] == GONE).sum(1).mean())
            self.unreachable_hours += int(((online.sum(1) < self.code.data_shards) & ~self.lost).sum())
        return self._figures()

    def _leave(self, gone: Indexes, now_s: float, *, replaced: bool) -> None:
        left = np.isin(self.place, gone)
        self.place[left] = GONE
        alive = (self.place != GONE).sum(1)
        self.figures.left_min = min(self.figures.left_min, int(alive.min()))
        newly = (alive < self.code.data_shards) & ~self.lost
        self.lost |= newly
        trigger = repair.trigger_count(self.code, self.settings.threshold)
        fell = (self.code.total_shards - alive >= trigger) & np.isinf(self.due_since_s)
        self.due_since_s[fell] = now_s
        for key in [key for key, (_, place) in self.stand_ins.items() if place in set(gone.tolist())]:
            del self.stand_ins[key]
        if replaced:
            self.known_place[np.isin(self.known_place, gone)] = GONE
            self.machines.replace(gone, now_s)
        else:  # nobody takes their places
            self.machines.is_on[gone] = False
            self.machines.switch_s[gone] = self.machines.leaves_s[gone] = np.inf

    def _audit(self, hour: int, now_s: float, online: Bits) -> None:
        """Every shard once a day; the three auditors of a week are taken from its co-holders."""
        day = hour // 24
        own_day = (hour - self.audit_hour) // 24
        files, shards = np.nonzero(self.audited_day < own_day)
        watched = np.zeros(len(files), np.bool_)
        for auditor in (7, 14, 21):
            watched |= online[files, (shards + auditor + day // 7) % self.code.total_shards]
        is_there = online[files, shards]
        # Where all three were away yesterday, others stand in: they miss a holder, and prove nothing.
        stood_in = self.audited_day[files, shards] < own_day[files, shards] - 1
        watched |= stood_in & ~is_there & (online.sum(1) > 0)[files]
        files, shards, is_there = files[watched], shards[watched], is_there[watched]
        missed = files[~is_there], shards[~is_there]
        self.silent_s[missed] = np.minimum(self.silent_s[missed], now_s)
        files, shards = files[is_there], shards[is_there]
        self.silent_s[files, shards] = np.inf
        self.audited_day[files, shards] = own_day[files, shards]
        self.audits += len(files)

    def _take_pulse(self, now_s: float, online: Bits) -> None:
        """Of each file's holders that nobody has missed some are looked at, and all where many are gone."""
        unmissed = np.isinf(self.silent_s)
        absent = unmissed & ~online
        looks = np.minimum(unmissed.sum(1), repair.PULSE_PEERS)
        found = self.random.hypergeometric(absent.sum(1), (unmissed & online).sum(1), looks)
        is_alarm = np.array(
            [repair.is_alarming(int(count), int(missed)) for count, missed in zip(looks, found, strict=True)]
        )
        is_alarm &= online.any(1)  # somebody has to look
        missed = absent & is_alarm[:, None]
        self.silent_s[missed] = now_s
        self.silent_s[self.looked_for & online] = np.inf
        self.looked_for = (self.looked_for | missed) & ~online

    def _repair(self, now_s: float) -> None:
        settings = self.settings
        silent_s = now_s - self.silent_s
        stale = (silent_s >= settings.dead_after_s).sum(1)
        hurried = (silent_s >= min(settings.urgent_after_s, settings.dead_after_s)).sum(1)
        count = repair.URGENT_SHARE * self.code.parity_shards
        for file in np.flatnonzero((hurried >= count) & ~self.reported):
            patience_s = self._patience_s(self._copies(int(file)), now_s)
            stale[file] = (silent_s[file] >= patience_s).sum()
        self.repair_at_s[stale == 0] = np.inf
        lately = (int(now_s) // DAY_S - self.remade_day <= repair.OPEN_DAYS).sum(1) > 0
        due = stale >= repair.trigger_count(self.code, settings.threshold)
        self.repair_at_s[~due & ~lately] = np.inf
        for file in np.flatnonzero((due | (lately & (stale > 0))) & ~self.reported):
            is_open = bool(lately[file]) and self._is_open(int(file), now_s)
            if not due[file] and not is_open:
                self.repair_at_s[file] = np.inf
                continue
            self._look(int(file), now_s)
            lost = self._lost(int(file), now_s)
            if len(lost) > self.code.parity_shards:
                self.reported[file] = True
            elif repair.is_due(self.code, len(lost), settings.threshold, is_open=is_open):
                self._lead(int(file), sorted(lost), now_s)

    def _look(self, file: int, now_s: float) -> None:
        """Whoever is about to repair looks itself: shards whose auditors all left are proved, or missed."""
        online = np.append(self.online, False)[self.place[file]]
        self.silent_s[file, online] = np.inf
        self.silent_s[file, ~online] = np.minimum(self.silent_s[file, ~online], now_s)

    def _is_open(self, file: int, now_s: float) -> bool:
        remade = [(shard, int(day)) for shard, day in enumerate(self.remade_day[file]) if day >= 0]
        return repair.is_open(self.code, self.settings.threshold, remade, today=int(now_s) // DAY_S)

    def _copies(self, file: int) -> list[repair.Copy]:
        return [
            repair.Copy(
                shard,
                self._holder(file, shard),
                None if math.isinf(self.silent_s[file, shard]) else int(self.silent_s[file, shard]),
            )
            for shard in range(self.code.total_shards)
        ]

    def _patience_s(self, copies: list[repair.Copy], now_s: float) -> int:
        return repair.patience_s(
            self.code,
            copies,
            now_s=int(now_s),
            dead_after_s=self.settings.dead_after_s,
            urgent_after_s=self.settings.urgent_after_s,
        )

    def _lost(self, file: int, now_s: float) -> frozenset[int]:
        copies = self._copies(file)
        patience_s = self._patience_s(copies, now_s)
        return repair.lost_shards(self.code, copies, now_s=int(now_s), dead_after_s=patience_s)

    def _holder(self, file: int, shard: int) -> PeerId:
        place = int(self.known_place[file, shard])
        return PeerId(bytes(38)) if place == GONE else self.peer(place)

    def _lead(self, file: int, lost: list[int], now_s: float) -> None:
        """The first live holder in the day's order that is online waits its turn, then repairs."""
        kept = [shard for shard in range(self.code.total_shards) if shard not in lost]
        online = [
            shard
            for shard in kept
            if self.place[file, shard] != GONE and self.online[self.place[file, shard]]
        ]
        if len(online) < self.code.data_shards:
            return
        segment, day = self.segments[file], int(now_s) // DAY_S
        holders = [self._holder(file, shard) for shard in kept]
        if math.isinf(self.repair_at_s[file]):
            present = [self._holder(file, shard) for shard in online]
            waits = (
                repair.wait_s(segment, holders, peer, day=day, stagger_s=self.settings.stagger_s)
                for peer in present
            )
            self.repair_at_s[file] = now_s + min(waits)
        if self.repair_at_s[file] > now_s:
            return
        self._place(file, lost, kept, now_s)

    def _place(self, file: int, lost: list[int], kept: list[int], now_s: float) -> None:
        donors = self.donors()
        places = self._places(donors)
        held: dict[PeerId, int] = {}
        for shard in kept:
            held[self._holder(file, shard)] = held.get(self._holder(file, shard), 0) + 1
        failed = {self._holder(file, shard) for shard in lost}
        is_urgent = self._patience_s(self._copies(file), now_s) < self.settings.dead_after_s
        new = placement.replace(self.code, donors, lost, shard_bytes=SHARD_BYTES, kept=held, failed=failed)
        made = [(shard, places[peer]) for peer, shards in new.items() for shard in shards]
        for shard, place in made:
            if self.place[file, shard] != GONE:  # its holder was away, not gone: a surplus when it returns
                self.stand_ins[file, shard] = (shard, int(self.place[file, shard]))
                self.figures.false_deaths += 1
            self.place[file, shard] = self.known_place[file, shard] = place
            self.silent_s[file, shard] = np.inf
            self.looked_for[file, shard] = False
            self.remade_day[file, shard] = int(now_s) // DAY_S
        if made:
            self.figures.repairs += 1
            self.figures.urgent += is_urgent
            self.figures.repair_traffic += (self.code.data_shards + len(made)) / self.code.data_shards
            if not math.isinf(self.due_since_s[file]):
                self.delays.append((now_s - self.due_since_s[file]) / HOUR_S)
        missing = int((self.place[file] == GONE).sum())
        if missing < repair.trigger_count(self.code, self.settings.threshold):
            if self.due_since_s[file] == self.disaster_s:
                self.whole_s = now_s
            self.due_since_s[file] = np.inf
        self.repair_at_s[file] = np.inf

    def _figures(self) -> YearFigures:
        settings, figures = self.settings, self.figures
        figures.lost = int(self.lost.sum())
        figures.reported_lost = int(self.reported.sum())
        hours = settings.days * 24 * settings.files
        figures.unavailable_share = self.unreachable_hours / hours
        figures.repair_traffic /= settings.files
        upkeep = Upkeep(self.code, settings.life_days, 3.0)
        chain = outlook(upkeep, days=settings.days)
        figures.expected_chain = float(chain.loss) * settings.files
        figures.expected_fixed = fixed_delay_loss(upkeep, days=settings.days) * settings.files
        figures.chain_traffic = float(chain.traffic)
        figures.delay_hours = float(np.mean(self.delays)) if self.delays else 0.0
        figures.delay_hours_max = float(max(self.delays, default=0.0))
        geometry = SegmentGeometry(self.code, self.code.segment_plaintext_bytes)
        kept = settings.files * self.code.total_shards * SHARD_BYTES
        asked = self.audits * settings.samples_a_shard * sample_bytes(geometry) / due_days(SHARD_BYTES)
        figures.audit_month_percent = 100 * asked / kept * 30 / settings.days
        missing = (self.place[~self.lost] == GONE).sum(1)
        figures.missing_after = float(missing.mean()) if len(missing) else 0.0
        if settings.disaster_day is not None:
            figures.whole_after_hours = (self.whole_s - self.disaster_s) / HOUR_S
        return figures


def run(settings: Settings, *, seeds: Sequence[int]) -> YearFigures:
    """Several years, added up or averaged."""
    rows = [Year(settings, seed=seed).run() for seed in seeds]
    count = len(rows)

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in rows]))

    return YearFigures(
        seeds=count,
        files=settings.files,
        life_days=settings.life_days,
        lost=sum(row.lost for row in rows),
        reported_lost=sum(row.reported_lost for row in rows),
        expected_chain=sum(row.expected_chain for row in rows),
        expected_fixed=sum(row.expected_fixed for row in rows),
        unavailable_share=mean("unavailable_share"),
        repairs=sum(row.repairs for row in rows),
        repair_traffic=mean("repair_traffic"),
        chain_traffic=rows[0].chain_traffic,
        false_deaths=sum(row.false_deaths for row in rows),
        delay_hours=mean("delay_hours"),
        delay_hours_max=max(row.delay_hours_max for row in rows),
        left_min=min(row.left_min for row in rows),
        audit_month_percent=mean("audit_month_percent"),
        whole_after_hours=max(row.whole_after_hours for row in rows),
        missing_a_day_after=mean("missing_a_day_after"),
        urgent=sum(row.urgent for row in rows),
        missing_after=mean("missing_after"),
    )


DISASTER = Settings(life_days=3_650.0, days=20, disaster_day=10)
OFFICES = Settings(nightly=0.5, days=90)
