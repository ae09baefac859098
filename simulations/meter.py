"""What a simulated day costs: turns that tasks took, by the part of the node that they belong to.

A count, not a clock: it depends on the seed alone, so two states of the code can be compared on a machine
that does other work as well. It reads the scheduler and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import CodeType

import trio

_HANDLERS = "serving "
"""A stream's handler is named by the network after its protocol; other tasks by where their code stands."""


class Meter(trio.abc.Instrument):
    """Counts turns of tasks by part: `node/dht`, `serving /cairn/kad/1.0.0`, and so on."""

    def __init__(self) -> None:
        self._turns: Counter[CodeType | str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """One turn."""
        name = task.name
        self._turns[name if name.startswith(_HANDLERS) else getattr(task.coro, "cr_code", name)] += 1

    def by_part(self) -> dict[str, int]:
        """Turns of each part, most first."""
        parts: Counter[str] = Counter()
        for key, turns in self._turns.items():
            parts[key if isinstance(key, str) else _part(Path(key.co_filename))] += turns
        return dict(parts.most_common())


def handler_name(protocol: str) -> str:
    """What the task of a stream's handler is called."""
    return _HANDLERS + protocol


def _part(path: Path) -> str:
    """The folder of `node/`, or `simulations`, that a file belongs to."""
    parts = path.parts
    for root in ("node", "simulations"):
        if root in parts:
            place = len(parts) - 1 - parts[::-1].index(root)
            return "/".join(parts[place:-1][:2])
    return "trio"
