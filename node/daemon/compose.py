"""One node, put together from its parts. Layer 5.

The daemon calls this with adapters of the machine, a simulation with its own: nothing here knows which.
Every background task lives in one nursery that ends with the context. Order of ending: tasks first, then
the store, so that nothing writes to a closed one.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from node.chunks.audits.auditing import Auditing
from node.chunks.catalogue import Catalogue
from node.chunks.coding_engines import best_engine
from node.chunks.evidence import Evidence
from node.chunks.get.download import Downloader
from node.chunks.get.health import HealthChecker
from node.chunks.get.renew import Renewer
from node.chunks.lease_keeper import LeaseKeeper
from node.chunks.list_keeper import ListKeeper
from node.chunks.put.upload import Uploader
from node.chunks.removals import Removals
from node.chunks.score_store import load_scores, save_scores
from node.chunks.scores import Scoreboard
from node.chunks.serve.server import ServerStatistics, ShardServer
from node.chunks.store.shard_store import ShardStore, StoreStatistics
from node.chunks.store.space import SpaceBudget
from node.credit.reputation_store import ReputationStore
from node.credit.service import CreditService
from node.crypto.keystore import NodeKeys
from node.daemon.auditing import build_auditing
from node.daemon.background import Housekeeping
from node.daemon.building import (
    build_credit,
    build_file_list,
    build_housekeeping,
    build_lease_keeper,
    build_removals,
    build_shard_server,
    credit_policy,
)
from node.daemon.config import Config
from node.daemon.healing import Healing, Leaving, build_healing
from node.daemon.memory import DaemonMemory, Donation
from node.daemon.parts import Parts
from node.daemon.transfers import build_transfers
from node.daemon.uptime import UptimeLog
from node.dht.records import PublicKeyValidator
from node.dht.service import DhtService, DhtSettings, DhtStatistics, KnownContact
from node.errors import StoreError
from node.framing import Preamble
from node.net.bootstrap import Bootstrap
from node.net.loopback import with_loopback
from node.net.rate_limit import RateLimitedNetwork, Rates, with_rate_limits
from node.net.reachability import Standing
from node.ports import Clock, Entropy, Files, KeyValue, Network, Offload
from node.records.list_pointer import LIST_NAMESPACE, ListPointerValidator
from node.records.placement_hint import HintValidator
from node.units import Contact, PeerId

_logger = logging.getLogger(__name__)

NETWORK_ID = "cairn"
PROTOCOL_VERSION = 1
HINT_NAMESPACE = b"cairn-hint"
PUBLIC_KEY_NAMESPACE = b"pk"


@dataclass(frozen=True, slots=True)
class NodePorts:
    """What a node needs from outside. `index` is the shard store's alone: the packs can rebuild it."""

    network: Network
    files: Files
    state: KeyValue
    index: KeyValue
    clock: Clock
    entropy: Entropy
    offload: Offload
    standing: Callable[[], Standing] = lambda: Standing.UNKNOWN
    """Whether others can dial this node."""


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """A node at a glance."""

    peers: int
    standing: Standing
    dht: DhtStatistics
    store: StoreStatistics
    server: ServerStatistics
    uptime_s: int


@dataclass
class Node:
    """A running node: its services, for whoever drives it."""

    config: Config
    keys: NodeKeys
    ports: NodePorts
    memory: DaemonMemory
    catalogue: Catalogue
    store: ShardStore
    dht: DhtService
    bootstrap: Bootstrap
    server: ShardServer
    uploader: Uploader
    downloader: Downloader
    health: HealthChecker
    renewer: Renewer
    file_list: ListKeeper
    leases: LeaseKeeper
    removals: Removals
    scores: Scoreboard
    credit: CreditService
    evidence: Evidence
    reputations: ReputationStore
    auditing: Auditing
    healing: Healing
    housekeeping: Housekeeping
    uptime: UptimeLog
    limited: RateLimitedNetwork
    engine_name: str
    _started: float = field(default_factory=trio.current_time)

    def statistics(self) -> NodeStatistics:
        """Counts as of now."""
        return NodeStatistics(
            peers=len(self.ports.network.connected()),
            standing=self.ports.standing(),
            dht=self.dht.statistics(),
            store=self.store.statistics(),
            server=self.server.statistics(),
            uptime_s=int(trio.current_time() - self._started),
        )

    def contacts(self) -> tuple[KnownContact, ...]:
        """Everyone in the routing table."""
        return self.dht.contacts()

    async def wait_joined(self, timeout_s: float) -> bool:
        """Wait for the first join; False when time is up."""
        return await self.dht.wait_joined(timeout_s)

    def join_through(self, contacts: Sequence[Contact]) -> None:
        """Try these peers soon: addresses of a link."""
        self.bootstrap.add(contacts)

    def donation(self) -> Donation:
        """What this node gives."""
        return self.memory.donation()

    def pledge(self) -> float:
        """The part of what this node gives that is free for newcomers, 0 to 1."""
        pledge = self.donation().pledge
        return self.config.credit.pledge if pledge is None else pledge

    async def set_donation(self, donation: Donation) -> None:
        """Give this from now on, also after a restart."""
        await self.ports.offload.run(partial(self.memory.set_donation, donation))
        await self.ports.offload.run(partial(self.store.set_cap, donation.cap_bytes))
        await self.ports.offload.run(partial(self.healing.evictor.cap_is, donation.cap_bytes))
        self.healing.evictor.look()
        await self.credit.set_policy(credit_policy(self.config, donation))
        self.dht.set_record_room(SpaceBudget(donation.cap_bytes).records_room_bytes)
        self.limited.set_rates(_rates(self.config, donation))


@asynccontextmanager
async def open_node(
    config: Config,
    ports: NodePorts,
    keys: NodeKeys,
    *,
    listed: Sequence[Contact] = (),
    protocol_version: int = PROTOCOL_VERSION,
) -> AsyncIterator[Node]:
    """A node that serves, joins and keeps house until the context ends; ready at once, with or without peers.

    `listed` are peers to join through; `protocol_version` is what the node says on each stream. Raises
    `StoreError` where the store can't be opened.
    """
    memory = DaemonMemory(ports.state)
    store = await ports.offload.run(
        partial(
            ShardStore,
            ports.files,
            ports.index,
            ports.entropy,
            cap_bytes=memory.donation().cap_bytes,
        )
    )
    try:
        rates = _rates(config, memory.donation())
        async with (
            with_rate_limits(ports.network, rates) as limited,
            with_loopback(limited) as network,
            trio.open_nursery() as nursery,
        ):
            ports = replace(ports, network=network)
            giving = network.over(limited.for_others)
            parts = await _gather(config, ports, keys, memory, store, protocol_version, giving)
            node = await _build(parts, ports, listed, limited)
            await nursery.start(node.dht.run)
            await nursery.start(node.server.run)
            await nursery.start(node.healing.run)
            await nursery.start(node.auditing.run)
            await nursery.start(node.credit.run)
            ports.network.on_connected(partial(_introduce, node))
            nursery.start_soon(node.bootstrap.run)
            nursery.start_soon(node.housekeeping.run)
            nursery.start_soon(node.file_list.run)
            nursery.start_soon(node.leases.run)
            nursery.start_soon(node.removals.run)
            node.server.keeper.on_released = node.housekeeping.note_released
            node.housekeeping.on_outage = node.healing.was_away
            node.healing.evictor.on_freed = node.housekeeping.note_released
            try:
                yield node
            finally:
                nursery.cancel_scope.cancel()
        _save_last(node)
    finally:
        store.close()


def _save_last(node: Node) -> None:
    """What is only written down now and then. A disk that fails must not keep the node from ending."""
    node.uptime.look(node.ports.clock.now_s())
    try:
        save_scores(node.scores, node.ports.state)
        node.reputations.save()
        node.housekeeping.save_uptime()
    except StoreError as error:
        _logger.warning("what was learnt of peers in the last minute is lost: %s", error)


def _rates(config: Config, donation: Donation) -> Rates:
    return Rates(config.network.upload_rate, config.network.download_rate, donation.rate_bytes_s)


def _introduce(node: Node, peer_id: PeerId) -> None:
    """Let the DHT verify whoever connects: half of the peers are met by their own dial."""
    node.dht.add_contact(Contact(peer_id, node.ports.network.addresses_of(peer_id)))


async def _gather(
    config: Config,
    ports: NodePorts,
    keys: NodeKeys,
    memory: DaemonMemory,
    store: ShardStore,
    protocol_version: int,
    giving: Network,
) -> Parts:
    """What the services will share; reads what was written down of peers, and tries the coding engines."""
    offload = ports.offload
    dht = DhtService(
        ports.network,
        ports.state,
        ports.clock,
        ports.entropy,
        offload,
        validators={
            HINT_NAMESPACE: HintValidator(NETWORK_ID),
            LIST_NAMESPACE: ListPointerValidator(NETWORK_ID),
            PUBLIC_KEY_NAMESPACE: PublicKeyValidator(),  # what other libp2p nodes store in any DHT
        },
        settings=DhtSettings(announce_interval_s=config.announce.interval_s),
    )
    dht.set_record_room(SpaceBudget(memory.donation().cap_bytes).records_room_bytes)
    scores = await offload.run(partial(load_scores, ports.state))
    scores.reputations = reputations = await offload.run(partial(ReputationStore, ports.state))
    return Parts(
        config=config,
        keys=keys,
        preamble=Preamble(NETWORK_ID, protocol_version, (("audit.interval_s", config.audit.interval_s),)),
        network=ports.network,
        giving=giving,
        files=ports.files,
        state=ports.state,
        clock=ports.clock,
        entropy=ports.entropy,
        offload=offload,
        memory=memory,
        store=store,
        dht=dht,
        catalogue=Catalogue(ports.state, network=NETWORK_ID),
        evidence=Evidence(ports.state, network=NETWORK_ID),
        scores=scores,
        reputations=reputations,
        engine=await offload.run(best_engine),
    )


async def _build(
    parts: Parts, ports: NodePorts, listed: Sequence[Contact], limited: RateLimitedNetwork
) -> Node:
    """All services; none of them runs yet."""
    memory, offload = parts.memory, parts.offload
    credit = build_credit(parts)
    parts.evidence.on_receipts = credit.hear
    transfers = build_transfers(parts, credit)
    leaving = await offload.run(partial(Leaving, memory))
    uptime, now_s = memory.uptime(), parts.clock.now_s()
    away_s = max(0, now_s - uptime.last_s) if uptime.last_s else 0
    uptime.look(now_s)
    server = build_shard_server(parts, credit, leaving, uptime)
    await credit.start(lambda lease_id: parts.store.lease(lease_id) is not None)
    healing = build_healing(parts, shard_server=server, payer=credit.wallet, leaving=leaving, away_s=away_s)
    await offload.run(partial(healing.evictor.cap_is, memory.donation().cap_bytes))
    auditing = await offload.run(partial(build_auditing, parts, server.rosters))
    auditing.conversation.on_heard = healing.held.heard
    return Node(
        config=parts.config,
        keys=parts.keys,
        ports=ports,
        memory=memory,
        catalogue=parts.catalogue,
        store=parts.store,
        dht=parts.dht,
        bootstrap=Bootstrap(parts.network, parts.state, parts.clock, listed, offload=offload),
        server=server,
        uploader=transfers.uploader,
        downloader=transfers.downloader,
        health=transfers.health,
        renewer=transfers.renewer,
        file_list=build_file_list(parts, transfers),
        leases=build_lease_keeper(parts, transfers),
        removals=build_removals(parts, transfers),
        scores=parts.scores,
        credit=credit,
        evidence=parts.evidence,
        reputations=parts.reputations,
        auditing=auditing,
        healing=healing,
        housekeeping=build_housekeeping(parts, transfers, server, healing, uptime, ports.standing),
        uptime=uptime,
        limited=limited,
        engine_name=parts.engine.name,
    )
