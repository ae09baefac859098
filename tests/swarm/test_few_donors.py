"""Few donors keep many shards each, and what dies with some of them is what the put and `health` said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.errors import NotEnoughShardsError, NotFoundError
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

DONOR_COUNTS = (12, 5, 3, 2, 1) if FULL else (3, 2, 1)
CODES = ((10, 30), (10, 15))
FILE_BYTES = 300_000


@dataclass(frozen=True)
class Stored:
    """A file, and how many of its shards each donor was proved to hold."""

    link: str
    data_shards: int
    total_shards: int
    kept: Counter[str]
    weak: bool


def _put(uploader: NodeProcess, source: Path, code: tuple[int, int], donor_count: int) -> Stored:
    data_shards, total_shards = code
    put = uploader.call("put", path=str(source), code=f"{data_shards}/{total_shards}")
    (segment,) = uploader.call("health", link=put["hash"])["segments"]
    assert (segment["alive"], segment["needed"]) == (total_shards, data_shards)
    kept = Counter(holder["peer_id"] for holder in segment["holders"])
    assert put["holders"] == len(kept) == donor_count
    assert max(kept.values()) <= -(-total_shards // donor_count)
    return Stored(put["link"], data_shards, total_shards, kept, put["weak"])


def _check(reader: NodeProcess, file: Stored, alive: list[NodeProcess], source: Path, output: Path) -> None:
    """`health` counts what the living hold, and `get` succeeds exactly when that is enough."""
    left = sum(file.kept[donor.peer_id] for donor in alive)
    if left == 0:
        with pytest.raises(NotFoundError):
            reader.call("health", link=file.link)
        with pytest.raises(NotFoundError):
            reader.call("get", link=file.link, output=str(output))
    else:
        (segment,) = reader.call("health", link=file.link)["segments"]
        assert segment["alive"] == left
        proved = {holder["peer_id"] for holder in segment["holders"] if holder["state"] == "proved"}
        assert proved == {donor.peer_id for donor in alive if file.kept[donor.peer_id]}
        if left >= file.data_shards:
            reader.call("get", link=file.link, output=str(output))
            assert output.read_bytes() == source.read_bytes()
        else:
            missing = file.data_shards - left
            with pytest.raises(NotEnoughShardsError, match=f"segment 0: {missing} shard.* missing"):
                reader.call("get", link=file.link, output=str(output))
    output.unlink(missing_ok=True)


def test_what_dies_with_a_third_of_few_donors_is_what_was_said(swarm: LocalSwarm, tmp_path: Path) -> None:
    source = write_random(tmp_path / "file", FILE_BYTES)
    (first,) = swarm.start(donate="64MB")
    alive = [first, *swarm.start(DONOR_COUNTS[0] - 1, donate="64MB", bootstrap=[first])]
    uploader, reader = swarm.start(2, bootstrap=[first])
    swarm.wait_known(uploader, len(alive) + 1)
    swarm.wait_known(reader, len(alive) + 1)

    weak: list[bool] = []
    for donor_count in DONOR_COUNTS:
        for donor in alive[donor_count:]:
            donor.kill()
        del alive[donor_count:]
        stored = [_put(uploader, source, code, donor_count) for code in CODES]
        weak += [file.weak for file in stored]
        # Whoever keeps most dies: the worst third that there is.
        alive.sort(key=lambda donor: sum(file.kept[donor.peer_id] for file in stored))
        for donor in alive[-max(1, donor_count // 3) :]:
            donor.kill()
        del alive[-max(1, donor_count // 3) :]
        for file in stored:
            left = sum(file.kept[donor.peer_id] for donor in alive)
            assert file.weak == (left < file.data_shards)
            _check(reader, file, alive, source, tmp_path / "got")
    assert not alive
    assert True in weak
    assert False in weak
