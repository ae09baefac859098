"""Group commit: few transactions, nobody's change lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
import trio.testing

from node import limits
from node.dht.committer import Committer
from node.errors import StoreError
from node.ports import WriteTransaction
from simulations.machine import InlineOffload
from tests.dht.support import MemoryKeyValue

T = TypeVar("T")


def _put(number: int) -> Callable[[WriteTransaction], int]:
    def change(transaction: WriteTransaction) -> int:
        transaction.put("t", b"%d" % number, b"x")
        return number

    return change


class _FailingKeyValue(MemoryKeyValue):
    failures_left = 1

    def update(self, change: Callable[[WriteTransaction], T]) -> T:
        if self.failures_left:
            self.failures_left -= 1
            raise StoreError("the disk failed")
        return super().update(change)


class _SlowOffload:
    """Work that a cancelled caller does not start, and that takes a while once started."""

    async def run(self, function: Callable[[], T]) -> T:
        await trio.sleep(1)
        return function()


async def test_changes_made_together_share_commits() -> None:
    key_values = MemoryKeyValue()
    committer = Committer(key_values, InlineOffload())
    results: list[int] = []

    async def submit(number: int) -> None:
        results.append(await committer.submit(_put(number)))

    count = 10 * limits.DHT_CHANGES_PER_COMMIT_MAX
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(submit, number)
    assert sorted(results) == list(range(count))
    assert len(key_values.tables["t"]) == count
    assert key_values.update_count <= 12


async def test_a_disk_fault_reaches_those_it_concerns_and_no_one_waits_forever() -> None:
    key_values = _FailingKeyValue()
    committer = Committer(key_values, InlineOffload())
    failed = 0

    async def submit(number: int) -> None:
        nonlocal failed
        try:
            await committer.submit(_put(number))
        except StoreError:
            failed += 1

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(submit, number)
    assert 0 < failed <= limits.DHT_CHANGES_PER_COMMIT_MAX
    assert len(key_values.tables["t"]) == 100 - failed
    assert await committer.submit(_put(1_000)) == 1_000


async def test_a_cancelled_leader_leaves_the_others_served(autojump_clock: trio.testing.MockClock) -> None:
    key_values = MemoryKeyValue()
    committer = Committer(key_values, _SlowOffload())
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5) as scope:
            nursery.start_soon(committer.submit, _put(2))
            await committer.submit(_put(1))
        assert scope.cancelled_caught
    assert b"2" in key_values.tables["t"]
    with pytest.raises(KeyError):
        key_values.tables["u"]
