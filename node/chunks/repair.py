"""Who is dead, when a segment is repaired, by whom first, and which copies go. Layer 2, pure.

The policy alone: services gather the evidence and do what this says, a model runs it over years.

Invariants: a short outage repairs nothing, since a holder counts as lost only when it has been silent for
`dead_after_s`; that nobody has proved a copy says nothing of it, since small shards are proved once a month
and a pass is told to few; a contradicted shard is lost at once, whatever its holder says later; a segment
that was repaired stays open, so that deaths of the same hour that become known later are made good as well;
every holder that knows the same roster gets the same order and opens the same segments; of the copies of a
shard exactly one stays, and all holders agree which. Source: credit.md, "Repair".
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
OPEN_DAYS: Final = 3
"""Days that a repaired segment stays open. Of deaths in the same hour the last is known a day after the
first (an audit round), and one that only the repairer's own look found two days after that look
(`repair.dead_after_s`)."""
OPEN_SHARE: Final = 0.5
"""Share of the trigger that must have been remade within `OPEN_DAYS` to open a segment. If one remade shard
did, each shard that an open segment gets would keep it open, and where somebody leaves every third day all
repairs would be of one shard: `data_shards` fetched for each instead of for ten."""


class Standing(Enum):
    """What one holder's copy of a shard counts as."""

    ALIVE = "alive"
    SUSPENDED = "suspended"
    """Silent, for less than `dead_after_s`: neither proved nor to be replaced."""
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
