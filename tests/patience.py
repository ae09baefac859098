"""How long a test waits for something that comes by itself: a process, a peer, a state of another node.

On any machine it takes a fraction of this; only a fault takes all of it. How fast it came says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 300.0


def comes_true(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    """Whether real processes make it so in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
