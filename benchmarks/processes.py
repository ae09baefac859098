"""Node processes for benchmarks: a swarm below one folder, and what its processes cost."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.units import MIB

_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Nodes:
    """One that puts and one that gets, which give nothing, and the donors."""

    folder: Path
    uploader: NodeProcess
    reader: NodeProcess
    donors: Sequence[NodeProcess]
    swarm: LocalSwarm

    def start(self, *settings: str) -> NodeProcess:
        """One more that gives nothing, with these settings."""
        words = [word for setting in settings for word in ("--set", setting)]
        node = self.swarm.spawn(bootstrap=self.donors[:1], arguments=words).wait_ready()
        self.swarm.wait_known(node, len(self.donors))
        return node


@contextmanager
def running(donors: int, cap_bytes: int) -> Iterator[Nodes]:
    """A swarm on loopback; it and its files go with the context."""
    with (
        tempfile.TemporaryDirectory(prefix="cairn-benchmark-") as name,
        LocalSwarm(Path(name) / "nodes") as swarm,
    ):
        cap = str(cap_bytes)
        (first,) = swarm.start(donate=cap)
        others = swarm.start(donors - 1, donate=cap, bootstrap=[first])
        uploader, reader = swarm.start(2, bootstrap=[first])
        for node in (uploader, reader):
            swarm.wait_known(node, donors)
        yield Nodes(Path(name), uploader, reader, (first, *others), swarm)


def cpu_seconds(nodes: Sequence[NodeProcess]) -> float:
    """User and system time of the processes since they started, added up."""
    total = 0
    for node in nodes:
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_S


def write_random(path: Path, byte_count: int) -> None:
    """A file that no compression makes smaller."""
    with path.open("wb") as file:
        for start in range(0, byte_count, MIB):
            file.write(os.urandom(min(MIB, byte_count - start)))


def seconds_of(act: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
