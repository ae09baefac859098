"""Healing, put together: taking shards over, the watch, moving, repair on demand. Layer 5."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from node.chunks.admission import Payer
from node.chunks.client import HolderClient
from node.chunks.get.locate import Locator
from node.chunks.healing.budget import RepairBudget
from node.chunks.healing.client import RepairClient
from node.chunks.healing.doubles import Doubles
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
from node.chunks.manifest import SegmentManifest
from node.chunks.serve.server import ShardServer
from node.chunks.store.shard_store import ShardStore
from node.daemon.memory import DaemonMemory
from node.daemon.parts import Parts
from node.errors import RefusedError, RemoteError, StoreError
from node.records.lease import Lease
from node.units import PeerId

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


@dataclass(frozen=True, slots=True)
class _Tools:
    """What the holder's and the owner's side of healing share."""

    client: HolderClient
    holders: Holders
    prober: Prober
    repair: RepairClient
    rebuilder: Rebuilder
    journal: HealingJournal
    healer: Healer
    budget: RepairBudget
    settings: HealingSettings


def build_healing(
    parts: Parts, *, shard_server: ShardServer, payer: Payer, leaving: Leaving, away_s: int
) -> Healing:
    """The parts, wired; `payer` pays for shards that no lease was ever on.

    `away_s` is how long the node was off before this start. Reads rows of the state.
    """
    tools = _tools(parts, shard_server)
    pulse = Pulse(
        network=parts.giving,
        is_reachable=partial(_is_reachable, tools),
        journal=tools.journal,
        clock=parts.clock,
        offload=parts.offload,
        away_s=away_s,
    )
    held = _held(parts, tools, shard_server, pulse, away_s)
    mover = _mover(parts, tools, held)
    intents = Intents(stagger_s=tools.settings.stagger_s)
    service = _service(parts, tools, held, mover, pulse, intents)
    placer = _placer(parts, tools, payer)
    repairer = _repairer(parts, tools, service, placer)
    return Healing(
        server=_server(parts, tools, shard_server, held, intents, leaving),
        service=service,
        healer=tools.healer,
        placer=placer,
        held=held,
        pulse=pulse,
        mover=mover,
        repairer=repairer,
        owner_watch=_owner_watch(parts, tools, repairer, placer),
        leaving=leaving,
        losses=_losses(parts, tools, shard_server),
        evictor=_evictor(parts, held, mover, leaving),
    )


def _tools(parts: Parts, shard_server: ShardServer) -> _Tools:
    config, client = parts.config.repair, parts.giving_client()
    holders = Holders(client=client, directory=parts.dht, clock=parts.clock, scores=parts.scores)
    prober = Prober(
        ProbeContext(parts.giving, holders, parts.evidence, parts.keys.identity, parts.entropy, parts.offload)
    )
    repair = RepairClient(parts.giving, parts.preamble)
    rebuilder = Rebuilder(
        holders=holders, client=client, repair=repair, engine=parts.engine, offload=parts.offload
    )
    journal = HealingJournal(parts.state)
    healer = Healer(
        HealerContext(
            network=parts.giving,
            client=client,
            repair=repair,
            directory=parts.dht,
            rebuilder=rebuilder,
            prober=prober,
            evidence=parts.evidence,
            journal=journal,
            scores=parts.scores,
            reputations=parts.reputations,
            clock=parts.clock,
            entropy=parts.entropy,
            offload=parts.offload,
            on_leases=partial(_remember, parts.store, shard_server),
        )
    )
    settings = HealingSettings(
        check_interval_s=config.check_interval_s,
        stagger_s=config.stagger_s,
        threshold=config.threshold,
    )
    budget = RepairBudget(settings.bytes_per_day, parts.clock, journal)
    return _Tools(client, holders, prober, repair, rebuilder, journal, healer, budget, settings)


async def _is_reachable(tools: _Tools, peer_id: PeerId) -> bool:
    """Whether a peer answers at all, a refusal included."""
    try:
        await end(await tools.holders.open(tools.prober.contact(peer_id)), clean=True)
    except RefusedError:
        return True
    except RemoteError:
        return False
    return True


# --- a holder's side ----------------------------------------------------------------------------------------


def _held(parts: Parts, tools: _Tools, shard_server: ShardServer, pulse: Pulse, away_s: int) -> HeldSegments:
    return HeldSegments(
        store=parts.store,
        keeper=shard_server.keeper,
        rosters=shard_server.rosters,
        evidence=parts.evidence,
        clock=parts.clock,
        network=parts.network_id,
        dead_after_s=parts.config.repair.dead_after_s,
        urgent_after_s=parts.config.repair.urgent_after_s,
        journal=tools.journal,
        away_s=away_s,
        absent_since=pulse.absent_since,
    )


def _mover(parts: Parts, tools: _Tools, held: HeldSegments) -> Mover:
    return Mover(
        held=held,
        healer=tools.healer,
        rebuilder=tools.rebuilder,
        prober=tools.prober,
        client=tools.client,
        identity=parts.keys.identity,
        clock=parts.clock,
        offload=parts.offload,
    )


def _service(
    parts: Parts, tools: _Tools, held: HeldSegments, mover: Mover, pulse: Pulse, intents: Intents
) -> HealingService:
    return HealingService(
        held=held,
        healer=tools.healer,
        prober=tools.prober,
        intents=intents,
        client=tools.repair,
        identity=parts.keys.identity,
        settings=tools.settings,
        clock=parts.clock,
        offload=parts.offload,
        mover=mover,
        budget=tools.budget,
        pulse=pulse,
        doubles=Doubles(tools.client, tools.prober),
    )


def _server(
    parts: Parts,
    tools: _Tools,
    shard_server: ShardServer,
    held: HeldSegments,
    intents: Intents,
    leaving: Leaving,
) -> RepairServer:
    return RepairServer(
        network=parts.giving,
        store=parts.store,
        keeper=shard_server.keeper,
        rosters=shard_server.rosters,
        identity=parts.keys.identity,
        account=parts.keys.account_id,
        preamble=parts.preamble,
        clock=parts.clock,
        offload=parts.offload,
        prober=tools.prober,
        intents=intents,
        held=held,
        is_leaving=leaving,
        take_loss=parts.evidence.add_bad_answer,
    )


def _losses(parts: Parts, tools: _Tools, shard_server: ShardServer) -> LossTeller:
    return LossTeller(
        store=parts.store,
        rosters=shard_server.rosters,
        holders=tools.holders,
        client=tools.repair,
        state=parts.state,
        identity=parts.keys.identity,
        clock=parts.clock,
        entropy=parts.entropy,
        offload=parts.offload,
    )


def _evictor(parts: Parts, held: HeldSegments, mover: Mover, leaving: Leaving) -> Evictor:
    return Evictor(
        held=held,
        mover=mover,
        state=parts.state,
        clock=parts.clock,
        offload=parts.offload,
        evict_after_s=parts.config.repair.evict_after_s,
        is_leaving=leaving,
    )


# --- the owner's side ---------------------------------------------------------------------------------------


def _placer(parts: Parts, tools: _Tools, payer: Payer) -> Placer:
    return Placer(
        PlacingContext(
            network=parts.giving,
            client=tools.client,
            directory=parts.dht,
            rebuilder=tools.rebuilder,
            prober=tools.prober,
            scores=parts.scores,
            account=parts.keys.account_id,
            clock=parts.clock,
            entropy=parts.entropy,
            payer=payer,
        )
    )


def _repairer(parts: Parts, tools: _Tools, service: HealingService, placer: Placer) -> FileRepairer:
    return FileRepairer(
        holders=tools.holders,
        locator=Locator(tools.holders, known_holders=parts.catalogue.holders),
        healer=tools.healer,
        service=service,
        placer=placer,
        catalogue=parts.catalogue,
        account_seed=parts.keys.account.seed,
        offload=parts.offload,
    )


def _owner_watch(parts: Parts, tools: _Tools, repairer: FileRepairer, placer: Placer) -> OwnerWatch:
    config = parts.config.repair
    return OwnerWatch(
        catalogue=parts.catalogue,
        repairer=repairer,
        placer=placer,
        evidence=parts.evidence,
        budget=tools.budget,
        clock=parts.clock,
        offload=parts.offload,
        check_interval_s=config.check_interval_s,
        dead_after_s=config.dead_after_s,
        urgent_after_s=config.urgent_after_s,
        wait_joined=parts.dht.wait_joined,
    )


def _remember(store: ShardStore, server: ShardServer, leases: Sequence[Lease]) -> None:
    """Take new leases into the roster of a segment that is held here."""
    encoded = store.segment_manifest(leases[0].segment_id) if leases else None
    if encoded is not None:
        server.rosters.merge_verified(SegmentManifest.decode(encoded), leases, moves=True)
