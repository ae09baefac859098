"""MB/s into and out of a donor's store, beside a bare append log; and how long a start takes.

The bare log is what the disk gives: 64 KiB writes to one file, synced every 32. A put adds hashing, a commit
record, one sync and one index commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePath

from rich.console import Console
from rich.table import Table

from node.chunks.store.shard_store import PutShard, ShardStore, StoredLease
from node.limits import BLOCK_BYTES, SEGMENT_STRIPES
from node.system.disk import DiskFiles
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from node.units import LeaseId, SegmentId

CAP_BYTES = 8 << 30
MEGABYTE = 10**6


@contextmanager
def opened(home: Path) -> Iterator[ShardStore]:
    """The store in `home`."""
    tables = LmdbStore(home / "index")
    store = ShardStore(DiskFiles(home), tables, SystemEntropy(), cap_bytes=CAP_BYTES)
    try:
        yield store
    finally:
        store.close()
        tables.close()


def put(store: ShardStore, number: int, block: bytes, *, block_count: int, batch: int) -> None:
    """One shard of one segment."""
    reservation = store.reserve(len(block) * block_count, block_count=block_count)
    incoming = store.begin_put(reservation, 1)
    for start in range(0, block_count, batch):
        incoming.append(0, [(index, block) for index in range(start, min(start + batch, block_count))])
    lease = StoredLease(LeaseId(os.urandom(16)), bytes(480), 2**33, bytes(32))
    incoming.commit(SegmentId(number.to_bytes(32, "big")), bytes(3_000), [PutShard(0, 0, lease)])


def bare_log(home: Path, byte_count: int) -> float:
    """Seconds for a plain file of that many bytes."""
    block = os.urandom(BLOCK_BYTES)
    file = DiskFiles(home).open(PurePath("log"), create=True)
    start = time.perf_counter()
    for index in range(byte_count // BLOCK_BYTES):
        file.write_at(index * BLOCK_BYTES, block)
        if index % 32 == 31:
            file.sync()
    file.sync()
    elapsed = time.perf_counter() - start
    file.close()
    (home / "log").unlink()
    return elapsed


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def measure(home: Path, shard_count: int, small_count: int) -> Iterator[tuple[str, str]]:
    """Lines of the table."""
    shard_bytes = BLOCK_BYTES * SEGMENT_STRIPES
    total = shard_count * shard_bytes
    block = os.urandom(BLOCK_BYTES)

    def rate(elapsed: float) -> str:
        return f"{total / elapsed / MEGABYTE:.0f} MB/s"

    yield "bare append log", rate(bare_log(home, total))
    for threads, batch in ((1, 1), (1, 16), (2, 16)):
        folder = home / f"{threads}-{batch}"
        with opened(folder) as store, ThreadPoolExecutor(threads) as pool:

            def one(number: int, store: ShardStore = store, batch: int = batch) -> None:
                put(store, number, block, block_count=SEGMENT_STRIPES, batch=batch)

            elapsed = seconds(lambda pool=pool, one=one: list(pool.map(one, range(shard_count))))  # type: ignore[misc]
            yield f"put, {threads} thread(s), {batch} block(s) a batch", rate(elapsed)
    with opened(folder) as store:

        def read() -> None:
            for number in range(shard_count):
                for index in range(SEGMENT_STRIPES):
                    store.read_block(SegmentId(number.to_bytes(32, "big")), 0, index)

        yield "read_block, from the system's cache", rate(seconds(read))
    yield "start, that many shards", f"{1000 * seconds(lambda: start(folder)):.0f} ms"
    shutil.rmtree(folder / "index")
    yield "rebuild of a lost index", rate(seconds(lambda: start(folder)))
    small = home / "small"
    with opened(small) as store, ThreadPoolExecutor(8) as pool:
        elapsed = seconds(
            lambda: list(
                pool.map(lambda n: put(store, n, bytes(64), block_count=1, batch=1), range(small_count))
            )
        )
        yield "puts of one 64-byte block, 8 threads", f"{small_count / elapsed:.0f}/s"
    yield f"start with {small_count} shards", f"{1000 * seconds(lambda: start(small)):.0f} ms"


def start(home: Path) -> None:
    """Open and close."""
    with opened(home):
        pass


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks store")
    parser.add_argument("--shards", type=int, default=100, help="shards of 4.2 MB for each line")
    parser.add_argument("--small", type=int, default=5000, help="shards of 64 bytes")
    options = parser.parse_args(arguments)
    table = Table("store", "measured")
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in measure(Path(folder), options.shards, options.small):
            table.add_row(name, figure)
    Console().print(table)
