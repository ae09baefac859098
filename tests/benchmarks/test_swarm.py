"""The benchmarks with real nodes run, and print a line for each transfer."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main

pytestmark = pytest.mark.swarm


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
