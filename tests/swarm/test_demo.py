"""`cairn demo`, small: a real swarm, a real loss, the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.control.demo import DemoOptions, check_options
from node.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.swarm


def test_the_demo_ends_with_ok_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "film.bin"
    source.write_bytes(os.urandom(3_000_000))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--json", "demo", "--nodes", "6", "--kill", "2", "--file", str(source)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] is True
    assert all(step["ok"] for step in result["steps"])
    assert result["link"].startswith("cairn:")
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_a_demo_that_would_lose_the_file_is_refused() -> None:
    check_options(DemoOptions())
    check_options(DemoOptions(nodes=12, kill=6))
    with pytest.raises(UsageError, match="0 to 6 with 12 nodes"):
        check_options(DemoOptions(nodes=12, kill=7))
