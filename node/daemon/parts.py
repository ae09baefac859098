"""What the services of one node share: its ports, its keys, and what it knows and keeps. Layer 5.

Invariant: nothing here runs. Services are built from this, each with what else it alone needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.chunks.catalogue import Catalogue
from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.evidence import Evidence
from node.chunks.scores import Scoreboard
from node.chunks.store.shard_store import ShardStore
from node.credit.reputation_store import ReputationStore
from node.crypto.keystore import NodeKeys
from node.daemon.config import Config
from node.daemon.memory import DaemonMemory
from node.dht.service import DhtService
from node.framing import Preamble
from node.ports import Clock, Entropy, Files, KeyValue, Network, Offload


@dataclass(frozen=True, slots=True)
class Parts:
    """One node's."""

    config: Config
    keys: NodeKeys
    preamble: Preamble
    network: Network
    giving: Network
    """The network for work on behalf of others: it counts towards the donor's rate."""
    files: Files
    state: KeyValue
    clock: Clock
    entropy: Entropy
    offload: Offload
    memory: DaemonMemory
    store: ShardStore
    dht: DhtService
    catalogue: Catalogue
    evidence: Evidence
    scores: Scoreboard
    reputations: ReputationStore
    engine: CodingEngine

    @property
    def network_id(self) -> str:
        """The name of the network, as it stands in every record."""
        return self.preamble.network_id

    def client(self) -> HolderClient:
        """To ask holders with, for this node's own files."""
        return HolderClient(self.network, self.preamble)

    def giving_client(self) -> HolderClient:
        """To ask holders with, on behalf of others."""
        return HolderClient(self.giving, self.preamble)
