"""A donor under pressure: its cap and its rate hold at every instant."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path, PurePath

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.messages import OfferRequest
from node.chunks.put.upload import PutOptions
from node.chunks.store.shard_store import ShardStore
from node.chunks.store.space import SpaceBudget
from node.control.api import control_handlers
from node.control.credit_words import summary_lines
from node.control.server import Events
from node.credit.admission import Policy
from node.crypto.identity import account_text
from node.daemon.compose import NETWORK_ID, Node
from node.daemon.memory import Donation
from node.daemon.supervisor import LOG_BYTES_MAX
from node.dht.record_store import RecordStore
from node.dht.records import ProviderRecord, ValueRecord, ValueRules
from node.errors import NodeError, NotFoundError, StoreFullError
from node.ports import WriteTransaction
from node.records.offer import Offer
from node.system.disk import DiskFiles
from node.system.lmdb_store import LmdbStore
from node.units import HOUR_S, MIB, MINUTE_S, Contact, Multiaddr, PeerId
from simulations.machine import SeededEntropy
from tests.chunks import store_world
from tests.clocks import START_S
from tests.daemon.worlds import Machine, World, contact_of
from tests.dht.support import VALIDATORS, multihash_of, peer_id_of
from tests.passed import Passed
from tests.pushing import put_until_refused

CAP_BYTES = 64_000_000
RATE_BYTES_S = 2 * MIB


async def test_six_uploaders_push_a_donor_neither_over_its_cap_nor_over_its_rate(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Each wants 20 MB kept: twice what fits. All they send is counted, handshakes of the DHT included."""
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    allocated: list[int] = []
    arrived = Passed()
    async with AsyncExitStack() as stack:
        donor = await stack.enter_async_context(world.node(machine))
        machine.disk.watch = allocated.append
        await donor.set_donation(Donation(CAP_BYTES, RATE_BYTES_S))
        people = [
            await stack.enter_async_context(world.node(Machine(f"sharer {n}"), listed=[contact_of(donor)]))
            for n in range(6)
        ]
        for person in people:
            assert await person.wait_joined(30)

        def note(sender: PeerId, receiver: PeerId, data: bytes) -> None:
            if donor.keys.peer_id in (sender, receiver):
                arrived.add(trio.current_time(), len(data))

        world.internet.on_sent = note

        began = trio.current_time()
        refused = await put_until_refused(people, tmp_path, times=10)
        took = trio.current_time() - began
        store = donor.statistics().store
    assert max(allocated) <= CAP_BYTES
    assert store.used_bytes > 0.8 * CAP_BYTES
    assert refused
    assert arrived.total() > 0.8 * CAP_BYTES
    assert took > 0.8 * CAP_BYTES / RATE_BYTES_S
    # Ahead of what the donor takes, each of the twelve streams may have a window on its way.
    assert arrived.worst_span() <= 1.05 * 10 * RATE_BYTES_S + 12 * 256 * 1024


def test_a_flood_of_records_pushes_no_small_donor_over_its_cap(tmp_path: Path) -> None:
    """On the real disk: a store that is full, logs at their largest, and everybody's records on top."""
    cap_bytes = 32 * MIB
    files = DiskFiles(tmp_path)
    index, state = LmdbStore(tmp_path / "index"), LmdbStore(tmp_path / "state")
    for name in ("cairn.log", "cairn.log.1"):
        files.replace(PurePath(name), random.Random(1).randbytes(LOG_BYTES_MAX))
    store = ShardStore(files, index, SeededEntropy("store"), cap_bytes=cap_bytes)
    records = RecordStore(state)
    records.room_bytes = SpaceBudget(cap_bytes).records_room_bytes
    worst = 0

    def look() -> None:
        nonlocal worst
        worst = max(worst, files.allocated_bytes())

    with contextlib.suppress(StoreFullError):
        for number in itertools.count(2, 4):  # the geometry with whole blocks
            leases = {index: store_world.lease(10 * number + index) for index in (0, 1)}
            store_world.put(store, number, leases)
            look()
    assert store.statistics().used_bytes > 0.8 * cap_bytes

    rng, rules, now_s = random.Random(2), ValueRules(VALIDATORS), START_S
    addresses = tuple(Multiaddr(f"/dns4/{'a' * 150}{n}/tcp/4001") for n in range(8))
    kept = 0
    for step in range(600):

        def flood(transaction: WriteTransaction, step: int = step, now_s: int = now_s) -> int:
            count = 0
            for number in range(step * 64, step * 64 + 64):
                peer, end_s = peer_id_of(number), now_s + rng.randrange(10, 2_000)
                if number % 2:
                    value = b"1:" + bytes(rng.choice([10, 900, 3_000, 8_000]))
                    record = ValueRecord(b"/numbered/%d" % number, value, now_s, end_s)
                    count += records.put_value(transaction, record, sender_id=peer, rules=rules)
                else:
                    provider = ProviderRecord(multihash_of(number), Contact(peer, addresses), end_s)
                    count += records.add_provider(transaction, provider, now_s=now_s)
            return count

        kept += state.update(flood)
        if step % 7 == 0:
            now_s += 60
            state.update(lambda tx, now_s=now_s: records.expire(tx, now_s=now_s, count_max=1_000))  # type: ignore[misc]
        look()
    assert kept > 500
    assert worst <= cap_bytes
    store.close()
    index.close()
    state.close()


@asynccontextmanager
async def donor_and_sharer(world: World, machine: Machine) -> AsyncIterator[tuple[Node, Node]]:
    """A donor on `machine`, and a node that has joined through it."""
    machine.give(CAP_BYTES)
    async with (
        world.node(machine) as donor,
        world.node(Machine("sharer"), listed=[contact_of(donor)]) as sharer,
    ):
        assert await sharer.wait_joined(30)
        yield donor, sharer


async def test_a_disk_that_goes_for_an_hour_suspends_and_comes_back_with_all_it_had(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(random.Random(3).randbytes(300_000))
    world, machine = World(), Machine("the donor")
    async with donor_and_sharer(world, machine) as (donor, sharer):
        report = await sharer.uploader.put(source, PutOptions(code=Code(2, 4)))
        machine.disk.is_gone = True
        with pytest.raises(NodeError):
            await sharer.uploader.put(source, PutOptions(code=Code(1, 3)))
        await trio.sleep(HOUR_S)
        assert "disk" in reason_of(donor)
        told = await control_handlers(donor)["status"]({}, Events(nobody_listens))
        assert told["donor"]["suspended"]["since"] <= world.clock.now_s() - HOUR_S + 2 * MINUTE_S
        with pytest.raises(NotFoundError):  # as if it were offline
            await sharer.health.check(report.file_hash)

        machine.disk.is_gone = False
        await trio.sleep(2 * MINUTE_S)
        assert not reason_of(donor)
        assert (await sharer.health.check(report.file_hash, verify=True)).healthy
        again = await sharer.uploader.put(source, PutOptions(code=Code(1, 3)))
        got = await donor.downloader.save(again.link, tmp_path / "copy")
        assert got.path.read_bytes() == source.read_bytes()
        assert donor.statistics().store.quarantined == 0


async def test_a_disk_that_turns_read_only_still_serves_and_takes_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "file"
    source.write_bytes(random.Random(4).randbytes(300_000))
    world, machine = World(), Machine("the donor")
    async with donor_and_sharer(world, machine) as (donor, sharer):
        report = await sharer.uploader.put(source, PutOptions(code=Code(2, 4)))
        machine.disk.is_read_only = True
        with pytest.raises(NodeError):
            await sharer.uploader.put(source, PutOptions(code=Code(1, 3)))
        assert "read-only" in reason_of(donor)
        assert (await sharer.health.check(report.file_hash, verify=True)).healthy
        await trio.sleep(HOUR_S)
        assert reason_of(donor)
        machine.disk.is_read_only = False
        await trio.sleep(2 * MINUTE_S)
        assert not reason_of(donor)
        await sharer.uploader.put(source, PutOptions(code=Code(1, 3)))


async def test_a_process_that_was_stopped_says_for_how_long_and_goes_on(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    async with world.node(machine) as donor:
        await trio.sleep(10 * HOUR_S)
        assert donor.uptime.permille() == 1000
    world.clock.ahead_s += HOUR_S  # down, in good order
    async with world.node(machine) as donor:
        await trio.sleep(9 * HOUR_S)
        world.clock.ahead_s += 2 * HOUR_S  # stopped, or asleep
        await trio.sleep(5 * MINUTE_S)
        told = (await control_handlers(donor)["status"]({}, Events(nobody_listens)))["donor"]
        lengths = [outage["to"] - outage["from"] for outage in told["outages"]]
        assert lengths == [pytest.approx(HOUR_S, abs=MINUTE_S), pytest.approx(2 * HOUR_S, abs=2 * MINUTE_S)]
        assert told["uptime_permille"] == pytest.approx(1000 * 19 / 22, abs=10)
        reply = await donor.server.offering.offer(OfferRequest(1, 1), donor.keys.peer_id)
        offer = Offer.decode(reply.record, network=NETWORK_ID)
        assert offer.uptime_permille == told["uptime_permille"]


def reason_of(donor: Node) -> str:
    suspended = donor.server.care.suspended
    return "" if suspended is None else suspended.reason


async def nobody_listens(_message: object) -> None:
    """Progress and notes."""


async def test_credit_and_lines_are_told_with_the_keys_of_the_contract(autojump_clock: MockClock) -> None:
    world, machine = World(), Machine("the donor")
    machine.give(CAP_BYTES)
    friend = Machine("a friend").keys().account_id
    async with world.node(machine) as donor:
        handlers, events = control_handlers(donor), Events(nobody_listens)
        request = {"peer": account_text(friend), "line_bytes": 20_000_000}
        given = await handlers["credit"](request, events)
        assert given.keys() >= {"net", "peers"}
        told = await handlers["credit"]({}, events)
        assert told["net"] == 0
        (row,) = told["peers"]
        assert row.keys() >= {"account", "balance", "line"}
        assert (row["account"], row["balance"]) == (account_text(friend), 0)
        assert row["line_bytes"] == pytest.approx(20_000_000, abs=1)
        assert "1 friend can use 20.0 MB of yours." in summary_lines(told)
        shown = await handlers["donate"]({"pledge_millionths": 250_000, "rate_bytes_s": 2_000_000}, events)
        assert shown.keys() >= {"cap_bytes", "used_bytes", "shards", "rate_bytes_s", "pledge", "earned"}
        assert (shown["pledge"], shown["rate_bytes_s"]) == (0.25, 2_000_000)
        assert donor.credit.ledger.policy.pledge == Policy.of(CAP_BYTES, pledge_permille=250).pledge
        for wrong in (
            {"peer": account_text(donor.keys.account_id), "line_bytes": 5},
            {"peer": account_text(friend), "line_bytes": -1},
            {"peer": "z6Mk", "line_bytes": 5},
        ):
            with pytest.raises(NodeError):
                await handlers["credit"](wrong, events)
