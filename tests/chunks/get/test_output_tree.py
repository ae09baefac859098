"""Trees on disk: resumed only if true, built step by step without following links."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.chunks.folder import FolderIndex
from node.chunks.get.output_tree import TreeOutput
from node.errors import OutputExistsError, StoreError, UsageError

IDENTITY = b"i" * 40
FILES = {"a/b/c": b"x" * 1000, "a/b/d": b"", "a/e": b"y" * 500, "f": b"z" * 10, "g/h": b""}
ENTRIES = FolderIndex.plan((path, len(data), False) for path, data in FILES.items()).entries
PACKED = b"".join(FILES[entry.path] for entry in ENTRIES)


def _open(target: Path, *, force: bool = False) -> TreeOutput:
    return TreeOutput(target, ENTRIES, identity=IDENTITY, force=force)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()
    }


@settings(max_examples=40)
@given(cut=st.integers(0, len(PACKED)), late=st.integers(0, 300))
def test_a_tree_is_resumed_from_any_byte(
    tmp_path_factory: pytest.TempPathFactory, cut: int, late: int
) -> None:
    target = tmp_path_factory.mktemp("tree") / "box"
    out = _open(target)
    out.write(PACKED[:cut])
    out.checkpoint()
    crashed = PACKED[cut : cut + late]
    out.write(crashed)  # after the last checkpoint: a crash may keep it or not
    out._close_descriptors()
    assert not target.exists()
    out = _open(target)
    assert out.done_bytes == cut
    out.write(PACKED[cut:])
    assert _tree(out.finish()) == FILES
    assert [path.name for path in target.parent.iterdir()] == ["box"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "link"])
def test_a_partial_tree_that_is_not_what_it_was_starts_anew(tmp_path: Path, damage: str) -> None:
    out = _open(tmp_path / "box")
    out.write(PACKED[:1200])
    out.close()
    first = tmp_path / "box.cairn-part/a/b/c"
    if damage == "flip":
        first.write_bytes(b"X" + first.read_bytes()[1:])
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:-1])
    elif damage == "gone":
        first.unlink()
    else:
        outside = tmp_path / "outside"
        outside.write_bytes(first.read_bytes())
        first.unlink()
        first.symlink_to(outside)
    out = _open(tmp_path / "box")
    assert out.done_bytes == 0
    out.write(PACKED)
    assert _tree(out.finish()) == FILES
    if damage == "link":
        assert (tmp_path / "outside").read_bytes() == b"x" * 1000


def test_a_link_in_the_way_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "box.cairn-part").mkdir()
    (tmp_path / "box.cairn-part/a").symlink_to(tmp_path / "outside")
    out = _open(tmp_path / "box")
    with pytest.raises(StoreError):
        out.write(PACKED)
    out.close()
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_in_an_existing_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "box").mkdir()
    (tmp_path / "box/a").symlink_to(tmp_path / "outside")
    out = _open(tmp_path / "box", force=True)
    out.write(PACKED)
    with pytest.raises(StoreError):
        out.finish()
    out.close()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_exists_is_kept_unless_told(tmp_path: Path, kind: str) -> None:
    target, outside = tmp_path / "box", tmp_path / "outside"
    outside.mkdir()
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "link":
        target.symlink_to(outside)
    else:
        target.mkdir()
        (target / "mine").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        _open(target)
    out = _open(target, force=True)
    out.write(PACKED)
    out.finish()
    assert _tree(target) == ({**FILES, "mine": b"mine"} if kind == "folder" else FILES)
    assert not target.is_symlink()
    assert list(outside.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"box", "outside"}


def test_a_name_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = _open(tmp_path / "box")
    out.write(PACKED)
    (tmp_path / "box").mkdir()
    with pytest.raises(OutputExistsError):
        out.finish()
    out.close()
    assert list((tmp_path / "box").iterdir()) == []


def test_an_empty_folder_and_two_gets_of_one(tmp_path: Path) -> None:
    out = TreeOutput(tmp_path / "box", (), identity=IDENTITY)
    with pytest.raises(UsageError, match="fetched already"):
        _open(tmp_path / "box")
    assert _tree(out.finish()) == {}
