"""What a donor takes over and what it refuses, what a witness signs: asked over the wire, by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.healing.client import RepairClient, RepairSession
from node.chunks.healing.healer import SegmentView
from node.chunks.healing.messages import Case
from node.daemon.compose import Node
from node.errors import RefusedError, RemoteError
from node.framing import Preamble
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome
from node.records.repair import Handover, RepairIntent
from node.units import DAY_S, SegmentId
from tests.clocks import START_S
from tests.daemon.healing_swarm import SETTINGS, Swarm, put, swarm_of
from tests.daemon.worlds import contact_of

CODE = Code(2, 5)
TODAY = START_S // DAY_S
QUIET = {"repair.check_interval_s": 86_400, "repair.dead_after_s": 300}


@dataclass
class Scene:
    """A segment, one of its holders, and a donor that has nothing of it."""

    swarm: Swarm
    segment_id: SegmentId
    holder: Node
    donor: Node
    view: SegmentView
    mine: Lease

    def session(self, other: Node) -> AbstractAsyncContextManager[RepairSession]:
        preamble = Preamble("cairn", 1, (("audit.interval_s", int(SETTINGS["audit.interval_s"])),))
        client = RepairClient(self.holder.ports.network, preamble)
        return client.session(contact_of(other))

    def handover(self) -> Handover:
        return Handover(
            self.mine.network, self.mine.lease_id, self.segment_id, self.mine.shard_index,
            self.holder.keys.peer_id, self.donor.keys.peer_id, TODAY,
        ).sign(self.holder.keys.identity)  # fmt: skip

    def case(self, handover: Handover | None = None) -> Case:
        lease = self.holder.healing.healer.lease_for(
            self.view, self.mine, self.donor.keys.peer_id, rate=self.view.grant.rate, handover=handover
        )
        return Case((lease,), (self.mine.lease_id,), self.view.leases)

    async def open(self, session: RepairSession, case: Case) -> None:
        await session.replace(self.view.manifest.encoded, self.view.grant.encode(), case)

    async def send(self, session: RepairSession, *, flip: bool = False, count: int | None = None) -> None:
        for stripe in range(count or self.view.manifest.geometry.stripe_count):
            block = self.holder.store.read_block(self.segment_id, self.mine.shard_index, stripe)
            if flip:
                block = bytes([block[0] ^ 1]) + block[1:]
            await session.send_block(0, stripe, block)

    def assert_untouched(self) -> None:
        statistics = self.donor.store.statistics()
        assert (statistics.shards, statistics.leases, statistics.reserved_bytes) == (0, 0, 0)


@asynccontextmanager
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    async with swarm_of(6, **QUIET) as (swarm, _):
        _, (segment_id,) = await put(swarm, path, CODE)
        holder = swarm.donors[swarm.holders(segment_id)[0]]
        (donor,) = [node for node in swarm.donors if not node.store.shards_of(segment_id)]
        view = holder.healing.held.view(segment_id)
        assert view is not None
        (mine,) = [lease for lease in view.leases if lease.holder == holder.keys.peer_id]
        yield Scene(swarm, segment_id, holder, donor, view, mine)


async def test_a_shard_that_is_handed_over_is_kept_with_all_that_belongs_to_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with scene(tmp_path) as at:
        case = at.case(at.handover())
        async with at.session(at.donor) as session:
            await at.open(session, case)
            await at.send(session)
            (record,) = await session.receive_leases(1)
        lease = Lease.decode(record, network="cairn")
        lease.verify()
        assert lease.body() == case.leases[0].body()
        store = at.donor.store
        assert store.shards_of(at.segment_id) == (at.mine.shard_index,)
        assert store.grant(at.segment_id) == at.view.grant.encode()
        known = at.donor.server.rosters.known_leases(at.segment_id)
        assert {each.lease_id for each in known} == {
            *(each.lease_id for each in at.view.leases), lease.lease_id
        }  # fmt: skip
        assert store.statistics().reserved_bytes == 0


async def test_without_evidence_nothing_is_taken(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        forged = replace(at.handover(), signature=at.mine.holder_signature)
        for case in (at.case(), at.case(forged)):
            with pytest.raises(RefusedError) as caught:
                async with at.session(at.donor) as session:
                    await at.open(session, case)
            assert caught.value.code == "invalid"
        at.assert_untouched()


async def test_blocks_of_another_root_leave_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        async with at.session(at.donor) as session:
            await at.open(session, at.case(at.handover()))
            await at.send(session, flip=True)
            with pytest.raises(RefusedError, match="root"):
                await session.receive_leases(1)
        at.assert_untouched()


async def test_what_breaks_off_leaves_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        session = await RepairClient(
            at.holder.ports.network,
            Preamble("cairn", 1, (("audit.interval_s", int(SETTINGS["audit.interval_s"])),)),
        ).open(contact_of(at.donor))
        await at.open(session, at.case(at.handover()))
        await at.send(session, count=1)
        await trio.sleep(1)
        assert at.donor.store.statistics().reserved_bytes > 0
        await session.reset()
        await trio.sleep(1)
        at.assert_untouched()


async def test_a_donor_that_is_leaving_takes_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.donor.healing.leaving.set(True)
        with pytest.raises(RefusedError) as caught:
            async with at.session(at.donor) as session:
                await at.open(session, at.case(at.handover()))
        assert caught.value.code == "not_a_donor"


async def witnessed(at: Scene, witness: Node, leases: list[Lease]) -> list[AuditReceipt]:
    async with at.session(witness) as session:
        records = await session.witness(at.segment_id, [lease.lease_id for lease in leases])
    receipts = [AuditReceipt.decode(record, network="cairn") for record in records]
    for receipt in receipts:
        receipt.verify()
        assert receipt.auditor == witness.keys.peer_id
    return receipts


async def test_a_witness_signs_what_it_sees_and_no_short_outage(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with scene(tmp_path) as at:
        numbers = at.swarm.holders(at.segment_id)
        witness, gone, emptied = (at.swarm.donors[number] for number in numbers[1:4])
        by_holder = {lease.holder: lease for lease in at.view.leases}
        silent, bad = by_holder[gone.keys.peer_id], by_holder[emptied.keys.peer_id]
        honest = by_holder[at.swarm.donors[numbers[4]].keys.peer_id]
        asked = [silent, bad, honest, at.mine]
        assert await witnessed(at, witness, asked) == []
        emptied.store.end_lease(bad.lease_id)
        await at.swarm.kill(numbers[2])
        await trio.sleep(5)  # what was seen in a second was there in it
        (receipt,) = await witnessed(at, witness, asked)
        assert (receipt.outcome, receipt.donor) == (Outcome.FAILED, bad.holder)
        await trio.sleep(400)  # longer than any outage that is suspended
        receipts = {each.donor: each for each in await witnessed(at, witness, asked)}
        assert set(receipts) == {silent.holder, bad.holder}
        assert receipts[silent.holder].outcome is Outcome.NO_ANSWER
        assert receipts[silent.holder].lease_ids() == (silent.lease_id,)
        kept = witness.evidence.receipts(at.segment_id)
        assert {each.donor for each in kept} == {silent.holder, bad.holder}


async def test_only_a_holder_s_own_intent_is_heard(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        other = at.swarm.donors[at.swarm.holders(at.segment_id)[1]]
        intent = RepairIntent(
            "cairn", at.segment_id, bytes([1]), 1, TODAY, at.holder.keys.peer_id
        ).sign(at.holder.keys.identity)  # fmt: skip
        stranger = replace(intent, holder=at.donor.keys.peer_id).sign(at.donor.keys.identity)
        for wrong in (stranger, replace(intent, generation=2)):
            with pytest.raises(RemoteError):
                async with at.session(other) as session:
                    await session.announce(wrong)
        async with at.session(other) as session:
            await session.announce(intent)
        with pytest.raises(RefusedError):  # who keeps nothing of it stands back from nothing
            async with at.session(at.donor) as session:
                await session.announce(intent)
