"""Reading through `cairn mount` beside `cairn get`: the same file, from the same nodes, in one run.

Each round gets the file, mounts it afresh and reads it from beginning to end; then a fresh mount answers
single reads of 4 KiB, each far from the last. Their cost is that of one stripe; what `get --range` takes for
the same bytes stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Nodes, cpu_seconds, running, seconds_of, write_random
from node.chunks.geometry import Code
from node.mount.mount_point import unmount
from node.units import MIB

MB = 1_000_000
_PIECE_BYTES: Final = MIB
_RANDOM_BYTES: Final = 4096


class Mount:
    """A `cairn mount` of one file, and what it costs."""

    def __init__(self, nodes: Nodes, link: str) -> None:
        self.folder = nodes.folder / "mounted"
        self.folder.mkdir(exist_ok=True)
        words = ["--home", str(nodes.reader.home.path), "--json", "mount", link, str(self.folder)]
        self.process = subprocess.Popen([sys.executable, "-m", "cli", *words], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert "mounted" in json.loads(self.process.stdout.readline())

    @property
    def path(self) -> Path:
        """The file."""
        return next(self.folder.iterdir())

    def cpu_s(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """Unmount; the process ends by that."""
        unmount(str(self.folder))
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def mounted(nodes: Nodes, link: str) -> Iterator[Mount]:
    """A fresh mount, whose caches are empty."""
    mount = Mount(nodes, link)
    try:
        yield mount
    finally:
        mount.end()


def read_whole(path: Path) -> int:
    """Read a file once, in pieces; its length."""
    count = 0
    buffer = bytearray(_PIECE_BYTES)
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            count += got
    return count


def main(arguments: list[str]) -> None:
    """Print rates, their ratio and CPU seconds, then milliseconds of single reads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mount", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10, help="nodes in all, two of them give nothing")
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--code", type=Code.parse, default=Code(10, 30))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reads", type=int, default=40, help="single reads of 4 KiB")
    options = parser.parse_args(arguments)
    byte_count, donors = options.mib * MIB, options.nodes - 2
    expansion = options.code.total_shards / options.code.data_shards
    with running(donors, int(64 * MIB + 2 * byte_count * expansion / donors)) as nodes:
        source, output = nodes.folder / "source", nodes.folder / "output"
        write_random(source, byte_count)
        link = str(nodes.uploader.call("put", path=str(source), code=str(options.code))["link"])
        table = Table(title=f"{options.mib} MiB at {options.code} on {donors} donors, {os.cpu_count()} cores")
        for column in (
            "round",
            "get MB/s",
            "mount MB/s",
            "ratio",
            "get CPU s",
            "mount CPU s",
            "of the mount",
        ):
            table.add_column(column, justify="right")
        ratios = []
        for number in range(options.rounds):
            output.unlink(missing_ok=True)
            before = cpu_seconds([nodes.reader])
            got_s = seconds_of(lambda: nodes.reader.call("get", link=link, output=str(output)))
            between = cpu_seconds([nodes.reader])
            with mounted(nodes, link) as mount:
                path, began_cpu_s = mount.path, mount.cpu_s()
                began = time.perf_counter()
                assert read_whole(path) == byte_count
                read_s = time.perf_counter() - began
                own_cpu_s = mount.cpu_s() - began_cpu_s
            ratios.append(got_s / read_s)
            table.add_row(
                str(number + 1),
                f"{byte_count / got_s / MB:.1f}",
                f"{byte_count / read_s / MB:.1f}",
                f"{ratios[-1]:.2f}",
                f"{between - before:.1f}",
                f"{cpu_seconds([nodes.reader]) - between + own_cpu_s:.1f}",
                f"{own_cpu_s:.1f}",
            )
        single, ranged = _single_reads(nodes, link, options.code, byte_count, options.reads)
    console = Console()
    console.print(table)
    console.print(f"mount reads at {median(ratios):.2f} of the rate of get")
    console.print(
        f"{_RANDOM_BYTES} bytes anywhere: {median(single) * 1000:.1f} ms through the mount, "
        f"{median(ranged) * 1000:.1f} ms as get --range (medians of {len(single)})"
    )


def _single_reads(
    nodes: Nodes, link: str, code: Code, byte_count: int, reads: int
) -> tuple[list[float], list[float]]:
    """Seconds of reads of 4 KiB, each in a stripe of its own: through a mount, and by `get`."""
    stripes = byte_count // code.stripe_plaintext_bytes
    chosen = random.Random(1).sample(range(stripes), min(reads, stripes))
    starts = [stripe * code.stripe_plaintext_bytes + 100 for stripe in chosen]
    single, ranged = [], []
    with mounted(nodes, link) as mount:
        descriptor = os.open(mount.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for start in starts:
            single.append(seconds_of(lambda start=start: os.pread(descriptor, _RANDOM_BYTES, start)))  # type: ignore[misc]
        os.close(descriptor)
    output = str(nodes.folder / "range")
    for start in starts:
        request = {"link": link, "output": output, "force": True, "first": start}
        request["last"] = start + _RANDOM_BYTES - 1
        ranged.append(seconds_of(lambda request=request: nodes.reader.call("get", **request)))  # type: ignore[misc]
    return single, ranged
