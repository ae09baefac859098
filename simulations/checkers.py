"""What must hold at every moment, watched from outside the nodes. The first that does not ends the run.

The workload compares contents, health and quorum itself, since it knows what it asked; the checkers here
look at the machines: promises against disks, caps at every change of a disk, secrets on disks and wires,
what stays reserved, and whether the world comes back to life when its faults are over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Protocol

import trio

from node.credit.ledger_store import LedgerView
from node.credit.reputation import Standing
from node.daemon.compose import Node
from node.errors import StoreError
from node.limits import PUT_SILENCE_S
from node.units import HOUR_S, MINUTE_S
from simulations.host import Host
from simulations.promises import is_intact
from simulations.workload import MARKER, Actions
from simulations.world import World

TICK_S = 60.0
HEALED_TICK_S = 10 * MINUTE_S
LIVENESS_TRIES = 6
LIVENESS_PAUSE_S = 300.0
LOOKUPS_RUNNING_MAX = 2_000


class Checker(Protocol):
    """One invariant."""

    name: str

    def begin(self, world: World) -> None:
        """Hook in, before anything runs."""
        ...

    def tick(self, world: World) -> None:
        """Look, once a `TICK_S`."""
        ...

    def finish(self, world: World) -> None:
        """Look at everything, when the world is healed and at rest."""
        ...


class PromisesKept:
    """No acknowledged shard is lost while its holder lives; and none is served by who never promised."""

    name = "promises kept"

    def __init__(self) -> None:
        self._turn = 0

    def begin(self, world: World) -> None:
        """Look at each holder as it comes back from a crash."""
        for host in world.hosts:
            host.on_up.append(lambda host, node: self._look(world, host, node, thorough=True))

    def tick(self, world: World) -> None:
        """One holder a tick, by its index; everything is read at starts and at the end."""
        hosts = world.up()
        if hosts:
            self._turn += 1
            host = hosts[self._turn % len(hosts)]
            if host.node is not None:
                self._look(world, host, host.node, thorough=False)

    def finish(self, world: World) -> None:
        """Read everything that is owed."""
        for host in world.up():
            if host.node is not None:
                self._look(world, host, host.node, thorough=True)

    def _look(self, world: World, host: Host, node: Node, *, thorough: bool) -> None:
        if host.has_rot or host.is_hostile:
            return
        for name, root in world.promises.of(host):
            kept = is_intact(node.store, name, root) if thorough else node.store.has_shard(*name)
            if not kept:
                world.violate(
                    self.name, f"{host} acknowledged shard {name[1]} of {name[0].hex()[:8]} and lost it"
                )


class CapsHeld:
    """What lies under a donor's home is at or under its cap at every instant."""

    name = "caps held"

    def begin(self, world: World) -> None:
        """Look at every change of every donor's disk."""
        for host in world.hosts:
            if host.is_donor:
                host.disk.watch = self._watcher(world, host)

    def tick(self, world: World) -> None:
        """Nothing: every change is seen."""

    def finish(self, world: World) -> None:
        """Nothing: every change was seen."""

    def _watcher(self, world: World, host: Host) -> Callable[[int], None]:
        cap_bytes = host.settings.donated_bytes

        def watch(allocated_bytes: int) -> None:
            if allocated_bytes > cap_bytes:
                world.violate(self.name, f"{host} uses {allocated_bytes} bytes of a cap of {cap_bytes}")

        return watch


class SecretsKept:
    """No key, plaintext or name of a file is on a wire, or on the disk of anyone but its owner."""

    name = "secrets kept"

    def begin(self, world: World) -> None:
        """Look at everything that is sent."""

        def watch(sender: Host, receiver: Host, data: bytes) -> None:
            if MARKER in data:
                world.violate(self.name, f"{sender} sent plaintext or a name to {receiver}")

        world.on_sent.append(watch)

    def tick(self, world: World) -> None:
        """Nothing: the wire shows everything first."""

    def finish(self, world: World) -> None:
        """Search all disks for all keys."""
        keys = [(file.owner, file.link.file_key()) for file in world.files]
        for host in world.hosts:
            content = host.disk.raw_content() + host.state.raw_content() + host.index_tables.raw_content()
            for owner, key in keys:
                if owner != host.index and key in content:
                    world.violate(self.name, f"{host} has the key of a file of host {owner} on its disk")
            if MARKER in content and not host.has_put:
                world.violate(self.name, f"{host} has plaintext or a name on its disk")


class NothingLeftOver:
    """When nobody puts any more, nothing is reserved, and no put is open."""

    name = "nothing left over"

    def begin(self, world: World) -> None:
        """Nothing to watch before the end."""

    def tick(self, world: World) -> None:
        """Reservations come and go."""

    def finish(self, world: World) -> None:
        """Look at every donor's books."""
        for host in world.up():
            if host.node is None or host.is_hostile:
                continue
            reserved = host.node.store.statistics().reserved_bytes
            if reserved:
                world.violate(self.name, f"{host} keeps {reserved} bytes reserved for nobody")
            if host.node.server.statistics().open_puts:
                world.violate(self.name, f"{host} has puts open that nobody feeds")


class ClaimsCapped:
    """What accounts have open at a donor beyond what they are owed stays under what it pledged (credit.md,
    invariant 4), whoever asks, crashes and comes back."""

    name = "claims capped"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def tick(self, world: World) -> None:
        """Add up every donor's ledger."""
        for host in world.up():
            if host.node is None or host.is_hostile:
                continue
            ledger = host.node.credit.ledger
            open_claims, policy = ledger.store.read(LedgerView.everyone), ledger.policy
            if open_claims.newcomers > policy.pledge:
                world.violate(self.name, f"{host} keeps more for newcomers than it pledged")
            if open_claims.newcomers + open_claims.known > policy.pledge + policy.known:
                world.violate(self.name, f"{host} keeps more on credit than its caps allow")

    def finish(self, world: World) -> None:
        """The same once more."""
        self.tick(world)


class AbsenceForgiven:
    """Nobody is disqualified, or said to have lied, for being offline (credit.md, invariant 13)."""

    name = "absence forgiven"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def tick(self, world: World) -> None:
        """Look at what everybody thinks of everybody, once an hour."""
        if int(trio.current_time() // TICK_S) % 60 == 0:
            self.finish(world)

    def finish(self, world: World) -> None:
        """Look at what everybody thinks of everybody."""
        honest = {host.peer_id: host for host in world.hosts if not host.is_hostile and not host.has_rot}
        for observer in world.up():
            if observer.node is None or observer.is_hostile:
                continue
            for peer_id, reputation in observer.node.reputations:
                judged = honest.get(peer_id)
                if judged is None:
                    continue
                if reputation.standing is Standing.DISQUALIFIED or reputation.contradicted:
                    world.violate(self.name, f"{observer} has disqualified {judged}, which is honest")


def all_checkers() -> list[Checker]:
    """One of each."""
    return [
        PromisesKept(), CapsHeld(), SecretsKept(), NothingLeftOver(), ClaimsCapped(), AbsenceForgiven(),
    ]  # fmt: skip


async def keep_checking(world: World, checkers: list[Checker]) -> None:
    """Tick until cancelled, and take samples for the figures."""
    while True:
        await trio.sleep(TICK_S)
        up = world.up()
        world.figures.add("online node-days", len(up) * TICK_S / 86_400)
        world.figures.sample("hosts up", len(up))
        for checker in checkers:
            try:
                checker.tick(world)
            except StoreError:
                continue  # the disk of that host fails by our own doing


async def check_healed(
    world: World, actions: Actions, random: Random, *, within_s: float, missing_max: int
) -> None:
    """Every file that still has enough shards is whole again within a bound, but for so many shards of a
    segment, and one that has not is never said to be kept."""
    honest = [host for host in world.up() if not host.is_hostile]
    files = [file for file in world.files if not file.is_deleted]
    retrievable = [file for file in files if world.is_retrievable(file, honest)]
    lost = [file for file in files if file not in retrievable]
    ends_s = trio.current_time() + within_s
    began_s = trio.current_time()
    broken = [file for file in retrievable if not world.is_whole(file, honest, missing_max=missing_max)]
    world.figures.add("files to heal", len(broken))
    while broken and trio.current_time() < ends_s and not world.ended.is_set():
        await trio.sleep(HEALED_TICK_S)
        broken = [file for file in broken if not world.is_whole(file, honest, missing_max=missing_max)]
    world.figures.add("files not whole", len(broken))
    for file in broken:
        shards = [len(found) for found in world.live_shards(file, honest).values()]
        world.violate(
            "healing",
            f"file {world.files.index(file)} ({file.code}) has {shards} shards in its segments, "
            f"{within_s / HOUR_S:g} h after the faults",
        )
    world.figures.add("hours until whole", (trio.current_time() - began_s) / HOUR_S)
    for file in lost:
        if not world.ended.is_set() and not world.is_retrievable(file, honest):
            await actions.check_said_lost(random.choice(honest), file)


async def check_liveness(world: World, actions: Actions, random: Random) -> None:
    """Every file that has enough shards on disks of running hosts is got, within a bound, from anywhere."""
    await trio.sleep(max(PUT_SILENCE_S, 5 * MINUTE_S))
    honest = [host for host in world.up() if not host.is_hostile]
    outcomes: Counter[str] = Counter()
    for number, file in enumerate(world.files):
        if file.is_deleted or world.ended.is_set():
            continue
        reader = random.choice(honest)
        # A node does not fetch from its own disk: what it holds itself must be spare for it.
        if not world.is_retrievable(file, [host for host in honest if host is not reader]):
            outcomes["files lost"] += 1
            continue
        for attempt in range(LIVENESS_TRIES):
            if await actions.get(reader, file):
                outcomes["files got"] += 1
                outcomes["files got at once"] += attempt == 0
                break
            await trio.sleep(LIVENESS_PAUSE_S)
        else:
            world.violate("liveness", f"{reader} can't get file {number} though enough shards are there")
    for name, count in sorted(outcomes.items()):
        world.figures.add(name, count)
