"""Composed nodes after a get: both ledgers agree on what was served, by a few receipts a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from node import limits
from node.chunks.geometry import Code
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.chunks.serving import Reader
from node.credit.pair_ledger import Balance
from node.credit.units import served_micros
from node.daemon.compose import Node
from node.records.receipt import ServeReceipt
from node.units import MIB, Contact, LeaseId, PeerId
from tests.daemon.worlds import Machine, World, contact_of

CAP_BYTES = 64 * MIB
SETTLED_S = 60.0
"""Batches of a few seconds, and an exchange."""


@asynccontextmanager
async def swarm(donors: int) -> AsyncIterator[tuple[list[Node], Node, Node]]:
    """Donors, a sharer and somebody who has dealt with nobody."""
    world = World()
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(donors + 2):
            machine = Machine(f"node {number}")
            machine.give(CAP_BYTES if number < donors else 0)
            listed = [contact_of(nodes[0])] if nodes else []
            nodes.append(await stack.enter_async_context(world.node(machine, listed=listed)))
        for node in nodes:
            assert await node.wait_joined(30)
        yield nodes[:donors], nodes[donors], nodes[donors + 1]


async def put(sharer: Node, folder: Path, code: Code, size: int = 3 * MIB) -> PutReport:
    source = folder / "file"
    source.write_bytes(bytes(range(256)) * (size // 256))
    return await sharer.uploader.put(source, PutOptions(code=code, lease_days=30))


def balance_at(node: Node, other: Node) -> Balance:
    ledger, account = node.credit.ledger, other.keys.account_id
    today = ledger.today(node.credit.admission.day)
    return ledger.store.read(lambda view: ledger.book(view, account).balance(today=today))


def served_by(donor: Node, reader: Node, *, at: Node) -> int:
    """Micro-credits that the donor has served the reader, as one of the two has it."""
    other = reader if at is donor else donor
    return balance_at(at, other).given_by(donor.keys.account_id).served


class CountingReader:
    """A node's own reader, with a count of what it signs, by session and lease."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.counts: dict[tuple[bytes, PeerId, LeaseId], int] = {}
        self.byte_counts: dict[tuple[bytes, PeerId, LeaseId], int] = {}

    def new_session(self) -> bytes:
        return self._reader.new_session()

    def receipt(self, session: bytes, donor: PeerId, lease_id: LeaseId, byte_count: int) -> ServeReceipt:
        key = (session, donor, lease_id)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.byte_counts[key] = byte_count
        return self._reader.receipt(session, donor, lease_id, byte_count)

    def was_served(self, contact: Contact, receipts: Sequence[ServeReceipt]) -> None:
        self._reader.was_served(contact, receipts)


async def test_after_a_get_from_a_link_both_ledgers_agree_on_what_was_served(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(3) as (donors, sharer, friend):
        report = await put(sharer, tmp_path, Code(2, 3))
        counting = CountingReader(friend.credit.serving)
        friend.downloader._holders.reader = counting
        got = await friend.downloader.save(report.link, tmp_path / "copy")
        assert got.path.read_bytes() == (tmp_path / "file").read_bytes()
        await trio.sleep(SETTLED_S)
        total = 0
        for donor in donors:
            served = served_by(donor, friend, at=donor)
            assert served == served_by(donor, friend, at=friend)
            mine, theirs = balance_at(donor, friend), balance_at(friend, donor)
            assert (mine.low, mine.high) == (theirs.low, theirs.high)
            assert served_by(friend, donor, at=friend) == 0
            total += served
        # All that was needed was signed for, and nothing that did not come.
        assert served_micros(3 * MIB) <= total + 3 * 10**6
        assert total <= served_micros(got.fetched_bytes)
        # A few a stream, whatever its length.
        assert max(counting.counts.values()) <= limits.SERVE_RECEIPTS_PER_SHARD_MAX
        assert len(counting.counts) <= 2 * len(donors)


async def test_an_owner_pays_for_reading_its_own_file_and_nobody_for_reading_at_home(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm(2) as (donors, sharer, _):
        report = await put(sharer, tmp_path, Code(1, 2))
        await sharer.downloader.save(report.link, tmp_path / "copy")
        await trio.sleep(SETTLED_S)
        served = [served_by(donor, sharer, at=donor) for donor in donors]
        assert served == [served_by(donor, sharer, at=sharer) for donor in donors]
        assert sum(served) >= served_micros(3 * MIB)
        donor = donors[0]
        counting = CountingReader(donor.credit.serving)
        donor.downloader._holders.reader = counting
        fetched = await donor.downloader.save(report.link, tmp_path / "another")
        assert fetched.fetched_bytes >= 3 * MIB
        assert donor.keys.peer_id not in {peer_id for _, peer_id, _ in counting.counts}


async def test_what_a_donor_took_outlives_its_process(autojump_clock: MockClock, tmp_path: Path) -> None:
    world, machine, reader = World(), Machine("donor"), Machine("sharer")
    machine.give(CAP_BYTES)
    async with world.node(machine) as donor, world.node(reader, listed=[contact_of(donor)]) as sharer:
        assert await sharer.wait_joined(30)
        report = await put(sharer, tmp_path, Code(1, 1))
        await sharer.downloader.save(report.link, tmp_path / "copy")
        await trio.sleep(7)
        before = served_by(donor, sharer, at=donor)
        assert before >= served_micros(3 * MIB)
    machine.disk.crash()
    machine.state = machine.state.reopened()
    machine.index = machine.index.reopened()
    async with world.node(machine) as donor:
        assert served_by(donor, sharer, at=donor) == before
