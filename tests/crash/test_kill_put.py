"""Daemons are killed with SIGKILL in the middle of a put: the uploader's, then the holders'."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.errors import FileChangedError, NodeError, NotEnoughPeersError, TransferInterruptedError
from node.units import MIB
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

DATA_SHARDS, DONORS, FILE_BYTES = (10, 30, 200 * MIB) if FULL else (2, 5, 40 * MIB)
"""As many donors as shards; segments of 42 MB or 8 MB, so that half of the file is several."""
CODE = f"{DATA_SHARDS}/{DONORS}"
SEGMENT_BYTES = 64 * (DATA_SHARDS * 65_472 - 16)
IN_FLIGHT_BYTES = 2 * SEGMENT_BYTES * DONORS // DATA_SHARDS
"""Stored bytes of the segments that a put works on at once."""


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[LocalSwarm]:
    with LocalSwarm(tmp_path / "swarm") as nodes:
        yield nodes


def _start(swarm: LocalSwarm, *, cap_bytes: int) -> tuple[NodeProcess, list[NodeProcess]]:
    """An uploader that gives nothing, and donors that it knows."""
    (first,) = swarm.start(donate=str(cap_bytes))
    donors = [first, *swarm.start(DONORS - 1, donate=str(cap_bytes), bootstrap=[first])]
    (uploader,) = swarm.start(bootstrap=[first])
    assert swarm.wait_known(uploader, DONORS) >= DONORS
    return uploader, donors


def _put_killing(uploader: NodeProcess, source: Path, victims: list[NodeProcess]) -> dict[str, Any]:
    """A put during which the victims die when half of it has left."""

    def kill_halfway(progress: dict[str, Any]) -> None:
        if progress.get("phase") == "send" and progress["done_bytes"] >= FILE_BYTES // 2:
            for victim in victims:
                victim.kill()

    return uploader.call_with_progress("put", kill_halfway, path=str(source), code=CODE)


def _store(donor: NodeProcess, name: str) -> int:
    return int(donor.call("status")["store"][name])


def _block_bytes(put: dict[str, Any]) -> int:
    return int(put["stored_bytes"])


def _received(donors: list[NodeProcess]) -> int:
    """Blocks that all donors took so far."""
    return sum(int(donor.call("status")["server"]["blocks_received"]) for donor in donors)


@pytest.fixture
def roomy_cap() -> int:
    """What one donor needs for its part, and for one other's."""
    return 64 * MIB + 2 * FILE_BYTES // DATA_SHARDS * 2


def test_a_put_killed_halfway_sends_the_rest_only(
    swarm: LocalSwarm, tmp_path: Path, roomy_cap: int, record_property: Callable[[str, object], None]
) -> None:
    uploader, donors = _start(swarm, cap_bytes=roomy_cap)
    source = write_random(tmp_path / "film", FILE_BYTES)
    with pytest.raises(TransferInterruptedError):
        _put_killing(uploader, source, [uploader])
    before = _received(donors)

    uploader = swarm.restart(uploader)
    swarm.wait_known(uploader, DONORS)
    first_seen: list[int] = []
    put = uploader.call_with_progress(
        "put",
        lambda event: first_seen.append(event["done_bytes"]) if event.get("phase") == "send" else None,
        path=str(source),
        code=CODE,
    )
    blocks = _received(donors)
    stripes = -(-FILE_BYTES // (DATA_SHARDS * 65_472 - 16))
    record_property("blocks_before_and_in_all_and_of_the_file", (before, blocks, stripes * DONORS))
    assert before > stripes * DONORS // 4
    # Nothing twice, but what was on its way when the process died.
    assert blocks - stripes * DONORS <= IN_FLIGHT_BYTES // 65_472 // 4
    assert first_seen[0] > 0
    assert (put["holders"], put["weak"]) == (DONORS, False)
    for segment in donors[0].call("health", link=put["hash"], verify=True)["segments"]:
        assert segment["alive"] == DONORS
    assert [_store(donor, "reserved_bytes") for donor in donors] == [0] * DONORS
    assert {_store(donor, "shards") for donor in donors} == {put["segments"]}


def test_a_source_that_changed_is_refused_and_nothing_of_it_stays(
    swarm: LocalSwarm, tmp_path: Path, roomy_cap: int
) -> None:
    uploader, donors = _start(swarm, cap_bytes=roomy_cap)
    source = write_random(tmp_path / "film", FILE_BYTES)
    with pytest.raises(TransferInterruptedError):
        _put_killing(uploader, source, [uploader])
    assert sum(_store(donor, "leases") for donor in donors) > 0

    with source.open("r+b") as file:
        file.write(b"another beginning")
    uploader = swarm.restart(uploader)
    swarm.wait_known(uploader, DONORS)
    with pytest.raises(FileChangedError, match="changed"):
        uploader.call("put", path=str(source), code=CODE)
    for donor in donors:
        assert [_store(donor, name) for name in ("leases", "shards", "reserved_bytes")] == [0, 0, 0]
        assert donor.call("status")["server"]["open_puts"] == 0
    assert uploader.call("ls") == {"files": []}


def test_holders_killed_in_a_put_keep_what_they_acknowledged(
    swarm: LocalSwarm, tmp_path: Path, roomy_cap: int
) -> None:
    uploader, donors = _start(swarm, cap_bytes=roomy_cap)
    source = write_random(tmp_path / "film", FILE_BYTES)
    victims = donors[-DONORS // 5 :]
    put = _put_killing(uploader, source, victims)  # others take what the dead would have kept
    assert not any(victim.is_running for victim in victims)
    assert put["holders"] >= DONORS - len(victims)

    lost = _alive(donors[0], put)
    back = [swarm.restart(victim) for victim in victims]
    for holder in back:
        swarm.wait_known(holder, DONORS - 1)
        assert _store(holder, "reserved_bytes") == 0
    whole = _alive(donors[0], put)
    assert lost[0] < DONORS  # the dead kept shards of segments that were done
    assert whole == [DONORS] * put["segments"]  # and have them still, the others were placed elsewhere
    for donor in donors[: -len(victims)]:
        assert _store(donor, "reserved_bytes") == 0
    got = back[0].call("get", link=put["link"], output=str(tmp_path / "got"))
    assert Path(got["path"]).read_bytes() == source.read_bytes()


def test_a_put_without_enough_holders_left_fails_in_words_and_reserves_nothing(
    swarm: LocalSwarm, tmp_path: Path
) -> None:
    # Room for one's own part, not for that of many others.
    uploader, donors = _start(swarm, cap_bytes=16 * MIB + FILE_BYTES // DATA_SHARDS * 3 // 2)
    source = write_random(tmp_path / "film", FILE_BYTES)
    left = donors[: DONORS // 3]
    with pytest.raises(NotEnoughPeersError, match="not enough donors") as raised:
        _put_killing(uploader, source, donors[len(left) :])
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, NodeError)
    assert [_store(donor, "reserved_bytes") for donor in left] == [0] * len(left)
    assert {donor.call("status")["server"]["open_puts"] for donor in left} == {0}


def _alive(asker: NodeProcess, put: dict[str, Any]) -> list[int]:
    """Shards of each segment, every block of them read."""
    segments = asker.call("health", link=put["hash"], verify=True)["segments"]
    return [segment["alive"] for segment in segments]
