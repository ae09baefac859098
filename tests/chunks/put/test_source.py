"""Sources of a put: exact bytes at offsets, or an error; never through a link, never a changed file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.chunks.put.source import bytes_source, open_source
from node.errors import FileChangedError, UnsafeNameError, UsageError


def tree(root: Path) -> Path:
    folder = root / "photos"
    (folder / "a" / "deep").mkdir(parents=True)
    (folder / "a" / "one").write_bytes(b"1" * 10)
    (folder / "a" / "deep" / "two").write_bytes(b"")
    (folder / "b").write_bytes(bytes(range(100)))
    (folder / "b").chmod(0o755)
    (folder / "c").write_bytes(b"3")
    (folder / "empty").mkdir()
    return folder


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"0123456789")
    source = open_source(path)
    assert (source.name, source.size_bytes, source.media_type, source.folder) == (
        "film.mp4", 10, "video/mp4", None
    )  # fmt: skip
    assert source.reader.read(3, 4) == b"3456"
    source.reader.check_unchanged()
    with pytest.raises(FileChangedError):
        source.reader.read(5, 6)
    source.reader.close()
    source.reader.close()


def test_a_folder_is_one_stream_in_packing_order(tmp_path: Path) -> None:
    source = open_source(tree(tmp_path))
    assert source.folder is not None
    whole = b"".join((tmp_path / "photos" / e.path).read_bytes() for e in source.folder.entries)
    assert [e.path for e in source.folder.entries] == ["a/deep/two", "a/one", "b", "c"]
    assert [e.executable for e in source.folder.entries] == [False, False, True, False]
    assert source.size_bytes == len(whole) == 111

    @settings(max_examples=60)
    @given(st.integers(0, 111), st.integers(0, 111))
    def every_range(start: int, stop: int) -> None:
        if start <= stop:
            assert source.reader.read(start, stop - start) == whole[start:stop]

    every_range()
    source.reader.check_unchanged()
    source.reader.close()


def test_links_and_special_files_in_a_folder_are_skipped_with_a_note(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    source = open_source(folder)
    assert source.folder is not None
    assert len(source.folder.entries) == 4
    assert sorted(source.notes) == [
        "skipped the link link", "skipped the link loop", "skipped the special file pipe"
    ]  # fmt: skip


def test_a_file_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    (tmp_path / "other").write_bytes(bytes(range(100)))
    source = open_source(folder)
    (folder / "b").unlink()
    (folder / "b").symlink_to(tmp_path / "other")
    with pytest.raises(FileChangedError):
        source.reader.read(10, 100)
    with pytest.raises(FileChangedError):
        source.reader.check_unchanged()


@pytest.mark.parametrize("what", ["longer", "shorter", "touched", "replaced", "gone"])
def test_a_changed_file_is_noticed(what: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    source = open_source(path)
    before = source.fingerprint
    if what == "touched":
        os.utime(path, ns=(0, 12345))
    elif what in ("gone", "replaced"):
        path.rename(tmp_path / "old")
    if what in ("longer", "shorter", "replaced"):
        path.write_bytes(b"x" * {"longer": 101, "shorter": 99, "replaced": 100}[what])
    with pytest.raises(FileChangedError):
        source.reader.check_unchanged()
    if what != "gone":
        assert open_source(path).fingerprint != before


def test_what_can_not_be_put(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_source(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError):
        open_source(tmp_path / "pipe")
    (tmp_path / "good").write_text("")
    with pytest.raises(UnsafeNameError):
        open_source(tmp_path / "good", name="../up")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "evil\u202egpj.exe").write_text("")
    with pytest.raises(UnsafeNameError):
        open_source(folder)


def test_bytes_in_memory() -> None:
    source = bytes_source("index", b"0123")
    assert source.reader.read(1, 2) == b"12"
    source.reader.check_unchanged()
    source.reader.close()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads /proc")
def test_a_file_that_says_it_is_empty_and_is_not_is_refused() -> None:
    assert Path("/proc/cpuinfo").stat().st_size == 0
    with pytest.raises(UsageError, match="holds more than its length says"):
        open_source(Path("/proc/cpuinfo"))
