"""A holder that gets, lists and checks a file finds its own shards like anybody's, no more trusted."""

from __future__ import annotations

import filecmp
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.processes import flip_in_packs, write_random

pytestmark = pytest.mark.swarm

BLOCK_BYTES = 65_472
FILE_BYTES = 3_000_000


def states_of(node: NodeProcess, link: str, *words: str) -> dict[str, Counter[str]]:
    """What `health` says of the shards of each holder."""
    report: dict[str, Any] = cairn_json(node, "health", link, *words)
    (segment,) = report["segments"]
    states: dict[str, Counter[str]] = {}
    for holder in segment["holders"]:
        states.setdefault(holder["peer_id"], Counter())[holder["state"]] += 1
    assert segment["alive"] == sum(counts["proved"] for counts in states.values())
    return states


def test_a_holder_alone_has_what_it_holds(swarm: LocalSwarm, tmp_path: Path) -> None:
    """Two shards of six at each of three donors, of which two are needed."""
    source = write_random(tmp_path / "film", FILE_BYTES)
    (first,) = swarm.start(donate="64MB")
    donors = [first, *swarm.start(2, donate="64MB", bootstrap=[first])]
    (uploader,) = swarm.start(bootstrap=[first])
    for node in swarm.nodes:
        swarm.wait_known(node, 3)
    link = cairn_json(uploader, "put", str(source), "--code", "2/6")["link"]
    me, others = donors[1], [donors[0], donors[2]]
    for words in ([], ["--verify"]):
        assert states_of(me, link, *words) == {donor.peer_id: Counter(proved=2) for donor in donors}

    for node in (*others, uploader):
        node.kill()
    alone = {me.peer_id: Counter(proved=2), **{other.peer_id: Counter(unreachable=2) for other in others}}
    for words in ([], ["--verify"]):
        assert states_of(me, link, *words) == alone
    got = cairn_json(me, "get", link, "-o", str(tmp_path / "got"))
    assert got["bytes"] == FILE_BYTES
    assert filecmp.cmp(source, tmp_path / "got", shallow=False)
    assert cairn_json(me, "ls", link)["entries"] == [{"path": "film", "bytes": FILE_BYTES}]

    flip_in_packs(me.home.path, every_bytes=BLOCK_BYTES)
    assert states_of(me, link, "--verify")[me.peer_id]["proved"] == 0
    failed = cairn(me, "--json", "get", link, "-o", str(tmp_path / "again"))
    assert error_of(failed)["code"] == 20
    assert not (tmp_path / "again").exists()


def test_a_holder_that_starts_alone_finds_the_file_in_its_own_store(
    swarm: LocalSwarm, tmp_path: Path
) -> None:
    source = write_random(tmp_path / "film", FILE_BYTES)
    (donor,) = swarm.start(donate="64MB")
    (uploader,) = swarm.start(bootstrap=[donor])
    for node in swarm.nodes:
        swarm.wait_known(node, 1)
    link = cairn_json(uploader, "put", str(source), "--code", "2/6")["link"]
    uploader.kill()
    donor.kill()
    again = NodeProcess(donor.folder, donor.arguments)
    swarm.nodes.append(again)
    again.wait_ready()
    got = cairn_json(again, "get", link, "-o", str(tmp_path / "got"))
    assert got["bytes"] == FILE_BYTES
    assert filecmp.cmp(source, tmp_path / "got", shallow=False)
    assert states_of(again, link) == {donor.peer_id: Counter(proved=6)}


def test_a_donor_that_puts_is_no_holder_of_its_own_file(swarm: LocalSwarm, tmp_path: Path) -> None:
    source = write_random(tmp_path / "film", 100_000)
    (first,) = swarm.start(donate="64MB")
    (second,) = swarm.start(donate="64MB", bootstrap=[first])
    for node in swarm.nodes:
        swarm.wait_known(node, 1)
    put = cairn_json(second, "put", str(source), "--code", "2/6")
    assert put["holders"] == 1
    assert states_of(second, put["link"]) == {first.peer_id: Counter(proved=6)}
    assert cairn_json(second, "donate")["shards"] == 0
    cairn_json(second, "get", put["link"], "-o", str(tmp_path / "got"))
    assert filecmp.cmp(source, tmp_path / "got", shallow=False)
