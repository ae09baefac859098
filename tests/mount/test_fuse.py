"""The adapter to the kernel, with the kernel: what other programs see of files that are in memory."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.chunks.folder import FolderIndex
from node.errors import NotEnoughShardsError, WrongPassphraseError
from node.mount import fuse
from node.mount.content import Contents, Patience
from node.mount.files import MountedFiles
from node.mount.mount_point import checked_mount_point, mounted_type, unmount
from node.mount.volumes import LinkRoot, Volume
from tests.mount.memory_source import MemorySource
from tests.patience import PATIENCE_S
from tests.swarm.mounting import needs_fuse

pytestmark = needs_fuse

DATA = random.Random(3).randbytes(1_000_003)


class Kernel:
    """Mounts what a source has, in this process; other processes look at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.source = MemorySource({"file": DATA})
        self.contents = Contents(
            self.source, time.monotonic, patience=Patience(wait_s=PATIENCE_S, failed_s=0.0, poll_s=0.02)
        )
        self._thread: threading.Thread | None = None

    def mount(self, link: str = "file") -> None:
        files = MountedFiles(LinkRoot(Volume.open(self.source, link, modified_s=1_000)), self.contents)
        ready = threading.Event()

        def serve() -> None:
            owner = fuse.Owner(os.geteuid(), os.getegid())
            fuse.serve(
                files,
                str(self.folder),
                owner=owner,
                allow_other=False,
                on_mounted=ready.set,
                note=self.notes.append,
            )

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE_S)

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """A program that looks, in the mounted folder."""
        return subprocess.run(words, cwd=self.folder, capture_output=True, timeout=PATIENCE_S, check=False)

    def end(self) -> None:
        self.source.may_send.set()
        self.contents.stop()
        assert unmount(str(self.folder))
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    (tmp_path / "m").mkdir()
    made = Kernel(tmp_path / "m")
    yield made
    made.end()


def test_bytes_and_attributes(kernel: Kernel) -> None:
    kernel.mount()
    assert kernel.run("cat", "name of file").stdout == DATA
    assert (
        kernel.run("stat", "-c", "%s %a %F %Y", "name of file").stdout == b"1000003 444 regular file 1000\n"
    )
    assert kernel.run("stat", "-c", "%a %F", ".").stdout == b"555 directory\n"
    assert kernel.run("ls", "-a").stdout.split(b"\n") == [b".", b"..", b"name of file", b""]
    assert kernel.run("cat", "nothing").returncode == 1
    assert mounted_type(str(kernel.folder)) == "fuse.cairn"


def test_a_hundred_thousand_names_are_listed_and_found(kernel: Kernel) -> None:
    paths = [f"big/{number:06}.txt" for number in range(99_999)]
    index = FolderIndex.plan([*((path, 0, False) for path in paths), ("small/x", 3, False)])
    kernel.source.files["tree"] = b"xyz"
    kernel.source.folders["tree"] = index.encode()
    kernel.mount("tree")
    listed = kernel.run("ls", "-f", "big").stdout.split()
    assert len(listed) == 100_001
    assert set(listed) > {b".", b"..", b"000000.txt", b"099998.txt"}
    assert kernel.run("stat", "-c", "%s", "big/077777.txt").stdout == b"0\n"
    assert kernel.run("cat", "small/x").stdout == b"xyz"


@pytest.mark.parametrize(
    ("failure", "number"),
    [(NotEnoughShardsError("segment 0: 3 of 10"), errno.EIO), (WrongPassphraseError("no"), errno.EACCES)],
)
def test_a_failure_is_a_number_for_the_program_and_a_line_for_the_person(
    kernel: Kernel, failure: NotEnoughShardsError | WrongPassphraseError, number: int
) -> None:
    kernel.mount()
    kernel.source.failure = failure
    failed = kernel.run("cat", "name of file")
    assert failed.returncode == 1
    assert os.strerror(number).encode() in failed.stderr
    assert kernel.notes == [f"name of file: {failure}"]
    kernel.source.failure = None
    assert kernel.run("cat", "name of file").stdout == DATA


def test_a_program_that_waits_for_the_network_can_be_killed(kernel: Kernel) -> None:
    kernel.mount()
    kernel.source.may_send.clear()
    reader = subprocess.Popen(["cat", kernel.folder / "name of file"], stdout=subprocess.DEVNULL)
    while not kernel.source.open_streams:
        time.sleep(0.01)
    reader.kill()
    assert reader.wait(PATIENCE_S) == -9
    kernel.source.may_send.set()
    assert kernel.run("cat", "name of file").stdout == DATA


def test_a_bug_is_one_failed_call(kernel: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    kernel.mount()
    broken: Callable[..., bytes] = lambda *_: b"".join([None])  # type: ignore[list-item]  # noqa: E731
    right, kernel.contents.read = kernel.contents.read, broken  # type: ignore[method-assign]
    failed = kernel.run("cat", "name of file")
    assert (failed.returncode, b"Input/output error" in failed.stderr) == (1, True)
    assert "internal error in read" in caplog.text
    kernel.contents.read = right  # type: ignore[method-assign]
    assert kernel.run("cat", "name of file").stdout == DATA


def test_a_folder_that_is_mounted_on_is_refused(kernel: Kernel) -> None:
    kernel.mount()
    with pytest.raises(Exception, match="has a mount of cairn already"):
        checked_mount_point(str(kernel.folder))
