"""What goes wrong, when, and with whom: a list made before the run, so that a part of it can be run again.

A fault is data; what it does to the world stands in one table. Faults that last restore what they changed
when their time is over, and `heal` restores everything at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import trio

from simulations.host import Host
from simulations.network import Link
from simulations.sabotage import PROVES_NOTHING, SABOTAGES
from simulations.world import World


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong. What `amount` counts depends on the kind."""

    at_s: float
    kind: str
    host: int
    lasts_s: float = 0.0
    amount: float = 0.0
    others: tuple[int, ...] = ()
    word: str = ""

    def __str__(self) -> str:
        parts = [f"{self.at_s:.1f} s: {self.kind} {self.word}".rstrip(), f"host {self.host}"]
        if self.others:
            parts.append("others " + ",".join(map(str, self.others)))
        if self.lasts_s:
            parts.append(f"for {self.lasts_s:.1f} s")
        if self.amount:
            parts.append(f"amount {self.amount:g}")
        return ", ".join(parts)


async def _crash(world: World, fault: Fault, *, power_loss: bool) -> None:
    host = world.hosts[fault.host]
    await host.crash(power_loss=power_loss)
    await trio.sleep(fault.lasts_s)
    await _return(world, host)


async def _kill(world: World, fault: Fault) -> None:
    await _crash(world, fault, power_loss=False)


async def _power_loss(world: World, fault: Fault) -> None:
    await _crash(world, fault, power_loss=True)


async def _crash_writing(world: World, fault: Fault) -> None:
    """The power goes in the midst of the disk's work: before its `amount`-th operation from now."""
    host = world.hosts[fault.host]
    if host.is_up:
        host.disk.crash_at = host.disk.operations + int(fault.amount)
    await trio.sleep(fault.lasts_s)
    if host.disk.crash_at is not None:
        host.disk.crash_at = None
        await host.crash(power_loss=True)
    await _return(world, host)


async def _return(world: World, host: Host) -> None:
    if not host.is_gone:
        await world.start(host)


async def _away(world: World, fault: Fault) -> None:
    host = world.hosts[fault.host]
    await host.stop()
    await trio.sleep(fault.lasts_s)
    await _return(world, host)


async def _gone(world: World, fault: Fault) -> None:
    host = world.hosts[fault.host]
    host.is_gone, host.gone_s = True, trio.current_time()
    await host.crash(power_loss=True)


async def _join(world: World, fault: Fault) -> None:
    """A machine that nobody has seen before."""
    host = world.hosts[fault.host]
    host.is_held_back = False
    await world.start(host)


async def _partition(world: World, fault: Fault) -> None:
    """`others` are cut off from the rest."""
    world.internet.partition([world.hosts[index].peer_id for index in fault.others])
    await trio.sleep(fault.lasts_s)
    world.internet.heal()


async def _one_way(world: World, fault: Fault) -> None:
    host = world.hosts[fault.host]
    for index in fault.others:
        world.internet.cut_one_way(host.peer_id, world.hosts[index].peer_id)
    await trio.sleep(fault.lasts_s)
    world.internet.heal()


async def _reset(world: World, fault: Fault) -> None:
    for index in fault.others:
        world.internet.cut(world.hosts[fault.host].peer_id, world.hosts[index].peer_id)
    await trio.lowlevel.checkpoint()


async def _slow_link(world: World, fault: Fault) -> None:
    """Everything to and from a host takes `amount` seconds, with losses and 64 kB/s."""
    host = world.hosts[fault.host]
    slow = Link(latency_s=fault.amount, jitter_s=fault.amount, rate_bytes_s=64_000, loss=0.02)
    _set_links(world, host, slow)
    await trio.sleep(fault.lasts_s)
    _set_links(world, host, world.internet.default_link)


def _set_links(world: World, host: Host, link: Link) -> None:
    for other in world.hosts:
        if other is not host:
            world.internet.set_link(host.peer_id, other.peer_id, link)
            world.internet.set_link(other.peer_id, host.peer_id, link)


async def _slow_disk(world: World, fault: Fault) -> None:
    """Every call to disk or processor takes `amount` seconds."""
    host = world.hosts[fault.host]
    host.offload.delay_s = fault.amount
    await trio.sleep(fault.lasts_s)
    host.offload.delay_s = 0.0


async def _full_disk(world: World, fault: Fault) -> None:
    """Somebody else fills the disk: only `amount` bytes are left."""
    host = world.hosts[fault.host]
    host.disk.capacity_bytes = host.disk.allocated_bytes() + int(fault.amount)
    await trio.sleep(fault.lasts_s)
    host.disk.capacity_bytes = None


async def _failing_sync(world: World, fault: Fault) -> None:
    """The disk can't sync; its owner replaces a cable and restarts the node, as the store asks for."""
    host = world.hosts[fault.host]
    host.disk.fail_syncs = True
    await trio.sleep(fault.lasts_s)
    host.disk.fail_syncs = False
    await host.stop()
    await _return(world, host)


async def _bit_rot(world: World, fault: Fault) -> None:
    """`amount` bits of the packs flip."""
    host = world.hosts[fault.host]
    random = Random(f"rot {fault.at_s} {fault.host}")
    for _ in range(int(fault.amount)):
        paths = [path for path in host.disk.paths() if "pack" in str(path) and host.disk.length(path)]
        if paths:
            path = random.choice(paths)
            host.disk.flip_bit(path, random.randrange(host.disk.length(path)), random.randrange(8))
            host.has_rot = True
    await trio.lowlevel.checkpoint()


async def _clock_step(world: World, fault: Fault) -> None:
    world.hosts[fault.host].calendar.step(fault.amount)
    await trio.lowlevel.checkpoint()


async def _turn_hostile(world: World, fault: Fault) -> None:
    host = world.hosts[fault.host]
    host.is_hostile = True
    sabotage = SABOTAGES[fault.word]
    if fault.word in PROVES_NOTHING:
        host.lies_since_s = trio.current_time()
    host.on_up.append(sabotage)
    if host.node is not None:
        sabotage(host, host.node)
    await trio.lowlevel.checkpoint()


KINDS: dict[str, Callable[[World, Fault], Awaitable[None]]] = {
    "kill": _kill,
    "power-loss": _power_loss,
    "crash-writing": _crash_writing,
    "away": _away,
    "gone": _gone,
    "join": _join,
    "partition": _partition,
    "one-way": _one_way,
    "reset": _reset,
    "slow-link": _slow_link,
    "slow-disk": _slow_disk,
    "full-disk": _full_disk,
    "failing-sync": _failing_sync,
    "bit-rot": _bit_rot,
    "clock-step": _clock_step,
    "turn-hostile": _turn_hostile,
}


async def inject(world: World, faults: list[Fault]) -> None:
    """Let each fault happen at its time; over when the last one is."""
    async with trio.open_nursery() as nursery:
        for fault in faults:
            nursery.start_soon(_inject_one, world, fault)


async def _inject_one(world: World, fault: Fault) -> None:
    await trio.sleep_until(fault.at_s)
    world.trace.note("fault", str(fault))
    await KINDS[fault.kind](world, fault)


async def heal(world: World) -> None:
    """End all faults and bring every machine back that was not lost for good."""
    world.internet.heal()
    world.internet.clear_links()
    for host in world.hosts:
        host.disk.fail_syncs = False
        host.disk.crash_at = None
        host.disk.capacity_bytes = None
        host.offload.delay_s = 0.0
        if not host.is_gone:
            await world.start(host)
    world.trace.note("healed")
