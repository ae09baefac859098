"""Group commit of a put's journal: all acknowledged is durable, few syncs, and no caller harms another."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.chunks.put import journal as records
from node.chunks.put.journal import Journal
from node.chunks.put.journal_queue import JournalQueue
from node.errors import StoreError
from simulations.disk import FakeDisk
from simulations.machine import InlineOffload
from tests.chunks.put.test_journal import NAME, started


def made(index: int) -> records.SegmentMade:
    return records.SegmentMade(index, b"manifest %d" % index)


class CountingJournal(Journal):
    """Counts how often it is written to."""

    appends = 0

    def append(self, *new: records.Record) -> None:
        self.appends += 1
        super().append(*new)


async def test_who_waits_shares_a_sync_and_finds_its_records_durable() -> None:
    disk = FakeDisk()
    started(disk).close()
    journal = CountingJournal.load(disk, NAME)
    assert isinstance(journal, CountingJournal)
    queue = JournalQueue(journal, InlineOffload())
    async with trio.open_nursery() as nursery:
        for index in range(0, 40, 2):
            nursery.start_soon(queue.append, made(index), made(index + 1))
    assert journal.appends <= 2  # the first alone, all others together
    disk.crash()
    again = Journal.load(disk, NAME)
    assert again is not None
    assert {index: state.manifest for index, state in again.segments.items()} == {
        index: b"manifest %d" % index for index in range(40)
    }
    order = [each.segment_index for each in again.records() if isinstance(each, records.SegmentMade)]
    assert all(order[at + 1] == order[at] + 1 for at in range(0, 40, 2))


async def test_a_caller_that_is_cancelled_while_it_waits_takes_its_records_back() -> None:
    disk = FakeDisk()
    journal = started(disk)
    queue = JournalQueue(journal, InlineOffload(delay_s=0.01))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.append, made(0))
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await queue.append(made(1))
        assert scope.cancelled_caught
        nursery.start_soon(queue.append, made(2))
    assert sorted(journal.segments) == [0, 2]


async def test_the_first_in_line_may_leave_without_harm_to_the_others() -> None:
    disk = FakeDisk()
    journal = started(disk)
    queue = JournalQueue(journal, InlineOffload())
    gone = trio.CancelScope()

    async def leave() -> None:
        with gone:
            await queue.append(made(0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        nursery.start_soon(queue.append, made(1))
        gone.cancel()
    assert 1 in journal.segments


async def test_a_fault_of_the_disk_reaches_all_who_wait() -> None:
    disk = FakeDisk()
    queue = JournalQueue(started(disk), InlineOffload())
    disk.is_read_only = True
    faults: list[StoreError] = []

    async def append(index: int) -> None:
        try:
            await queue.append(made(index))
        except StoreError as error:
            faults.append(error)

    async with trio.open_nursery() as nursery:
        for index in range(5):
            nursery.start_soon(append, index)
    assert len(faults) == 5
    disk.is_read_only = False
    await queue.append(made(7))


@pytest.mark.parametrize("count", [1, 3])
async def test_a_closed_journal_takes_nothing(count: int) -> None:
    journal = started(FakeDisk())
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        await JournalQueue(journal, InlineOffload()).append(*map(made, range(count)))
