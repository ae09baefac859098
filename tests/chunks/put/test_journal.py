"""The put journal: what was appended is there after any crash, what was torn is not."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from node.chunks.messages import PutId
from node.chunks.put import journal as records
from node.chunks.put.journal import Journal, JournalName, names
from node.errors import StoreError
from node.units import Contact, Multiaddr, PeerId, SegmentId
from simulations.disk import FakeDisk

NAME = JournalName("one")
PATH = PurePath("puts/one")
STARTED = records.PutStarted(
    records.VERSION, b"k" * 32, b"s" * 16, "/source", b"f" * 32, 5, 2, 5, "name", 1_900_000_000
)
PUT = PutId(b"p" * 16)
PEER = PeerId(b"peer")
RECORDS: list[records.Record] = [
    records.StripesMade(0, 0, b"a" * 32 + b"b" * 32),
    records.PutOpened(0, PUT, PEER, ("/ip4/10.0.0.1/tcp/1",), (0, 3)),
    records.StripesMade(0, 2, b"c" * 32),
    records.PutOpened(0, PutId(b"q" * 16), PeerId(b"other"), (), (1,)),
    records.PutDropped(0, PutId(b"q" * 16)),
    records.SegmentMade(0, b"manifest"),
    records.PutClosing(0, PUT, (b"half",)),
    records.PutClosed(0, PUT, (b"whole",)),
]


def started(disk: FakeDisk) -> Journal:
    return Journal.create(disk, NAME, STARTED)


def test_a_journal_is_read_back_as_it_was_written() -> None:
    disk = FakeDisk()
    journal = started(disk)
    journal.append(*RECORDS)
    journal.close()
    again = Journal.load(disk, NAME)
    assert again is not None
    assert again.started == STARTED
    assert list(again.records()) == [STARTED, *RECORDS]
    state = again.segments[0]
    assert state.stripe_hashes == {0: b"a" * 32, 1: b"b" * 32, 2: b"c" * 32}
    assert state.manifest == b"manifest"
    assert state.puts[PUT].contact == Contact(PEER, (Multiaddr("/ip4/10.0.0.1/tcp/1"),))
    assert (state.puts[PUT].asked, state.puts[PUT].leases) == ((b"half",), (b"whole",))
    assert state.puts[PutId(b"q" * 16)].dropped
    again.append(records.SegmentDone(0, SegmentId(b"i" * 32)))
    assert again.segments == {}
    assert again.done[0].holders == {0: PEER, 3: PEER}


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("torn_bytes", [None, 1, 7, 40])
def test_after_a_crash_everything_appended_is_there(kept: int, torn_bytes: int | None) -> None:
    for crash_at in range(len(RECORDS)):
        disk = FakeDisk()
        journal = started(disk)
        for record in RECORDS[:crash_at]:
            journal.append(record)
        # A record that is being written when the power fails.
        file = disk.open(PATH)
        file.write_at(file.size(), records._frame(RECORDS[crash_at]))
        disk.crash(kept, torn_bytes=torn_bytes)
        again = Journal.load(disk, NAME)
        assert again is not None
        found = list(again.records())[1:]
        assert found[:crash_at] == RECORDS[:crash_at]
        assert found in (RECORDS[:crash_at], RECORDS[: crash_at + 1])
        again.append(RECORDS[-1])
        assert list(again.records())[-1] == RECORDS[-1]


def test_a_crash_while_it_begins_leaves_none_or_a_whole_one() -> None:
    disk = FakeDisk()
    file = disk.open(PATH, create=True)
    file.write_at(0, records._frame(STARTED)[:20])
    file.sync()
    disk.sync_folder(PATH.parent)
    assert Journal.load(disk, NAME) is None
    assert names(disk) == []


def test_flipped_bits_cut_the_journal_off() -> None:
    disk = FakeDisk()
    journal = started(disk)
    journal.append(*RECORDS)
    journal.close()
    disk.flip_bit(PATH, disk.length(PATH) - 3)
    again = Journal.load(disk, NAME)
    assert again is not None
    assert list(again.records())[1:] == RECORDS[:-1]


def test_none_without_a_put_and_none_after_it() -> None:
    disk = FakeDisk()
    assert Journal.load(disk, NAME) is None
    journal = started(disk)
    assert list(names(disk)) == [NAME]
    journal.delete()
    journal.delete()
    assert Journal.load(disk, NAME) is None
    with pytest.raises(StoreError):
        journal.append(RECORDS[0])
