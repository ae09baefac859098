"""`cairn mount` as a process, and folders that are never left mounted, whatever a test does."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import pytest

from node.control.local_swarm import NodeProcess
from node.mount import fuse
from node.mount.mount_point import DEVICE, mounted_type, unmount
from tests.patience import PATIENCE_S, comes_true
from tests.swarm.command_line import command, environment

TRIAL_S = 30.0
_TRIAL = """
import sys, mfusepy
class Nothing(mfusepy.Operations):
    use_ns = True
mfusepy.FUSE(Nothing(), sys.argv[1], foreground=True, ro=True)
"""


def why_not() -> str:
    """Why this machine can't mount; empty if it can. A container may open the device, and yet not mount."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR))
        fuse.require_library()
    except Exception as error:
        return str(error)
    with TemporaryDirectory() as name, TemporaryFile() as errors:
        folder = os.path.realpath(name)
        trial = subprocess.Popen(
            [sys.executable, "-c", _TRIAL, folder], stdin=subprocess.DEVNULL, stdout=errors, stderr=errors
        )
        try:
            comes_true(lambda: mounted_type(folder) is not None or trial.poll() is not None, TRIAL_S)
            can = mounted_type(folder) is not None
        finally:
            unmount(folder)
            trial.kill()
            trial.wait()
        errors.seek(0)
        return "" if can else errors.readline().decode(errors="replace").strip() or "no mount appeared"


WHY_NOT = why_not()
needs_fuse = pytest.mark.skipif(bool(WHY_NOT), reason=f"this machine can't mount: {WHY_NOT}")


class MountProcess:
    """One `cairn mount`; `folder` is where its files are."""

    def __init__(self, node: NodeProcess, folder: Path, *words: str, text: str = "") -> None:
        self.folder = folder
        self.errors_path = folder.parent / f"{folder.name}.stderr"
        with self.errors_path.open("wb") as errors:
            self.process = subprocess.Popen(
                command(node, "--json", "mount", *words, str(folder)),
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A suite that a shell runs in the background ignores SIGINT, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.close()

    @property
    def errors(self) -> str:
        """What it said on stderr."""
        return self.errors_path.read_text()

    def document(self) -> dict[str, Any]:
        """The one document that it prints: when it is mounted, or can't be."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert readable
        document = json.loads(self.process.stdout.readline())
        assert isinstance(document, dict)
        return document

    def wait_mounted(self) -> MountProcess:
        """It has said that it is mounted, and it is."""
        document = self.document()
        assert document == {"mounted": str(self.folder)}, self.errors
        assert mounted_type(str(self.folder)) == "fuse.cairn"
        return self

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Its exit code once it ends by itself; it prints nothing more."""
        assert self.process.stdout is not None
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout.read() == b""
        return code

    def clean_up(self) -> None:
        """Whatever has happened: no process and no mount is left."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        while mounted_type(str(self.folder)) is not None:
            if not unmount(str(self.folder)):
                break
        assert mounted_type(str(self.folder)) is None


@contextmanager
def mounting(node: NodeProcess, folder: Path, *words: str, text: str = "") -> Iterator[MountProcess]:
    """A mount for the length of the context; `words` are those before the folder."""
    with suppress(FileExistsError, OSError):
        folder.mkdir()
    process = MountProcess(node, folder, *words, text=text)
    try:
        yield process
    finally:
        process.clean_up()


@contextmanager
def mounted(node: NodeProcess, folder: Path, *words: str, text: str = "") -> Iterator[MountProcess]:
    """The same, once it is mounted."""
    with mounting(node, folder, *words, text=text) as process:
        yield process.wait_mounted()


def lists(folder: Path, names: set[str]) -> bool:
    """Whether a folder comes to have exactly these names."""
    return comes_true(lambda: set(os.listdir(folder)) == names)
