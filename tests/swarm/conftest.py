"""Swarms of real node processes on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalSwarm]:
    """A swarm without nodes yet; all of them end with the test, and their logs show if it failed."""
    failed_before = request.session.testsfailed
    with LocalSwarm(tmp_path / "swarm") as nodes:
        yield nodes
        if request.session.testsfailed > failed_before:
            for node in nodes.nodes:
                print(f"--- {node.folder.name}: {node.log_tail()}")
