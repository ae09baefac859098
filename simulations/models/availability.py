"""Files that can't be got right now, and failures that strike many holders together.

Holders are chosen by the real `node.chunks.placement.assign` among donors of the churn mix. Exact: the number
of holders online is a sum of independent coins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from node.chunks.geometry import BLOCK_BYTES, SEGMENT_STRIPES, Code
from node.chunks.placement import Donor, assign
from node.units import GIB, Contact, PeerId
from simulations.churn import FREENET_2010
from simulations.models.churn import mean_uptime
from simulations.models.durability import CODES
from simulations.models.markov import Upkeep, at_least, live_shards
from simulations.models.report import Table

DONORS = 300
FILE_BYTES = 10**10
SHARES_LOST = tuple(share / 20 for share in range(1, 17))
"""Of all donors, gone at once."""
CROWDED_SHARE = 0.1
"""Of all donors, in the one subnet that is lost."""
_SHARD_BYTES = SEGMENT_STRIPES * BLOCK_BYTES
_TRIALS = 40


@dataclass(frozen=True, slots=True)
class AvailabilityFigures:
    """One code under the churn mix, with nothing lost for good."""

    code: str
    placement: str
    holders_online: float
    """Expected, of total_shards."""
    segment_unavailable: float
    file_unavailable: float
    """Of `FILE_BYTES`, if its segments sat at different holders."""


@dataclass(frozen=True, slots=True)
class DisasterFigures:
    """A share of all donors leaves at once and for good."""

    code: str
    share_lost: float
    segment_lost: float


@dataclass(frozen=True, slots=True)
class SubnetFigures:
    """One crowded subnet fails."""

    code: str
    placement: str
    shards_lost_mean: float
    shards_lost_max: int
    crowded_share: float


def too_few(uptimes: Sequence[float], wanted: int) -> float:
    """Probability that fewer than `wanted` of independent holders are online."""
    chance = np.ones(1)
    for uptime in uptimes:
        chance = np.convolve(chance, [1 - uptime, uptime])
    return float(chance[:wanted].sum())


def donors(count: int, *, seed: int, subnet: str | None = None, crowded: float = 0.0) -> list[Donor]:
    """Donors of the churn mix; a share of them is in `subnet`, every other one in its own."""
    random = np.random.default_rng([seed, count])
    kinds = random.choice(len(FREENET_2010), count, p=[profile.share for profile in FREENET_2010])
    return [
        Donor(
            Contact(PeerId(random.bytes(32))),
            free_bytes=1000 * GIB,
            uptime_permille=round(1000 * FREENET_2010[kind].uptime),
            subnet=subnet if random.random() < crowded else f"own-{number}",
        )
        for number, kind in enumerate(kinds)
    ]


def uptimes_of(code: Code, found: Sequence[Donor]) -> list[float]:
    """The uptimes of the holders that placement picks of the donors found."""
    by_id = {donor.peer_id: donor for donor in found}
    placed = assign(code, found, shard_bytes=_SHARD_BYTES)
    return [by_id[holder].uptime_permille / 1000 for holder, shards in placed.items() for _ in shards]


def availability(code: Code, *, seed: int) -> list[AvailabilityFigures]:
    """Holders as they come; as bad as placement allows; as it chooses them of three times as many donors."""
    segments = -(-FILE_BYTES // (code.data_shards * BLOCK_BYTES * SEGMENT_STRIPES))
    any_uptime = [mean_uptime(FREENET_2010)] * code.total_shards
    chosen = [uptimes_of(code, donors(3 * code.total_shards, seed=seed + turn)) for turn in range(_TRIALS)]
    rows = []
    low_count = code.total_shards // 3
    for placement, picks in (
        ("as they come", [any_uptime]),
        ("a third under 80 % uptime", [[_high()] * (code.total_shards - low_count) + [_low()] * low_count]),
        ("by measured uptime", chosen),
    ):
        missing = float(np.mean([too_few(uptimes, code.data_shards) for uptimes in picks]))
        rows.append(
            AvailabilityFigures(
                code=_name(code),
                placement=placement,
                holders_online=float(np.mean([sum(uptimes) for uptimes in picks])),
                segment_unavailable=missing,
                file_unavailable=-float(np.expm1(segments * np.log1p(-missing))),
            )
        )
    return rows


def _high() -> float:
    return mean_uptime(FREENET_2010[:1]) / FREENET_2010[0].share


def _low() -> float:
    return mean_uptime(FREENET_2010[1:]) / sum(profile.share for profile in FREENET_2010[1:])


def disaster(code: Code, shares: Iterable[float] = SHARES_LOST) -> list[DisasterFigures]:
    """What it costs a segment in its usual state: some shards are missing already, repair is on its way."""
    usual = live_shards(Upkeep(code, life_days=90.0, repair_days=3.0))
    return [
        DisasterFigures(
            _name(code),
            share,
            sum(often * at_least(live - code.data_shards + 1, live, share) for live, often in usual.items()),
        )
        for share in shares
    ]


def subnet(code: Code, *, seed: int) -> list[SubnetFigures]:
    """Shards of a segment in one subnet that has a tenth of all donors, with and without the rule."""
    rows = []
    networks = [
        donors(DONORS, seed=seed + turn, subnet="crowded", crowded=CROWDED_SHARE) for turn in range(_TRIALS)
    ]
    for placement in ("any", "two of a subnet"):
        lost = []
        for found in networks:
            crowd = {donor.peer_id for donor in found if donor.subnet == "crowded"}
            if placement == "any":
                found = [Donor(d.contact, d.free_bytes, d.uptime_permille) for d in found]
            placed = assign(code, found, shard_bytes=_SHARD_BYTES)
            lost.append(sum(len(shards) for holder, shards in placed.items() if holder in crowd))
        rows.append(SubnetFigures(_name(code), placement, float(np.mean(lost)), max(lost), CROWDED_SHARE))
    return rows


def tables(*, seed: int) -> list[Table]:
    """All codes."""
    now = [row for code in CODES for row in availability(code, seed=seed)]
    at_once = [row for code in CODES for row in disaster(code)]
    crowded = [row for code in CODES for row in subnet(code, seed=seed)]
    return [
        Table(
            "Can it be got right now? Holders of the Freenet mix, none lost for good",
            (
                "code",
                "holders",
                "expected online",
                "segment unavailable",
                "a file of 10 GB, holders anew for each segment",
            ),
            [
                (
                    row.code,
                    row.placement,
                    f"{row.holders_online:.1f}",
                    f"{row.segment_unavailable:.1e}",
                    f"{row.file_unavailable:.1e}",
                )
                for row in now
            ],
            [asdict(row) for row in now],
        ),
        Table(
            "A share of all donors is gone at once: probability that a segment is lost",
            ("code", *(f"{share:.0%}" for share in SHARES_LOST[3::2])),
            [
                (_name(code), *(f"{row.segment_lost:.0e}" for row in disaster(code, SHARES_LOST[3::2])))
                for code in CODES
            ],
            [asdict(row) for row in at_once],
            ("In its usual state: donors stay 90 days on average, repair takes 3 days.",),
        ),
        Table(
            "A subnet that has a tenth of all donors fails: shards of a segment that go with it",
            ("code", "placement", "mean", f"worst of {_TRIALS}"),
            [(r.code, r.placement, f"{r.shards_lost_mean:.1f}", f"{r.shards_lost_max}") for r in crowded],
            [asdict(row) for row in crowded],
        ),
    ]


def _name(code: Code) -> str:
    return f"{code.data_shards}/{code.total_shards}"
