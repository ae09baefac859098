"""How long commands take to answer, in bare interpreter starts: the budgets are 10 and 15."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 15
COMMANDS = {
    "bare interpreter": ["-c", "pass"],
    "cairn --version": ["-m", "cli", "--version"],
    "cairn --help": ["-m", "cli", "--help"],
    "cairn put --help": ["-m", "cli", "put", "--help"],
    "cairn status, no node": ["-m", "cli", "--home", "/nonexistent", "status"],
}


def seconds_of(words: list[str]) -> float:
    """The fastest of several runs: other processes only ever add to it."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, check=False)
        best = min(best, time.perf_counter() - began)
    return best


def main(_arguments: list[str]) -> None:
    """Print one line a command."""
    bare_s = seconds_of(COMMANDS["bare interpreter"])
    for name, words in COMMANDS.items():
        taken_s = bare_s if name == "bare interpreter" else seconds_of(words)
        print(f"{name:<24} {taken_s * 1000:6.0f} ms {taken_s / bare_s:6.1f} bare starts")
