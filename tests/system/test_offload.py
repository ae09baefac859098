"""Threads, clock and entropy of the machine."""

from __future__ import annotations

import threading

import pytest
import trio

from node.system.clock import SystemClock
from node.system.entropy import SystemEntropy
from node.system.offload import ThreadOffload, core_count


async def test_results_and_exceptions_pass_through() -> None:
    offload = ThreadOffload()
    main = threading.get_ident()
    assert await offload.run(threading.get_ident) != main
    with pytest.raises(ZeroDivisionError):
        await offload.run(lambda: 1 // 0)


async def test_no_more_calls_at_once_than_cores() -> None:
    offload = ThreadOffload()
    lock = threading.Lock()
    running = most = 0
    gate = threading.Barrier(core_count())

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(10)  # every core is busy before one goes on
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(3 * core_count()):
            nursery.start_soon(offload.run, work)
    assert most == core_count()


async def test_work_that_started_runs_to_its_end() -> None:
    offload = ThreadOffload(1)
    started, finish = threading.Event(), threading.Event()
    done = []

    def work() -> None:
        started.set()
        finish.wait(10)
        done.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offload.run, work)
        await trio.to_thread.run_sync(started.wait)
        nursery.cancel_scope.cancel()
        finish.set()
    assert done == [True]


def test_clock_and_entropy() -> None:
    assert SystemClock().now_s() > 1_700_000_000
    assert len(SystemEntropy().random_bytes(32)) == 32
    assert SystemEntropy().random_bytes(16) != SystemEntropy().random_bytes(16)
