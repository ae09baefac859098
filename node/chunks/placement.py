"""Which donors keep which shards. Layer 2, pure.

Rules (design.md, sections 2 and 4): never two shards of a segment at one holder while there are donors
enough; with fewer donors than shards up to ceil(total_shards / donors) each; at most a third of the shards
at donors under 80 % uptime, and few in one subnet, where others exist. The choice is stable: the same donors
serve all segments of a file until one is full, since a file whose segments sit at different holders dies by
more combinations of losses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from node.chunks.geometry import Code
from node.units import Contact, PeerId

LOW_UPTIME_PERMILLE: Final = 800
SUBNET_HOLDERS_MAX: Final = 2
QUORUM_PARITY_PERCENT: Final = 70
NEW_HOLDERS_PERCENT: Final = 20
"""Of a segment's holders at most so many are new ones, where the others can be vetted ones."""
SHARD_OVERHEAD_BYTES: Final = 64 * 1024
"""What a shard costs a donor beyond its blocks, at most: index, manifest, lease."""


@dataclass(frozen=True, slots=True)
class Donor:
    """One offer, as the chooser sees it."""

    contact: Contact
    free_bytes: int
    uptime_permille: int = 1000
    expected_s: float = 0.0
    """Expected seconds for a shard, failures weighed in (from own observations)."""
    subnet: str | None = None
    """Its /24 or /48; None where that says nothing (loopback, private networks)."""
    is_vetted: bool = True
    """Whether it has passed audits enough to be more than new."""
    preference: int = 0
    """2 where it owes the owner, 1 where they have dealt before (credit.md, "Spending")."""

    @property
    def peer_id(self) -> PeerId:
        """The donor's identity."""
        return self.contact.peer_id


Assignment = dict[PeerId, tuple[int, ...]]
"""Shard indexes by holder."""


def quorum(code: Code) -> int:
    """Shards that a put must place when holders failed and nobody can stand in."""
    return code.data_shards + -(-QUORUM_PARITY_PERCENT * code.parity_shards // 100)


def shards_per_holder_max(code: Code, donor_count: int) -> int:
    """How many shards of one segment a holder may keep."""
    return -(-code.total_shards // max(1, donor_count))


def is_weak(code: Code, shard_counts: Sequence[int]) -> bool:
    """Whether losing some third of the holders (at least one) would leave fewer than `data_shards` shards."""
    ranked = sorted((count for count in shard_counts if count), reverse=True)
    lost = sum(ranked[: max(1, len(ranked) // 3)])
    return sum(ranked) - lost < code.data_shards


def rank(donors: Sequence[Donor]) -> list[Donor]:
    """Best first: reliable, in debt to the owner, known, quick, roomy; the peer id settles ties."""
    return sorted(
        donors,
        key=lambda donor: (
            donor.uptime_permille < LOW_UPTIME_PERMILLE,
            -donor.preference,
            round(donor.expected_s, 1),
            -donor.free_bytes.bit_length(),
            donor.peer_id,
        ),
    )


def assign(code: Code, donors: Sequence[Donor], *, shard_bytes: int, segment_index: int = 0) -> Assignment:
    """Shards for the best donors: all of them if there is room, else as many as fit.

    The caller compares the number of shards placed with `quorum`.
    """
    cost = shard_bytes + SHARD_OVERHEAD_BYTES
    usable = [donor for donor in rank(donors) if donor.free_bytes >= cost]
    holders = _diverse(usable, code.total_shards)
    if not holders:
        return {}
    each_max = shards_per_holder_max(code, len(holders))
    room = {donor.peer_id: min(each_max, donor.free_bytes // cost) for donor in holders}
    places: list[PeerId] = []
    for level in range(each_max):
        places.extend(donor.peer_id for donor in holders if room[donor.peer_id] > level)
    places = places[: code.total_shards]
    # Every segment begins elsewhere, so that data shards, which readers prefer, are spread over all holders.
    start = segment_index * code.data_shards % len(places)
    turned = places[start:] + places[:start]
    chosen: dict[PeerId, list[int]] = {}
    for shard_index, holder in enumerate(turned):
        chosen.setdefault(holder, []).append(shard_index)
    return {holder: tuple(indexes) for holder, indexes in chosen.items()}


def replace(
    code: Code,
    donors: Sequence[Donor],
    shards: Collection[int],
    *,
    shard_bytes: int,
    kept: Mapping[PeerId, int],
    failed: Collection[PeerId],
) -> Assignment:
    """Other places for `shards` whose holder failed; shards that find none are left out.

    `kept` counts what each present holder of the segment has; `failed` are those to keep away from. New
    donors come first, of these such in subnets that have few holders (as far as `donors` say in which the
    present ones are), then present holders within the limit for as many donors as are left, and where that
    leaves shards without a place, for as many as have room.
    """
    cost = shard_bytes + SHARD_OVERHEAD_BYTES
    usable = [d for d in rank(donors) if d.peer_id not in failed and d.free_bytes >= cost]
    if not usable:
        return {}
    present = {donor.peer_id for donor in usable} | kept.keys()
    each_max = shards_per_holder_max(code, len(present))
    most = shards_per_holder_max(code, len(usable))
    load = {donor.peer_id: kept.get(donor.peer_id, 0) for donor in usable}
    room = {donor.peer_id: donor.free_bytes // cost for donor in usable}
    order = {donor.peer_id: position for position, donor in enumerate(usable)}
    subnet = {donor.peer_id: donor.subnet for donor in donors}
    crowd: dict[str | None, int] = {}
    for peer in kept:
        crowd[subnet.get(peer)] = crowd.get(subnet.get(peer), 0) + 1

    def is_crowded(peer: PeerId) -> bool:
        return subnet[peer] is not None and crowd.get(subnet[peer], 0) >= SUBNET_HOLDERS_MAX

    chosen: dict[PeerId, list[int]] = {}
    for shard_index in sorted(shards):
        free = [peer for peer in order if load[peer] < each_max and room[peer] > 0]
        if not free:  # the others are full: better two shards at one holder than one nowhere
            free = [peer for peer in order if load[peer] < most and room[peer] > 0]
        if not free:
            break
        holder = min(free, key=lambda peer: (load[peer], is_crowded(peer), order[peer]))
        if holder not in kept and holder not in chosen:
            crowd[subnet[holder]] = crowd.get(subnet[holder], 0) + 1
        chosen.setdefault(holder, []).append(shard_index)
        load[holder] += 1
        room[holder] -= 1
    return {holder: tuple(indexes) for holder, indexes in chosen.items()}


def _diverse(ranked: Sequence[Donor], count: int) -> list[Donor]:
    """Up to `count` donors, best first, within the shares of low uptime, of one subnet and of new donors
    where possible. Where vetted donors are too few to be choosy, as in a network that has just begun, new
    ones are as good as any."""
    chosen: list[Donor] = []
    passed_over: list[Donor] = []
    subnets: dict[str, int] = {}
    low_left = count // 3
    new_left = max(1, count * NEW_HOLDERS_PERCENT // 100)
    if sum(donor.is_vetted for donor in ranked) < count - new_left:
        new_left = count
    for donor in ranked:
        crowded = donor.subnet is not None and subnets.get(donor.subnet, 0) >= SUBNET_HOLDERS_MAX
        low = donor.uptime_permille < LOW_UPTIME_PERMILLE
        new = not donor.is_vetted
        if len(chosen) == count or crowded or (low and low_left == 0) or (new and new_left == 0):
            passed_over.append(donor)
            continue
        chosen.append(donor)
        low_left -= low
        new_left -= new
        if donor.subnet is not None:
            subnets[donor.subnet] = subnets.get(donor.subnet, 0) + 1
    return chosen + passed_over[: count - len(chosen)]
