"""The home folder: where it is, who may read it, where the socket goes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from node.daemon.home import SOCKET_PATH_BYTES_MAX, Home
from node.errors import ConfigError


def test_option_beats_environment_beats_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("CAIRN_HOME", raising=False)
    assert Home.locate(None).path == tmp_path / "data" / "cairn"
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "e"))
    assert Home.locate(None).path == tmp_path / "e"
    assert Home.locate(str(tmp_path / "o")).path == tmp_path / "o"
    monkeypatch.chdir(tmp_path)
    assert Home.locate("relative").path == tmp_path / "relative"


def test_the_folder_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    for name in ("open", "new/deep"):
        home = Home(tmp_path / name)
        home.make()
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="home folder"):
        Home(tmp_path / "file").make()


def long_home(tmp_path: Path) -> Home:
    home = Home(tmp_path / ("x" * SOCKET_PATH_BYTES_MAX))
    home.make()
    return home


def test_the_socket_moves_back_when_it_fits_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "h")
    home.make()
    (home.path / "control.path").write_text("/elsewhere/old.sock\n")
    assert home.place_socket() == home.path / "control.sock"
    assert home.socket_path() == home.path / "control.sock"


def test_long_homes_get_distinct_short_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    paths = set()
    for name in ("a", "b"):
        home = long_home(tmp_path / name)
        paths.add(home.place_socket())
        assert home.socket_path() in paths
    assert len(paths) == 2
    assert all(len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX for path in paths)
    assert stat.S_IMODE((runtime / "cairn").stat().st_mode) == 0o700


def test_a_runtime_folder_that_others_can_enter_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = tmp_path / "run"
    (runtime / "cairn").mkdir(parents=True)
    (runtime / "cairn").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert runtime not in long_home(tmp_path).place_socket().parents


def test_a_runtime_folder_that_is_a_link_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, target = tmp_path / "run", tmp_path / "target"
    runtime.mkdir()
    target.mkdir(mode=0o700)
    (runtime / "cairn").symlink_to(target)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert runtime not in long_home(tmp_path).place_socket().parents
