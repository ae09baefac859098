"""A real process that stores shards on the real disk is killed with SIGKILL, again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from node.chunks.store.shard_store import ShardStore
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from tests.chunks.store_world import block, blocks, lease, manifest, segment

FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
ROUNDS = 40 if FULL else 6
CAP_BYTES = 64_000_000

# Puts, ends and compacts, and says so on stdout only when the store has acknowledged it.
CHILD = f"""
import sys
from pathlib import Path
from node.chunks.store.shard_store import ShardStore
from node.errors import StoreFullError
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from tests.chunks.store_world import begin, lease, put

home, first = Path(sys.argv[1]), int(sys.argv[2])
with HomeLock(home):
    tables = LmdbStore(home / "index")
    store = ShardStore(DiskFiles(home), tables, SystemEntropy(), cap_bytes={CAP_BYTES})
    held = [int.from_bytes(l.lease.lease_id, "big") for s in store.segments() for l in store.leases(s)]
    print("open", 0, flush=True)
    for number in range(first, first + 10_000):
        try:
            put(store, number, {{0: lease(number)}})
        except StoreFullError:
            pass
        else:
            held.append(number)
            print("put", number, flush=True)
        if number % 2 or len(held) > 100:
            victim = held.pop(number % len(held))
            print("ending", victim, flush=True)
            store.end_lease(lease(victim).lease_id)
            print("ended", victim, flush=True)
        store.compact(300_000)
"""


def run_until_killed(home: Path, first: int, line_count: int) -> list[tuple[str, int]]:
    """What the child said before it was killed, after so many lines."""
    said: list[tuple[str, int]] = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), str(first)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            word, number = line.split()
            said.append((word, int(number)))
            if len(said) >= line_count:
                child.send_signal(signal.SIGKILL)
                break
        rest = child.stdout.read().splitlines(keepends=True)
        said += [(line.split()[0], int(line.split()[1])) for line in rest if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    return said


@pytest.mark.parametrize("loses_index", [False, True])
def test_every_acknowledged_shard_survives_kill_9(tmp_path: Path, loses_index: bool) -> None:
    home = tmp_path / "home"
    source = random.Random(2)
    held: set[int] = set()
    unsure: set[int] = set()
    first = 0
    for _ in range(ROUNDS):
        said = run_until_killed(home, first, source.randrange(5, 60))
        assert said[0] == ("open", 0)
        for word, number in said:
            if word == "put":
                held.add(number)
            elif word == "ending":
                held.discard(number)
                unsure.add(number)
            elif word == "ended":
                unsure.discard(number)
            first = max(first, number + 2)
        unsure.update(range(first - 2, first))  # the put that was cut short
        if loses_index:
            shutil.rmtree(home / "index")
        with HomeLock(home):
            files = DiskFiles(home)
            tables = LmdbStore(home / "index")
            store = ShardStore(files, tables, SystemEntropy(), cap_bytes=CAP_BYTES)
            found = {number for number in range(first + 2) if store.has_shard(segment(number), 0)}
            assert held <= found
            assert found <= held | unsure
            for number in found:
                assert store.segment_manifest(segment(number)) == manifest(number)
                for index, data in blocks(number, 0):
                    assert store.read_block(segment(number), 0, index) == data
                assert [held_lease.lease for held_lease in store.leases(segment(number))] == [lease(number)]
            assert files.allocated_bytes() <= CAP_BYTES
            held, unsure = found, set()
            store.close()
            tables.close()
    assert len(held) > 3
    assert block(2, 0, 0) != block(6, 0, 0)
