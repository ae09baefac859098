"""The order of dials, and the waits between them."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from node import limits
from node.net.addresses import Endpoint
from node.net.dialling import Backoff, dial_staggered

ENDPOINTS = [Endpoint("ip4", f"10.0.0.{index}", 1) for index in range(4)]


async def test_a_failure_brings_the_next_at_once(autojump_clock: MockClock) -> None:
    async def attempt(endpoint: Endpoint) -> bool:
        return endpoint is ENDPOINTS[3]

    assert await dial_staggered(ENDPOINTS, attempt)
    assert trio.current_time() == 0


async def test_a_slow_address_holds_the_next_for_the_stagger_only(autojump_clock: MockClock) -> None:
    cancelled: set[Endpoint] = set()

    async def attempt(endpoint: Endpoint) -> bool:
        try:
            await trio.sleep(0.01 if endpoint is ENDPOINTS[2] else 100)
        except trio.Cancelled:
            cancelled.add(endpoint)
            raise
        return True

    assert await dial_staggered(ENDPOINTS, attempt)
    assert round(trio.current_time(), 6) == round(2 * limits.DIAL_STAGGER_S + 0.01, 6)
    assert cancelled == set(ENDPOINTS[:2])


async def test_no_address_answers(autojump_clock: MockClock) -> None:
    async def attempt(endpoint: Endpoint) -> bool:
        await trio.sleep(1)
        return False

    assert not await dial_staggered(ENDPOINTS, attempt)
    assert not await dial_staggered([], attempt)


async def test_the_wait_grows_from_the_third_failure_on(
    autojump_clock: MockClock,
) -> None:
    backoff, endpoint = Backoff(), ENDPOINTS[0]
    waits = []
    for _ in range(12):
        backoff.on_failure(endpoint)
        start_s = trio.current_time()
        while backoff.is_waiting(endpoint):  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.5)
        waits.append(trio.current_time() - start_s)
    assert waits[:6] == [0, 0, 1, 2, 4, 8]
    assert max(waits) == limits.DIAL_BACKOFF_S_MAX
    backoff.on_failure(endpoint)
    backoff.on_success(endpoint)
    assert not backoff.is_waiting(endpoint)


async def test_the_memory_of_failures_is_bounded() -> None:
    backoff = Backoff()
    for index in range(limits.DIALS_REMEMBERED_MAX + 10):
        backoff.on_failure(Endpoint("dns4", f"host{index}", 1))
    assert len(backoff._failures) == limits.DIALS_REMEMBERED_MAX
