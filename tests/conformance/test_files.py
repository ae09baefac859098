"""What every `Files` promises: the real disk and the simulated one."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from node.errors import StoreError
from node.ports import Files
from node.system.disk import DiskFiles
from simulations.disk import FakeDisk

A = PurePath("folder/deep/a")


@pytest.fixture(params=["disk", "fake"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return DiskFiles(tmp_path / "home") if request.param == "disk" else FakeDisk()


def test_a_new_file_is_empty_and_keeps_what_is_written(files: Files) -> None:
    file = files.open(A, create=True)
    assert file.size() == 0
    file.write_at(0, b"hello")
    file.write_at(8, memoryview(b"world"))
    assert file.read_at(0, 100) == b"hello\0\0\0world"
    assert file.read_at(8, 3) == b"wor"
    assert file.read_at(100, 3) == b""
    file.sync()
    file.close()
    again = files.open(A)
    assert again.size() == 13
    again.close()


def test_truncate_cuts_and_extends_with_zeros(files: Files) -> None:
    file = files.open(A, create=True)
    file.write_at(0, b"abcdef")
    file.truncate(3)
    file.truncate(5)
    assert file.read_at(0, 10) == b"abc\0\0"
    file.close()


def test_a_closed_file_refuses_and_closes_again(files: Files) -> None:
    file = files.open(A, create=True)
    file.close()
    file.close()
    with pytest.raises(StoreError):
        file.read_at(0, 1)
    with pytest.raises(StoreError):
        file.write_at(0, b"x")


def test_opening_with_create_keeps_the_content(files: Files) -> None:
    files.replace(A, b"content")
    file = files.open(A, create=True)
    assert file.read_at(0, 10) == b"content"
    file.close()


def test_a_missing_file_is_an_error_to_open_and_none_to_read(files: Files) -> None:
    with pytest.raises(StoreError):
        files.open(A)
    assert files.read(A) is None
    files.delete(A)


def test_replace_sets_the_whole_content(files: Files) -> None:
    files.replace(A, b"first and long")
    files.replace(A, b"second")
    assert files.read(A) == b"second"


def test_rename_takes_the_place_of_what_was_there(files: Files) -> None:
    files.replace(A, b"new")
    files.replace(PurePath("b"), b"old")
    files.rename(A, PurePath("b"))
    assert files.read(A) is None
    assert files.read(PurePath("b")) == b"new"
    with pytest.raises(StoreError):
        files.rename(A, PurePath("c"))


def test_list_names_files_of_one_folder_in_order(files: Files) -> None:
    for name in ("f/b", "f/a", "f/g/c", "d"):
        files.replace(PurePath(name), b"")
    files.sync_folder(PurePath("f"))
    assert list(files.list(PurePath("f"))) == ["a", "b"]
    assert list(files.list(PurePath("nowhere"))) == []
    files.delete(PurePath("f/a"))
    assert list(files.list(PurePath("f"))) == ["b"]


def test_allocated_bytes_follow_what_is_written_and_deleted(files: Files) -> None:
    before = files.allocated_bytes()
    file = files.open(A, create=True)
    file.write_at(0, bytes(range(256)) * 4096)
    file.sync()
    file.close()
    assert files.allocated_bytes() - before >= 1 << 20
    files.delete(A)
    assert files.allocated_bytes() - before < 1 << 20
    assert files.free_bytes() > 0


@pytest.mark.parametrize("path", ["/etc/passwd", "../out", "a/../../out"])
def test_no_path_leaves_the_folder(files: Files, path: str) -> None:
    for action in (
        files.read,
        files.delete,
        lambda p: files.replace(p, b""),
        lambda p: files.open(p, create=True),
    ):
        with pytest.raises(StoreError):
            action(PurePath(path))
