"""The benchmarks with real nodes run, and print a line for each transfer."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from tests.swarm.mounting import needs_fuse

pytestmark = pytest.mark.swarm


@needs_fuse
def test_a_mount_stands_beside_get(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mount", "--nodes", "3", "--mib", "1", "--code", "1/2", "--rounds", "1", "--reads", "2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "of the rate of get" in printed
    assert "medians of 2" in " ".join(printed.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["swarm", "--nodes", "3", "--mib", "1", "--code", "1/2"],
        ["latency", "--nodes", "3", "--bytes", "10", "--rounds", "1", "--code", "1/2"],
    ],
)
def test_the_table_has_put_and_get(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "put" in printed
    assert "get" in printed
    assert "1/2" in printed
