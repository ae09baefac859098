"""Folders packed into one stream, and their index."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits, wire
from node.chunks.folder import FOLDER_MAGIC, FolderEntry, FolderIndex
from node.chunks.geometry import Code, FileGeometry
from node.errors import NotFoundError, ProtocolError, UnsafeNameError, UsageError
from tests.chunks.strategies import law

names = st.text("abcdefgh \u00e9\u65e5-_.", min_size=1, max_size=5).map(lambda text: f"{text}x")
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
files = st.lists(st.tuples(paths, st.integers(0, 10**12), st.booleans()), max_size=30)


def plan(*listed: str) -> FolderIndex:
    return FolderIndex.plan([(path, 10, False) for path in listed])


@law(150)
@given(files, st.randoms(use_true_random=False))
def test_an_index_survives_its_encoding_and_ignores_the_order_given(
    listed: list[tuple[str, int, bool]], shuffler: random.Random
) -> None:
    try:
        index = FolderIndex.plan(listed)
    except UnsafeNameError:
        return
    assert FolderIndex.decode(index.encode()) == index
    shuffler.shuffle(listed)
    assert FolderIndex.plan(listed) == index
    assert index.packed_bytes == sum(byte_count for _, byte_count, _ in listed)
    offset = 0
    for entry in index.entries:
        assert entry.offset == offset
        assert index.entry(entry.path) is entry
        offset = entry.stop
    assert {(entry.path, entry.byte_count, entry.executable) for entry in index.entries} == set(listed)


@law(80)
@given(files)
def test_below_finds_what_a_scan_finds(listed: list[tuple[str, int, bool]]) -> None:
    try:
        index = FolderIndex.plan(listed)
    except UnsafeNameError:
        return
    folders = {entry.path[:at] for entry in index.entries for at, c in enumerate(entry.path) if c == "/"}
    for folder in folders:
        expected = tuple(entry for entry in index.entries if entry.path.startswith(folder + "/"))
        assert index.below(folder) == index.below(folder + "/") == expected
    assert index.below("") == index.entries


def test_what_is_not_there_is_not_found() -> None:
    index = plan("a/b", "a/c", "d")
    for path in ("", "a", "a/", "a/d", "e", "../d", "\ud800"):
        with pytest.raises(NotFoundError):
            index.entry(path)
    for folder in ("d", "a/b", "b", "/", "\ud800"):
        with pytest.raises(NotFoundError):
            index.below(folder)


def test_a_thousand_small_files_cost_about_what_one_file_of_their_size_does() -> None:
    index = FolderIndex.plan([(f"photos/2024/{number:04}.jpg", 4096, False) for number in range(1000)])
    code = Code(10, 30)
    assert index.packed_bytes == 4_096_000
    assert len(index.encode()) <= 34_000
    packed = FileGeometry.of(index.packed_bytes, code).stored_bytes
    assert packed < 3.02 * 4_096_000
    assert packed < 1000 * FileGeometry.of(4096, code).stored_bytes


@pytest.mark.parametrize(
    "listed",
    [
        ["a", "a"], ["a", "A"], ["a/b", "A/B"], ["\u00e9", "e\u0301"], ["stra\u00dfe", "STRASSE"],
        ["a", "a/b"], ["a", "a/b/c/d"], ["A", "a/b"], ["a/b/c", "a/b/c/d"], ["a", "a-b", "a/b"],
        ["../a"], ["/a"], ["a/../b"], ["a\0b"], ["nul"], ["a/\u202eb"], ["/".join("a" * 10_000)], ["a\ud800"],
    ],
    ids=lambda listed: ascii(listed)[:30],
)  # fmt: skip
def test_folders_that_can_not_be_written_everywhere_are_refused(listed: list[str]) -> None:
    with pytest.raises(UnsafeNameError):
        plan(*listed)
    encodable = [path for path in listed if "\ud800" not in path and "\0" not in path]
    if encodable == listed:
        with pytest.raises(UnsafeNameError):
            FolderIndex.decode(raw(sorted(listed, key=str.encode)))


def test_folders_with_the_same_name_in_other_case_are_merged_not_refused() -> None:
    assert len(plan("A/x", "a/y").entries) == 2


def raw(
    paths: list[str], sizes: list[int] | None = None, flags: bytes | None = None, count: int | None = None
) -> bytes:
    """An index as a hostile owner may write it."""
    sizes = [1] * len(paths) if sizes is None else sizes
    return wire.encode([
        FOLDER_MAGIC,
        1,
        len(paths) if count is None else count,
        "\0".join(paths),
        b"".join(size.to_bytes(8, "big") for size in sizes),
        bytes(-(-len(paths) // 8)) if flags is None else flags,
    ])  # fmt: skip


def test_raw_is_what_encode_writes() -> None:
    index = FolderIndex.decode(raw(["a", "b/c"], [3, 4], b"\x02"))
    assert index.entries == (FolderEntry("a", 0, 3), FolderEntry("b/c", 3, 4, executable=True))
    assert index.encode() == raw(["a", "b/c"], [3, 4], b"\x02")
    assert FolderIndex.decode(raw([])) == FolderIndex(())


@pytest.mark.parametrize(
    "data",
    [
        raw(["b", "a"]),
        raw(["a", "b"], [1]),
        raw(["a", "b"], [1, 2, 3]),
        raw(["a", "b"], count=1),
        raw(["a", "b"], count=3),
        raw(["a"], count=limits.FOLDER_ENTRIES_MAX + 1),
        raw(["a"], count=2**63),
        raw(["a"], count=-1),
        raw(["a"], flags=b""),
        raw(["a"], flags=b"\x02"),
        raw(["a"], flags=b"\x01\x00"),
        raw([], count=0, flags=b"\x00"),
        raw(["a"], sizes=[], count=0, flags=b""),
        raw(["a", "b"], [2**63 - 1, 1]),
        raw(["a"], [2**64 - 1]),
        raw(["a"]) + b"\x00",
        raw(["a"])[:-1],
        b"",
        wire.encode([]),
        wire.encode(["cairn/folder", 2, 0, "", b"", b""]),
        wire.encode(["cairn/folder", True, 0, "", b"", b""]),
        wire.encode(["cairn/file", 1, 0, "", b"", b""]),
        wire.encode(["cairn/folder", 1, 0, b"", b"", b""]),
    ],
)
def test_hostile_indexes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        FolderIndex.decode(data)


def test_the_format_is_frozen() -> None:
    vectors = Path(__file__).parents[1] / "vectors" / "manifests.json"
    case = json.loads(vectors.read_text())["folder"]
    index = FolderIndex.plan([tuple(file) for file in case["files"]])
    assert index.encode().hex() == case["index"]
    assert FolderIndex.decode(bytes.fromhex(case["index"])) == index


def test_too_many_files_are_refused_with_a_way_out() -> None:
    listed = [(f"{number}", 0, False) for number in range(limits.FOLDER_ENTRIES_MAX + 1)]
    with pytest.raises(UsageError, match="archive"):
        FolderIndex.plan(listed)
    assert FolderIndex.plan(listed[1:]).packed_bytes == 0
