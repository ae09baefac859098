"""Transfers that something stops: each ends in one line, with the right code, and goes on when said again."""

from __future__ import annotations

import filecmp
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.errors import StoreFullError, TransferInterruptedError
from node.units import MIB
from tests.patience import PATIENCE_S
from tests.swarm.command_line import cairn, cairn_json, command, environment, error_of
from tests.swarm.processes import write_random

pytestmark = pytest.mark.swarm

FILE_BYTES = 24_000_000
RATE = "4MiB/s"
"""What the reader takes: slow enough to be stopped on the way."""


@dataclass(frozen=True)
class Scene:
    """Three donors, each of whom has enough of a file, and a slow reader."""

    swarm: LocalSwarm
    donors: list[NodeProcess]
    reader: NodeProcess
    source: Path
    link: str

    def revive(self) -> None:
        """Start again whoever is dead."""
        for node in (*self.donors, self.reader):
            if not node.is_running:
                again = NodeProcess(node.folder, node.arguments)
                node.process, node.ready = again.process, again.wait_ready().ready
        self.swarm.wait_known(self.reader, len(self.donors))

    def get_until_half(self, output: Path, stop: Any) -> dict[str, Any]:
        """A get that calls `stop` once when half of the file has come."""
        once = threading.Event()

        def on_progress(progress: dict[str, Any]) -> None:
            if progress.get("done_bytes", 0) >= FILE_BYTES // 2 and not once.is_set():
                once.set()
                stop()

        return self.reader.call_with_progress("get", on_progress, link=self.link, output=str(output))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with LocalSwarm(tmp_path_factory.mktemp("interruptions")) as swarm:
        (first,) = swarm.start(donate="256MB")
        donors = [first, *swarm.start(2, donate="256MB", bootstrap=[first])]
        limit = ["--set", f"network.download_rate={RATE}"]
        reader = swarm.spawn(bootstrap=[first], arguments=limit).wait_ready()
        swarm.wait_known(reader, 3)
        source = write_random(swarm.folder / "film", FILE_BYTES)
        put = reader.call("put", path=str(source), code="2/6")
        assert put["holders"] == 3
        yield Scene(swarm, donors, reader, source, put["link"])


@pytest.fixture
def scene(stage: Scene) -> Scene:
    stage.revive()
    return stage


def test_ctrl_c_ends_a_get_and_the_same_command_fetches_the_rest(scene: Scene, tmp_path: Path) -> None:
    output, part = tmp_path / "got", tmp_path / "got.cairn-part"
    process = subprocess.Popen(
        command(scene.reader, "--json", "get", scene.link, "-o", str(output)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (part.exists() and part.stat().st_size > FILE_BYTES // 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_S)
    error = error_of(subprocess.CompletedProcess([], process.returncode, out, errors))
    assert (error["code"], "same command" in error["message"]) == (5, True)
    assert not output.exists()
    # The node may still be closing the partial file when the command has ended.
    while not (tmp_path / "got.cairn-resume").exists():
        time.sleep(0.01)
    got = cairn_json(scene.reader, "get", scene.link, "-o", str(output))
    assert got["fetched_bytes"] <= FILE_BYTES * 3 // 4 + 2 * MIB
    assert filecmp.cmp(scene.source, output, shallow=False)
    assert os.listdir(tmp_path) == ["got"]


def test_a_node_that_dies_in_a_get_is_said_and_goes_on_when_it_is_back(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(TransferInterruptedError, match="cairn run") as raised:
        scene.get_until_half(tmp_path / "got", scene.reader.ask_to_stop)
    assert raised.value.exit_code == 5
    scene.reader.process.wait(PATIENCE_S)  # a second signal would end it at once
    assert scene.reader.stop() == 0
    assert not (tmp_path / "got").exists()
    scene.revive()
    got = cairn_json(scene.reader, "get", scene.link, "-o", str(tmp_path / "got"))
    assert got["fetched_bytes"] < FILE_BYTES * 3 // 4
    assert filecmp.cmp(scene.source, tmp_path / "got", shallow=False)


def test_holders_that_die_in_a_get_are_replaced_by_others(scene: Scene, tmp_path: Path) -> None:
    def kill_two() -> None:
        for donor in scene.donors[1:]:
            donor.kill()

    got = scene.get_until_half(tmp_path / "got", kill_two)
    assert got["bytes"] == FILE_BYTES
    assert filecmp.cmp(scene.source, tmp_path / "got", shallow=False)


def test_a_full_disk_under_the_output_is_exit_10_and_the_get_goes_on_later(
    scene: Scene, tmp_path: Path
) -> None:
    process = scene.reader.process.pid
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (FILE_BYTES // 2, hard))
    try:
        error = error_of(cairn(scene.reader, "--json", "get", scene.link, "-o", str(tmp_path / "got")))
        assert (error["code"], error["kind"]) == (StoreFullError.exit_code, "store_full")
        assert not (tmp_path / "got").exists()
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, (hard, hard))
    got = cairn_json(scene.reader, "get", scene.link, "-o", str(tmp_path / "got"))
    assert got["fetched_bytes"] < FILE_BYTES * 3 // 4
    assert filecmp.cmp(scene.source, tmp_path / "got", shallow=False)


def test_a_full_disk_behind_stdout_is_one_line(scene: Scene) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(scene.reader, "get", scene.link, "-o", "-"),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 10
    assert done.stderr.count("\n") == 1
    assert "standard output is full" in done.stderr


def test_a_reader_of_stdout_that_has_enough_is_no_error_to_speak_of(scene: Scene) -> None:
    with subprocess.Popen(
        command(scene.reader, "get", scene.link, "-o", "-"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(10)
        process.stdout.close()
        assert (process.wait(PATIENCE_S), process.stderr.read()) == (5, b"")
    with scene.source.open("rb") as source:
        assert first == source.read(10)


def test_an_output_in_no_folder_is_refused_and_a_link_to_one_followed(scene: Scene, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    error = error_of(cairn(scene.reader, "--json", "get", scene.link, "-o", f"{missing}/"))
    assert (error["code"], error["kind"]) == (2, "usage")
    assert "no folder" in error["message"]
    assert os.listdir(tmp_path) == []
    (tmp_path / "folder").mkdir()
    missing.symlink_to("folder")
    got = cairn_json(scene.reader, "get", scene.link, "-o", f"{missing}/", "--range", "0-9")
    assert got["path"] == str(tmp_path / "folder" / scene.source.name)
