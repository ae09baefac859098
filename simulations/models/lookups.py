"""Lookups in networks of a thousand to a million nodes under churn: the real `Lookup`, driven as
`node.dht.client.DhtClient.search` drives it.

A file is announced at one moment and looked for at a later one. The world between is not run: who is online
and what tables hold is drawn where the lookup looks (population.py). A peer that is gone says nothing: the
lookup goes on without it after `DHT_LOOKUP_SLOW_S`, and the request ends after `DHT_REQUEST_S`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from node import limits
from node.dht.distance import KEY_BITS, key_of, radius_of
from node.dht.lookup import Lookup
from node.units import HOUR_S
from simulations.models.churn import MIXES, mean_uptime, mixed
from simulations.models.population import WORD_BITS, Population, World
from simulations.models.report import Table, percentile

ROUND_TRIPS_NEW = 6
"""TCP; multistream-select of Noise; Noise; Yamux; the protocol; the request: what `node.net` waits for."""
ROUND_TRIPS_CONNECTED = 1
_REPLY_CONTACTS = limits.DHT_REPLY_CONTACTS_MAX


@dataclass(frozen=True, slots=True)
class Settings:
    """What is looked up, and where."""

    nodes: int
    """Machines, of which the mix's mean uptime is online."""
    lookups: int
    round_trip_s: float = 0.05
    age_s: float = 60.0
    """From the announcement to the lookup."""
    is_fresh: bool = False
    """Whether the reader is connected to nobody yet; else to those in its table."""
    mix: str = "freenet"
    """Of `churn.MIXES`."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one lookup did."""

    found_s: float | None
    """When the first peer with the record had answered."""
    found_hops: int
    found_requests: int
    quorum_s: float | None
    """When `DHT_VALUE_QUORUM` of them had, which ends the lookup of a value."""
    end_s: float
    """When the nearest were known: a complete lookup, as an announcement needs."""
    requests: int
    unanswered: int
    holders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LookupFigures:
    """Figures over all lookups of one setting; seconds are virtual."""

    nodes: int
    lookups: int
    age_s: float
    is_fresh: bool
    mix: str
    success: float
    found_p50_s: float
    found_p95_s: float
    found_p99_s: float
    value_p95_s: float
    complete_p50_s: float
    complete_p95_s: float
    hops_mean: float
    hops_p99: float
    requests_to_find: float
    requests_complete: float
    unanswered_share: float
    """Of the requests of complete lookups."""


def run(settings: Settings, *, seed: int) -> LookupFigures:
    """Announce and look up `settings.lookups` files, each in a world of its own over the same nodes."""
    mix = MIXES[settings.mix]
    population = Population(settings.nodes, mix, seed=seed)
    radius = radius_of(settings.nodes * mean_uptime(mix), limits.DHT_BUCKET_CONTACTS)
    pairs = [one(population, number, settings, radius) for number in range(settings.lookups)]
    traces = [got for _, got in pairs]
    complete = [told for told, _ in pairs]
    found = [trace for trace in traces if trace.found_s is not None]
    found_s = [float("inf") if trace.found_s is None else trace.found_s for trace in traces]
    value_s = [trace.end_s if trace.quorum_s is None else trace.quorum_s for trace in traces]
    requests = sum(trace.requests for trace in complete)
    return LookupFigures(
        nodes=settings.nodes,
        lookups=settings.lookups,
        age_s=settings.age_s,
        is_fresh=settings.is_fresh,
        mix=settings.mix,
        success=len(found) / len(traces),
        found_p50_s=percentile(found_s, 50),
        found_p95_s=percentile(found_s, 95),
        found_p99_s=percentile(found_s, 99),
        value_p95_s=percentile(value_s, 95),
        complete_p50_s=percentile([trace.end_s for trace in complete], 50),
        complete_p95_s=percentile([trace.end_s for trace in complete], 95),
        hops_mean=float(np.mean([trace.found_hops for trace in found])) if found else 0.0,
        hops_p99=percentile([trace.found_hops for trace in found], 99),
        requests_to_find=float(np.mean([trace.found_requests for trace in found])) if found else 0.0,
        requests_complete=requests / len(complete),
        unanswered_share=sum(trace.unanswered for trace in complete) / max(1, requests),
    )


def one(population: Population, number: int, settings: Settings, radius: int) -> tuple[Trace, Trace]:
    """The announcement of a file and the lookup of it, in world `number`."""
    world = World(population, number)
    key = key_of(mixed(population.seed, 60, number).tobytes())
    announcer = world.someone_online(0, settings.age_s)
    _, told = search(world, announcer, key, settings, radius=radius, ago_s=settings.age_s)
    reader = world.someone_online(1)
    keepers = frozenset(told.holders)
    _, got = search(world, reader, key, settings, radius=radius, keepers=keepers)
    return told, got


def search(
    world: World,
    own: int,
    key: int,
    settings: Settings,
    *,
    radius: int,
    ago_s: float = 0.0,
    keepers: frozenset[int] = frozenset(),
) -> tuple[Lookup, Trace]:
    """One lookup, `ago_s` before now, until `DHT_VALUE_QUORUM` of the `keepers` of the record answered, or
    to its end."""
    target = key >> (KEY_BITS - WORD_BITS)
    seeds = world.nearest(own, target, limits.DHT_BUCKET_CONTACTS, ago_s=ago_s)
    connected = frozenset() if settings.is_fresh else frozenset(seeds)
    lookup = Lookup(
        key, [world.contact(node) for node in seeds], own_id=world.contact(own).peer_id, radius=radius
    )
    hops = dict.fromkeys(seeds, 1)
    events: list[tuple[float, int, str, int]] = []
    now_s, order, unanswered = 0.0, 0, 0
    found: list[tuple[float, int, int]] = []

    def ask() -> None:
        nonlocal order
        for contact in lookup.next_queries():
            node = world.node_of(contact)
            trips = ROUND_TRIPS_CONNECTED if node in connected else ROUND_TRIPS_NEW
            is_live = world.is_online(node, ago_s)
            outcome = ("reply", trips * settings.round_trip_s) if is_live else ("end", limits.DHT_REQUEST_S)
            for kind, after_s in (outcome, ("slow", limits.DHT_LOOKUP_SLOW_S)):
                heapq.heappush(events, (now_s + after_s, order, kind, node))
                order += 1

    ask()
    while not lookup.is_finished:
        now_s, _, kind, node = heapq.heappop(events)
        peer_id = world.contact(node).peer_id
        if kind == "slow":
            unanswered += lookup.on_slow(peer_id)
        elif kind == "end":
            lookup.on_failure(peer_id)
        else:
            if node in keepers:
                found.append((now_s, hops[node], lookup.asked_count))
                if len(found) == limits.DHT_VALUE_QUORUM:
                    lookup.stop()
            closer = world.nearest(node, target, _REPLY_CONTACTS, ago_s=ago_s)
            for told in closer:
                hops.setdefault(told, hops[node] + 1)
            lookup.on_reply(peer_id, [world.contact(told) for told in closer])
        ask()
    first = found[0] if found else (None, 0, 0)
    trace = Trace(
        found_s=first[0],
        found_hops=first[1],
        found_requests=first[2],
        quorum_s=found[limits.DHT_VALUE_QUORUM - 1][0] if len(found) >= limits.DHT_VALUE_QUORUM else None,
        end_s=now_s,
        requests=lookup.asked_count,
        unanswered=unanswered,
        holders=tuple(world.node_of(contact) for contact in lookup.closest()),
    )
    return lookup, trace


def suite(*, lookups: int) -> list[Settings]:
    """What `cairn simulate lookups` runs."""
    sizes = (1_000, 10_000, 100_000, 1_000_000)
    settled = [Settings(nodes, lookups) for nodes in sizes]
    fewer = max(1, lookups // 4)
    fresh = [Settings(nodes, fewer, is_fresh=True) for nodes in sizes]
    later = [Settings(1_000, fewer, age_s=hours * HOUR_S) for hours in (6, 22, 47)]
    others = [
        Settings(1_000, fewer, mix=mix, age_s=age_s)
        for mix in ("steady", "casual")
        for age_s in (60, 22 * HOUR_S)
    ]
    return settled + fresh + later + others


def table(figures: Sequence[LookupFigures]) -> Table:
    """The figures as people read them."""
    rows = [
        (
            f"{row.nodes:,}",
            row.mix,
            "fresh" if row.is_fresh else "settled",
            f"{row.age_s / 3600:.1f} h" if row.age_s >= 3600 else f"{row.age_s:.0f} s",
            f"{row.success:.2%}",
            f"{row.found_p50_s:.2f} / {row.found_p95_s:.2f} / {row.found_p99_s:.2f}",
            f"{row.value_p95_s:.2f}",
            f"{row.complete_p50_s:.2f} / {row.complete_p95_s:.2f}",
            f"{row.hops_mean:.1f} / {row.hops_p99:.0f}",
            f"{row.requests_to_find:.0f}",
            f"{row.requests_complete:.0f}",
            f"{row.unanswered_share:.1%}",
        )
        for row in figures
    ]
    headings = (
        "nodes",
        "mix",
        "reader",
        "announced",
        "found",
        "find s p50/p95/p99",
        "value s p95",
        "complete s p50/p95",
        "hops mean/p99",
        "requests to find",
        "complete",
        "unanswered",
    )
    return Table(
        "Lookups of a file, seconds of virtual time", headings, rows, [asdict(row) for row in figures]
    )
