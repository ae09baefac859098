"""The tree of a packed folder against a plain dictionary, and names for a list of files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.folder import FolderEntry, FolderIndex
from node.chunks.names import safe_name
from node.errors import NodeError
from node.mount.tree import OwnFile, PackedTree, inode_of, named

NAMES = st.text(alphabet="ab-./é0 ", min_size=1, max_size=4)
PATHS = st.lists(st.sampled_from(["a", "b", "a-", "a0", "é", "a b", "x.y"]), min_size=1, max_size=4).map(
    "/".join
)


def index_of(paths: set[str]) -> FolderIndex | None:
    try:
        return FolderIndex.plan((path, len(path), False) for path in paths)
    except NodeError:
        return None  # a file where another path has a folder


def model_level(paths: set[str], folder: str) -> dict[str, bool]:
    """Name to whether it is a folder."""
    prefix = f"{folder}/" if folder else ""
    rests = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
    return {rest.partition("/")[0]: "/" in rest for rest in rests}


@given(st.sets(PATHS, max_size=12), PATHS)
def test_every_level_is_what_the_paths_say(paths: set[str], other: str) -> None:
    index = index_of(paths)
    if index is None:
        return
    tree = PackedTree(index)
    folders = {""} | {path[:at] for path in paths for at in range(len(path)) if path[at] == "/"}
    for folder in folders:
        level = list(tree.level(folder))
        assert {name: entry is None for name, entry in level} == model_level(paths, folder)
        assert len({name for name, _ in level}) == len(level)
        assert tree.find(folder) is True
        for name, entry in level:
            found = tree.find(f"{folder}/{name}" if folder else name)
            assert found is True if entry is None else found == entry
    for path in paths:
        found = tree.find(path)
        assert isinstance(found, FolderEntry)
        assert found.path == path
    if other not in paths | folders:
        assert tree.find(other) is False


def test_what_is_not_utf8_is_not_found() -> None:
    index = index_of({"a", "b/c"})
    assert index is not None
    tree = PackedTree(index)
    assert tree.find(b"\xff".decode(errors="surrogateescape")) is False
    assert list(tree.level(b"b\xff".decode(errors="surrogateescape"))) == []


def test_a_folder_of_a_hundred_thousand_files_is_walked_by_its_levels() -> None:
    paths = [f"d{number % 10}/s{number % 100:02}/f{number:06}" for number in range(limits.FOLDER_ENTRIES_MAX)]
    tree = PackedTree(FolderIndex.plan((path, 1, False) for path in paths))
    assert [name for name, _ in tree.level("")] == [f"d{number}" for number in range(10)]
    assert len(list(tree.level("d3"))) == 10
    assert len(list(tree.level("d3/s13"))) == 1000
    assert isinstance(tree.find("d3/s13/f000113"), FolderEntry)


@given(st.text(max_size=20), PATHS)
def test_an_inode_depends_on_content_and_path_alone(content: str, path: str) -> None:
    content = content.encode(errors="ignore").decode()
    assert inode_of(content, path) == inode_of(content, path)
    assert 16 <= inode_of(content, path) < 2**63
    assert inode_of(content, path) != inode_of(content + "x", path)
    assert inode_of(content, path) != inode_of(content, path + "x")


def test_inodes_are_frozen() -> None:
    assert (inode_of("bafk"), inode_of("bafk", "a/é")) == (
        4867359864067840533,
        8516296917169071620,
    )


OWN = st.builds(
    OwnFile,
    hash=st.integers(0, 10**9).map(lambda number: f"bafk{number:010}"),
    name=st.one_of(NAMES, st.sampled_from(["film.mp4", "..", "a" * 255, "a" * 300, "nul.txt", "é" * 127])),
    size_bytes=st.just(1),
    created_s=st.integers(0, 3),
)


@given(st.lists(OWN, max_size=20, unique_by=lambda file: file.hash))
def test_every_file_has_one_safe_name_of_its_own(files: list[OwnFile]) -> None:
    names = named(files)
    assert sorted(file.hash for file in names.values()) == sorted(file.hash for file in files)
    for name in names:
        assert safe_name(name) == name


@given(st.lists(OWN, min_size=1, max_size=20, unique_by=lambda file: file.hash), st.data())
def test_a_newer_file_renames_no_older_one(files: list[OwnFile], data: st.DataObject) -> None:
    newest = OwnFile("bafknew", data.draw(st.sampled_from(files)).name, 1, 10)
    before, after = named(files), named([*files, newest])
    assert {name: file for name, file in after.items() if file != newest} == before


def test_the_ending_of_a_name_is_kept() -> None:
    files = [OwnFile("bafk00000001", "film.mp4", 1, 1), OwnFile("bafk00000002", "film.mp4", 1, 2)]
    assert {name: file.hash for name, file in named(files).items()} == {
        "film.mp4": "bafk00000001",
        "film (00000002).mp4": "bafk00000002",
    }
