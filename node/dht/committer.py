"""Many small durable changes as few commits: whoever comes while one is being written shares the next.
Layer 4.

Needs no task of its own: the first to find nothing being written commits for all who wait. A change that
was submitted may be committed even if its submitter is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

import trio

from node import limits
from node.errors import StoreError
from node.ports import KeyValue, Offload, WriteTransaction

T = TypeVar("T")


class _Change(Generic[T]):
    __slots__ = ("apply", "error", "is_done", "result")

    def __init__(self, apply: Callable[[WriteTransaction], T]) -> None:
        self.apply = apply
        self.is_done = False
        self.error: StoreError | None = None
        self.result: T | None = None


class Committer:
    """Group commit over a KeyValue."""

    def __init__(self, key_values: KeyValue, offload: Offload) -> None:
        self._key_values = key_values
        self._offload = offload
        self._waiting: list[_Change[object]] = []
        self._lock = trio.Lock()

    async def submit(self, apply: Callable[[WriteTransaction], T]) -> T:
        """The result of `apply`, once it is durable.

        `apply` must have no effect outside the transaction and must not raise: it would take the changes of
        others with it. Raises `StoreError` on a disk fault.
        """
        change = _Change(apply)
        self._waiting.append(cast(_Change[object], change))
        async with self._lock:
            while not change.is_done:
                batch = self._waiting[: limits.DHT_CHANGES_PER_COMMIT_MAX]
                del self._waiting[: len(batch)]
                await self._commit(batch)
        if change.error is not None:
            raise change.error
        return cast(T, change.result)

    async def _commit(self, batch: list[_Change[object]]) -> None:
        def apply_all(transaction: WriteTransaction) -> list[object]:
            return [change.apply(transaction) for change in batch]

        try:
            results = await self._offload.run(lambda: self._key_values.update(apply_all))
        except trio.Cancelled:
            self._waiting[:0] = batch  # it did not start: the next in line takes over
            raise
        except StoreError as error:
            for change in batch:
                change.error, change.is_done = error, True
            return
        for change, result in zip(batch, results, strict=True):
            change.result, change.is_done = result, True
