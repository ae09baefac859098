"""Audits between composed nodes, in virtual time: who is proved, who is caught, who comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from node.chunks.findings import LeaseEvidence, SegmentEvidence
from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.chunks.store.shard_log import PACK_FOLDER
from node.daemon.compose import Node
from node.daemon.config import Config, build_config
from node.errors import StoreError
from node.records.receipt import Outcome
from node.units import MIB, SegmentId
from simulations.network import Link
from tests.daemon.worlds import Machine, World, contact_of

if TYPE_CHECKING:
    from trio_typing import TaskStatus

ROUND_S = 600
CONFIG = build_config({"audit.interval_s": ROUND_S, "repair.check_interval_s": 86_400})
FILE_BYTES = 8_300_160
"""At 2 data shards one segment whose shards are due in every round."""


@dataclass(eq=False)
class Swarm:
    """Donors and a sharer; each donor may be stopped and started."""

    world: World
    nursery: trio.Nursery
    config: Config = CONFIG
    machines: list[Machine] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    stops: dict[int, trio.Event] = field(default_factory=dict)
    overs: dict[int, trio.Event] = field(default_factory=dict)

    async def start(self, number: int) -> None:
        """Start machine `number`."""
        await self.nursery.start(self._live, number)

    async def _live(self, number: int, task_status: TaskStatus[None]) -> None:
        listed = [contact_of(self.nodes[0])] if number else []
        stop, over = self.stops[number], self.overs[number] = trio.Event(), trio.Event()
        async with self.world.node(self.machines[number], listed=listed, config=self.config) as node:
            self.nodes[number : number + 1] = [node]
            task_status.started()
            await stop.wait()
        over.set()

    async def stop(self, number: int) -> None:
        """Stop it in good order."""
        self.stops[number].set()
        await self.overs[number].wait()

    def segment(self, number: int = 0) -> SegmentId:
        """The only segment that is kept."""
        (segment_id,) = self.nodes[number].store.segments()
        return segment_id

    def evidence(self, number: int) -> SegmentEvidence:
        """What a node knows of it."""
        return self.nodes[number].evidence.of_segment(self.segment())

    def of(self, viewer: int, donor: int) -> list[LeaseEvidence]:
        """What a node knows of another one's leases."""
        name = self.nodes[donor].keys.peer_id
        return [lease for lease in self.evidence(viewer).leases.values() if lease.donor == name]


@asynccontextmanager
async def swarm_of(
    tmp_path: Path, donors: int, code: Code, *, config: Config = CONFIG, size: int = FILE_BYTES
) -> AsyncIterator[Swarm]:
    """`donors` donors, and a sharer (the last) that has put one file."""
    async with trio.open_nursery() as nursery:
        swarm = Swarm(World(), nursery, config)
        for number in range(donors + 1):
            machine = Machine(f"node {number}")
            machine.give(64 * MIB if number < donors else 0)
            swarm.machines.append(machine)
            await swarm.start(number)
        for node in swarm.nodes:
            assert await node.wait_joined(30)
        source = tmp_path / "file"
        source.write_bytes(bytes(range(256)) * (size // 256))
        await swarm.nodes[-1].uploader.put(source, PutOptions(code=code))
        yield swarm
        for number in reversed(range(donors + 1)):
            await swarm.stop(number)


def rot_blocks(swarm: Swarm, number: int) -> None:
    """Flip a bit in every block of a donor's shard; what describes the shard stays."""
    store, disk = swarm.nodes[number].store, swarm.machines[number].disk
    (shard_index,) = store.shards_of(swarm.segment(number))
    blocks = [store.read_block(swarm.segment(number), shard_index, index) for index in range(64)]
    packs = [disk.open(PACK_FOLDER / name) for name in disk.list(PACK_FOLDER)]
    contents = [pack.read_at(0, pack.size()) for pack in packs]
    for block in blocks:
        for pack, content in zip(packs, contents, strict=True):
            if (offset := content.find(block)) >= 0:
                pack.write_at(offset + 9, bytes([block[9] ^ 1]))


async def rounds(count: float) -> None:
    """Let so many rounds pass."""
    await trio.sleep(count * ROUND_S)


async def until(condition: Callable[[], bool], *, rounds_max: int = 12) -> None:
    """Wait for something that must happen within some rounds."""
    with trio.fail_after(rounds_max * ROUND_S):
        while not condition():  # noqa: ASYNC110 - it has no event
            await trio.sleep(ROUND_S / 20)


async def test_co_holders_and_the_owner_prove_every_shard(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        owner = len(swarm.nodes) - 1
        assert swarm.evidence(owner).leases == {}
        await rounds(8.9)
        proofs = [swarm.evidence(owner).proved(shard) for shard in range(5)]
        assert all(proofs), "an owner has its turn in every seventh round"
        for donor in range(5):
            audits = swarm.nodes[donor].auditing.own_audits()
            assert audits.passed >= 7
            assert audits.failed == audits.missed == audits.slow == audits.errors == 0
            assert not audits.is_suspended
            # What vests at the donor is by two different co-holders and the owner.
            (lease,) = swarm.of(donor, donor)
            segment_id = swarm.segment()
            receipts = swarm.nodes[donor].evidence.vesting(segment_id, lease.lease_id)
            assert len({receipt.auditor for receipt in receipts}) >= 3
        judged = [node.auditing.statistics for node in swarm.nodes]
        # One sample a shard and round, whoever's turn it is.
        assert sum(each.samples for each in judged) in range(5 * 8, 5 * 9 + 1)
        assert sum(each.failed + each.slow + each.no_answer + each.errors for each in judged) == 0


async def test_two_holders_audit_each_other_and_one_alone_is_the_owners(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(tmp_path, 2, Code(2, 4)) as swarm:
        await rounds(3)
        for number in range(2):
            assert len([lease for lease in swarm.of(number, 1 - number) if lease.proved]) == 2
    async with swarm_of(tmp_path, 1, Code(2, 2)) as swarm:
        await rounds(2)
        assert all(lease.proved for lease in swarm.evidence(1).leases.values())
        assert swarm.nodes[0].auditing.own_audits().passed >= 2


async def test_a_shard_that_rots_counts_as_lost_at_once_by_its_holders_own_word(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        rot_blocks(swarm, 1)
        donor = swarm.nodes[1].keys.peer_id
        await until(lambda: any(swarm.evidence(n).lost() for n in (0, 2, 3, 4)))
        await rounds(0.2)
        told = [
            number for number in (0, 2, 3, 4) if donor in {peer for _, peer in swarm.evidence(number).lost()}
        ]
        assert len(told) >= 3, "the auditor and who would repair"
        bad = swarm.nodes[told[0]].evidence.bad_answers(swarm.segment())
        assert [each.donor for each in bad] == [donor]
        assert not bad[0].is_false, "an honest holder says that it lacks the block"
        assert swarm.nodes[1].auditing.own_audits().failed >= 1
        assert swarm.nodes[1].auditing.own_audits().is_suspended


async def test_an_outage_of_an_hour_suspends_and_recovers_by_itself(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The process stops; auditors wait for it, nothing is lost, no penalty stays, and the donor sees why."""
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        await rounds(2)
        donor = swarm.nodes[1].keys.peer_id
        before = [swarm.nodes[n].reputations.of(donor).score for n in (0, 2, 3, 4)]
        await swarm.stop(1)
        await rounds(6)  # an hour
        silent = [n for n in (0, 2, 3, 4) if any(lease.no_answers for lease in swarm.of(n, 1))]
        assert len(silent) >= 3
        waiting = [n for n in silent if not swarm.nodes[n].reputations.takes_new_shards(donor)]
        assert waiting, "suspended: nothing new is placed there"
        auditors = {
            finding.auditor for n in silent for lease in swarm.of(n, 1) for finding in lease.no_answers
        }
        assert len(auditors) >= 2, "two co-holders' receipts are evidence of death"
        await swarm.start(1)
        await until(lambda: swarm.nodes[1].auditing.own_audits().passed_s > 0 and not
                    swarm.nodes[1].auditing.own_audits().is_suspended, rounds_max=3)  # fmt: skip
        await rounds(3)
        audits = swarm.nodes[1].auditing.own_audits()
        assert audits.missed >= 1
        assert "no answer" in audits.trouble
        for n, score in zip((0, 2, 3, 4), before, strict=True):
            reputation = swarm.nodes[n].reputations.of(donor)
            assert swarm.nodes[n].reputations.takes_new_shards(donor)
            assert reputation.score >= score
            assert reputation.bad == 0


async def test_a_disk_that_is_unmounted_for_an_hour_costs_nothing(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        donor = swarm.nodes[1]

        def unreadable(*_: object) -> bytes:
            raise StoreError("the folder of packs is gone: is its disk mounted?")

        with monkeypatch.context() as patch:
            patch.setattr(donor.store._log, "read", unreadable)
            await rounds(6)
        audits = donor.auditing.own_audits()
        assert audits.errors >= 1
        assert audits.is_suspended
        assert "mounted" in audits.trouble
        assert not any(swarm.evidence(n).lost() for n in range(5)), "it signed nothing"
        await rounds(3)
        assert not donor.auditing.own_audits().is_suspended
        for n in (0, 2, 3, 4):
            reputation = swarm.nodes[n].reputations.of(donor.keys.peer_id)
            assert reputation.bad == 0
            assert reputation.takes_new_shards


async def test_a_connected_donor_that_never_answers_has_failed(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        server = swarm.nodes[1].auditing.server

        async def never(*_: object) -> list[object]:
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(server, "answer", never)
        await rounds(4)
        donor = swarm.nodes[1].keys.peer_id
        seen = [swarm.nodes[n].reputations.of(donor) for n in range(len(swarm.nodes)) if n != 1]
        assert any(reputation.bad for reputation in seen)
        assert not any(reputation.offline for reputation in seen)
        outcomes = {f.outcome for n in (0, 2, 3, 4) for lease in swarm.of(n, 1) for f in lease.findings}
        # Whoever came while it still owed others an answer may have been told to come later.
        assert Outcome.NO_ANSWER in outcomes
        assert outcomes <= {Outcome.NO_ANSWER, Outcome.UNKNOWN}


async def test_nothing_is_asked_twice_in_a_round_after_a_restart(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(tmp_path, 3, Code(2, 3)) as swarm:
        await rounds(2.8)
        before = swarm.nodes[0].auditing.statistics.samples
        assert before
        await swarm.stop(0)
        await swarm.start(0)
        await trio.sleep(ROUND_S * 0.1)
        assert swarm.nodes[0].auditing.statistics.rounds == 1
        assert swarm.nodes[0].auditing.statistics.samples == 0


async def test_nothing_happens_where_nothing_is_kept(autojump_clock: MockClock) -> None:
    world = World()
    async with world.node(Machine("alone"), config=CONFIG) as node:
        await rounds(5)
        statistics = node.auditing.statistics
        assert statistics.rounds >= 5
        assert statistics.audits == statistics.samples == 0


async def test_far_away_is_not_slow(autojump_clock: MockClock, tmp_path: Path) -> None:
    """The allowance follows the round trip that was measured."""
    async with swarm_of(tmp_path, 3, Code(2, 3)) as swarm:
        ids = [node.keys.peer_id for node in swarm.nodes]
        for one in ids:
            for other in ids:
                swarm.world.internet.set_link(one, other, Link(latency_s=0.4))
        await rounds(4)
        assert all(node.auditing.own_audits().slow == 0 for node in swarm.nodes)
        assert all(swarm.nodes[n].auditing.own_audits().passed for n in range(3))
