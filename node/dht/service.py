"""The node's part in the DHT: joins, keeps its table and records healthy, finds and announces. Layer 4.

Implements `ports.Directory`. Construct it, run `run` in a nursery, and give it contacts to join through.
Source: Kademlia (Maymounkov and Mazières, 2002); S/Kademlia (Baumgart and Mies, 2007); libp2p kad-dht
specification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from node import limits
from node.dht.records import Validator
from node.ports import Clock, Entropy, KeyValue, Network, Offload
from node.units import Contact, PeerId

PROTOCOL = "/cairn/kad/1.0.0"


@dataclass(frozen=True, slots=True)
class DhtSettings:
    """What a node may choose."""

    serve: bool = True
    """Server mode: answer others and be in their tables. False: only ask."""
    announce_interval_s: int = limits.DHT_ANNOUNCE_INTERVAL_S


@dataclass(frozen=True, slots=True)
class KnownContact:
    """A verified contact in the routing table, for `cairn peers`."""

    contact: Contact
    bucket_index: int
    seen_s_ago: float
    failures: int


@dataclass(frozen=True, slots=True)
class DhtStatistics:
    """Counts for `cairn status`, pages and tests."""

    contacts: int
    replacements: int
    provider_records: int
    value_records: int
    provided_keys: int
    network_size: int
    """Estimated number of servers in the network, this node included."""
    joined: bool
    requests_sent: int
    requests_failed: int
    requests_served: int

    @property
    def records(self) -> int:
        """Records of others kept here."""
        return self.provider_records + self.value_records


class DhtService:
    """One node of the DHT; implements `ports.Directory`."""

    def __init__(
        self,
        network: Network,
        key_values: KeyValue,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        *,
        validators: Mapping[bytes, Validator],
        settings: DhtSettings | None = None,
    ) -> None:
        """`validators` maps a namespace without slashes (`b"cairn-hint"`) to its rules."""
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, verify, refresh, expire and announce until cancelled; started once it serves."""
        raise NotImplementedError

    def add_contact(self, contact: Contact) -> None:
        """Have a peer verified in the background and, if it answers, join through it. Never blocks."""
        raise NotImplementedError

    async def wait_joined(self, timeout_s: float) -> bool:
        """Wait until a contact has answered and the own neighbourhood is known; False when time is up."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Look up the own key and a random key of every stale bucket, now."""
        raise NotImplementedError

    async def set_serving(self, serve: bool) -> None:
        """Switch between server mode and client mode."""
        raise NotImplementedError

    def statistics(self) -> DhtStatistics:
        """Counts as of now."""
        raise NotImplementedError

    def contacts(self) -> tuple[KnownContact, ...]:
        """Everyone in the routing table, nearest bucket last."""
        raise NotImplementedError

    # --- ports.Directory ------------------------------------------------------------------------------

    async def find_peer(self, peer_id: PeerId) -> Contact | None:
        """Fresh addresses of a peer, or None."""
        raise NotImplementedError

    async def find_providers(self, key: bytes, *, wanted: int) -> Sequence[Contact]:
        """Up to `wanted` peers that announced `key`; ends early once that many are known."""
        raise NotImplementedError

    async def provide(self, keys: Sequence[bytes]) -> int:
        """Announce `keys` now and from now on; the least number of peers that took the record of any key."""
        raise NotImplementedError

    async def stop_providing(self, keys: Sequence[bytes]) -> None:
        """Announce these keys no longer."""
        raise NotImplementedError

    async def put_value(self, key: bytes, value: bytes) -> int:
        """Store a value at every node near `key`; how many took it. Raises `ProtocolError` if invalid."""
        raise NotImplementedError

    async def get_value(self, key: bytes) -> bytes | None:
        """The best valid value found, or None. Holders of a worse one are given the best."""
        raise NotImplementedError

    async def sample_contacts(self, count: int) -> Sequence[Contact]:
        """Up to `count` live contacts from random parts of the key space, this node excluded."""
        raise NotImplementedError
