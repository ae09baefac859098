"""Which addresses to dial, in what order, and when again. Layer 3."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import trio

from node import limits
from node.net.addresses import Endpoint

_FREE_FAILURES = 2  # a peer that restarts may be dialled again at once, twice
_FIRST_WAIT_S = 1.0


class Backoff:
    """Addresses that failed, and until when to leave them alone. Bounded; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._failures: OrderedDict[Endpoint, tuple[int, float]] = OrderedDict()

    def is_waiting(self, endpoint: Endpoint) -> bool:
        """Whether to leave this address alone for now."""
        _, until_s = self._failures.get(endpoint, (0, 0.0))
        return trio.current_time() < until_s

    def on_failure(self, endpoint: Endpoint) -> None:
        """It did not answer: wait 1, 2, 4 ... seconds from the third time on."""
        count = self._failures.pop(endpoint, (0, 0.0))[0] + 1
        wait_s = 0.0
        if count > _FREE_FAILURES:
            wait_s = min(
                _FIRST_WAIT_S * 2.0 ** min(count - _FREE_FAILURES - 1, 16), limits.DIAL_BACKOFF_S_MAX
            )
        self._failures[endpoint] = (count, trio.current_time() + wait_s)
        while len(self._failures) > limits.DIALS_REMEMBERED_MAX:
            self._failures.popitem(last=False)

    def on_success(self, endpoint: Endpoint) -> None:
        """It answered."""
        self._failures.pop(endpoint, None)


async def dial_staggered(
    endpoints: Sequence[Endpoint], attempt: Callable[[Endpoint], Awaitable[bool]]
) -> bool:
    """Try each endpoint, the next as soon as one failed or took `DIAL_STAGGER_S`; whether one succeeded.

    The first success cancels the others. `attempt` must not raise.
    """
    succeeded = False

    async def run(endpoint: Endpoint, failed: trio.Event) -> None:
        nonlocal succeeded
        if await attempt(endpoint):
            succeeded = True
            nursery.cancel_scope.cancel()
        failed.set()

    async with trio.open_nursery() as nursery:
        for endpoint in endpoints:
            failed = trio.Event()
            nursery.start_soon(run, endpoint, failed)
            with trio.move_on_after(limits.DIAL_STAGGER_S):
                await failed.wait()
    return succeeded
