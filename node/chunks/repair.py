"""Who is dead, when a segment is repaired, by whom first, and which copies go. Layer 2, pure.

The policy alone: services gather the evidence and do what this says, a model runs it over years.

Invariants: a short outage repairs nothing, since a holder counts as lost only when it has been silent for
`dead_after_s`, or, where much of its segment fell silent together, for most of `urgent_after_s`; one holder
alone never shortens its own patience; that nobody has proved a copy says nothing of it, since small shards
are proved once a month and a pass is told to few; a contradicted shard is lost at once, whatever its holder
says later; a segment that was repaired stays open, so that deaths of the same hour that become known later
are made good as well; every holder that knows the same roster gets the same order and opens the same
segments; of the copies of a shard exactly one stays, and all holders agree which. Source: credit.md,
"Repair".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from node.chunks.geometry import Code
from node.crypto.hashing import blake3_256
from node.records.lease import Lease
from node.units import PeerId, SegmentId

KEY_BYTES: Final = 32
"""The part of a peer id that differs between peers: its public key stands at the end."""
INTENT_STAGGERS: Final = 2
"""An intent that is not followed by new leases lapses after so many staggers."""
OPEN_DAYS: Final = 2
"""Days that a repaired segment stays open. Of deaths in the same hour the last is known a day after the first
(an audit round), one whose auditors died with it a day later. Each day more is dear where holders leave fast:
of an open segment every loss is made good alone, for `data_shards` reads."""
OPEN_SHARE: Final = 0.5
"""Share of the trigger that must have been remade within `OPEN_DAYS` to open a segment. If one remade shard
did, each shard that an open segment gets would keep it open, and where somebody leaves every third day all
repairs would be of one shard: `data_shards` fetched for each instead of for ten."""

URGENT_SHARE: Final = 0.5
"""Share of the parity that must be lost, or silent for `urgent_after_s`, to make a segment urgent. It is no
setting, so that nodes that repair at other thresholds agree on who is dead."""
URGENT_NEW_SHARE: Final = 0.25
"""Share of those that must have fallen silent within `dead_after_s`: what was lost long ago is no haste, so a
segment near its trigger waits through the next outage as long as ever. A disaster takes more of it."""
URGENT_HOLDERS_MIN: Final = 2
"""One machine may keep several shards, and codes may have little parity: an outage of one is never urgent."""
URGENT_SPREAD: Final = 0.75
"""Of an urgent segment who has been silent for this share of `urgent_after_s` counts as lost as well: deaths
of one hour are noticed within some hours, and those remade first would end the urgency for the others."""

PULSE_PEERS: Final = 16
"""Co-holders that a node looks at in an interval: 4 KiB each where a dial is needed, 1.5 MB a day at most. If
half of a network is gone, fewer than four of sixteen are missed once in a hundred times."""
ALARM_SHARE: Final = 0.25
"""Share of those looked at whose absence is no chance: of always-on machines one in 25 is away at a time."""
ALARM_PEERS_MIN: Final = 2


class Standing(Enum):
    """What one holder's copy of a shard counts as."""

    ALIVE = "alive"
    SUSPENDED = "suspended"
    """Silent, for less than its segment's patience: neither proved nor to be replaced."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Copy:
    """One holder's copy of one shard, as the evidence has it."""

    shard_index: int
    holder: PeerId
    silent_since_s: int | None = None
    """When the first attempt to reach its holder failed since the last that succeeded; None: not silent."""
    is_contradicted: bool = False
    """The holder signed a bad answer, or sent bad blocks, since the last proof."""


def standing(copy: Copy, *, now_s: int, dead_after_s: int) -> Standing:
    """What a copy counts as."""
    if copy.is_contradicted:
        return Standing.LOST
    if copy.silent_since_s is None:
        return Standing.ALIVE
    return Standing.LOST if now_s - copy.silent_since_s >= dead_after_s else Standing.SUSPENDED


def lost_shards(code: Code, copies: Iterable[Copy], *, now_s: int, dead_after_s: int) -> frozenset[int]:
    """Shards of which no copy is alive or suspended; those that nobody ever held are among them."""
    kept = {
        copy.shard_index
        for copy in copies
        if standing(copy, now_s=now_s, dead_after_s=dead_after_s) is not Standing.LOST
    }
    return frozenset(range(code.total_shards)) - kept


def patience_s(
    code: Code, copies: Iterable[Copy], *, now_s: int, dead_after_s: int, urgent_after_s: int
) -> int:
    """How long a holder of this segment may be silent before what it keeps counts as lost: `dead_after_s`,
    or `URGENT_SPREAD` of `urgent_after_s` where the segment is urgent.

    It is urgent when at least `URGENT_SHARE` of its parity is lost or has been silent for `urgent_after_s`,
    and enough of that at several holders for less than `dead_after_s`. Shards that nobody ever held say
    nothing of who is dead.
    """
    if urgent_after_s >= dead_after_s:
        return dead_after_s
    known = list(copies)
    held = {copy.shard_index for copy in known}
    lost = held & lost_shards(code, known, now_s=now_s, dead_after_s=urgent_after_s)
    lately = [
        copy
        for copy in known
        if copy.shard_index in lost
        and copy.silent_since_s is not None
        and urgent_after_s <= now_s - copy.silent_since_s < dead_after_s
    ]
    count = _urgent_count(code)
    is_urgent = (
        len(lost) >= count
        and len({copy.shard_index for copy in lately}) >= URGENT_NEW_SHARE * count
        and len({copy.holder for copy in lately}) >= URGENT_HOLDERS_MIN
    )
    return math.floor(URGENT_SPREAD * urgent_after_s) if is_urgent else dead_after_s


def is_alarming(looked: int, missed: int) -> bool:
    """Whether so many of the peers looked at, none of them known to be away before, are too many."""
    return missed >= max(ALARM_PEERS_MIN, math.ceil(ALARM_SHARE * looked))


def may_become_urgent(code: Code, copies: Iterable[Copy]) -> bool:
    """Whether a segment would be urgent if whoever is silent now stayed so."""
    known = list(copies)
    held = {copy.shard_index for copy in known}
    there = {copy.shard_index for copy in known if copy.silent_since_s is None and not copy.is_contradicted}
    silent = {copy.holder for copy in known if copy.silent_since_s is not None}
    return len(held - there) >= _urgent_count(code) and len(silent) >= URGENT_HOLDERS_MIN


def _urgent_count(code: Code) -> int:
    return max(URGENT_HOLDERS_MIN, math.ceil(URGENT_SHARE * code.parity_shards))


def eligible(copies: Iterable[Copy]) -> set[PeerId]:
    """Holders that may repair: all but those that are silent, or have nothing of what they hold.

    One that nobody audited of late is among them: whoever comes after it waits a stagger in vain at worst.
    """
    return {copy.holder for copy in copies if not copy.is_contradicted and copy.silent_since_s is None}


def trigger_count(code: Code, threshold: float, *, is_open: bool = False) -> int:
    """How many shards are lost when repair starts: a share of the parity; of an open segment one."""
    return 1 if is_open else max(1, math.ceil(threshold * code.parity_shards))


def is_due(code: Code, lost_count: int, threshold: float, *, is_open: bool = False) -> bool:
    """Whether to repair now; with fewer than `data_shards` left there is nothing to repair from."""
    return trigger_count(code, threshold, is_open=is_open) <= lost_count <= code.parity_shards


def is_open(code: Code, threshold: float, remade: Iterable[tuple[int, int]], *, today: int) -> bool:
    """Whether a segment was repaired within the last days, so that every further loss is made good.

    `remade` has (shard index, start day) of what was remade, however long ago.
    """
    lately = {index for index, day in remade if today - day <= OPEN_DAYS}
    return len(lately) >= max(1, math.ceil(OPEN_SHARE * trigger_count(code, threshold)))


def remade_days(leases: Iterable[Lease]) -> list[tuple[int, int]]:
    """(shard index, start day) of the leases that repair began: under a grant, without a handover."""
    return [
        (lease.shard_index, lease.start_day)
        for lease in leases
        if lease.is_granted and (half := lease.half) is not None and half.handover is None
    ]


def order(segment_id: SegmentId, holders: Iterable[PeerId], *, day: int) -> list[PeerId]:
    """Live holders, who repairs first first: by XOR of peer id and H(segment id, day)."""
    target = int.from_bytes(blake3_256(segment_id + day.to_bytes(4, "big")), "big")
    return sorted(set(holders), key=lambda peer: int.from_bytes(peer[-KEY_BYTES:], "big") ^ target)


def wait_s(segment_id: SegmentId, holders: Iterable[PeerId], me: PeerId, *, day: int, stagger_s: int) -> int:
    """How long `me` waits for those before it: rank times the stagger."""
    return order(segment_id, {*holders, me}, day=day).index(me) * stagger_s


def intent_life_s(stagger_s: int) -> int:
    """How long others stand back for a repairer that announced itself."""
    return INTENT_STAGGERS * stagger_s


def surplus(shard_index: int, holders: Collection[PeerId]) -> list[PeerId]:
    """Of several proved copies of one shard those that go: all but that of the smallest H(donor, index)."""
    ranked = sorted(set(holders), key=lambda peer: blake3_256(peer + bytes([shard_index])))
    return ranked[1:]


def fair_share(code: Code, donor_count: int) -> int:
    """How many shards of a segment one holder keeps when there are so many donors."""
    return -(-code.total_shards // max(1, donor_count))


def to_spread(code: Code, held: Mapping[PeerId, Collection[int]], me: PeerId, newcomers: int) -> list[int]:
    """Shards that `me` gives away now that `newcomers` donors have none of the segment.

    `held` is what each live holder keeps, `me` among them. Those that keep most give first, so that all end
    alike; one newcomer gets one shard. The highest indexes go: readers look for data shards where they were.
    """
    _, count = _turn(code, held, me, newcomers)
    return sorted(held[me], reverse=True)[:count]


def spread_to(
    code: Code, held: Mapping[PeerId, Collection[int]], me: PeerId, newcomers: Collection[PeerId]
) -> dict[PeerId, int]:
    """The same with the newcomer that gets each: holders that know the same ones choose different ones."""
    first, _ = _turn(code, held, me, len(newcomers))
    return dict(zip(sorted(newcomers)[first:], to_spread(code, held, me, len(newcomers)), strict=False))


def _turn(code: Code, held: Mapping[PeerId, Collection[int]], me: PeerId, newcomers: int) -> tuple[int, int]:
    """The first newcomer whose turn with `me` it is, and how many there are."""
    share = fair_share(code, len(held) + newcomers)
    taken = 0
    for peer in sorted(held, key=lambda peer: (-len(held[peer]), peer)):
        count = min(max(0, len(held[peer]) - share), newcomers - taken)
        if peer == me:
            return taken, count
        taken += count
    return taken, 0
