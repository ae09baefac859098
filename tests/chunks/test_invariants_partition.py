"""A segment whose holders are cut in two, repair on both sides, liars among them (invariant 14).

After it heals there is one live copy of each shard, and never was one with a wrong root announced.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node import limits
from node.chunks import repair, roster
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import NodeError
from node.records.lease import Lease
from node.units import PeerId
from tests.chunks.sample_segment import CODE, TODAY, sample_segment
from tests.conftest import FULL

SAMPLE = sample_segment(1000)
KEYS = {peer_id_of(key.public): key for key in (KeyPair.from_seed(bytes([n]) * 32) for n in range(1, 11))}
PEERS = list(KEYS)
OWNER_KEY = SAMPLE.manifest.owner_key
LEASES_MAX = limits.ROSTER_SIGNED_PER_SHARD_MAX
"""A grant replaces a shard once a week, so no more of its leases are in force at a time."""


class Partition(RuleBasedStateMachine):
    """Ten donors, four shards. What each holder knows is a roster; it hears of others on its side only."""

    def __init__(self) -> None:
        super().__init__()
        self.side = dict.fromkeys(PEERS, 0)
        self.rosters: dict[PeerId, tuple[Lease, ...]] = {}
        self.keeps: dict[PeerId, set[int]] = {peer: set() for peer in PEERS}
        self.generation = 0
        self.made: Counter[int] = Counter()
        for shard, peer in enumerate(PEERS[: CODE.total_shards]):
            self.take(peer, shard)
        self.meet(list(self.rosters))

    def lease(self, peer: PeerId, shard: int) -> Lease:
        self.generation += 1
        days = 30 + self.generation // CODE.total_shards  # what is made later ends later
        return SAMPLE.lease(peer, shard, seed=self.generation, days=days).countersign(KEYS[peer])

    def take(self, peer: PeerId, shard: int) -> None:
        lease = self.lease(peer, shard)
        roster.check_lease(lease, SAMPLE.manifest)
        self.keeps[peer].add(shard)
        self.made[shard] += 1
        self.rosters[peer] = roster.merge_leases([*self.rosters.get(peer, ()), lease], OWNER_KEY)

    def meet(self, peers: list[PeerId]) -> None:
        known = roster.merge_leases(
            (lease for peer in peers for lease in self.rosters.get(peer, ())), OWNER_KEY
        )
        for peer in peers:
            if peer in self.rosters:
                self.rosters[peer] = roster.merge_leases([*self.rosters[peer], *known], OWNER_KEY)

    def seen_by(self, me: PeerId) -> dict[int, list[PeerId]]:
        """Whom `me` can prove to hold which shard: those on its side that do."""
        holders: dict[int, list[PeerId]] = {}
        for lease in roster.live_leases(self.rosters[me], today=TODAY):
            peers = holders.setdefault(lease.shard_index, [])
            peer = lease.holder
            if (
                peer not in peers
                and self.side[peer] == self.side[me]
                and lease.shard_index in self.keeps[peer]
            ):
                peers.append(peer)
        return holders

    @rule(data=st.data())
    def network_splits(self, data: st.DataObject) -> None:
        self.side = {peer: data.draw(st.integers(0, 1)) for peer in PEERS}

    @rule(data=st.data())
    def holders_talk(self, data: st.DataObject) -> None:
        me = data.draw(st.sampled_from(PEERS))
        self.meet([peer for peer in PEERS if self.side[peer] == self.side[me]])

    @rule(data=st.data(), repairers=st.integers(1, 3))
    def one_side_repairs(self, data: st.DataObject, repairers: int) -> None:
        """The first in order, and those who did not hear of its intent, each at a donor of its choice."""
        first = data.draw(st.sampled_from(sorted(self.rosters)))
        seen = self.seen_by(first)
        lost = [shard for shard in range(CODE.total_shards) if not seen.get(shard)]
        lost = [shard for shard in lost if self.made[shard] + repairers <= LEASES_MAX]
        if CODE.total_shards - len(lost) < CODE.data_shards:
            return
        free = [p for p in PEERS if self.side[p] == self.side[first] and not self.keeps[p]]
        for shard in lost:
            for peer in free[:repairers]:
                self.take(peer, shard)
            free = free[repairers:]
        self.holders_talk_on(self.side[first])

    def holders_talk_on(self, side: int) -> None:
        self.meet([peer for peer in PEERS if self.side[peer] == side])

    @rule(data=st.data(), shard=st.integers(0, CODE.total_shards - 1))
    def liar_announces_another_root(self, data: st.DataObject, shard: int) -> None:
        """Signed by the holder alone, or by a dishonest owner too, over what is not in the manifest."""
        liar = data.draw(st.sampled_from(PEERS))
        false = replace(SAMPLE.lease(liar, shard, seed=-1), root=bytes(32))
        signed = data.draw(st.sampled_from([false, false.sign_as_owner(SAMPLE.owner)]))
        try:
            roster.check_lease(signed.countersign(KEYS[liar]), SAMPLE.manifest)
        except NodeError:
            return
        pytest.fail("a lease over a wrong root entered a roster")

    @rule()
    def everything_heals(self) -> None:
        """All meet; every holder releases what is surplus by what it sees, each on its own."""
        self.side = dict.fromkeys(PEERS, 0)
        before = {peer: set(shards) for peer, shards in self.keeps.items()}
        self.meet(PEERS)
        goes = {
            (peer, shard)
            for peer in self.rosters
            for shard, holders in self.seen_by(peer).items()
            if peer in repair.surplus(shard, holders)
        }
        for peer, shard in goes:
            self.keeps[peer].discard(shard)
        for shard in range(CODE.total_shards):
            had = [peer for peer in PEERS if shard in before[peer]]
            left = [peer for peer in PEERS if shard in self.keeps[peer]]
            assert len(left) == min(1, len(had)), f"{len(left)} live copies of shard {shard}"

    @invariant()
    def rosters_hold_true_leases_only(self) -> None:
        for leases in self.rosters.values():
            assert all(lease.root == SAMPLE.manifest.root(lease.shard_index) for lease in leases)

    @invariant()
    def all_on_a_side_repair_in_one_order(self) -> None:
        for side in (0, 1):
            orders = {
                tuple(repair.order(SAMPLE.manifest.segment_id, sorted(peers, reverse=True), day=TODAY))
                for peers in [[p for p in PEERS if self.side[p] == side]] * 2
            }
            assert len(orders) == 1


TestPartition = Partition.TestCase
TestPartition.settings = settings(
    max_examples=300 if FULL else 25, stateful_step_count=40 if FULL else 20, deadline=None
)
