"""When put returns, a node that has nothing to do with the file gets it on its first try."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.swarm.people import People, gathering
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

FILES = 200 if FULL else 6
BYTES_MAX = 3_000_000


@pytest.fixture
def neighbours(people: People, tmp_path: Path) -> Iterator[People]:
    """Who puts and gets: a swarm of 25 for the large numbers."""
    if not FULL:
        yield people
        return
    with gathering(tmp_path / "neighbours", donors=23, donate="2GB") as many:
        yield many


def test_a_file_is_found_at_once_from_anywhere(neighbours: People, tmp_path: Path) -> None:
    chance = random.Random(7)
    sizes = [0, 1, 65_472, BYTES_MAX]
    sizes += [int(BYTES_MAX ** chance.random()) for _ in range(FILES - len(sizes))]
    source, output = tmp_path / "file", tmp_path / "got"
    small_s: list[float] = []
    for number, size in enumerate(sizes):
        write_random(source, size, seed=number)
        uploader, reader = chance.sample(neighbours.everyone, 2)
        put = uploader.call("put", path=str(source), code="10/30" if FULL else "4/12")
        got = reader.call("get", link=put["link"], output=str(output))
        assert got["bytes"] == size
        assert output.read_bytes() == source.read_bytes()
        output.unlink()
        if size <= 65_472:
            small_s.append(got["seconds"])
    print(f"median get of a small file: {statistics.median(small_s) * 1000:.0f} ms")
