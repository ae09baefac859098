"""A file outlives its uploader and all holders but `data_shards`; one loss more is said, not papered over."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from node.limits import DHT_BUCKET_CONTACTS
from node.units import MIB
from tests.swarm.command_line import cairn, cairn_json, error_of
from tests.swarm.processes import FULL, write_random

pytestmark = pytest.mark.swarm

DATA_SHARDS, DONORS, FILE_BYTES = (10, 30, 100 * MIB) if FULL else (2, 5, 12 * MIB)
"""As many donors as shards, so that a holder is a shard; a file of more than one segment."""


def test_a_file_survives_the_loss_of_all_parity_and_no_more(swarm: LocalSwarm, tmp_path: Path) -> None:
    source = write_random(tmp_path / "film.bin", FILE_BYTES)
    cap = str(64 * MIB + 2 * FILE_BYTES // DATA_SHARDS)
    (first,) = swarm.start(donate=cap)
    donors = [first, *swarm.start(DONORS - 1, donate=cap, bootstrap=[first])]
    (uploader,) = swarm.start(bootstrap=[first])
    swarm.wait_known(uploader, min(DONORS, DHT_BUCKET_CONTACTS))  # a routing table need not hold everybody
    assert uploader.call("status")["store"]["cap_bytes"] == 0

    put = uploader.call("put", path=str(source), code=f"{DATA_SHARDS}/{DONORS}")
    assert (put["holders"], put["weak"]) == (DONORS, False)
    assert put["segments"] > 1
    uploader.kill()
    for donor in donors[:-DATA_SHARDS]:  # the one that all others joined through is among them
        donor.kill()

    survivors = donors[-DATA_SHARDS:]
    (fresh,) = swarm.start(bootstrap=survivors[:1])
    output = tmp_path / "got"
    got = cairn_json(fresh, "get", put["link"], "-o", str(output))
    assert (got["name"], got["bytes"]) == (source.name, FILE_BYTES)
    assert filecmp.cmp(source, output, shallow=False)

    survivors[-1].kill()
    again = tmp_path / "again"
    failed = cairn(fresh, "--json", "get", put["link"], "-o", str(again))
    error = error_of(failed)
    assert (error["code"], error["kind"]) == (20, "not_enough_shards")
    assert failed.stderr.count("\n") == 1
    assert "segment 0" in error["message"]
    assert "1 shard" in error["message"]
    assert "missing" in error["message"]
    assert not again.exists()
    assert "Traceback" not in fresh.log_tail()
