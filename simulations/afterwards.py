"""What must hold once the faults are over: files are whole, kept once, and can be got from anywhere."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from random import Random

import trio

from node.chunks import known_health
from node.daemon.compose import Node
from node.errors import RemoteError
from node.limits import PUT_SILENCE_S
from node.units import HOUR_S, MINUTE_S, Contact
from simulations.host import Host
from simulations.workload import Actions
from simulations.world import StoredFile, World

HEALED_TICK_S = 10 * MINUTE_S
LIVENESS_TRIES = 6
LIVENESS_PAUSE_S = 300.0


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
            _check_known_lost(world, file)


def _check_known_lost(world: World, file: StoredFile) -> None:
    """What its owner's node says by the evidence, in `ls` and on the page: not that a lost file is kept."""
    owner = world.hosts[file.owner]
    node, now_s = owner.node, owner.calendar.now_s()
    entry = None if node is None else node.catalogue.get(file.file_hash)
    if node is None or entry is None:
        return
    threshold = owner.settings.config.repair.threshold
    word = known_health.known_health(entry, node.catalogue, node.evidence, now_s=now_s).word(threshold)
    world.figures.add(f"lost files that their owners call {word}")
    if word not in ("lost", "unknown"):
        world.violate("health", f"file {world.files.index(file)} is lost, and its owner's list says {word}")


async def settle_accounts(world: World) -> None:
    """Have every pair of accounts exchange its records now, as it does at its next meeting: what both know of
    each other can be compared then."""
    honest = [host for host in world.up() if not host.is_hostile]
    for number, one in enumerate(honest):
        for other in honest[number + 1 :]:
            if one.node is None or not one.node.credit.ledger.store.read(
                partial(one.node.credit.ledger.ids, other=other.keys.account_id)
            ):
                continue
            with suppress(RemoteError):
                await one.use(partial(_exchange, contact=other.contact))


async def _exchange(node: Node, contact: Contact) -> None:
    await node.credit.exchange.sync(contact)


async def check_one_copy(world: World, *, within_s: float) -> None:
    """Every shard has one holder that has promised it, and is there, once an owner and both sides of a
    partition have done with it (credit.md, invariant 14)."""
    ends_s = trio.current_time() + within_s
    began_s = trio.current_time()
    several = _several_copies(world)
    world.figures.add("shards with several holders", len(several))
    while several and trio.current_time() < ends_s and not world.ended.is_set():
        await trio.sleep(HEALED_TICK_S)
        several = _several_copies(world)
    world.figures.add("hours until one holder a shard", (trio.current_time() - began_s) / HOUR_S)
    for number, index, holders in several[:3]:
        text = (
            f"shard {index} of file {number} is kept by {holders}, {within_s / HOUR_S:g} h after the healing"
        )
        world.violate("one live lease", text)


def _several_copies(world: World) -> list[tuple[int, int, list[Host]]]:
    found = []
    for number, file in enumerate(world.files):
        if file.is_deleted:
            continue
        for segment_id in file.segments:
            for index in range(file.code.total_shards):
                name = (segment_id, index)
                holders = [world.host_of(peer_id) for peer_id in world.promises.holders(name)]
                if len(holders) > 1:
                    found.append((number, index, holders))
    return found


async def check_liveness(world: World, actions: Actions, random: Random) -> None:
    """Every file that has enough shards on disks of running hosts is got, within a bound, from anywhere."""
    await trio.sleep(max(PUT_SILENCE_S, 5 * MINUTE_S))
    honest = [host for host in world.up() if not host.is_hostile]
    outcomes: Counter[str] = Counter()
    for number, file in enumerate(world.files):
        if file.is_deleted or world.ended.is_set():
            continue
        reader = random.choice(honest)
        # Stricter than need be: what the reader holds itself must be spare for it.
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
