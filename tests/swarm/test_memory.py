"""Memory is bounded by stripes, never by the file: for who puts, who gets and who holds."""

from __future__ import annotations

import filecmp
import sys
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.units import MIB
from tests.swarm.processes import FULL, peak_resident_bytes, resident_bytes, write_random

pytestmark = [
    pytest.mark.swarm,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

FILE_BYTES = (1024 if FULL else 128) * MIB
DONORS = 12 if FULL else 2
CODE = "10/30" if FULL else "10/20"
OVER_IDLE_BYTES_MAX = 200 * MIB


def test_peaks_stay_near_idle_whatever_the_file(swarm: LocalSwarm, tmp_path: Path) -> None:
    source = write_random(tmp_path / "film", FILE_BYTES)
    cap = str(64 * MIB + 4 * FILE_BYTES // DONORS)
    (first,) = swarm.start(donate=cap)
    donors = [first, *swarm.start(DONORS - 1, donate=cap, bootstrap=[first])]
    uploader, reader = swarm.start(2, bootstrap=[first])
    swarm.wait_known(uploader, DONORS)
    idle = {node.peer_id: resident_bytes(node) for node in swarm.nodes}

    def over_idle(node: NodeProcess) -> int:
        return peak_resident_bytes(node) - idle[node.peer_id]

    put = uploader.call("put", path=str(source), code=CODE)
    got = reader.call("get", link=put["link"], output=str(tmp_path / "got"))
    assert filecmp.cmp(source, got["path"], shallow=False)

    for name, nodes in (("uploader", [uploader]), ("reader", [reader]), ("holders", donors)):
        print(f"{name}: {max(map(over_idle, nodes)) / MIB:.0f} MiB over idle")
    assert over_idle(uploader) <= OVER_IDLE_BYTES_MAX
    assert over_idle(reader) <= OVER_IDLE_BYTES_MAX
    assert max(map(over_idle, donors)) <= OVER_IDLE_BYTES_MAX
