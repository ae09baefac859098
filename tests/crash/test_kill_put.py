"""Daemons are killed with SIGKILL in the middle of a put: the uploader's, then the holders'."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.errors import FileChangedError, NotEnoughPeersError, TransferInterruptedError
from node.units import MIB
from tests.patience import comes_true
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

DATA_SHARDS, DONORS, FILE_BYTES = (10, 30, 200 * MIB) if FULL else (2, 5, 40 * MIB)
"""As many donors as shards; segments of 42 MB or 8 MB, so that half of the file is several."""
CODE = f"{DATA_SHARDS}/{DONORS}"
STRIPE_BYTES = DATA_SHARDS * 65_472 - 16
KNOWN = min(DONORS - 1, 20)
"""Contacts that a node of such a swarm surely has: a bucket takes no more than 20."""
BLOCKS_IN_SOCKETS = 16
"""Blocks to one holder that may be cut off on their way: a megabyte of socket buffers and frames."""
CAP_BYTES = 64 * MIB + 10 * FILE_BYTES // DATA_SHARDS
"""What one donor needs for its part of all puts here, and for one other's."""


@dataclass
class Crew:
    """An uploader that gives nothing, and the donors that it knows."""

    swarm: LocalSwarm
    uploader: NodeProcess
    donors: list[NodeProcess]

    def revive(self) -> None:
        """Start again whoever was killed."""
        for node in [node for node in self.swarm.nodes if not node.is_running]:
            again = self.swarm.restart(node)
            if node is self.uploader:
                self.uploader = again
            else:
                self.donors[self.donors.index(node)] = again
            assert self.swarm.wait_known(again, KNOWN) >= KNOWN

    def counts(self, name: str) -> list[int]:
        """One figure of every living donor's store."""
        return [int(d.call("status")["store"][name]) for d in self.donors if d.is_running]

    def blocks_received(self) -> int:
        """Blocks that all donors took since they started."""
        return sum(int(donor.call("status")["server"]["blocks_received"]) for donor in self.donors)

    def is_settled(self) -> bool:
        """Whether no living donor reserves anything for a put any more."""
        reserved = self.counts("reserved_bytes")
        open_puts = [d.call("status")["server"]["open_puts"] for d in self.donors if d.is_running]
        return not any(reserved) and not any(open_puts)

    def proved(self, put: dict[str, Any]) -> list[int]:
        """Shards of each segment, every block of them read, as a donor sees it."""
        asker = next(donor for donor in self.donors if donor.is_running)
        segments = asker.call("health", link=put["hash"], verify=True)["segments"]
        return [segment["alive"] for segment in segments]


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with LocalSwarm(tmp_path_factory.mktemp("crew")) as swarm:
        (first,) = swarm.start(donate=str(CAP_BYTES))
        donors = [first, *swarm.start(DONORS - 1, donate=str(CAP_BYTES), bootstrap=[first])]
        (uploader,) = swarm.start(bootstrap=[first])
        assert swarm.wait_known(uploader, DONORS) >= DONORS
        yield Crew(swarm, uploader, donors)


@pytest.fixture
def crew(all_of_them: Crew) -> Crew:
    """Everybody alive, with room for one more file."""
    all_of_them.revive()
    for donor in all_of_them.donors:
        donor.call("donate", cap_bytes=CAP_BYTES)
    return all_of_them


@pytest.fixture
def source(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """What is put: another file for each test."""
    return write_random(tmp_path / "film", FILE_BYTES, seed=request.node.name)


def _put_killing(uploader: NodeProcess, source: Path, victims: list[NodeProcess]) -> dict[str, Any]:
    """A put during which the victims die when half of it has left."""

    def kill_halfway(progress: dict[str, Any]) -> None:
        if progress.get("phase") == "send" and progress["done_bytes"] >= FILE_BYTES // 2:
            for victim in victims:
                victim.kill()

    return uploader.call_with_progress("put", kill_halfway, path=str(source), code=CODE)


def test_a_source_that_changed_is_refused_and_nothing_of_it_stays(crew: Crew, source: Path) -> None:
    before = crew.counts("leases"), crew.counts("shards")
    with pytest.raises(TransferInterruptedError):
        _put_killing(crew.uploader, source, [crew.uploader])
    assert sum(crew.counts("leases")) > sum(before[0])

    with source.open("r+b") as file:
        file.write(b"another beginning")
    crew.revive()
    with pytest.raises(FileChangedError, match="changed"):
        crew.uploader.call("put", path=str(source), code=CODE)
    assert (crew.counts("leases"), crew.counts("shards")) == before
    assert comes_true(crew.is_settled)
    assert list((crew.uploader.home.path / "puts").iterdir()) == []


def test_a_put_killed_halfway_sends_the_rest_only(crew: Crew, source: Path) -> None:
    start, shards = crew.blocks_received(), crew.counts("shards")
    with pytest.raises(TransferInterruptedError):
        _put_killing(crew.uploader, source, [crew.uploader])
    first_run = crew.blocks_received() - start

    crew.revive()
    progress: list[int] = []
    put = crew.uploader.call_with_progress(
        "put",
        lambda event: progress.append(event["done_bytes"]) if event.get("phase") == "send" else None,
        path=str(source),
        code=CODE,
    )
    both_runs = crew.blocks_received() - start
    blocks = DONORS * -(-FILE_BYTES // STRIPE_BYTES)
    print(f"blocks: {first_run} of the first run, {both_runs} of both, {blocks} of the file")
    assert first_run > blocks // 4
    # Nothing twice but what was in the sockets when the process died.
    assert both_runs - blocks <= DONORS * BLOCKS_IN_SOCKETS
    assert progress[0] > 0
    assert (put["holders"], put["weak"]) == (DONORS, False)
    assert crew.proved(put) == [DONORS] * put["segments"]
    assert comes_true(crew.is_settled)
    assert crew.counts("shards") == [count + put["segments"] for count in shards]


def test_holders_killed_in_a_put_keep_what_they_acknowledged(
    crew: Crew, source: Path, tmp_path: Path
) -> None:
    victims = crew.donors[-DONORS // 5 :]
    put = _put_killing(crew.uploader, source, victims)  # others take what the dead would have kept
    assert put["holders"] >= DONORS - len(victims)
    assert comes_true(crew.is_settled)
    assert crew.proved(put)[0] < DONORS  # the dead kept shards of segments that were done

    crew.revive()
    assert crew.proved(put) == [DONORS] * put["segments"]
    assert comes_true(crew.is_settled)
    got = crew.donors[-1].call("get", link=put["link"], output=str(tmp_path / "got"))
    assert filecmp.cmp(source, got["path"], shallow=False)


def test_a_put_without_enough_holders_left_fails_in_words_and_reserves_nothing(
    crew: Crew, source: Path
) -> None:
    part_bytes = FILE_BYTES // DATA_SHARDS
    room_bytes = 16 * MIB + part_bytes * 3 // 2  # for one's own part, not for many others'
    for donor in crew.donors:
        donor.call("donate", cap_bytes=donor.call("status")["store"]["used_bytes"] + room_bytes)
    # Large packs are split under a smaller cap; the copies take room meanwhile.
    assert comes_true(lambda: min(crew.counts("free_bytes")) >= part_bytes * 5 // 4)
    with pytest.raises(NotEnoughPeersError, match="not enough donors") as raised:
        _put_killing(crew.uploader, source, crew.donors[DONORS // 3 :])
    assert "\n" not in str(raised.value)
    left = [donor for donor in crew.donors if donor.is_running]
    assert len(left) == DONORS // 3
    assert comes_true(crew.is_settled)
