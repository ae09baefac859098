"""Healing, put together: taking shards over, the watch, moving, repair on demand. Layer 5."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from node.chunks.admission import Payer
from node.chunks.get.locate import Locator
from node.chunks.healing.budget import RepairBudget
from node.chunks.healing.client import RepairClient
from node.chunks.healing.evicting import Evictor
from node.chunks.healing.healer import Healer, HealerContext
from node.chunks.healing.held import HeldSegments
from node.chunks.healing.intents import Intents
from node.chunks.healing.journal import HealingJournal
from node.chunks.healing.moving import DrainReport, MoveProgress, Mover
from node.chunks.healing.on_demand import FileRepairer
from node.chunks.healing.owner_watch import OwnerWatch
from node.chunks.healing.placing import Placer, PlacingContext
from node.chunks.healing.prober import ProbeContext, Prober
from node.chunks.healing.pulse import Pulse
from node.chunks.healing.rebuild import Rebuilder
from node.chunks.healing.server import RepairServer
from node.chunks.healing.service import HealingService, HealingSettings
from node.chunks.holders import Holders, end
from node.chunks.losses import LossTeller
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.daemon.memory import DaemonMemory
from node.daemon.parts import Parts
from node.errors import RefusedError, RemoteError, StoreError
from node.records.lease import Lease
from node.units import AccountId, PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

DRAIN_AGAIN_S = 300.0
"""Until a drain that found no room for everything tries again by itself."""

_logger = logging.getLogger(__name__)


class Leaving:
    """Whether this donor is leaving: it takes nothing new, and a drain goes on after a restart."""

    def __init__(self, memory: DaemonMemory) -> None:
        self._memory = memory
        self._is_leaving = memory.is_leaving()

    def __call__(self) -> bool:
        return self._is_leaving

    def set(self, is_leaving: bool) -> None:
        """Remember it, durably."""
        if is_leaving != self._is_leaving:
            self._memory.set_leaving(is_leaving)
            self._is_leaving = is_leaving


@dataclass(frozen=True, slots=True)
class Healing:
    """All that heals in one node."""

    server: RepairServer
    service: HealingService
    healer: Healer
    placer: Placer
    held: HeldSegments
    pulse: Pulse
    mover: Mover
    repairer: FileRepairer
    owner_watch: OwnerWatch
    leaving: Leaving
    losses: LossTeller
    evictor: Evictor

    def was_away(self, away_s: int) -> None:
        """This node did nothing for so long, and could hear of nobody. Blocks on the disk. Raises
        `StoreError`."""
        self.held.was_away(away_s)
        self.pulse.was_away(away_s)

    def ask_anew(self) -> None:
        """Ask donors again before the next move or repair: a person waits, and may have started one."""
        self.healer.ask_anew()
        self.placer.ask_anew()

    async def leave(self) -> int:
        """Take nothing new any more; how many shards are to be moved elsewhere. Raises `StoreError`."""
        self.leaving.set(True)
        return await self.mover.owed()

    async def drain(self, on_progress: MoveProgress) -> DrainReport:
        """Take nothing new any more, and move everything elsewhere. Raises `StoreError`."""
        self.leaving.set(True)
        return await self.mover.drain(on_progress)

    async def _go_on_leaving(self) -> None:
        """A drain that a restart cut short."""
        while self.leaving():
            try:
                report = await self.mover.drain()
            except StoreError as error:
                _logger.warning("the drain failed, again in %d s: %s", DRAIN_AGAIN_S, error)
            else:
                if not report.remaining:
                    return
            await trio.sleep(DRAIN_AGAIN_S)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started once requests are taken."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.server.run)
            nursery.start_soon(self.service.run)
            nursery.start_soon(self.owner_watch.run)
            nursery.start_soon(self.evictor.run)
            nursery.start_soon(self._go_on_leaving)
            task_status.started()


def build_healing(
    parts: Parts, *, shard_server: ShardServer, payer: Payer, leaving: Leaving, away_s: int
) -> Healing:
    """The parts, wired; `payer` pays for shards that no lease was ever on.

    `away_s` is how long the node was off before this start. Reads rows of the state.
    """
    config, network, client, directory = parts.config.repair, parts.giving, parts.giving_client(), parts.dht
    clock, entropy, offload, state = parts.clock, parts.entropy, parts.offload, parts.state
    store, catalogue, evidence, scores = parts.store, parts.catalogue, parts.evidence, parts.scores
    keys, preamble, engine = parts.keys, parts.preamble, parts.engine
    keeper, rosters = shard_server.keeper, shard_server.rosters
    journal = HealingJournal(state)
    holders = Holders(client=client, directory=directory, clock=clock, scores=scores)
    prober = Prober(ProbeContext(network, holders, evidence, keys.identity, entropy, offload))

    async def is_reachable(peer_id: PeerId) -> bool:
        try:
            await end(await holders.open(prober.contact(peer_id)), clean=True)
        except RefusedError:
            return True
        except RemoteError:
            return False
        return True

    pulse = Pulse(
        network=network,
        is_reachable=is_reachable,
        journal=journal,
        clock=clock,
        offload=offload,
        away_s=away_s,
    )
    held = HeldSegments(
        store=store,
        keeper=keeper,
        rosters=rosters,
        evidence=evidence,
        clock=clock,
        network=preamble.network_id,
        dead_after_s=config.dead_after_s,
        urgent_after_s=config.urgent_after_s,
        journal=journal,
        away_s=away_s,
        absent_since=pulse.absent_since,
    )
    repair = RepairClient(network, preamble)
    intents = Intents(stagger_s=config.stagger_s)
    rebuilder = Rebuilder(holders=holders, client=client, repair=repair, engine=engine, offload=offload)
    healer = Healer(
        HealerContext(
            network=network,
            client=client,
            repair=repair,
            directory=directory,
            rebuilder=rebuilder,
            prober=prober,
            evidence=evidence,
            journal=journal,
            scores=scores,
            reputations=parts.reputations,
            clock=clock,
            entropy=entropy,
            offload=offload,
            on_leases=partial(_remember, store, shard_server),
        )
    )
    settings = HealingSettings(
        check_interval_s=config.check_interval_s,
        stagger_s=config.stagger_s,
        threshold=config.threshold,
    )
    mover = Mover(
        held=held,
        healer=healer,
        rebuilder=rebuilder,
        prober=prober,
        client=client,
        identity=keys.identity,
        clock=clock,
        offload=offload,
    )
    budget = RepairBudget(settings.bytes_per_day, clock, journal)
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
        mover=mover,
        budget=budget,
        pulse=pulse,
    )
    server = RepairServer(
        network=network,
        store=store,
        keeper=keeper,
        rosters=rosters,
        identity=keys.identity,
        account=keys.account_id,
        preamble=preamble,
        clock=clock,
        offload=offload,
        prober=prober,
        intents=intents,
        held=held,
        is_leaving=leaving,
        take_loss=evidence.add_bad_answer,
    )
    losses = LossTeller(
        store=store,
        rosters=rosters,
        holders=holders,
        client=repair,
        state=state,
        identity=keys.identity,
        clock=clock,
        entropy=entropy,
        offload=offload,
    )
    placer = Placer(
        PlacingContext(
            network=network,
            client=client,
            directory=directory,
            rebuilder=rebuilder,
            prober=prober,
            scores=scores,
            account=AccountId(keys.account.public),
            clock=clock,
            entropy=entropy,
            payer=payer,
        )
    )
    repairer = FileRepairer(
        holders=holders,
        locator=Locator(holders, known_holders=catalogue.holders),
        healer=healer,
        service=service,
        placer=placer,
        catalogue=catalogue,
        account_seed=keys.account.seed,
        offload=offload,
    )
    owner_watch = OwnerWatch(
        catalogue=catalogue,
        repairer=repairer,
        placer=placer,
        evidence=evidence,
        budget=budget,
        clock=clock,
        offload=offload,
        check_interval_s=config.check_interval_s,
        dead_after_s=config.dead_after_s,
        urgent_after_s=config.urgent_after_s,
        wait_joined=parts.dht.wait_joined,
    )
    evictor = Evictor(
        held=held,
        mover=mover,
        state=state,
        clock=clock,
        offload=offload,
        evict_after_s=config.evict_after_s,
        is_leaving=leaving,
    )
    return Healing(
        server, service, healer, placer, held, pulse, mover, repairer, owner_watch, leaving, losses, evictor
    )


def _remember(store: ShardStore, server: ShardServer, leases: Sequence[Lease]) -> None:
    """Take new leases into the roster of a segment that is held here."""
    if leases and store.segment_manifest(leases[0].segment_id) is not None:
        server.rosters.merge_verified(leases[0].segment_id, leases, moves=True)
