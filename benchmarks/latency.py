"""How soon a small file is stored, and how soon a node that never heard of it has it, on loopback."""

from __future__ import annotations

import argparse
import os
import statistics

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Nodes, running, seconds_of, write_random
from node.chunks.geometry import Code
from node.units import MIB


def measure(nodes: Nodes, code: Code, byte_count: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each put, and of each get of what was just put."""
    source, output = nodes.folder / "source", nodes.folder / "output"
    puts, gets = [], []
    for _ in range(rounds):
        write_random(source, byte_count)
        links: list[str] = []

        def put(links: list[str] = links) -> None:
            links.append(nodes.uploader.call("put", path=str(source), code=str(code))["link"])

        puts.append(seconds_of(put))
        link = links[0]
        gets.append(
            seconds_of(lambda link=link: nodes.reader.call("get", link=link, output=str(output)))  # type: ignore[misc]
        )
        output.unlink()
    return puts, gets


def main(arguments: list[str]) -> None:
    """Print median and worst of both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks latency", description=__doc__)
    parser.add_argument("--nodes", type=int, default=25, help="nodes in all, two of them give nothing")
    parser.add_argument("--bytes", type=int, default=10_000, help="size of the file")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--code", type=Code.parse, default=Code(10, 30))
    options = parser.parse_args(arguments)
    with running(options.nodes - 2, 256 * MIB) as nodes:
        puts, gets = measure(nodes, options.code, options.bytes, options.rounds)
    table = Table(
        title=f"{options.bytes} bytes at {options.code}, {options.nodes} nodes, {os.cpu_count()} cores, "
        f"{options.rounds} rounds"
    )
    for column in ("", "median ms", "worst ms"):
        table.add_column(column, justify="right" if column else "left")
    for name, seconds in (("put", puts), ("get", gets)):
        table.add_row(name, f"{statistics.median(seconds) * 1000:.0f}", f"{max(seconds) * 1000:.0f}")
    Console().print(table)
