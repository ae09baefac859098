"""Which folders can be mounted on, and what is said of those that can't."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.errors import UsageError
from node.mount.mount_point import checked_mount_point, mounted_type, unmount


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert checked_mount_point(str(tmp_path)) == (str(tmp_path), False)


def test_a_link_leads_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert checked_mount_point("link") == (str((tmp_path / "real").resolve()), False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "make it first"),
        ("file", "is not a folder"),
        ("file/below", "is not a folder"),
        ("full", "choose an empty folder"),
    ],
)
def test_what_will_not_do_is_said_with_what_to_do(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("x")
    with pytest.raises(UsageError, match=words):
        checked_mount_point(str(tmp_path / name))


def test_the_mount_table_tells_what_is_mounted_where(tmp_path: Path) -> None:
    assert mounted_type("/proc") == "proc"
    assert mounted_type(str(tmp_path)) is None
    assert unmount(str(tmp_path))  # nothing to do
    assert os.path.isdir("/proc/self")
