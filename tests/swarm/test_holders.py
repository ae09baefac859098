"""What a holder can know, and what its rotten disk can do: nothing, and nothing unnoticed."""

from __future__ import annotations

import base64
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from node.crypto.links import parse_link
from node.errors import NotEnoughShardsError
from tests.swarm.people import People
from tests.swarm.processes import flip_in_packs, found_in_home, found_in_memory, write_random

pytestmark = pytest.mark.swarm

CODE = "2/4"
"""One shard at each of the four donors."""
BLOCK_BYTES = 65_472


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_key_no_plaintext_and_no_name_at_a_holder(people: People, tmp_path: Path) -> None:
    name = f"the name {os.urandom(8).hex()}.txt"
    plaintext = b"only its readers know " + os.urandom(8).hex().encode()
    folder = tmp_path / "source"
    folder.mkdir()
    source = folder / name
    source.write_bytes(plaintext * (1_000_000 // len(plaintext)))
    put = people.sharer.call("put", path=str(source), code=CODE)
    got = people.friend.call("get", link=put["link"], output=str(tmp_path / "got"))
    assert got["name"] == name

    link = parse_link(put["link"])
    key = link.key
    assert key is not None
    text = base64.urlsafe_b64encode(key).rstrip(b"=")
    assert text.decode() in put["link"]
    secrets = [key, text, plaintext, name.encode()]
    # The search finds what is there: the owner keeps its link, and a holder knows the file's hash.
    public = link.file_hash
    assert {text, name.encode()} <= found_in_memory(people.sharer, secrets)
    assert {text, name.encode()} <= found_in_home(people.sharer, secrets)
    for donor in people.donors:
        assert found_in_memory(donor, [*secrets, public]) == {public}
        assert found_in_home(donor, [*secrets, public]) == {public}


def test_flipped_bytes_are_never_served_and_count_as_lost(people: People, tmp_path: Path) -> None:
    source = write_random(tmp_path / "file", 3_000_000)
    link = people.sharer.call("put", path=str(source), code=CODE)["link"]
    assert _lost(people, link) == 0

    def get(name: str) -> Path:
        output = tmp_path / name
        people.friend.call("get", link=link, output=str(output))
        return output

    rotten, *good = people.donors
    flip_in_packs(rotten.home.path, every_bytes=1_000_000)  # some blocks of the shard
    assert get("one").read_bytes() == source.read_bytes()
    assert _lost(people, link) == 1
    for donor in good[:2]:
        flip_in_packs(donor.home.path, every_bytes=BLOCK_BYTES)  # all of them
    with pytest.raises(NotEnoughShardsError, match="1 shard"):
        get("three")
    assert not (tmp_path / "three").exists()
    assert _lost(people, link) == 3


def _lost(people: People, link: str) -> int:
    """Shards that `health` counts as lost, every block read: corrupt, or missing once a read found out."""
    (segment,) = people.friend.call("health", link=link, verify=True)["segments"]
    states = Counter(holder["state"] for holder in segment["holders"])
    assert set(states) <= {"proved", "corrupt", "missing"}
    assert segment["alive"] == states["proved"]
    return states["corrupt"] + states["missing"]
