"""The home folder: what lies where, and how commands find the daemon's socket. Layer 5.

Invariants: the folder is ours alone (0700); the socket's path fits the 108 bytes that the kernel allows, so a
longer one moves to the runtime folder and is named in the home. Imports nothing heavy: every command uses
this module. Source: design.md, section 7.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from node.errors import ConfigError

SOCKET_PATH_BYTES_MAX = 100
HOME_VARIABLE = "CAIRN_HOME"


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one node's folder."""

    path: Path

    @classmethod
    def locate(cls, option: str | None) -> Home:
        """The folder of `--home`, else of CAIRN_HOME, else the platform's data folder."""
        named = option or os.environ.get(HOME_VARIABLE)
        if named:
            return cls(Path(named).expanduser().absolute())
        from platformdirs import user_data_path  # here: it costs 20 ms that most commands need not pay

        return cls(user_data_path("cairn"))

    @property
    def config_path(self) -> Path:
        """The settings."""
        return self.path / "config.toml"

    @property
    def log_path(self) -> Path:
        """The daemon's log; one older file of the same size limit stands beside it."""
        return self.path / "cairn.log"

    @property
    def _socket_note_path(self) -> Path:
        return self.path / "control.path"

    def make(self) -> None:
        """Create the folder, mode 0700. Raises `ConfigError`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"can't use {self.path} as the home folder: {error.strerror}") from error

    def socket_path(self) -> Path:
        """Where a command finds the daemon."""
        try:
            return Path(self._socket_note_path.read_text().strip())
        except (OSError, UnicodeDecodeError):
            return self.path / "control.sock"

    def place_socket(self) -> Path:
        """Where the daemon puts its socket; notes the place in the home when it is elsewhere.

        Raises `ConfigError` when the runtime folder isn't ours alone.
        """
        path = self.path / "control.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            self._socket_note_path.unlink(missing_ok=True)
            return path
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        path = _runtime_folder() / f"{name}.sock"
        self._socket_note_path.write_text(f"{path}\n")
        return path


def _runtime_folder() -> Path:
    """A short folder, 0700 and ours: a stranger who owned it could pose as the daemon."""
    folders = [Path(f"/tmp/cairn-{os.getuid()}")]  # noqa: S108  # checked below before use
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(os.fsencode(runtime)) <= SOCKET_PATH_BYTES_MAX - 32:
        folders.insert(0, Path(runtime) / "cairn")
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return folder
    raise ConfigError(
        f"{folders[-1]} isn't a folder of yours alone: use a shorter --home, or set XDG_RUNTIME_DIR"
    )
