"""When put returns, a node that has nothing to do with the file gets it on its first try."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

NODES, FILES = (25, 200) if FULL else (7, 8)
READERS = 3
BYTES_MAX = 3_000_000


def test_a_file_is_found_at_once_from_anywhere(swarm: LocalSwarm, tmp_path: Path) -> None:
    (first,) = swarm.start(donate="2GB")
    donors = [first, *swarm.start(NODES - READERS - 1, donate="2GB", bootstrap=[first])]
    others = swarm.start(READERS, bootstrap=[first])
    swarm.wait_known(others[0], NODES - 1)
    source_of_chance = random.Random(7)
    sizes = [0, 1, 65_472, BYTES_MAX]
    sizes += [int(BYTES_MAX ** source_of_chance.random()) for _ in range(FILES - len(sizes))]
    source, output = tmp_path / "file", tmp_path / "got"
    for number, size in enumerate(sizes):
        write_random(source, size, seed=number)
        uploader, reader = source_of_chance.sample([*others, donors[number % len(donors)]], 2)
        put = uploader.call("put", path=str(source), code="10/30" if FULL else "4/12")
        got = reader.call("get", link=put["link"], output=str(output))
        assert got["bytes"] == size
        assert output.read_bytes() == source.read_bytes()
        output.unlink()
