"""Work for the processor and the disk, in threads. Layer 3, over trio's thread pool.

At most one thread a core works at a time: more would only fight over caches and the interpreter
(data-plane.md, "Roofline"). Work that has started runs to its end: a cancelled caller waits for it, since
half of a write to the disk is nothing that anyone could clean up.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


def core_count() -> int:
    """Cores that this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class ThreadOffload:
    """`Offload` on trio's worker threads, limited to the number of cores."""

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: how many calls may run at once; None for one a core."""
        self._limiter = trio.CapacityLimiter(threads or core_count())

    async def run(self, function: Callable[[], T]) -> T:
        """The result of `function()`, run in a thread; its exceptions pass through."""
        # trio's default for a cancelled call is to wait for its thread, which is what the port promises.
        return await trio.to_thread.run_sync(function, limiter=self._limiter)
