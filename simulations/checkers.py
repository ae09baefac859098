"""What must hold at every moment, watched from outside the nodes. The first that does not ends the run.

The workload compares contents, health and quorum itself, since it knows what it asked; the checkers here
look at the machines: promises against disks, caps at every change of a disk, secrets on disks and wires, and
what stays reserved.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import trio

from node.chunks.store.shard_store import ShardStore
from node.credit.admission import exposure_of
from node.credit.reputation import Standing
from node.crypto.hashing import multihash
from node.daemon.compose import Node
from node.errors import StoreError
from node.limits import TOTAL_SHARDS_MAX
from node.units import SegmentId
from simulations.host import Host
from simulations.machine import EPOCH_S
from simulations.promises import is_intact
from simulations.workload import MARKER
from simulations.world import World

TICK_S = 60.0
CLOCKS_DIFFER_S = 120.0
PAGE_KEYS = 256


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


class EvidenceTrue:
    """No honest node has evidence of a shard from a time when its holder could prove nothing: lost for good,
    or without the bytes."""

    name = "evidence"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def tick(self, world: World) -> None:
        """Look once in ten minutes: evidence stays for long."""
        if int(trio.current_time() // TICK_S) % 10 == 0:
            self.finish(world)

    def finish(self, world: World) -> None:
        """Compare what everybody knows of every file with the truth."""
        liars = {host.peer_id: host for host in world.hosts if _silent_since_s(host) is not None}
        if not liars:
            return
        segments = [segment_id for file in world.files for segment_id in file.segments]
        by_lease = {
            lease_id: host
            for peer_id, host in liars.items()
            for leases in world.promises.leases.get(peer_id, {}).values()
            for lease_id in leases
        }
        for observer in world.up():
            if observer.node is None or observer.is_hostile:
                continue
            for segment_id in segments:
                for lease_id, known in observer.node.evidence.of_segment(segment_id).leases.items():
                    host = by_lease.get(lease_id)
                    since_s = None if host is None else _silent_since_s(host)
                    if since_s is None or known.proved is None or known.is_lost:
                        continue
                    # The auditor's clock says when; clocks drift, none of a run with liars steps.
                    if known.proved.time_s > EPOCH_S + since_s + CLOCKS_DIFFER_S:
                        world.violate(self.name, f"{observer} has it proved that {host} keeps what it lacks")


class NetsAgree:
    """Two honest ends with one set of records say one balance (credit.md, invariants 1 and 6), and nobody has
    proof that an honest account signed two states at one sequence, crash and restore included (8)."""

    name = "nets agree"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def tick(self, world: World) -> None:
        """Nothing: what is half exchanged says nothing yet."""

    def finish(self, world: World) -> None:
        """Compare both ends of every pair."""
        honest = [host for host in world.up() if not host.is_hostile]
        accounts = {host.keys.account_id for host in world.hosts if not host.is_hostile}
        for number, one in enumerate(honest):
            assert one.node is not None
            for _, proof in one.node.credit.ledger.store.read(lambda view: list(view.proofs())):
                if proof.signer in accounts:
                    world.violate(self.name, f"{one} has proof of a fork against an honest account")
            for other in honest[number + 1 :]:
                if one.keys.account_id != other.keys.account_id:
                    self._compare(world, one, other)

    def _compare(self, world: World, one: Host, other: Host) -> None:
        assert one.node is not None
        assert other.node is not None
        ends = [
            (one.node.credit.ledger, one.keys.account_id, other.keys.account_id),
            (other.node.credit.ledger, other.keys.account_id, one.keys.account_id),
        ]
        sets = [ledger.store.read(partial(ledger.ids, other=theirs)) for ledger, _, theirs in ends]
        if not sets[0] and not sets[1]:
            return
        world.figures.add("pairs of accounts")
        if sets[0] != sets[1]:
            return  # something is still on its way: an exchange waits for the next connection
        world.figures.add("pairs with one set of records")
        today = max(ledger.today(0) for ledger, _, _ in ends)
        for ledger, _, _ in ends:
            ledger.today(today)  # or its books would be ahead of it, which nothing in a node makes them
        nets = [
            ledger.store.read(partial(ledger.book, other=theirs)).balance(today=today).net(mine)
            for ledger, mine, theirs in ends
        ]
        if sum(nets):
            world.violate(self.name, f"{one} says that it is owed {nets[0]}, {other} that it is {nets[1]}")


class AnnouncedTrue:
    """Nobody promises a shard with a root that its segment does not have, or announces a segment or a file of
    which it has nothing (credit.md, invariant 14)."""

    name = "announced truly"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def tick(self, world: World) -> None:
        """Announcements are looked at when all is at rest: between a release and its end they may overlap."""

    def finish(self, world: World) -> None:
        """Look at what everybody announces."""
        segments = {multihash(segment_id): segment_id for file in world.files for segment_id in file.segments}
        for host in world.up():
            if host.node is None or host.is_hostile or host.has_rot:
                continue
            for name, root in world.promises.of(host):
                true_root = world.true_root(name)
                if true_root is not None and root != true_root:
                    world.violate(self.name, f"{host} promised shard {name[1]} under another root")
            store = host.node.store
            after: bytes | None = None
            while keys := host.node.dht.provided(after=after, limit=PAGE_KEYS):
                after = keys[-1]
                for key in keys:
                    segment_id = segments.get(key)
                    if segment_id is not None and not _has_some(world, store, segment_id):
                        text = f"{host} announces segment {segment_id.hex()[:8]} and has none of its shards"
                        world.violate(self.name, text)


def _has_some(world: World, store: ShardStore, segment_id: SegmentId) -> bool:
    return any(
        store.has_shard(segment_id, index) and is_intact(store, (segment_id, index), root)
        for index in range(TOTAL_SHARDS_MAX)
        if (root := world.true_root((segment_id, index))) is not None
    )


def _silent_since_s(host: Host) -> float | None:
    return host.gone_s if host.gone_s is not None else host.lies_since_s


class ClaimsCapped:
    """What accounts have open at a donor beyond what they are owed stays under what it pledged (credit.md,
    invariant 4), whoever asks, crashes and comes back."""

    name = "claims capped"

    def begin(self, world: World) -> None:
        """Nothing to hook into."""

    def __init__(self) -> None:
        self._turn = 0

    def tick(self, world: World) -> None:
        """Add up one donor's ledger."""
        hosts = world.up()
        if hosts:
            self._turn += 1
            self._look(world, hosts[self._turn % len(hosts)])

    def finish(self, world: World) -> None:
        """Everybody's."""
        for host in world.up():
            self._look(world, host)

    def _look(self, world: World, host: Host) -> None:
        if host.node is None or host.is_hostile or not host.is_donor:
            return  # who gives nothing accepts nothing, though its account may have kept things elsewhere
        ledger = host.node.credit.ledger
        policy = ledger.policy
        # Account by account: the sums that the node keeps are its own business.
        rows = ledger.store.read(lambda view: list(view.accounts()))
        exposures = [exposure_of(policy, row.standing) for _, row in rows]
        newcomers = sum(exposure.newcomers for exposure in exposures)
        known = sum(exposure.known for exposure in exposures)
        if newcomers > policy.pledge:
            world.violate(self.name, f"{host} keeps more for newcomers than it pledged")
        if newcomers + known > policy.pledge + policy.known:
            world.violate(self.name, f"{host} keeps more on credit than its caps allow")


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
        EvidenceTrue(), AnnouncedTrue(), NetsAgree(),
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
