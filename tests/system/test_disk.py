"""What only the real disk has: modes, links, leftovers, the lock of a home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePath

import pytest

from node.errors import StoreError, StoreInUseError
from node.system.disk import DiskFiles, HomeLock


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_files_and_folders_belong_to_their_user_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        files = DiskFiles(tmp_path / "home")
        files.open(PurePath("packs/a"), create=True).close()
        files.replace(PurePath("b"), b"")
    finally:
        os.umask(old)
    assert mode_of(tmp_path / "home") == 0o700
    assert mode_of(tmp_path / "home/packs") == 0o700
    assert mode_of(tmp_path / "home/packs/a") == 0o600
    assert mode_of(tmp_path / "home/b") == 0o600


def test_a_symbolic_link_is_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    files = DiskFiles(tmp_path / "home")
    (tmp_path / "home/link").symlink_to(outside)
    with pytest.raises(StoreError):
        files.open(PurePath("link"), create=True)
    with pytest.raises(StoreError):
        files.read(PurePath("link"))
    assert list(files.list(PurePath())) == []
    files.replace(PurePath("link"), b"new")
    assert outside.read_bytes() == b"secret"
    assert not (tmp_path / "home/link").is_symlink()


def test_what_a_crash_left_of_a_replace_is_hidden_and_taken_over(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    (tmp_path / ".name.tmp").write_bytes(b"half")
    assert list(files.list(PurePath())) == []
    files.replace(PurePath("name"), b"whole")
    assert files.read(PurePath("name")) == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["name"]


def test_a_failed_replace_leaves_the_old_content(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        files.replace(PurePath("folder"), b"x")  # a folder stands there
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_allocated_bytes_count_blocks_not_lengths(tmp_path: Path) -> None:
    files = DiskFiles(tmp_path)
    before = files.allocated_bytes()
    file = files.open(PurePath("sparse"), create=True)
    file.truncate(1 << 30)
    assert files.allocated_bytes() - before < 1 << 20
    file.close()


def test_one_process_holds_a_home(tmp_path: Path) -> None:
    with HomeLock(tmp_path) as lock:
        with pytest.raises(StoreInUseError, match="another cairn process") as caught:
            HomeLock(tmp_path)
        assert caught.value.exit_code == 11
        imports = "from pathlib import Path; from node.system.disk import HomeLock;"
        probe = f"{imports} HomeLock(Path({str(tmp_path)!r}))"
        other = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
        assert "StoreInUseError" in other.stderr
        lock.release()
        lock.release()
        HomeLock(tmp_path).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from node.system.disk import HomeLock;"
        f"lock = HomeLock(Path({str(tmp_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(StoreInUseError):
            HomeLock(tmp_path)
        child.kill()
        child.wait()
    HomeLock(tmp_path).release()
