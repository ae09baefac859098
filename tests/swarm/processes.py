"""What a running node is seen to do from outside: its memory, its files, its counters."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from node.control.local_swarm import NodeProcess
from tests.process_memory import memory

FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
"""Whether the large numbers were asked for."""

_READ_BYTES = 4 * 1024 * 1024


def write_random(path: Path, byte_count: int, seed: int | str = 0) -> Path:
    """A file of that many bytes that no compression makes smaller; memory is bounded."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, byte_count, _READ_BYTES):
            file.write(source.randbytes(min(_READ_BYTES, byte_count - start)))
    return path


def resident_bytes(node: NodeProcess) -> int:
    """Memory that the process has now."""
    return memory(node.process.pid, "VmRSS")


def peak_resident_bytes(node: NodeProcess) -> int:
    """The most memory that the process ever had."""
    return memory(node.process.pid, "VmHWM")


def found_in_memory(node: NodeProcess, needles: Sequence[bytes]) -> set[bytes]:
    """Those needles that stand in any readable page of the process, shared and file-backed ones included."""
    found: set[bytes] = set()
    process = Path("/proc") / str(node.process.pid)
    with (process / "mem").open("rb", buffering=0) as pages:
        for start, end in _readable(process):
            found |= _search(_pieces(pages.fileno(), start, end), needles)
    return found


def found_in_home(node: NodeProcess, needles: Sequence[bytes]) -> set[bytes]:
    """Those needles that stand in any file below the node's home, or in a file's name."""
    found: set[bytes] = set()
    for path in node.home.path.rglob("*"):
        found |= {needle for needle in needles if needle in os.fsencode(path.name)}
        if path.is_file():
            with path.open("rb") as file:
                found |= _search(_pieces(file.fileno(), 0, path.stat().st_size), needles)
    return found


def flip_in_packs(home: Path, *, every_bytes: int) -> None:
    """Flip a bit every so often in all packs, below a store that knows nothing of it."""
    for path in (home / "packs").iterdir():
        with path.open("r+b") as file:
            for offset in range(every_bytes // 2, path.stat().st_size, every_bytes):
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1]))


def _readable(process: Path) -> Iterator[tuple[int, int]]:
    for line in (process / "maps").read_text().splitlines():
        addresses, mode, *rest = line.split()
        if mode.startswith("r") and rest[-1] not in ("[vvar]", "[vvar_vclock]", "[vsyscall]"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end


def _pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end`; stops at what can't be read: a page unmapped since, or behind a file's end."""
    while start < end:
        try:
            piece = os.pread(descriptor, min(_READ_BYTES, end - start), start)
        except OSError:
            return
        if not piece:
            return
        yield piece
        start += len(piece)


def _search(pieces: Iterator[bytes], needles: Sequence[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    overlap = max(map(len, needles)) - 1
    tail = b""
    for piece in pieces:
        window = tail + piece
        found |= {needle for needle in needles if needle in window}
        tail = window[-overlap:]
    return found
