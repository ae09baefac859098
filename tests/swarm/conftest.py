"""Swarms of real node processes on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.control.local_swarm import LocalSwarm
from tests.swarm.people import People, gathering


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LocalSwarm]:
    """A swarm without nodes yet; all of them end with the test, and their logs show if it failed."""
    failed_before = request.session.testsfailed
    with LocalSwarm(tmp_path / "swarm") as nodes:
        yield nodes
        if request.session.testsfailed > failed_before:
            for node in nodes.nodes:
                print(f"--- {node.folder.name}: {node.log_tail()}")


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    """Four donors and two who give nothing, for tests that leave them as they were."""
    with gathering(tmp_path_factory.mktemp("people"), donors=4, donate="300MB") as nodes:
        yield nodes
