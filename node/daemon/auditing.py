"""Auditing, put together: both sides of the protocol, the rounds, what is told. Layer 5."""

from __future__ import annotations

from node.chunks.audits.auditing import Auditing
from node.chunks.audits.journal import AuditJournal
from node.chunks.audits.judging import Judge
from node.chunks.audits.server import AuditServer
from node.chunks.audits.telling import Teller
from node.chunks.audits.work import WorkPlanner
from node.chunks.holders import Holders
from node.chunks.serve.rosters import Rosters
from node.daemon.parts import Parts
from node.units import PeerId


def build_auditing(parts: Parts, rosters: Rosters) -> Auditing:
    """The parts, wired. Reads a row of the state."""

    def is_away(peer_id: PeerId) -> bool:
        return parts.reputations.of(peer_id).offline

    server = _server(parts, rosters)
    planner = WorkPlanner(
        store=parts.store,
        rosters=rosters,
        catalogue=parts.catalogue,
        identity=parts.keys.identity,
        me=parts.keys.peer_id,
        account_seed=parts.keys.account.seed,
        interval_s=parts.config.audit.interval_s,
        is_away=is_away,
    )
    holders = Holders(
        client=parts.giving_client(), directory=parts.dht, clock=parts.clock, scores=parts.scores
    )
    teller = Teller(
        network=parts.giving,
        preamble=parts.preamble,
        look_up=holders.look_up,
        planner=planner,
        clock=parts.clock,
        offload=parts.offload,
        is_away=is_away,
    )
    judge = Judge(
        planner=planner,
        evidence=parts.evidence,
        reputations=parts.reputations,
        network_id=parts.network_id,
        clock=parts.clock,
        offload=parts.offload,
        samples=parts.config.audit.samples,
    )
    return Auditing(
        server=server,
        planner=planner,
        teller=teller,
        judge=judge,
        network=parts.giving,
        evidence=parts.evidence,
        reputations=parts.reputations,
        save_reputations=parts.reputations.save,
        clock=parts.clock,
        entropy=parts.entropy,
        offload=parts.offload,
        interval_s=parts.config.audit.interval_s,
        samples=parts.config.audit.samples,
    )


def _server(parts: Parts, rosters: Rosters) -> AuditServer:
    return AuditServer(
        network=parts.giving,
        preamble=parts.preamble,
        store=parts.store,
        rosters=rosters,
        evidence=parts.evidence,
        reputations=parts.reputations,
        journal=AuditJournal(parts.state),
        identity=parts.keys.identity,
        clock=parts.clock,
        offload=parts.offload,
        interval_s=parts.config.audit.interval_s,
    )
