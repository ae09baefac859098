"""Healing, put together: taking shards over, the watch, moving, repair on demand. Layer 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.evidence import Evidence
from node.chunks.healing.client import RepairClient
from node.chunks.healing.healer import Healer, HealerContext
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.intents import Intents
from node.chunks.healing.prober import ProbeContext, Prober
from node.chunks.healing.rebuild import Rebuilder
from node.chunks.healing.server import RepairServer
from node.chunks.healing.service import HealingService, HealingSettings
from node.chunks.holders import Holders
from node.chunks.losses import LossTeller
from node.chunks.reputations import Reputations
from node.chunks.scores import Scoreboard
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.crypto.keystore import NodeKeys
from node.daemon.config import RepairConfig
from node.framing import Preamble
from node.ports import Clock, Directory, Entropy, KeyValue, Network, Offload
from node.records.lease import Lease

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio


@dataclass(frozen=True, slots=True)
class Healing:
    """All that heals in one node."""

    server: RepairServer
    service: HealingService
    healer: Healer
    held: HeldSegments
    losses: LossTeller

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once requests are taken."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run)
            nursery.start_soon(self.service.run)
            task_status.started()


def build_healing(
    *,
    config: RepairConfig,
    network: Network,
    state: KeyValue,
    store: ShardStore,
    shard_server: ShardServer,
    client: HolderClient,
    directory: Directory,
    keys: NodeKeys,
    preamble: Preamble,
    evidence: Evidence,
    reputations: Reputations,
    scores: Scoreboard,
    engine: CodingEngine,
    clock: Clock,
    entropy: Entropy,
    offload: Offload,
) -> Healing:
    """The parts, wired."""
    keeper = shard_server.keeper
    holders = Holders(client=client, directory=directory, clock=clock, scores=scores)
    prober = Prober(ProbeContext(network, holders, evidence, keys.identity, entropy, offload))
    held = HeldSegments(
        store=store,
        keeper=keeper,
        evidence=evidence,
        clock=clock,
        network=preamble.network_id,
        dead_after_s=config.dead_after_s,
    )
    repair = RepairClient(network, preamble)
    intents = Intents(stagger_s=config.stagger_s)
    healer = Healer(
        HealerContext(
            network=network,
            client=client,
            repair=repair,
            directory=directory,
            rebuilder=Rebuilder(
                holders=holders, client=client, repair=repair, engine=engine, offload=offload
            ),
            prober=prober,
            evidence=evidence,
            scores=scores,
            reputations=reputations,
            clock=clock,
            entropy=entropy,
            offload=offload,
            on_leases=partial(_remember, store, shard_server),
        )
    )
    settings = HealingSettings(
        check_interval_s=config.check_interval_s,
        dead_after_s=config.dead_after_s,
        stagger_s=config.stagger_s,
        threshold=config.threshold,
    )
    service = HealingService(
        held=held,
        healer=healer,
        prober=prober,
        intents=intents,
        client=repair,
        identity=keys.identity,
        settings=settings,
        clock=clock,
        offload=offload,
    )
    server = RepairServer(
        network=network,
        store=store,
        keeper=keeper,
        identity=keys.identity,
        preamble=preamble,
        clock=clock,
        offload=offload,
        prober=prober,
        intents=intents,
        last_proof_s=held.last_proof_s,
        dead_after_s=config.dead_after_s,
        take_loss=evidence.add_bad_answer,
    )
    losses = LossTeller(
        store=store,
        keeper=keeper,
        holders=holders,
        client=repair,
        state=state,
        identity=keys.identity,
        clock=clock,
        entropy=entropy,
        offload=offload,
    )
    return Healing(server, service, healer, held, losses)


def _remember(store: ShardStore, server: ShardServer, leases: Sequence[Lease]) -> None:
    """Take new leases into the roster of a segment that is held here."""
    if leases and store.segment_manifest(leases[0].segment_id) is not None:
        server.keeper.merge_known(leases[0].segment_id, leases)
