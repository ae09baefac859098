"""What serving receipts cost a download: the same file got with and without them, in turns, in one run.

One reader signs for what it is served, the other has `credit.receipts` off; everything else is the same. They
take turns, each first as often as second, so what else the machine does falls on both. Wall time tells on an
idle machine only; the CPU seconds of reader and donors together tell on a busy one too.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Nodes, cpu_seconds, running, seconds_of, write_random
from node.chunks.geometry import Code
from node.control.local_swarm import NodeProcess
from node.units import MIB

BOUND: Final = 1.03
"""credit.md and the project's aim: never slower by more than 3 %."""


@dataclass(slots=True)
class Turns:
    """What one reader's gets took, one after another."""

    reader: NodeProcess
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def get(self, nodes: Nodes, link: str) -> None:
        """One more."""
        output = nodes.folder / f"output {id(self)} {len(self.seconds)}"
        processes = [self.reader, *nodes.donors]
        before = cpu_seconds(processes)
        self.seconds.append(seconds_of(lambda: self.reader.call("get", link=link, output=str(output))))
        self.cpu_s.append(cpu_seconds(processes) - before)
        output.unlink()


def measure(nodes: Nodes, code: Code, byte_count: int, rounds: int) -> tuple[Turns, Turns]:
    """With receipts, and without."""
    source = nodes.folder / "source"
    write_random(source, byte_count)
    link = str(nodes.uploader.call("put", path=str(source), code=str(code))["link"])
    with_receipts, without = Turns(nodes.reader), Turns(nodes.start("credit.receipts=off"))
    for turns in (with_receipts, without):  # both know the holders, and are connected
        turns.get(nodes, link)
        turns.seconds.clear()
        turns.cpu_s.clear()
    for number in range(rounds):
        order = (with_receipts, without) if number % 2 else (without, with_receipts)
        for turns in order:
            turns.get(nodes, link)
    return with_receipts, without


def main(arguments: list[str]) -> None:
    """Print both, and the ratio of their medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks receipts", description=__doc__)
    parser.add_argument("--donors", type=int, default=6)
    parser.add_argument("--mib", type=int, default=128, help="size of the file")
    parser.add_argument("--rounds", type=int, default=16, help="gets of each reader")
    parser.add_argument("--code", type=Code.parse, default=Code(10, 30))
    options = parser.parse_args(arguments)
    byte_count, code = options.mib * MIB, options.code
    expansion = code.total_shards / code.data_shards
    with running(options.donors, int(64 * MIB + 2 * byte_count * expansion / options.donors)) as nodes:
        with_receipts, without = measure(nodes, code, byte_count, options.rounds)
    table = Table(
        title=f"get of {options.mib} MiB at {code} from {options.donors} donors, {options.rounds} each"
    )
    for column in ("", "receipts", "none", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for name, one, other in (
        ("seconds, median", with_receipts.seconds, without.seconds),
        ("CPU s, median", with_receipts.cpu_s, without.cpu_s),
    ):
        on, off = statistics.median(one), statistics.median(other)
        table.add_row(name, f"{on:.3f}", f"{off:.3f}", f"{on / off:.3f}")
    console = Console()
    console.print(table)
    console.print(f"the bound is {BOUND:.2f}")
