"""What a holder can know, and what its rotten disk can do: nothing, and nothing unnoticed."""

from __future__ import annotations

import base64
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.crypto.links import parse_link
from node.errors import NotEnoughShardsError
from tests.swarm.processes import found_in_home, found_in_memory, write_random

pytestmark = pytest.mark.swarm

DONORS = 4
CODE = "2/4"
BLOCK_BYTES = 65_472


@dataclass(frozen=True)
class Holders:
    """Donors with one shard of a 2/4 file each, and two who give nothing."""

    donors: list[NodeProcess]
    uploader: NodeProcess
    reader: NodeProcess


@pytest.fixture
def holders(swarm: LocalSwarm) -> Holders:
    (first,) = swarm.start(donate="64MB")
    donors = [first, *swarm.start(DONORS - 1, donate="64MB", bootstrap=[first])]
    uploader, reader = swarm.start(2, bootstrap=[first])
    swarm.wait_known(uploader, DONORS)
    swarm.wait_known(reader, DONORS)
    return Holders(donors, uploader, reader)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_key_no_plaintext_and_no_name_at_a_holder(holders: Holders, tmp_path: Path) -> None:
    name = f"the name {os.urandom(8).hex()}.txt"
    plaintext = b"only its readers know " + os.urandom(8).hex().encode()
    folder = tmp_path / "source"
    folder.mkdir()
    source = folder / name
    source.write_bytes(plaintext * (1_000_000 // len(plaintext)))
    put = holders.uploader.call("put", path=str(source), code=CODE)
    got = holders.reader.call("get", link=put["link"], output=str(tmp_path / "got"))
    assert got["name"] == name

    link = parse_link(put["link"])
    key = link.key
    assert key is not None
    text = base64.urlsafe_b64encode(key).rstrip(b"=")
    assert text.decode() in put["link"]
    secrets = [key, text, plaintext, name.encode()]
    # The search finds what is there: the owner keeps its link, and a holder knows the file's hash.
    public = link.file_hash
    assert {text, name.encode()} <= found_in_memory(holders.uploader, secrets)
    assert {text, name.encode()} <= found_in_home(holders.uploader, secrets)
    for donor in holders.donors:
        assert found_in_memory(donor, [*secrets, public]) == {public}
        assert found_in_home(donor, [*secrets, public]) == {public}


def test_flipped_bytes_are_never_served_and_count_as_lost(holders: Holders, tmp_path: Path) -> None:
    source = write_random(tmp_path / "file", 3_000_000)
    link = holders.uploader.call("put", path=str(source), code=CODE)["link"]
    assert _lost(holders, link) == 0

    def get(name: str) -> Path:
        output = tmp_path / name
        holders.reader.call("get", link=link, output=str(output))
        return output

    rotten, *good = holders.donors
    _flip(rotten, every_bytes=1_000_000)  # some blocks of the shard
    assert get("one").read_bytes() == source.read_bytes()
    assert _lost(holders, link) == 1
    for donor in good[:2]:
        _flip(donor, every_bytes=BLOCK_BYTES)  # all of them
    with pytest.raises(NotEnoughShardsError, match="1 shard"):
        get("three")
    assert not (tmp_path / "three").exists()
    assert _lost(holders, link) == 3


def _lost(holders: Holders, link: str) -> int:
    """Shards that `health` counts as lost, every block read: corrupt, or missing once a read found out."""
    (segment,) = holders.reader.call("health", link=link, verify=True)["segments"]
    states = Counter(holder["state"] for holder in segment["holders"])
    assert set(states) <= {"proved", "corrupt", "missing"}
    assert segment["alive"] == states["proved"]
    return states["corrupt"] + states["missing"]


def _flip(donor: NodeProcess, *, every_bytes: int) -> None:
    """Flip a bit every so often in all packs, below a store that knows nothing of it."""
    for path in (donor.home.path / "packs").iterdir():
        with path.open("r+b") as file:
            for offset in range(every_bytes // 2, path.stat().st_size, every_bytes):
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1]))
