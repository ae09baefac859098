"""What people do with the swarm: put, get, read ranges, delete, ask for health, look things up.

Each action checks what it got against the truth. Errors that a person could see in a broken network are
counted; any other is a violation, and so is an action that does not end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import trio

from node.chunks.geometry import Code
from node.chunks.get.download import RemoteFile
from node.chunks.get.renew import LeaseReport
from node.chunks.list_store import ListStore
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.crypto.hashing import multihash
from node.crypto.keystore import NodeKeys
from node.crypto.links import parse_link
from node.daemon.compose import Node
from node.errors import AvailabilityError, CreditError, NodeError, StoreError, TransferInterruptedError
from node.records.lease import Lease
from node.units import DAY_S, PeerId
from simulations.host import Host
from simulations.world import StoredFile, World

T = TypeVar("T")

MARKER = b"cairn-secret-"
"""Stands in every file and name of the workload: holders and the wire must never show it."""
DEFAULT_CODE = Code(2, 4)
PUT_ENDS_S = 1800.0
PUT_TRIES = 3
PUT_WAITS = 20
PUT_WAIT_S = 15.0
GET_ENDS_S = 1800.0
LOOKUP_ENDS_S = 120.0
HEALTH_ENDS_S = 600.0
DRAIN_ENDS_S = 3600.0
DRAIN_SPARE = 2
"""Donors besides those that one file needs, or nobody drains: there would be no place to move shards to."""
RESTORED_WITHIN_S = 1800.0
RESTORE_LOOKS_S = 10.0


@dataclass(frozen=True, slots=True)
class Workload:
    """How much of what. Weights are relative."""

    code: Code = DEFAULT_CODE
    mean_pause_s: float = 120.0
    file_bytes_max: int = 200_000
    files_max: int = 40
    weights: tuple[tuple[str, int], ...] = (
        ("put", 4), ("get", 5), ("range", 2), ("delete", 1), ("health", 2), ("lookup", 3), ("renew", 1),
        ("repair", 1), ("drain", 1),
    )  # fmt: skip
    strike: float = 0.0
    """How often somebody who takes part in a put dies in the midst of it."""
    putters: tuple[int, ...] | None = None
    """Hosts that put; None for all."""
    readers: tuple[int, ...] | None = None


async def _stay(node: Node) -> None:
    """Give disk again after a drain."""
    node.healing.leaving.set(False)


class Actions:
    """The acts, and what they must show."""

    def __init__(self, world: World, workload: Workload, random: Random) -> None:
        self._world = world
        self._workload = workload
        self._random = random
        self._numbers = 0
        self._draining = False

    async def run(self, until_s: float) -> None:
        """Act at random times; over when the last act is."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._random.expovariate(1 / self._workload.mean_pause_s))
                if trio.current_time() >= until_s:
                    return
                names, weights = zip(*self._workload.weights, strict=True)
                nursery.start_soon(self._act, self._random.choices(names, weights)[0])

    async def _act(self, name: str) -> None:
        random = Random(self._random.random())
        files = [file for file in self._world.files if not file.is_deleted]
        if name == "put" or not files:
            host = self._pick(self._workload.putters, random)
            if host is not None and len(files) < self._workload.files_max:
                await self.put(host, random)
            return
        file = random.choice(files)
        host = self._pick(self._workload.readers, random)
        if host is None:
            return
        if name == "delete":
            owner = self._world.hosts[file.owner]
            if owner.is_up and len(files) > 3:
                await self.delete(owner, file)
        elif name == "get":
            await self.get(host, file)
        elif name == "range":
            await self.get_range(host, file, random)
        elif name == "renew":
            await self.renew(self._world.hosts[file.owner], file, random)
        elif name == "repair":
            await self.repair(host, file)
        elif name == "drain":
            await self.drain(host)
        elif name == "health":
            await self.health(host, file, verify=random.random() < 0.3)
        else:
            await self.lookup(host, file, random)

    def _pick(self, allowed: tuple[int, ...] | None, random: Random) -> Host | None:
        hosts = [
            host
            for host in self._world.up()
            if not host.is_hostile and (allowed is None or host.index in allowed)
        ]
        return random.choice(hosts) if hosts else None

    # --- acts -----------------------------------------------------------------------------------------

    async def put(
        self, host: Host, random: Random, *, size_bytes: int | None = None, code: Code | None = None
    ) -> StoredFile | None:
        """Store a new file; what was stored, None if the network did not allow it."""
        world = self._world
        number = self._numbers
        self._numbers += 1
        size = int(random.random() ** 3 * self._workload.file_bytes_max) if size_bytes is None else size_bytes
        host.has_put = True
        data = (MARKER + random.randbytes(max(0, size - len(MARKER))))[:size]
        path = world.source(f"{MARKER.decode()}{number}.bin", data)
        code = self._workload.code if code is None else code
        options = PutOptions(code=code)

        async def act(node: Node) -> PutReport:
            return await node.uploader.put(path, options)

        report = await self._put_until_done(host, act, random)
        path.unlink()
        if report is None or host.node is None:
            return None
        if report.bytes != size:
            world.violate("contents", f"{host} put {size} bytes and was told of {report.bytes}")
        segments = {
            segment.segment_id: _shards(segment.leases)
            for segment in host.node.catalogue.segments(report.file_hash)
        }
        file = StoredFile(host.index, report.link, data, code, segments)
        self._check_quorum(file, report)
        world.files.append(file)
        world.trace.note("put", f"{host} file {len(world.files) - 1} of {size} bytes")
        world.figures.sample("put seconds", report.seconds)
        return file

    async def _put_until_done(
        self, host: Host, act: Callable[[Node], Awaitable[PutReport]], random: Random
    ) -> PutReport | None:
        """Put; if the putter dies meanwhile, put again when it is back: the journal must carry it."""
        async with trio.open_nursery() as nursery:
            if random.random() < self._workload.strike:
                nursery.start_soon(self._strike, host, random)
            for _ in range(PUT_TRIES):
                starts = host.starts
                report = await self._try("put", host, act, PUT_ENDS_S)
                if report is not None or (host.is_up and host.starts == starts):
                    break
                for _ in range(PUT_WAITS):
                    await trio.sleep(PUT_WAIT_S)
                    if host.is_up:
                        self._world.figures.add("put resumed")
                        break
            nursery.cancel_scope.cancel()
        return report

    async def _strike(self, putter: Host, random: Random) -> None:
        """Kill the putter or some donor while blocks are on their way."""
        world = self._world
        await trio.sleep(random.uniform(0.0, 3.0))
        victim = (
            putter
            if random.random() < 0.5
            else random.choice([host for host in world.hosts if host.is_donor])
        )
        if not victim.is_up or victim.is_hostile:
            return
        world.trace.note("strike", str(victim))
        power_loss = random.random() < 0.7
        with trio.CancelScope(shield=True):
            await victim.crash(power_loss=power_loss)
        world.nursery.start_soon(self._bring_back, victim, random.uniform(1.0, 240.0))

    async def _bring_back(self, victim: Host, after_s: float) -> None:
        await trio.sleep(after_s)
        if not victim.is_gone:
            await self._world.start(victim)

    def _check_quorum(self, file: StoredFile, report: PutReport) -> None:
        """A put that returned has enough acknowledged shards, and says how many are missing."""
        code, missing = file.code, 0
        parity = code.total_shards - code.data_shards
        quorum = code.data_shards - (-7 * parity // 10)  # data_shards + ceil(0.7 x parity)
        for segment_id, shards in file.segments.items():
            if len(shards) < quorum:
                self._world.violate(
                    "quorum",
                    f"put returned with {len(shards)} shards of segment {segment_id.hex()[:8]}, "
                    f"fewer than the quorum of {quorum}",
                )
            missing += code.total_shards - len(shards)
            for shard_index, holders in shards.items():
                for peer_id in holders:
                    name = (segment_id, shard_index)
                    # A put that takes long may return when a holder has moved what it took at the beginning.
                    was_moved = self._world.promises.given_up[peer_id, name] > 0
                    if self._world.root_of(peer_id, name) is None and not was_moved:
                        self._world.violate("quorum", f"put counts shard {shard_index} that nobody promised")
        if missing != report.missing_shards:
            self._world.violate("quorum", f"{missing} shards are missing, put says {report.missing_shards}")

    async def get(self, host: Host, file: StoredFile) -> bool:
        """Fetch a whole file; whether it came."""
        return await self._fetch("get", host, file, 0, len(file.data))

    async def get_range(self, host: Host, file: StoredFile, random: Random) -> bool:
        """Fetch a part of a file."""
        start = random.randrange(len(file.data) + 1)
        return await self._fetch("range", host, file, start, random.randrange(start, len(file.data) + 1))

    async def _fetch(self, name: str, host: Host, file: StoredFile, start: int, stop: int) -> bool:
        async def act(node: Node) -> bytes:
            remote: RemoteFile = await node.downloader.open_file(file.link)
            parts = []
            async with remote.stream(start, stop) as pieces:
                async for piece in pieces:
                    parts.append(piece)
            return b"".join(parts)

        began_s = trio.current_time()
        got = await self._try(name, host, act, GET_ENDS_S)
        if got is None:
            return False
        if got != file.data[start:stop]:
            self._world.violate("contents", f"{host} got other bytes than were put of {self._name(file)}")
        self._world.figures.sample("get seconds", trio.current_time() - began_s)
        return True

    async def delete(self, owner: Host, file: StoredFile) -> None:
        """Release a file as its owner."""
        file.is_deleted = True
        await self._try("delete", owner, lambda node: node.renewer.release(file.file_hash), GET_ENDS_S)

    async def renew(self, owner: Host, file: StoredFile, random: Random) -> None:
        """Extend a file's leases as its owner."""
        duration_s = random.randrange(30, 90) * DAY_S

        async def act(node: Node) -> LeaseReport:
            return await node.renewer.renew(file.file_hash, duration_s=duration_s)

        if owner.is_up:
            await self._try("renew", owner, act, GET_ENDS_S)

    async def repair(self, host: Host, file: StoredFile) -> None:
        """Have a holder repair what it keeps of a file, without waiting for its turn."""

        async def act(node: Node) -> int:
            outcomes = [await node.healing.service.repair_now(segment_id) for segment_id in file.segments]
            return sum(len(outcome.leases) for outcome in outcomes if outcome is not None)

        remade = await self._try("repair", host, act, GET_ENDS_S)
        self._world.figures.add("shards remade by hand", remade or 0)

    async def drain(self, host: Host) -> None:
        """Have a donor give up all that it keeps: it owes nobody when all is moved. Then it gives anew."""
        donors = [each for each in self._world.up() if each.is_donor and not each.is_hostile]
        wanted = self._workload.code.total_shards + DRAIN_SPARE
        if self._draining or host not in donors or len(donors) < wanted:
            return
        self._draining = True
        world = self._world

        async def act(node: Node) -> int:
            report = await node.healing.drain(lambda moved, remaining: None)
            world.figures.add("shards drained", report.moved)
            # What rotted can't be moved. What it signed over may stay until somebody confirms that it may go,
            # also when the owner deletes the file meanwhile, and asks the new holder alone.
            deleted = {segment_id for file in world.files if file.is_deleted for segment_id in file.segments}
            left = [
                name
                for name, _ in world.promises.of(host)
                if name[0] not in deleted
                and node.store.has_shard(*name)
                and world.promises.holders(name) == [host.peer_id]
            ]
            if not report.remaining and left:
                world.violate(
                    "drain", f"{host} says that it has moved everything, and alone owes {len(left)} shards"
                )
            node.healing.leaving.set(False)
            return report.moved

        try:
            await self._try("drain", host, act, DRAIN_ENDS_S)
        finally:
            self._draining = False
            await host.use(_stay)  # its disk may be due to fail

    async def restore(self, owner: Host, spare: Host) -> None:
        """Lose an owner's machine, put its words into an empty one, and have that list and get its files."""
        world = self._world
        files = [file for file in world.files if file.owner == owner.index and not file.is_deleted]
        assert files
        if not await self._try(
            "publish",
            owner,
            lambda node: node.file_list.wait_published(RESTORED_WITHIN_S),
            RESTORED_WITHIN_S + 60,
        ):
            world.violate("restore", f"{owner} can't publish the list of its files")
            return
        owner.is_gone, owner.gone_s = True, trio.current_time()
        await owner.crash(power_loss=True)
        world.rename(spare, NodeKeys.of(spare.random.randbytes(32), owner.keys.account_entropy))
        ListStore(spare.state).want()
        spare.is_held_back, spare.has_put = False, True
        for file in files:
            file.owner = spare.index  # whoever has the words owns the files: their keys may lie there
        await world.start(spare)
        ends_s = trio.current_time() + RESTORED_WITHIN_S
        missing = files
        while missing and trio.current_time() < ends_s:
            await trio.sleep(RESTORE_LOOKS_S)
            node = spare.node
            missing = [file for file in missing if node is None or node.catalogue.get(file.file_hash) is None]
        if missing:
            world.violate("restore", f"{spare} does not list {len(missing)} of {len(files)} files of {owner}")
        for file in files:
            entry = None if spare.node is None else spare.node.catalogue.get(file.file_hash)
            if entry is not None:
                file.link = parse_link(entry.link)
                if not await self.get(spare, file):
                    world.violate("restore", f"{spare} can't get {self._name(file)} by its restored link")
                await self.renew(spare, file, self._random)
                world.figures.add("files restored")

    async def health(self, host: Host, file: StoredFile, *, verify: bool) -> None:
        """Ask for health and compare it with the disks: before, after, and never more than both."""
        world = self._world
        before = world.live_shards(file, world.hosts)
        report = await self._try(
            "health", host, lambda node: node.health.check(file.file_hash, verify=verify), HEALTH_ENDS_S
        )
        if report is None or world.ended.is_set():
            return
        after = world.live_shards(file, world.hosts)
        segments = list(file.segments)
        for segment in report.segments:
            name = segments[segment.index]
            proved = {holder.shard for holder in segment.holders if holder.state in ("proved", "slow")}
            true = before[name].keys() | after[name].keys()
            if segment.alive != len(proved):
                world.violate("health", f"{segment.alive} said to be alive, {len(proved)} proved")
            for holder in segment.holders:
                lied = holder.state in ("proved", "slow") and holder.shard not in true
                # A single sample may hit a good block of a damaged shard: only --verify promises more.
                if lied and (verify or not world.host_of(holder.peer_id).has_rot):
                    world.violate(
                        "health",
                        f"shard {holder.shard} of {self._name(file)} is said to be {holder.state} at "
                        f"{world.host_of(holder.peer_id)}, and is not on any disk",
                    )

    async def check_said_lost(self, host: Host, file: StoredFile) -> None:
        """Ask for the health of a file that nobody can restore: it must not be said to be kept."""
        report = await self._try(
            "health", host, lambda node: node.health.check(file.file_hash), HEALTH_ENDS_S
        )
        if report is not None and (report.healthy or report.retrievable):
            self._world.violate("health", f"{self._name(file)} is lost, and {host} calls it healthy")
        self._world.figures.add("lost files said to be lost")

    async def lookup(self, host: Host, file: StoredFile, random: Random) -> None:
        """Look up a file's providers, or a peer: it must end, whatever it finds."""
        other = random.choice(self._world.hosts)

        async def act(node: Node) -> int:
            if random.random() < 0.5:
                return len(await node.dht.find_providers(multihash(file.file_hash), wanted=3))
            return int(await node.dht.find_peer(other.peer_id) is not None)

        await self._try("lookup", host, act, LOOKUP_ENDS_S)

    async def providers(self, host: Host, file: StoredFile) -> int:
        """How many providers of a file a host finds by the DHT alone."""

        async def act(node: Node) -> int:
            return len(await node.dht.find_providers(multihash(file.file_hash), wanted=3))

        return await self._try("lookup", host, act, LOOKUP_ENDS_S) or 0

    # --- within ---------------------------------------------------------------------------------------

    def _name(self, file: StoredFile) -> str:
        return f"file {self._world.files.index(file)}"

    async def _try(
        self, name: str, host: Host, act: Callable[[Node], Awaitable[T]], ends_s: float
    ) -> T | None:
        """Do it; None for what may fail in a broken network, a violation for anything else."""
        figures = self._world.figures
        figures.add(f"{name} tried")
        result = None
        try:
            with trio.move_on_after(ends_s) as scope:
                result = await host.use(act)
        except (AvailabilityError, TransferInterruptedError) as error:
            figures.add(f"{name} unavailable")
            self._world.trace.note(f"{name} unavailable", f"{host}: {error}")
        except CreditError as error:
            figures.add(f"{name} without credit")
            self._world.trace.note(f"{name} without credit", f"{host}: {error}")
        except StoreError as error:
            figures.add(f"{name} failed on the own disk")
            if not (host.disk.fail_syncs or host.disk.capacity_bytes is not None):
                self._world.violate("errors", f"{name} at {host} failed: {error}")
        except NodeError as error:
            self._world.violate("errors", f"{name} at {host} raised {type(error).__name__}: {error}")
        else:
            if scope.cancelled_caught:
                self._world.violate("everything ends", f"{name} at {host} took over {ends_s:g} s")
            elif result is not None:
                figures.add(f"{name} done")
        return result


def _shards(leases: Iterable[Lease]) -> dict[int, set[PeerId]]:
    shards: dict[int, set[PeerId]] = {}
    for lease in leases:
        shards.setdefault(lease.shard_index, set()).add(lease.holder)
    return shards
