"""MB/s of put and get on a swarm of real nodes on this machine, and the CPU seconds of each side.

All nodes share the machine's cores, so a put's rate is bounded by what client and holders cost together; the
CPU seconds tell what a client alone, or a holder alone, would need. Beside them stands what copying the same
bytes costs here, so that figures of several machines compare.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import time
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Nodes, cpu_seconds, running, seconds_of, write_random
from node.chunks.geometry import Code
from node.units import MIB

MB = 1_000_000
_COPY_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Figures:
    """One transfer."""

    name: str
    seconds: float
    client_cpu_s: float
    holders_cpu_s: float


def measure(nodes: Nodes, code: Code, byte_count: int) -> list[Figures]:
    """Put a file, get it from another node, compare."""
    source, output = nodes.folder / "source", nodes.folder / "output"
    write_random(source, byte_count)
    links: list[str] = []
    figures = []
    for name, client, act in (
        ("put", nodes.uploader, lambda: links.append(_put(nodes, str(source), code))),
        ("get", nodes.reader, lambda: nodes.reader.call("get", link=links[0], output=str(output))),
    ):
        before = cpu_seconds([client]), cpu_seconds(nodes.donors)
        seconds = seconds_of(act)
        figures.append(
            Figures(name, seconds, cpu_seconds([client]) - before[0], cpu_seconds(nodes.donors) - before[1])
        )
    assert filecmp.cmp(source, output, shallow=False)
    return figures


def _put(nodes: Nodes, path: str, code: Code) -> str:
    return str(nodes.uploader.call("put", path=path, code=str(code))["link"])


def copy_bytes_s() -> float:
    """Bytes a second that one thread copies, the best of several rounds."""
    source, target = bytearray(os.urandom(MIB)) * (_COPY_BYTES // MIB), bytearray(_COPY_BYTES)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - began)
    return _COPY_BYTES / best


def main(arguments: list[str]) -> None:
    """Print one line a transfer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks swarm", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10, help="nodes in all, two of them give nothing")
    parser.add_argument("--mib", type=int, default=256, help="size of the file")
    parser.add_argument("--code", type=Code.parse, default=Code(10, 30))
    options = parser.parse_args(arguments)
    byte_count, code = options.mib * MIB, options.code
    donors = options.nodes - 2
    expansion = code.total_shards / code.data_shards
    copied = copy_bytes_s()
    table = Table(title=f"{options.mib} MiB at {code} on {donors} donors, {os.cpu_count()} cores")
    for column in ("", "MB/s", "of a copy", "client CPU s", "all holders CPU s", "CPU s a GB"):
        table.add_column(column, justify="right" if column else "left")
    with running(donors, int(64 * MIB + 2 * byte_count * expansion / donors)) as nodes:
        for each in measure(nodes, code, byte_count):
            rate = byte_count / each.seconds
            cpu_s = each.client_cpu_s + each.holders_cpu_s
            table.add_row(
                each.name,
                f"{rate / MB:.1f}",
                f"{rate / copied:.1%}",
                f"{each.client_cpu_s:.1f}",
                f"{each.holders_cpu_s:.1f}",
                f"{cpu_s / byte_count * 1e9:.1f}",
            )
    console = Console()
    console.print(table)
    console.print(f"a copy in memory, one thread: {copied / 1e9:.1f} GB/s")
