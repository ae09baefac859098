"""The composed node over simulated adapters: it stores, finds, tidies up and remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.chunks.store.shard_log import PACK_FOLDER
from node.control.api import control_handlers
from node.control.server import Events
from node.crypto.hashing import cid_text
from node.daemon.background import SCRUB_CHECK_S
from node.daemon.compose import Node
from node.daemon.config import build_config
from node.daemon.memory import DaemonMemory, Donation
from node.errors import NotEnoughPeersError, NotFoundError, UsageError
from node.units import DAY_S, MIB, MINUTE_S
from tests.clocks import START_S
from tests.daemon.worlds import Machine, World, contact_of

CAP_BYTES = 64 * MIB


@asynccontextmanager
async def swarm(world: World, donors: int, others: int = 1) -> AsyncIterator[tuple[list[Node], list[Node]]]:
    """Donors, and others that give nothing; everyone joins through the first donor."""
    async with AsyncExitStack() as stack:
        first: list[Node] = []
        for number in range(donors + others):
            machine = Machine(f"node {number}")
            machine.give(CAP_BYTES if number < donors else 0)
            listed = [contact_of(first[0])] if first else []
            first.append(await stack.enter_async_context(world.node(machine, listed=listed)))
        for node in first:
            assert await node.wait_joined(30)
        yield first[:donors], first[donors:]


async def test_a_file_put_by_one_node_is_got_by_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 1000)
    async with swarm(World(), donors=3, others=2) as (donors, (sharer, friend)):
        report = await sharer.uploader.put(source, PutOptions(code=Code(2, 6)))
        assert report.holders == 3
        assert [donor.statistics().store.shards for donor in donors] == [2, 2, 2]
        got = await friend.downloader.save(report.link, tmp_path / "copy")
        assert got.path.read_bytes() == source.read_bytes()
        assert (await friend.health.check(report.file_hash)).healthy
        assert [entry.file_hash for entry in sharer.catalogue.files()] == [report.file_hash]


async def test_what_expires_gives_its_space_back_by_itself(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(100_000))
    world = World()
    async with swarm(world, donors=2) as (donors, (sharer,)):
        report = await sharer.uploader.put(source, PutOptions(code=Code(1, 2), lease_days=2))
        assert sum(donor.statistics().store.shards for donor in donors) == 2
        world.clock.ahead_s += 4 * DAY_S
        await trio.sleep(3 * MINUTE_S)
        assert sum(donor.statistics().store.shards for donor in donors) == 2  # in their days of grace
        assert all(donor.statistics().dht.provided_keys == 2 for donor in donors)
        world.clock.ahead_s += 14 * DAY_S
        await trio.sleep(3 * MINUTE_S)
        assert sum(donor.statistics().store.shards for donor in donors) == 0
        assert all(donor.statistics().dht.provided_keys == 0 for donor in donors)
        with pytest.raises(NotFoundError):
            await sharer.downloader.save(report.link, tmp_path / "copy")


async def test_the_days_of_grace_are_a_setting(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(1000))
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    async with AsyncExitStack() as stack:
        config = build_config({"lease.grace_days": 2})
        donor = await stack.enter_async_context(world.node(machine, config=config))
        sharer = await stack.enter_async_context(
            world.node(Machine("the sharer"), listed=[contact_of(donor)])
        )
        assert await sharer.wait_joined(30)
        report = await sharer.uploader.put(source, PutOptions(code=Code(1, 1), lease_days=1))
        for grace_days, shards in ((1, 1), (2, 0)):
            world.clock.ahead_s = report.expires_s + grace_days * DAY_S - START_S
            await trio.sleep(3 * MINUTE_S)
            assert donor.statistics().store.shards == shards


async def test_a_restart_announces_nothing_that_is_gone(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(1000))
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    async with world.node(Machine("the sharer")) as sharer:
        async with world.node(machine, listed=[contact_of(sharer)]) as donor:
            assert await sharer.wait_joined(30)
            report = await sharer.uploader.put(source, PutOptions(code=Code(1, 1)))
            (segment_id,) = donor.store.segments()
            assert donor.statistics().dht.provided_keys == 2
            for held in donor.store.leases(segment_id):  # as by a release that a crash cut short
                donor.store.end_lease(held.lease.lease_id)
        async with world.node(machine, listed=[contact_of(sharer)]) as donor:
            await trio.sleep(MINUTE_S)
            assert donor.statistics().dht.provided_keys == 0
            assert not donor.store.holds(report.file_hash)


async def test_a_folder_s_large_index_is_renewed_and_released_with_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async def send(_message: object) -> None:
        """Nobody listens."""

    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number:0250}").write_bytes(b"x")
    async with swarm(World(), donors=3) as (donors, (sharer,)):
        report = await sharer.uploader.put(folder, PutOptions(code=Code(1, 3)))
        entry = sharer.catalogue.get(report.file_hash)
        assert entry is not None
        assert entry.index_hash is not None
        handlers, request = control_handlers(sharer), {"link": cid_text(report.file_hash)}
        renewed = await handlers["renew"]({**request, "duration_s": 60 * DAY_S}, Events(send))
        assert renewed["leases"] == 6
        assert renewed["expires"] > report.expires_s
        for file_hash in (report.file_hash, entry.index_hash):
            known = sharer.catalogue.get(file_hash)
            assert known is not None
            assert known.expires_s == renewed["expires"]
        assert sum(donor.statistics().store.leases for donor in donors) == 12
        assert (await handlers["rm"](request, Events(send)))["leases"] == 12
        assert [donor.statistics().store.leases for donor in donors] == [0, 0, 0]
        assert [donor.statistics().dht.provided_keys for donor in donors] == [0, 0, 0]
        assert sharer.catalogue.files() == []
        assert sharer.catalogue.get(entry.index_hash) is None


async def test_bit_rot_is_found_by_the_weekly_scrub_and_never_served(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(200_000))
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    async with AsyncExitStack() as stack:
        donor = await stack.enter_async_context(world.node(machine))
        sharer = await stack.enter_async_context(
            world.node(Machine("the sharer"), listed=[contact_of(donor)])
        )
        assert await sharer.wait_joined(30)
        await sharer.uploader.put(source, PutOptions(code=Code(1, 1)))
        await trio.sleep(MINUTE_S)  # the first scrub, of an empty store, is over
        (pack,) = machine.disk.list(PACK_FOLDER)
        file = machine.disk.open(PACK_FOLDER / pack)
        middle = file.size() // 2
        byte = file.read_at(middle, 1)
        file.write_at(middle, bytes([byte[0] ^ 1]))
        file.sync()
        assert donor.statistics().store.quarantined == 0
        world.clock.ahead_s += 8 * DAY_S
        await trio.sleep(SCRUB_CHECK_S + 3 * MINUTE_S)
        assert donor.statistics().store.quarantined == 1


async def test_a_donation_takes_effect_at_once_and_outlives_the_node(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(10_000))
    world, machine = World(), Machine("the donor")
    async with AsyncExitStack() as stack:
        donor = await stack.enter_async_context(world.node(machine))
        sharer = await stack.enter_async_context(
            world.node(Machine("the sharer"), listed=[contact_of(donor)])
        )
        assert await sharer.wait_joined(30)
        with pytest.raises(NotEnoughPeersError):
            await sharer.uploader.put(source, PutOptions(code=Code(1, 1)))
        await donor.set_donation(Donation(CAP_BYTES, 1000, 0.25))
        report = await sharer.uploader.put(source, PutOptions(code=Code(1, 1)))
        assert report.holders == 1
    async with world.node(machine) as again:
        assert again.donation() == Donation(CAP_BYTES, 1000, 0.25)
        assert again.statistics().store.cap_bytes == CAP_BYTES
        assert again.statistics().store.shards == 1


async def test_the_handlers_check_their_fields(autojump_clock: MockClock) -> None:
    async def send(_message: object) -> None:
        """Nobody listens."""

    events = Events(send)
    async with World().node(Machine("alone")) as node:
        handlers = control_handlers(node)
        for name, request in (
            ("put", {}),
            ("put", {"path": 5}),
            ("put", {"path": "/etc/hostname", "expires_s": 0}),
            ("put", {"path": "/etc/hostname", "code": "x"}),
            ("get", {"link": "cairn:", "output": "relative"}),
            ("get", {"link": ["x"]}),
            ("health", {"link": True}),
            ("donate", {"cap_bytes": "much"}),
            ("donate", {"cap_bytes": True}),
            ("donate", {"cap_bytes": -1}),
        ):
            with pytest.raises(UsageError):
                await handlers[name](request, events)


def test_memory_survives_nonsense_in_its_table() -> None:
    machine = Machine("any")
    memory = DaemonMemory(machine.state)
    assert (memory.port(), memory.donation(), memory.scrub()) == (None, Donation(), (b"", 0))
    memory.set_port(4001)
    memory.set_scrub(b"here", 7)
    assert (memory.port(), memory.scrub()) == (4001, (b"here", 7))
    for name in (b"port", b"donation", b"scrub"):
        machine.state.update(lambda change, name=name: change.put("daemon", name, b"\xc1"))  # type: ignore[misc]
    assert (memory.port(), memory.donation(), memory.scrub()) == (None, Donation(), (b"", 0))


async def test_a_donor_gets_what_only_it_holds(autojump_clock: MockClock, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 400)
    async with swarm(World(), donors=1) as ((donor,), (sharer,)):
        report = await sharer.uploader.put(source, PutOptions(code=Code(2, 4)))
        assert (await donor.health.check(report.file_hash, verify=True)).healthy
        got = await donor.downloader.save(report.link, tmp_path / "copy")
        assert got.path.read_bytes() == source.read_bytes()
