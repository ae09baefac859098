"""One simulated machine: its disk, its clock, its keys, and the node that runs, dies and comes back on it.

The node is the real one, composed by `node.daemon.compose`. A crash cuts the machine off first (disk, tables
and network raise or refuse) and unwinds the dead node's tasks afterwards, so that no `finally` of a dead
process can still write or send anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from random import Random
from typing import TypeVar

import trio

from node.crypto.keystore import NodeKeys
from node.daemon.compose import PROTOCOL_VERSION, Node, NodePorts, open_node
from node.daemon.config import Config
from node.daemon.memory import DaemonMemory, Donation
from node.net.reachability import Standing
from node.ports import OpenFile
from node.units import Contact, Multiaddr, PeerId
from simulations.disk import FakeDisk, SimulatedCrash
from simulations.key_value import FakeKeyValue
from simulations.machine import InlineOffload, SeededEntropy, SimulatedCalendar
from simulations.network import Internet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a machine is like."""

    donated_bytes: int = 0
    dialable: bool = True
    clock_offset_s: float = 0.0
    clock_drift_ppm: float = 0.0
    subnet: int | None = None
    """Number of its /24; None gives it one of its own."""
    is_private: bool = False
    """In a home's network, where all may store without credit, and no rule of subnets applies."""
    config: Config = field(default_factory=Config)


class _PoweredFiles:
    """`Files` of one run of the node: after its death they raise, whoever still holds them."""

    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk
        self.is_on = True

    def open(self, path: PurePath, *, create: bool = False) -> OpenFile:
        return self._powered().open(path, create=create)

    def replace(self, path: PurePath, data: bytes, *, mode: int = 0o600) -> None:
        self._powered().replace(path, data, mode=mode)

    def read(self, path: PurePath) -> bytes | None:
        return self._powered().read(path)

    def rename(self, old: PurePath, new: PurePath) -> None:
        self._powered().rename(old, new)

    def delete(self, path: PurePath) -> None:
        self._powered().delete(path)

    def list(self, folder: PurePath) -> Sequence[str]:
        return self._powered().list(folder)

    def sync_folder(self, folder: PurePath) -> None:
        self._powered().sync_folder(folder)

    def allocated_bytes(self) -> int:
        return self._powered().allocated_bytes()

    def free_bytes(self) -> int:
        return self._powered().free_bytes()

    def _powered(self) -> FakeDisk:
        if not self.is_on:
            raise SimulatedCrash
        return self._disk


@dataclass(eq=False)
class _Run:
    """One run of the node's process."""

    files: _PoweredFiles
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    up: trio.Event = field(default_factory=trio.Event)
    stop: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    uses: dict[trio.CancelScope, trio.Event] = field(default_factory=dict)
    is_dead: bool = False
    has_started: bool = False

    @property
    def is_ending(self) -> bool:
        return self.is_dead or self.stop.is_set()


class Host:
    """A machine with a node on it."""

    def __init__(
        self,
        index: int,
        *,
        seed: object,
        internet: Internet,
        settings: HostSettings,
        on_failure: Callable[[Host, BaseException], None],
    ) -> None:
        """`on_failure` hears of what a node must never raise."""
        self.index = index
        self.settings = settings
        self.random = Random(f"host {seed} {index}")
        self.keys = NodeKeys.of(self.random.randbytes(32), self.random.randbytes(32))
        self.peer_id: PeerId = self.keys.peer_id
        self.address = _address(index, settings)
        self.disk = FakeDisk()
        self.state = FakeKeyValue(self.disk)
        self.index_tables = FakeKeyValue(self.disk)
        self.calendar = SimulatedCalendar(
            offset_s=settings.clock_offset_s, drift_ppm=settings.clock_drift_ppm
        )
        self.entropy = SeededEntropy(f"{seed} {index}")
        self.offload = InlineOffload()
        self.node: Node | None = None
        self.listed: tuple[Contact, ...] = ()
        self.version = PROTOCOL_VERSION
        self.on_up: list[Callable[[Host, Node], None]] = []
        """Called with each new node before it serves anybody: observers and saboteurs hook in here."""
        self.has_rot = False
        self.has_put = False
        self.is_hostile = False
        self.lies_since_s: float | None = None
        """Since when it can prove nothing of what it holds: it has none of it, or gives none."""
        self.gone_s: float | None = None
        self.is_held_back = False
        """Not to be started before its time."""
        self.is_gone = False
        """Lost for good: nobody brings it back."""
        self.starts = 0
        self._internet = internet
        self._on_failure = on_failure
        self._run: _Run | None = None
        if settings.donated_bytes:
            DaemonMemory(self.state).set_donation(Donation(settings.donated_bytes))

    def __repr__(self) -> str:
        return f"host {self.index}"

    @property
    def is_up(self) -> bool:
        """Whether its node runs and can be used."""
        return self.node is not None

    @property
    def is_donor(self) -> bool:
        """Whether it gives disk."""
        return self.settings.donated_bytes > 0

    @property
    def contact(self) -> Contact:
        """Where others reach it."""
        return Contact(self.peer_id, (self.address,))

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the node and wait until it is up, or dead again."""
        if self._run is not None:
            return
        run = _Run(_PoweredFiles(self.disk))
        self._run = run
        self.starts += 1
        nursery.start_soon(self._live, run, name=f"host {self.index}")
        await run.up.wait()

    async def stop(self) -> None:
        """End the node in order."""
        run = self._run
        if run is not None:
            self.node = None
            run.stop.set()
            await _end_uses(run)
            await run.over.wait()

    async def crash(self, *, power_loss: bool) -> None:
        """Kill the process; with `power_loss` unsynced writes are lost, torn, or partly kept as well."""
        run = self._run
        if run is not None:
            self._die(run, power_loss=power_loss)
            run.scope.cancel()
            await _end_uses(run)
            await run.over.wait()

    async def use(self, action: Callable[[Node], Awaitable[T]]) -> T | None:
        """Do something with the node, as its owner would; None if it dies or stops meanwhile."""
        run, node = self._run, self.node
        if run is None or node is None or run.is_ending:
            return None
        done = trio.Event()
        result: T | None = None
        with trio.CancelScope() as scope:
            run.uses[scope] = done
            try:
                result = await action(node)
            except BaseException as error:
                cancelled, others = _split(error)
                if cancelled is not None:
                    raise cancelled from None
                if not run.is_ending and not any(isinstance(leaf, SimulatedCrash) for leaf in others):
                    raise
            finally:
                del run.uses[scope]
                done.set()
        return None if run.is_ending else result

    def _die(self, run: _Run, *, power_loss: bool) -> None:
        if run.is_dead:
            return
        run.is_dead = True
        run.files.is_on = False
        self.node = None
        self._internet.unplug(self.peer_id)
        if power_loss:
            self.disk.crash_randomly(self.random)
        else:
            self.disk.crash(self.disk.unsynced_count())
        self.state = self.state.reopened()
        self.index_tables = self.index_tables.reopened()

    async def _live(self, run: _Run) -> None:
        try:
            with run.scope:
                await self._serve(run)
        except BaseException as error:  # noqa: BLE001  # whatever a node raises is what a simulation looks for
            cancelled, others = _split(error)
            if any(isinstance(leaf, SimulatedCrash) for leaf in others):
                self._die(run, power_loss=True)
            elif others and not run.has_started and self.disk.fail_syncs:
                pass  # a node refuses to start on a disk that can't sync: it stays down until that is mended
            elif others and not run.is_dead:
                self._on_failure(self, others[0])
            if cancelled is not None:
                raise cancelled from None
        finally:
            self.node = None
            self._run = None
            run.over.set()
            run.up.set()

    async def _serve(self, run: _Run) -> None:
        async with self._internet.join(
            self.peer_id, address=self.address, dialable=self.settings.dialable
        ) as network:
            standing = Standing.PUBLIC if self.settings.dialable else Standing.BEHIND_NAT
            ports = NodePorts(
                network=network,
                files=run.files,
                state=self.state,
                index=self.index_tables,
                clock=self.calendar,
                entropy=self.entropy,
                offload=self.offload,
                standing=lambda: standing,
            )
            async with open_node(
                self.settings.config,
                ports,
                self.keys,
                listed=self.listed,
                protocol_version=self.version,
            ) as node:
                for hook in self.on_up:
                    hook(self, node)
                self.node = node
                run.has_started = True
                run.up.set()
                try:
                    await run.stop.wait()
                finally:
                    self.node = None


async def _end_uses(run: _Run) -> None:
    """Have whoever uses the node stop, as a daemon does with its commands."""
    for scope in list(run.uses):
        scope.cancel()
    for done in list(run.uses.values()):
        await done.wait()


def _split(error: BaseException) -> tuple[BaseException | None, list[BaseException]]:
    """The cancellations in an error, to be raised again, and its other leaves."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[0], leaves(error)
    return (error, []) if isinstance(error, trio.Cancelled) else (None, [error])


def leaves(error: BaseException) -> list[BaseException]:
    """What really happened in a tree of exception groups: its leaves, cancellations left out."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [] if isinstance(error, trio.Cancelled) else [error]


def _address(index: int, settings: HostSettings) -> Multiaddr:
    """Hosts of one `subnet` share a /24."""
    subnet = settings.subnet
    place = index if subnet is None else 40_000 + subnet
    last = 1 if subnet is None else index % 250 + 1
    first = 10 if settings.is_private else 30 + place // 16_000
    return Multiaddr(f"/ip4/{first}.{place // 250 % 64}.{place % 250}.{last}/tcp/4001")
