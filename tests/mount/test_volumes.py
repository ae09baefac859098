"""What is mounted, over a source in memory: paths, hostile answers, a list that changes."""

from __future__ import annotations

import pytest

from node.chunks.folder import FolderIndex
from node.errors import NoDaemonError, NodeError, NotFoundError, OwnerInconsistentError, UnsafeNameError
from node.mount.content import Contents
from node.mount.files import MountedFiles
from node.mount.ports import Opened
from node.mount.tree import inode_of
from node.mount.volumes import FAILED_S, REFRESH_S, LinkRoot, ListRoot, Volume
from tests.mount.memory_source import STRIPE, MemorySource
from tests.patience import comes_true

FILES = {"a.txt": b"first", "b/c.bin": b"second!", "b/d/run": b"#!"}


def folder_source(link: str = "tree") -> MemorySource:
    index = FolderIndex.plan((path, len(data), path.endswith("run")) for path, data in FILES.items())
    source = MemorySource({link: b"".join(FILES[entry.path] for entry in index.entries)})
    source.folders[link] = index.encode()
    return source


def read(files: MountedFiles, path: str) -> bytes:
    handle = files.open(path)
    try:
        return files.read(handle, 0, 10**6, lambda: False)
    finally:
        files.release(handle)


def names(files: MountedFiles, path: str) -> set[str]:
    return {each.name for each in files.level(path)}


def test_a_folder_shows_its_tree_and_each_file_its_bytes() -> None:
    source = folder_source()
    files = MountedFiles(LinkRoot(Volume.open(source, "tree", modified_s=5)), Contents(source, lambda: 0.0))
    assert names(files, "/") == {"a.txt", "b"}
    assert names(files, "/b") == {"c.bin", "d"}
    for path, data in FILES.items():
        assert read(files, f"/{path}") == data
        found = files.attributes(f"/{path}")
        assert (found.size_bytes, found.is_folder, found.modified_s) == (len(data), False, 5)
        assert found.is_executable == path.endswith("run")
    assert files.attributes("/b/d").is_folder
    assert {each.name: each.inode for each in files.level("/b")} == {
        name: files.attributes(f"/b/{name}").inode for name in ("c.bin", "d")
    }
    assert files.totals() == (sum(map(len, FILES.values())), 3)
    for path, error in (
        ("/nothing", FileNotFoundError),
        ("/b/nothing", FileNotFoundError),
        ("/a.txt/x", FileNotFoundError),
        ("/b", IsADirectoryError),
    ):
        with pytest.raises(error):
            files.open(path)
    with pytest.raises(NotADirectoryError):
        list(files.level("/a.txt"))


def test_reading_behind_the_end_of_a_file_never_gives_the_next_ones_bytes() -> None:
    source = folder_source()
    files = MountedFiles(LinkRoot(Volume.open(source, "tree", modified_s=5)), Contents(source, lambda: 0.0))
    handle = files.open("/a.txt")
    assert files.read(handle, 3, 100, lambda: False) == b"st"
    assert files.read(handle, 5, 100, lambda: False) == b""
    assert files.read(handle, 10**15, 100, lambda: False) == b""


def test_a_single_file_stands_in_a_folder_of_its_own() -> None:
    source = MemorySource({"one": b"bytes"})
    files = MountedFiles(LinkRoot(Volume.open(source, "one", modified_s=5)), Contents(source, lambda: 0.0))
    assert names(files, "/") == {"name of one"}
    assert read(files, "/name of one") == b"bytes"
    with pytest.raises(FileNotFoundError):
        files.attributes("/another")
    with pytest.raises(NotADirectoryError):
        files.attributes("/name of one/x")


class Liar(MemorySource):
    """Says of every file what it was told to."""

    def __init__(self, answer: Opened) -> None:
        super().__init__()
        self.answer = answer

    def open(self, link: str) -> Opened:
        return self.answer


TWO = FolderIndex.plan([("a", 1, False), ("b", 2, False)])


def unsafe_index(path: str) -> bytes:
    """An index that `plan` would refuse."""
    encoded = FolderIndex.plan([("x" * len(path.encode()), 1, False)]).encode()
    return encoded.replace(b"x" * len(path.encode()), path.encode())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Opened("h", "..", 3, None, STRIPE, None), UnsafeNameError),
        (Opened("h", "a/b", 3, None, STRIPE, None), UnsafeNameError),
        (Opened("h", "nul\0", 3, None, STRIPE, None), UnsafeNameError),
        (Opened("h", "x" * 256, 3, None, STRIPE, None), UnsafeNameError),
        (Opened("h", "x", -1, None, STRIPE, None), OwnerInconsistentError),
        (Opened("h", "x", 3, None, 0, None), OwnerInconsistentError),
        (Opened("h", "x", 4, None, STRIPE, TWO.encode()), OwnerInconsistentError),
        (Opened("h", "x", 3, None, STRIPE, TWO.encode()[:-1]), OwnerInconsistentError),
        (Opened("h", "x", 1, None, STRIPE, unsafe_index("../etc")), UnsafeNameError),
        (Opened("h", "x", 1, None, STRIPE, unsafe_index("/etc/x")), UnsafeNameError),
        (Opened("h", "x", 1, None, STRIPE, unsafe_index("a/./b")), UnsafeNameError),
        (Opened("h", "x", 1, None, STRIPE, unsafe_index("a//b")), UnsafeNameError),
    ],
)
def test_a_hostile_answer_is_refused_before_anything_shows(answer: Opened, error: type[NodeError]) -> None:
    with pytest.raises(error) as caught:
        Volume.open(Liar(answer), "link", modified_s=0)
    assert caught.value.exit_code == 40


class Listing:
    """`mine`, with a clock that the test moves."""

    def __init__(self, source: MemorySource) -> None:
        self.now_s = 100.0
        self.source = source
        self.notes: list[str] = []
        self.root = ListRoot(source, lambda: self.now_s, self.notes.append, modified_s=1)
        self.files = MountedFiles(self.root, Contents(source, lambda: self.now_s))

    def list(self, *rows: tuple[str, str, int, int]) -> None:
        self.source.listed = list(rows)
        self.now_s += REFRESH_S


@pytest.fixture
def listing() -> Listing:
    source = folder_source()
    source.files |= {"h1": b"one", "h2": b"two"}
    source.listed = [("h1", "note.txt", 3, 7), ("tree", "thesis", 14, 9)]
    return Listing(source)


def test_mine_has_files_and_folders_side_by_side(listing: Listing) -> None:
    files = listing.files
    assert names(files, "/") == {"note.txt", "thesis"}
    assert read(files, "/note.txt") == b"one"
    assert read(files, "/thesis/b/c.bin") == FILES["b/c.bin"]
    assert files.attributes("/thesis").is_folder
    assert files.attributes("/note.txt").modified_s == 7
    assert files.attributes("/note.txt").inode == inode_of("h1")
    assert files.attributes("/").modified_s == 9
    with pytest.raises(NotADirectoryError):
        files.attributes("/note.txt/x")


def test_what_was_put_appears_and_what_was_removed_goes(listing: Listing) -> None:
    files = listing.files
    open_handle = files.open("/note.txt")
    listing.list(("h2", "later.txt", 3, 8), ("tree", "thesis", 14, 9))
    assert names(files, "/") == {"later.txt", "thesis"}
    with pytest.raises(FileNotFoundError):
        files.open("/note.txt")
    assert files.read(open_handle, 0, 10, lambda: False) == b"one"  # whoever has it open goes on
    assert not files.may_keep("/note.txt")
    assert files.may_keep("/thesis/a.txt")
    listing.list(("h2", "note.txt", 3, 8))
    assert read(files, "/note.txt") == b"two"
    assert not files.may_keep("/note.txt")


def test_the_list_is_asked_for_once_a_while_and_outlives_its_node(listing: Listing) -> None:
    files = listing.files
    listing.source.listed = []
    assert names(files, "/") == {"note.txt", "thesis"}
    listing.source.is_gone = True
    listing.now_s += REFRESH_S
    assert names(files, "/") == {"note.txt", "thesis"}
    assert len(listing.notes) == 1
    listing.source.is_gone = False
    listing.now_s += REFRESH_S
    assert names(files, "/") == set()


def test_listing_finds_out_what_is_a_folder_by_itself(listing: Listing) -> None:
    assert {each.name: each.is_folder for each in listing.files.level("/")} == {
        "note.txt": None,
        "thesis": None,
    }
    assert comes_true(
        lambda: (
            {each.name: each.is_folder for each in listing.files.level("/")}
            == {"note.txt": False, "thesis": True}
        )
    )
    assert sorted(listing.source.opened) == ["h1", "tree"]


def test_a_file_that_can_not_be_opened_is_an_error_for_a_while(listing: Listing) -> None:
    listing.list(("lost", "lost.txt", 3, 8))
    for _ in range(3):
        with pytest.raises(NotFoundError):
            listing.files.attributes("/lost.txt")
    assert listing.source.opened == ["lost"]
    listing.source.files["lost"] = b"ok!"
    listing.now_s += FAILED_S
    assert read(listing.files, "/lost.txt") == b"ok!"


def test_mine_needs_a_node_to_begin_with() -> None:
    source = MemorySource()
    source.is_gone = True
    with pytest.raises(NoDaemonError):
        Listing(source)
