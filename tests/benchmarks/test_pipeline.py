"""The benchmark runs, and prints every stage."""

from __future__ import annotations

import pytest

from benchmarks import pipeline
from benchmarks.__main__ import main
from node.chunks.geometry import Code


def test_the_table_has_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pipeline", "--code", "2/3", "--mib", "1", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for stage in pipeline.Bench(Code(2, 3)).stages():
        assert stage.name in printed
    assert "2/3" in printed


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-thing"]) == 2
    assert "pipeline" in capsys.readouterr().err
