"""What it costs a donor to keep its shards announced: the real `Announcer` over a large network's tables.

A donor announces the segments of which it is among the five announcers. Where that is too much to run, only
keys of a part of the key space are announced and the cost is multiplied: regions are alike everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import trio

from node import limits
from node.dht import messages
from node.dht.announce import Announcer
from node.dht.client import DhtClient
from node.dht.distance import KEY_BITS, key_of, radius_of
from node.dht.finder import Finder
from node.dht.lookup import Lookup
from node.dht.messages import Message, MessageType
from node.dht.routing_table import RoutingTable
from node.ports import Clock, Network
from node.units import DAY_S, Contact, Multiaddr, PeerId
from simulations.churn import FREENET_2010
from simulations.models import lookups
from simulations.models.churn import mean_uptime, mixed
from simulations.models.population import Population, World
from simulations.models.report import Table

if TYPE_CHECKING:
    from node.dht.committer import Committer
    from node.dht.record_store import RecordStore

ANNOUNCERS_OF_TOTAL = 5 / 30
"""Five of a segment's thirty holders announce it."""
_SAMPLE_KEYS = 100
_SAMPLE_REGIONS = 6
"""A sample has at least as many keys and covers as many regions."""
_REGION_NODES = 30
"""About what a region has: 20 to 40."""
_PEER_ID_BYTES = 38
_ADDRESSES = (Multiaddr("/ip4/203.0.113.77/tcp/40010"), Multiaddr("/ip6/2001:db8::1234:5678/tcp/40010"))


@dataclass(frozen=True, slots=True)
class Settings:
    """One donor in one network."""

    nodes: int
    shards: int


@dataclass(frozen=True, slots=True)
class SweepFigures:
    """A day of announcing."""

    nodes: int
    shards: int
    keys: int
    sampled_keys: int
    lookups_a_day: float
    requests_a_day: float
    streams_a_day: float
    """With both: a request of a lookup is a stream, and so are all keys for one peer of a region."""
    bytes_a_day: float
    """Both ways, without Noise and Yamux."""
    streams_one_by_one: float
    """If each key had a lookup and streams of its own."""


class _ModelFinder(Finder):
    """Lookups over a world's tables."""

    def __init__(
        self, world: World, own: int, *, seed: int, settings: lookups.Settings, radius: int, online: float
    ) -> None:
        own_key = key_of(world.contact(own).peer_id)
        super().__init__(cast(DhtClient, None), RoutingTable(own_key), _Entropy(seed))
        self._world, self._own, self._settings, self._radius = world, own, settings, radius
        self._online = online
        self.lookup_count = 0
        self.request_count = 0

    @property
    def network_nodes(self) -> float:
        """The true size."""
        return self._online

    def radius(self) -> int:
        """Of the true size of the network."""
        return self._radius

    async def find_nodes(self, key: bytes) -> Lookup:
        """A complete lookup."""
        lookup, trace = lookups.search(
            self._world, self._own, key_of(key), self._settings, radius=self._radius
        )
        self.lookup_count += 1
        self.request_count += trace.requests
        return lookup


class _CountingClient(DhtClient):
    """Everyone takes what is announced."""

    def __init__(self) -> None:
        self.stream_count = 0
        self.record_count = 0

    async def add_provider(self, contact: Contact, keys: Sequence[bytes], own: Contact) -> Sequence[bytes]:
        """All of them."""
        self.stream_count += 1
        self.record_count += len(keys)
        return keys


class _Entropy:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def random_bytes(self, count: int) -> bytes:
        """Seeded."""
        return self._random.bytes(count)


class _Self:
    """What an announcer asks of its network."""

    def __init__(self, contact: Contact) -> None:
        self.peer_id = contact.peer_id

    def listen_addresses(self) -> tuple[Multiaddr, ...]:
        """Those of the examples."""
        return _ADDRESSES


def run(settings: Settings, *, seed: int) -> SweepFigures:
    """One full round over the key space, scaled to a day."""
    population = Population(settings.nodes, FREENET_2010, seed=seed)
    world = World(population, 0)
    own = world.someone_online(0)
    keys = max(1, round(settings.shards * ANNOUNCERS_OF_TOTAL))
    online = settings.nodes * mean_uptime(FREENET_2010)
    parts = min(keys / _SAMPLE_KEYS, online / _REGION_NODES / _SAMPLE_REGIONS)
    part_bits = int(parts).bit_length() - 1 if parts >= 1 else 0
    sample = [
        key
        for key in (mixed(seed, 61, number).tobytes() for number in range(keys))
        if key_of(key) >> (KEY_BITS - part_bits) == 0
    ]
    radius = radius_of(online, limits.DHT_BUCKET_CONTACTS)
    finder = _ModelFinder(
        world, own, seed=seed, settings=lookups.Settings(settings.nodes, 1), radius=radius, online=online
    )
    client = _CountingClient()
    announcer = Announcer(
        cast(Network, _Self(world.contact(own))),
        client,
        cast("RecordStore", None),
        cast("Committer", None),
        cast(Clock, None),
        finder,
        interval_s=limits.DHT_ANNOUNCE_INTERVAL_S,
    )
    trio.run(announcer.announce, sample)
    a_day = keys / len(sample) * DAY_S / limits.DHT_ANNOUNCE_INTERVAL_S
    request_bytes, record_bytes = message_bytes()
    lookup_requests = finder.request_count / finder.lookup_count
    per_key = client.record_count / len(sample)
    return SweepFigures(
        nodes=settings.nodes,
        shards=settings.shards,
        keys=keys,
        sampled_keys=len(sample),
        lookups_a_day=finder.lookup_count * a_day,
        requests_a_day=finder.request_count * a_day,
        streams_a_day=(finder.request_count + client.stream_count) * a_day,
        bytes_a_day=(finder.request_count * request_bytes + client.record_count * record_bytes) * a_day,
        streams_one_by_one=len(sample) * (lookup_requests + per_key) * a_day,
    )


def message_bytes() -> tuple[int, int]:
    """A request for nodes with its reply of 20 contacts, and a provider record with its acknowledgement."""
    contact = Contact(PeerId(bytes([0, 36]) + bytes(_PEER_ID_BYTES - 2)), _ADDRESSES)
    key = bytes([0x1E, 0x20]) + bytes(32)
    ping = Message(MessageType.PING)
    exchanges = (
        (
            Message(MessageType.FIND_NODE, key),
            Message(MessageType.FIND_NODE, key, closer=(contact,) * limits.DHT_BUCKET_CONTACTS),
        ),
        (Message(MessageType.ADD_PROVIDER, key, providers=(contact,)), ping, ping),
    )
    sizes = [sum(len(messages.frame(messages.encode(message))) for message in parts) for parts in exchanges]
    return sizes[0], sizes[1]


def suite() -> list[Settings]:
    """What `cairn simulate sweep` runs."""
    return [
        Settings(nodes, shards)
        for nodes in (1_000, 10_000, 100_000, 1_000_000)
        for shards in (100, 10_000, 1_000_000)
    ]


def table(figures: Sequence[SweepFigures]) -> Table:
    """The figures as people read them."""
    rows = [
        (
            f"{row.nodes:,}",
            f"{row.shards:,}",
            f"{row.keys:,}",
            f"{row.lookups_a_day:,.0f}",
            f"{row.requests_a_day:,.0f}",
            f"{row.streams_a_day:,.0f}",
            f"{row.bytes_a_day / 1e6:,.1f} MB",
            f"{row.bytes_a_day / row.shards / 1e3:,.2f} kB",
            f"{row.streams_one_by_one:,.0f}",
        )
        for row in figures
    ]
    headings = (
        "nodes", "shards kept", "keys announced", "lookups a day", "requests", "streams", "bytes",
        "bytes a shard", "streams one by one",
    )  # fmt: skip
    return Table(
        "Keeping shards announced, a day of one donor", headings, rows, [asdict(row) for row in figures]
    )
