"""A swarm of real nodes in virtual time, and everything that a checker may want to know about it.

One seed decides keys, delays, scheduling, workload and faults. The first violation ends the run: what comes
after it tells nothing.
"""

from __future__ import annotations

import math
import os
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from node.chunks.geometry import Code
from node.crypto.keystore import NodeKeys
from node.crypto.links import Link as FileLink
from node.records.lease import Lease
from node.units import FileHash, PeerId, SegmentId
from simulations.host import Host, HostSettings
from simulations.network import Internet, Link
from simulations.promises import Promises, ShardName, is_intact
from simulations.trace import Trace

SEED_CONTACTS = 3
"""Hosts that everybody knows from the start."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    checker: str
    text: str
    at_s: float

    def __str__(self) -> str:
        return f"{self.checker} at {self.at_s:.1f} s: {self.text}"


@dataclass(slots=True)
class StoredFile:
    """A file whose put returned."""

    owner: int
    link: FileLink
    data: bytes
    code: Code
    segments: dict[SegmentId, dict[int, set[PeerId]]]
    """Of each segment, who acknowledged which shard to the putter."""
    is_deleted: bool = False

    @property
    def file_hash(self) -> FileHash:
        """Its name."""
        return self.link.file_hash


@dataclass
class Figures:
    """Counts that a scenario reports; all of them depend on the seed alone."""

    counts: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, amount: float = 1) -> None:
        """Count something."""
        self.counts[name] = self.counts.get(name, 0) + amount

    def sample(self, name: str, value: float) -> None:
        """A value at this moment, for plots."""
        self.series.setdefault(name, []).append((trio.current_time(), value))


class World:
    """The machines, what connects them, and what they have promised."""

    def __init__(self, seed: object, *, link: Link, folder: Path, nursery: trio.Nursery) -> None:
        self.seed = seed
        self.random = Random(f"world {seed}")
        self.trace = Trace()
        self.internet = Internet(Random(f"internet {seed}"), link=link)
        self.internet.on_sent = self._on_sent
        self.hosts: list[Host] = []
        self.files: list[StoredFile] = []
        self.promises = Promises(
            on_broken=lambda host, text: self.violate("promises kept", text),
            on_granted=self._on_granted,
            lost_for_s=self._lost_for_s,
        )
        self.figures = Figures()
        self.violations: list[Violation] = []
        self.on_sent: list[Callable[[Host, Host, bytes], None]] = []
        self.folder = folder
        self.nursery = nursery
        self.ended = trio.Event()
        self._by_peer: dict[PeerId, Host] = {}

    def add_host(self, settings: HostSettings) -> Host:
        """One more machine, not started yet."""
        host = Host(
            len(self.hosts),
            seed=self.seed,
            internet=self.internet,
            settings=settings,
            on_failure=self._on_failure,
        )
        self.hosts.append(host)
        self._by_peer[host.peer_id] = host
        host.listed = tuple(other.contact for other in self.hosts[:SEED_CONTACTS] if other is not host)
        host.on_up.append(self.promises.observe)
        return host

    async def start(self, host: Host) -> None:
        """Start a host's node."""
        if host.is_held_back:
            return
        await host.start(self.nursery)
        if host.is_up:
            self.trace.note("up", str(host))

    def rename(self, host: Host, keys: NodeKeys) -> None:
        """Give a host that has not started another identity."""
        del self._by_peer[host.peer_id]
        host.keys, host.peer_id = keys, keys.peer_id
        self._by_peer[host.peer_id] = host

    def host_of(self, peer_id: PeerId) -> Host:
        """Whose peer id that is."""
        return self._by_peer[peer_id]

    def up(self) -> list[Host]:
        """Hosts whose node runs."""
        return [host for host in self.hosts if host.is_up]

    def violate(self, checker: str, text: str) -> None:
        """An invariant does not hold: the run ends."""
        self.violations.append(Violation(checker, text, trio.current_time()))
        self.trace.note("violation", f"{checker}: {text}")
        self.ended.set()

    # --- the truth ------------------------------------------------------------------------------------

    def holds(self, host: Host, name: ShardName, root: bytes) -> bool:
        """Whether a running host really has a shard, by its disk."""
        return host.node is not None and is_intact(host.node.store, name, root)

    def root_of(self, peer_id: PeerId, name: ShardName) -> bytes | None:
        """The root that a holder signed for, if it still owes the shard."""
        held = self.promises.leases.get(peer_id, {}).get(name)
        return next(iter(held.values())).root if held else None

    def true_root(self, name: ShardName) -> bytes | None:
        """The root that the first holder of a shard signed for at its put; None if nobody did."""
        return self.promises.roots.get(name)

    def live_shards(self, file: StoredFile, among: Sequence[Host]) -> dict[SegmentId, dict[int, set[int]]]:
        """Of each segment, which shards are intact at which of these hosts, by their disks."""
        found: dict[SegmentId, dict[int, set[int]]] = {segment_id: {} for segment_id in file.segments}
        for host in among:
            for name, root in self.promises.of(host):
                segment_id, shard_index = name
                if segment_id in found and self.holds(host, name, root):
                    found[segment_id].setdefault(shard_index, set()).add(host.index)
        return found

    def is_retrievable(self, file: StoredFile, among: Sequence[Host]) -> bool:
        """Whether these hosts have enough shards of every segment."""
        return all(len(shards) >= file.code.data_shards for shards in self.live_shards(file, among).values())

    def is_whole(self, file: StoredFile, among: Sequence[Host], *, missing_max: int = 0) -> bool:
        """Whether these hosts have all shards of every segment, but for so many of each."""
        wanted = file.code.total_shards - missing_max
        return all(len(shards) >= wanted for shards in self.live_shards(file, among).values())

    def source(self, name: str, data: bytes) -> Path:
        """A file on the real disk for a put to read; its time never says when the simulation ran."""
        path = self.folder / name
        path.write_bytes(data)
        os.utime(path, (1_600_000_000, 1_600_000_000))
        return path

    # --- within ---------------------------------------------------------------------------------------

    def _on_sent(self, sender_id: PeerId, receiver_id: PeerId, data: bytes) -> None:
        sender, receiver = self._by_peer[sender_id], self._by_peer[receiver_id]
        self.trace.sent(sender.index, receiver.index, data)
        for watch in self.on_sent:
            watch(sender, receiver, data)

    def _lost_for_s(self, peer_id: PeerId) -> float | None:
        host = self._by_peer[peer_id]
        if not host.is_gone:
            return None
        return math.inf if host.gone_s is None else trio.current_time() - host.gone_s

    def _on_granted(self, host: Host, lease: Lease) -> None:
        """Without the owner a shard changes hands only for evidence: of a holder that was never away, in a
        network that was never cut, there can be none.

        A lease replaces those of earlier generations. One of the same was made for the same loss at the same
        time: two repairers at once do harmless work twice.
        """
        half = lease.half
        if self.internet.was_cut or (half is not None and half.handover is not None):
            return
        name = (lease.segment_id, lease.shard_index)
        for peer_id in self.promises.holders(name):
            holder = self._by_peer[peer_id]
            if holder is host or holder.is_hostile or holder.has_rot or holder.starts > 1:
                continue
            replaced = self.promises.leases[peer_id][name].values()
            if all(other.generation >= lease.generation for other in replaced):
                continue
            if self.holds(holder, name, lease.root):
                text = f"{host} took shard {name[1]} of {name[0].hex()[:8]}, and {holder} was there with it"
                self.violate("evidence", text)

    def _on_failure(self, host: Host, error: BaseException) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        self.violate("nodes live", f"{host} died of {type(error).__name__} at {place}: {error}")


@asynccontextmanager
async def open_world(seed: object, *, link: Link) -> AsyncIterator[World]:
    """A world that ends with the context, its nodes with it."""
    with tempfile.TemporaryDirectory(prefix="cairn-sim-") as folder:
        async with trio.open_nursery() as nursery:
            world = World(seed, link=link, folder=Path(folder), nursery=nursery)
            try:
                yield world
            finally:
                nursery.cancel_scope.cancel()
