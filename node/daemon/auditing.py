"""Auditing, put together: both sides of the protocol, the rounds, what is told. Layer 5."""

from __future__ import annotations

from node.chunks.audits.auditing import Auditing
from node.chunks.audits.journal import AuditJournal
from node.chunks.audits.judging import Judge
from node.chunks.audits.server import AuditServer
from node.chunks.audits.telling import Teller
from node.chunks.audits.work import WorkPlanner
from node.chunks.catalogue import Catalogue
from node.chunks.evidence import Evidence
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.credit.reputation_store import ReputationStore
from node.crypto.keystore import NodeKeys
from node.daemon.config import AuditConfig
from node.framing import Preamble
from node.ports import Clock, Directory, Entropy, KeyValue, Network, Offload


def build_auditing(
    *,
    config: AuditConfig,
    network: Network,
    state: KeyValue,
    store: ShardStore,
    shard_server: ShardServer,
    directory: Directory,
    catalogue: Catalogue,
    keys: NodeKeys,
    preamble: Preamble,
    evidence: Evidence,
    reputations: ReputationStore,
    clock: Clock,
    entropy: Entropy,
    offload: Offload,
) -> Auditing:
    """The parts, wired. Reads a row of the state."""
    server = AuditServer(
        network=network,
        preamble=preamble,
        store=store,
        rosters=shard_server.rosters,
        evidence=evidence,
        reputations=reputations,
        journal=AuditJournal(state),
        identity=keys.identity,
        clock=clock,
        offload=offload,
        interval_s=config.interval_s,
    )
    planner = WorkPlanner(
        store=store,
        rosters=shard_server.rosters,
        catalogue=catalogue,
        identity=keys.identity,
        me=keys.peer_id,
        account_seed=keys.account.seed,
        interval_s=config.interval_s,
        is_away=lambda peer_id: reputations.of(peer_id).offline,
    )
    teller = Teller(
        network=network,
        preamble=preamble,
        directory=directory,
        planner=planner,
        clock=clock,
        offload=offload,
        is_away=lambda peer_id: reputations.of(peer_id).offline,
    )
    judge = Judge(
        planner=planner,
        evidence=evidence,
        reputations=reputations,
        network_id=preamble.network_id,
        clock=clock,
        offload=offload,
        samples=config.samples,
    )
    return Auditing(
        server=server,
        planner=planner,
        teller=teller,
        judge=judge,
        network=network,
        evidence=evidence,
        reputations=reputations,
        save_reputations=reputations.save,
        clock=clock,
        entropy=entropy,
        offload=offload,
        interval_s=config.interval_s,
        samples=config.samples,
    )
