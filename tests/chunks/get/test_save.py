"""Get to disk: resumed, never over a file, folders safe, hostile names refused before anything is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node import wire
from node.chunks.folder import FolderIndex
from node.chunks.geometry import Code
from node.chunks.get.download import GetProgress
from node.chunks.header import FileHeader, FolderIndexLink
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import EncodedStripe
from node.errors import (
    NotEnoughShardsError,
    NotFoundError,
    OutputExistsError,
    OwnerInconsistentError,
    UnsafeNameError,
    UsageError,
)
from simulations.network import Link as Wire
from tests.chunks.planting import Planted, content_of, plant
from tests.chunks.swarm import Swarm

CODE = Code(2, 4)
STRIPE = CODE.stripe_plaintext_bytes
BLOCK = 65_472
FILES = {
    "a/empty": b"",
    "a/one.txt": b"first",
    "a/z/run.sh": b"#!/bin/sh\n",
    "b.bin": content_of(3 * STRIPE),
    "c/last empty": b"",
}


@pytest.fixture
async def swarm(autojump_clock: MockClock) -> AsyncIterator[Swarm]:
    """Four donors."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(nursery, wire=Wire(latency_s=0.005, rate_bytes_s=5_000_000))
        await swarm.add_holders(4)
        yield swarm
        nursery.cancel_scope.cancel()


def index_of(files: dict[str, bytes]) -> FolderIndex:
    return FolderIndex.plan((path, len(data), path.endswith(".sh")) for path, data in files.items())


async def plant_folder(swarm: Swarm, files: dict[str, bytes]) -> Planted:
    index = index_of(files)
    packed = b"".join(files[entry.path] for entry in index.entries)
    return await plant(swarm, packed, code=CODE, header=FileHeader("box", len(packed), "", index))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


async def test_a_file_is_saved_under_its_own_or_a_given_name(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    content = content_of(3 * STRIPE)
    planted = await plant(swarm, content, code=CODE, name="film.mkv")
    progress: list[GetProgress] = []
    async with swarm.visitor() as visitor:
        report = await visitor.downloader().save(planted.link, tmp_path, on_progress=progress.append)
        assert report.path == tmp_path / "film.mkv"
        assert report.path.read_bytes() == content
        assert (report.name, report.bytes) == ("film.mkv", len(content))
        assert report.fetched_bytes == 3 * 2 * BLOCK
        assert progress[0].phase == "locate"
        assert progress[-1] == GetProgress("finish", len(content), len(content), 3 * 2 * BLOCK)
        done = [step.done_bytes for step in progress]
        assert done == sorted(done)
        named = await visitor.downloader().save(planted.link, tmp_path / "other", byte_range=(10, 19))
        assert named.path.read_bytes() == content[10:20]


async def test_an_existing_output_is_refused_before_a_block_is_fetched(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    planted = await plant(swarm, content_of(10), code=CODE)
    (tmp_path / "x").write_bytes(b"mine")
    async with swarm.visitor() as visitor:
        with pytest.raises(OutputExistsError) as raised:
            await visitor.downloader().save(planted.link, tmp_path / "x")
        assert raised.value.exit_code == 2
        assert sum(holder.server.statistics().blocks_served for holder in swarm.holders) == 0
        await visitor.downloader().save(planted.link, tmp_path / "x", force=True)
        assert (tmp_path / "x").read_bytes() == content_of(10)


@pytest.mark.parametrize("folder", [False, True])
async def test_a_cancelled_get_is_resumed_and_fetches_the_rest_only(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, folder: bool
) -> None:
    files = {"a/x": content_of(11 * STRIPE), "b/y": content_of(9 * STRIPE, b"y")}
    if folder:
        planted = await plant_folder(swarm, files)
    else:
        planted = await plant(swarm, b"".join(files.values()), code=CODE, name="box")
    async with swarm.visitor() as visitor:
        scope = trio.CancelScope()

        def stop_at_half(progress: GetProgress) -> None:
            if progress.done_bytes >= 10 * STRIPE:
                scope.cancel()

        with scope:
            await visitor.downloader().save(planted.link, tmp_path, on_progress=stop_at_half)
        assert scope.cancelled_caught
        assert not (tmp_path / "box").exists()
        report = await visitor.downloader().save(planted.link, tmp_path)
        assert report.fetched_bytes <= 10 * 2 * BLOCK
        if folder:
            assert tree(report.path) == files
        else:
            assert report.path.read_bytes() == b"".join(files.values())
        assert names(tmp_path) == ["box"]


@pytest.mark.parametrize("folder", [False, True])
async def test_a_resumed_get_compares_the_roots_of_what_it_had_as_well(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, folder: bool
) -> None:
    """The block that contradicts its root lies in the part that the first of two gets fetched."""

    def tamper(stripe: int, encoded: EncodedStripe) -> tuple[list[bytes], bytes, bytes]:
        blocks = [bytes(block) for block in encoded.blocks]
        if stripe == 1:
            blocks[3] = bytes(len(blocks[3]))
        return blocks, b"".join(map(leaf_of, blocks)), encoded.stripe_hash

    files = {"a/x": content_of(11 * STRIPE), "b/y": content_of(9 * STRIPE, b"y")}
    index = index_of(files)
    packed = b"".join(files.values())
    header = FileHeader("box", len(packed), "", index if folder else None)
    planted = await plant(swarm, packed, code=CODE, header=header, tamper=tamper)
    async with swarm.visitor() as visitor:
        with trio.CancelScope() as scope:

            def stop_at_half(progress: GetProgress) -> None:
                if progress.done_bytes >= 10 * STRIPE:
                    scope.cancel()

            await visitor.downloader().save(planted.link, tmp_path, on_progress=stop_at_half)
        assert "box.cairn-part" in names(tmp_path)
        with pytest.raises(OwnerInconsistentError, match="segment 0: the root of shard 3"):
            await visitor.downloader().save(planted.link, tmp_path)
    assert names(tmp_path) == []


async def test_too_few_shards_leave_nothing_under_the_final_name(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    planted = await plant(swarm, content_of(STRIPE), code=CODE)
    swarm.kill(swarm.holders[1:])
    async with swarm.visitor() as visitor:
        with pytest.raises(NotEnoughShardsError):
            await visitor.downloader().save(planted.link, tmp_path / "x")
    assert not (tmp_path / "x").exists()


async def test_a_folder_comes_back_as_it_was(autojump_clock: MockClock, swarm: Swarm, tmp_path: Path) -> None:
    planted = await plant_folder(swarm, FILES)
    async with swarm.visitor() as visitor:
        report = await visitor.downloader().save(planted.link, tmp_path)
        assert report.path == tmp_path / "box"
        assert tree(report.path) == FILES
        assert (report.path / "a/z/run.sh").stat().st_mode & 0o100
        assert not (report.path / "b.bin").stat().st_mode & 0o111
        assert names(tmp_path) == ["box"]
        with pytest.raises(OutputExistsError):
            await visitor.downloader().save(planted.link, tmp_path)
        (report.path / "mine").write_bytes(b"mine")
        (report.path / "b.bin").write_bytes(b"old")
        await visitor.downloader().save(planted.link, tmp_path, force=True)
        assert tree(report.path) == {**FILES, "mine": b"mine"}
        assert names(tmp_path) == ["box"]


async def test_one_entry_costs_its_stripes(autojump_clock: MockClock, swarm: Swarm, tmp_path: Path) -> None:
    planted = await plant_folder(swarm, FILES)
    async with swarm.visitor() as visitor:
        get = visitor.downloader().save
        report = await get(planted.link, tmp_path, entry="a/one.txt")
        assert report.path == tmp_path / "one.txt"
        assert report.path.read_bytes() == b"first"
        assert report.fetched_bytes == 2 * BLOCK
        below = await get(planted.link, tmp_path, entry="a")
        assert tree(below.path) == {path[2:]: data for path, data in FILES.items() if path.startswith("a/")}
        ranged = await get(planted.link, tmp_path / "part", entry="b.bin", byte_range=(5, 6))
        assert ranged.path.read_bytes() == FILES["b.bin"][5:7]
        with pytest.raises(NotFoundError):
            await get(planted.link, tmp_path / "y", entry="a/two.txt")
        with pytest.raises(UsageError):
            await get(planted.link, tmp_path / "y", byte_range=(0, 1))


async def test_a_large_index_is_a_file_of_its_own(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    files = {f"folder/with a long name/{number:05}": b"%d" % number for number in range(2000)}
    index = index_of(files)
    stored = await plant(swarm, index.encode(), code=CODE, name="index")
    assert stored.link.key is not None
    link = FolderIndexLink(stored.link.file_hash, stored.link.key, len(index.encode()))
    packed = b"".join(files[entry.path] for entry in index.entries)
    planted = await plant(swarm, packed, code=CODE, header=FileHeader("box", len(packed), "", link))
    async with swarm.visitor() as visitor:
        report = await visitor.downloader().save(planted.link, tmp_path)
        assert tree(report.path) == files
    lying = FolderIndexLink(stored.link.file_hash, stored.link.key, len(index.encode()) + 1)
    bad = await plant(swarm, packed, code=CODE, name="bad", header=FileHeader("bad", len(packed), "", lying))
    async with swarm.visitor() as visitor:
        with pytest.raises(OwnerInconsistentError):
            await visitor.downloader().save(bad.link, tmp_path / "bad")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "..", "", "x\0y", "evil\u202egnp.exe", "CON", "a\nb"]
)
async def test_hostile_names_are_refused_before_anything_is_written(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path, name: str
) -> None:
    header = wire.encode(["cairn/header", 1, name, 10, "", None])
    planted = await plant(swarm, content_of(10), code=CODE, raw_header=header)
    async with swarm.visitor() as visitor:
        with pytest.raises(UnsafeNameError) as raised:
            await visitor.downloader().save(planted.link, tmp_path)
        assert raised.value.exit_code == 40
    assert names(tmp_path) == []


async def test_a_hostile_path_in_a_folder_is_refused(
    autojump_clock: MockClock, swarm: Swarm, tmp_path: Path
) -> None:
    index = wire.encode(["cairn/folder", 1, 1, "../../x", (10).to_bytes(8, "big"), b"\0"])
    header = wire.encode(["cairn/header", 1, "box", 10, "", index])
    planted = await plant(swarm, content_of(10), code=CODE, raw_header=header)
    async with swarm.visitor() as visitor:
        with pytest.raises(UnsafeNameError):
            await visitor.downloader().save(planted.link, tmp_path)
    assert names(tmp_path) == []
