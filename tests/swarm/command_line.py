"""The real command line against a node of a test's swarm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from node.control.local_swarm import NodeProcess
from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]


def cairn(
    node: NodeProcess, *words: str, text: str = "", cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run one command; never raises for its exit code."""
    return subprocess.run(
        command(node, *words),
        cwd=cwd,
        env=environment(),
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def cairn_json(node: NodeProcess, *words: str, text: str = "") -> dict[str, Any]:
    """The one document that a command printed, which must have succeeded."""
    done = cairn(node, "--json", *words, text=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The error of a failed command, after checking how it was said."""
    error = json.loads(done.stdout)["error"]
    assert done.returncode == error["code"] != 0
    assert done.stderr.splitlines()[-1] == f"cairn: {error['message']}"
    assert "Traceback" not in done.stdout + done.stderr
    assert set(error) == {"code", "kind", "message"}
    return dict(error)


def command(node: NodeProcess, *words: str) -> list[str]:
    """The words of a process that runs `cairn`."""
    return [sys.executable, "-m", "cli", "--home", str(node.home.path), *words]


def environment() -> dict[str, str]:
    """For commands in another working directory than the checkout's."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}
