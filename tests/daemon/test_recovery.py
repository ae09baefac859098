"""The words bring files back: lost machines, devices that share an account, whole nodes in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from node.chunks.catalogue import CatalogueEntry
from node.chunks.geometry import Code
from node.chunks.list_store import ListStore
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.control.api import control_handlers
from node.control.server import Events
from node.crypto.hashing import cid_text
from node.crypto.keystore import replace_account
from node.crypto.links import parse_link
from node.crypto.passwords import PasswordCost
from node.daemon.compose import Node
from node.daemon.config import build_config
from node.units import DAY_S, HOUR_S, MIB, MINUTE_S, FileHash
from tests.clocks import START_S
from tests.daemon.worlds import Machine, World, contact_of

CODE = Code(2, 6)
CONFIG = build_config({"code.data_shards": 2, "code.total_shards": 6})


def restored(name: str, lost: Machine) -> Machine:
    """A clean machine on which the words of a lost one were restored."""
    machine = Machine(name)
    words = " ".join(lost.keys().words)
    ListStore(machine.state).want()
    replace_account(machine.disk, machine.entropy, words, cost=PasswordCost(8, 1))
    return machine


@asynccontextmanager
async def donors(world: World, count: int) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        found: list[Node] = []
        for number in range(count):
            machine = Machine(f"donor {number}")
            machine.give(64 * MIB)
            listed = [contact_of(found[0])] if found else []
            found.append(await stack.enter_async_context(world.node(machine, listed=listed)))
        for node in found[1:]:
            assert await node.wait_joined(30)
        yield found


@asynccontextmanager
async def member(world: World, machine: Machine, known: Sequence[Node]) -> AsyncIterator[Node]:
    async with world.node(machine, listed=[contact_of(known[0])], config=CONFIG) as node:
        assert await node.wait_joined(30)
        yield node


async def put(node: Node, folder: Path, name: str, content: bytes) -> PutReport:
    source = folder / name
    source.write_bytes(content)
    return await node.uploader.put(source, PutOptions(code=CODE))


def names(node: Node) -> set[str]:
    return {entry.name for entry in node.catalogue.files()}


async def call(node: Node, command: str, **request: object) -> dict[str, object]:
    async def send(_message: object) -> None:
        """Nobody listens."""

    result = await control_handlers(node)[command](request, Events(send))
    return dict(result)


async def test_a_lost_machine_s_files_come_back_on_a_clean_one(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world, lost = World(), Machine("lost")
    async with donors(world, 3) as known:
        contents = {f"file {number}": bytes([number]) * 10_000 * number for number in range(1, 4)}
        folder = tmp_path / "folder"
        folder.mkdir()
        for number in range(300):
            (folder / f"{number:0250}").write_bytes(b"x")
        async with member(world, lost, known) as node:
            for name, content in contents.items():
                await put(node, tmp_path, name, content)
            tree = await node.uploader.put(folder, PutOptions(code=CODE))  # its index is a file of its own
            assert await node.file_list.wait_published(10)
        # No part of the list: what is so short stands in the pointer alone.
        assert sum(donor.statistics().store.shards for donor in known) == 5 * 6
        async with member(world, restored("clean", lost), known) as node:
            listed = await call(node, "ls")
            files = listed["files"]
            assert isinstance(files, list)
            assert {file["name"] for file in files} == {*contents, "folder"}
            assert {file["health"] for file in files} == {"healthy"}
            (tmp_path / "out").mkdir()
            for entry in node.catalogue.files():
                got = await node.downloader.save(parse_link(entry.link), tmp_path / "out" / entry.name)
                if entry.name in contents:
                    assert got.path.read_bytes() == contents[entry.name]
            renewed = await call(node, "renew", link=cid_text(tree.file_hash), duration_s=60 * DAY_S)
            assert renewed["leases"] == 2 * 6  # the index goes with it
            for entry in node.catalogue.files():
                await call(node, "rm", link=cid_text(entry.file_hash))
        assert sum(donor.statistics().store.leases for donor in known) == 0


async def test_a_long_list_is_kept_in_parts_that_merge(autojump_clock: MockClock, tmp_path: Path) -> None:
    world, lost = World(), Machine("lost")
    async with donors(world, 3) as known:
        async with member(world, lost, known) as node:
            for start in range(0, 1500, 30):
                for number in range(start, start + 30):
                    node.catalogue.add(entry(number), [])
                assert await node.file_list.wait_published(60)
            node.catalogue.remove(entry(7).file_hash)
            node.catalogue.set_expiry(entry(8).file_hash, START_S + 90 * DAY_S)
            assert await node.file_list.wait_published(60)
            parts = ListStore(node.ports.state).root().parts
            assert 1 <= len(parts) <= 12
            kept = {each.file_hash for each in node.catalogue.entries() if each.is_list}
            assert kept == {known.part.file_hash for known in parts}
            assert sum(donor.statistics().store.shards for donor in known) == 6 * len(parts)
        async with member(world, restored("clean", lost), known) as node:
            assert await node.file_list.wait_found(60)
            assert names(node) == {f"file {number}" for number in range(1500)} - {"file 7"}
            renewed = node.catalogue.get(entry(8).file_hash)
            assert renewed is not None
            assert renewed.expires_s == START_S + 90 * DAY_S
            assert {each.file_hash for each in node.catalogue.entries() if each.is_list} == kept


async def test_two_devices_of_one_account_see_each_other_s_changes(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world, first = World(), Machine("first")
    second = restored("second", first)
    async with donors(world, 3) as known, member(world, first, known) as one:
        shared = await put(one, tmp_path, "shared", b"s")
        await put(one, tmp_path, "dropped", b"d")
        assert await one.file_list.wait_published(10)
        async with member(world, second, known) as two:
            assert await two.file_list.wait_found(30)
            # Neither looks before it publishes: both have looked a moment ago.
            await put(one, tmp_path, "of one", b"1")
            await put(two, tmp_path, "of two", b"2")
            (dropped,) = [each for each in two.catalogue.files() if each.name == "dropped"]
            two.catalogue.remove(dropped.file_hash)
            one.catalogue.set_expiry(shared.file_hash, START_S + 99 * DAY_S)
            assert await one.file_list.wait_published(10)
            assert await two.file_list.wait_published(10)
            await trio.sleep(41 * HOUR_S)
            expected = {"shared", "of one", "of two"}
            assert names(one) == names(two) == expected
            assert {each.expires_s for each in two.catalogue.files()} >= {START_S + 99 * DAY_S}
        async with member(world, restored("third", first), known) as three:
            assert await three.file_list.wait_found(30)
            assert names(three) == expected


async def test_the_list_outlives_months_without_its_owner_and_an_outage_of_everyone(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world, lost = World(), Machine("lost")
    machines = [Machine(f"donor {number}") for number in range(3)]
    for machine in machines:
        machine.give(64 * MIB)

    @asynccontextmanager
    async def everyone() -> AsyncIterator[list[Node]]:
        async with AsyncExitStack() as stack:
            found: list[Node] = []
            for machine in machines:
                listed = [contact_of(found[0])] if found else []
                found.append(await stack.enter_async_context(world.node(machine, listed=listed)))
            yield found

    async with everyone() as known:
        async with member(world, lost, known) as node:
            await put(node, tmp_path, "file", b"content")
            assert await node.file_list.wait_published(10)
        for _ in range(40):
            world.clock.ahead_s += 6 * HOUR_S
            await trio.sleep(2 * MINUTE_S)
    world.clock.ahead_s += 5 * DAY_S  # all machines are off
    async with everyone() as known:
        await trio.sleep(5 * MINUTE_S)
        # The hint of the file lives on as well.
        assert all(donor.statistics().dht.value_records == 2 for donor in known)
        async with member(world, restored("clean", lost), known) as node:
            assert await node.file_list.wait_found(30)
            assert names(node) == {"file"}
            (found,) = node.catalogue.files()
            got = await node.downloader.save(parse_link(found.link), tmp_path / "copy")
            assert got.path.read_bytes() == b"content"


async def test_an_account_that_never_had_a_file_is_not_waited_for(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world, other = World(), Machine("other")
    async with donors(world, 2) as known, member(world, restored("clean", other), known) as node:
        assert (await call(node, "ls"))["files"] == []
        await put(node, tmp_path, "first", b"1")
        assert await node.file_list.wait_published(30)
        async with member(world, restored("again", other), known) as again:
            assert await again.file_list.wait_found(30)
            assert names(again) == {"first"}


def entry(number: int) -> CatalogueEntry:
    return CatalogueEntry(
        file_hash=FileHash(number.to_bytes(32, "little")),
        link="cairn:" + "x" * 110,
        name=f"file {number}",
        size_bytes=number,
        data_shards=2,
        total_shards=6,
        segments=1,
        created_s=START_S,
        expires_s=START_S + 30 * DAY_S,
        owner_salt=bytes(16),
    )
