"""What an auditor plans with may be gone when it comes to it."""

from __future__ import annotations

from node.chunks.audits.work import PairWork, WorkPlanner
from node.chunks.catalogue import Catalogue
from node.chunks.serve.rosters import Rosters
from node.chunks.store.shard_store import ShardStore
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from simulations.disk import FakeDisk
from simulations.key_value import FakeKeyValue
from simulations.machine import SeededEntropy
from tests.chunks.sample_segment import sample_segment
from tests.chunks.swarm import NETWORK

ME = KeyPair.from_seed(b"m" * 32)
OTHER = KeyPair.from_seed(b"o" * 32)


def test_news_of_a_segment_that_has_left_this_node_is_passed_over() -> None:
    store = ShardStore(FakeDisk(), FakeKeyValue(), SeededEntropy("store"), cap_bytes=1 << 26)
    rosters = Rosters(store, NETWORK)
    planner = WorkPlanner(
        store=store,
        rosters=rosters,
        catalogue=Catalogue(FakeKeyValue(), network=NETWORK),
        identity=ME,
        me=peer_id_of(ME.public),
        account_seed=bytes(32),
        interval_s=86_400,
    )
    sample = sample_segment()
    donor = peer_id_of(OTHER.public)
    news = [sample.lease(donor, 0).countersign(OTHER)]
    planner.learn(PairWork(donor), sample.manifest.segment_id, news)
    assert rosters.known_leases(sample.manifest.segment_id) == ()
