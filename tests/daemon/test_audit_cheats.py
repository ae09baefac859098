"""Donors that cheat: dropped blocks, hashes without bytes, blocks that are fetched when asked for."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from node.chunks.audit import Challenge, Sample, Target, answer, next_link, place_of
from node.chunks.geometry import Code, FileGeometry
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.daemon.config import build_config
from node.framing import FramedStream
from node.ports import Stream
from node.records.lease import Lease
from node.units import Contact
from simulations.network import Link
from tests.conftest import FULL
from tests.daemon.test_auditing import CONFIG, FILE_BYTES, ROUND_S, Swarm, rounds, swarm_of, until

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SAMPLES = 60
BLOCKS_PROTOCOL = "/test/blocks/1"
CHEAT = 1


async def test_a_donor_that_dropped_a_tenth_fails_one_of_60_samples(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """On the blocks of real stores: 10 % of them gone, 99 % of the audits see it."""
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        segment_id = swarm.segment()
        geometry = FileGeometry.of(FILE_BYTES, Code(2, 5)).segment(0)
        targets, blocks = [], {}
        for node in swarm.nodes[:5]:
            (held,) = node.store.leases(segment_id)
            lease = Lease.decode(held.lease.data, network="cairn")
            targets.append(Target(lease.lease_id, lease.root, geometry))
            for index in range(geometry.stripe_count):
                block = node.store.read_block(segment_id, lease.shard_index, index)
                blocks[lease.lease_id, index] = block
    targets.sort(key=lambda target: target.lease_id)
    source = random.Random(5)
    runs = 10_000 if FULL else 1_000
    seen = 0
    for _ in range(runs):
        lost = set(source.sample(sorted(blocks), len(blocks) // 10))
        challenge = Challenge(source.randbytes(32), tuple(targets), SAMPLES)
        link = challenge.first()
        for index in range(SAMPLES):
            place = place_of(link, challenge.targets, index)
            at = (place.target.lease_id, place.block_index)
            if at in lost:
                seen += 1
                break
            chunk = blocks[at][place.chunk_index * 1024 : (place.chunk_index + 1) * 1024]
            link = next_link(link, chunk)
    print(f"\na tenth dropped: {seen} of {runs} audits of {SAMPLES} samples saw it")
    assert seen / runs >= 0.99


async def test_a_donor_that_keeps_hashes_only_is_contradicted(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm_of(tmp_path, 5, Code(2, 5)) as swarm:
        server = swarm.nodes[CHEAT].auditing.server
        honest = server.answer

        async def invented(challenge: Challenge, leases: list[Lease]) -> list[Sample]:
            samples = await honest(challenge, leases)
            return [replace(sample, chunk=bytes(len(sample.chunk))) for sample in samples]

        monkeypatch.setattr(server, "answer", invented)
        donor = swarm.nodes[CHEAT].keys.peer_id
        others = [n for n in range(5) if n != CHEAT]
        await until(lambda: any(swarm.evidence(n).lost() for n in others))
        await rounds(0.2)
        told = [n for n in others if swarm.evidence(n).lost()]
        assert len(told) >= 3
        for n in told:
            (bad,) = swarm.nodes[n].evidence.bad_answers(swarm.segment())
            assert bad.is_false
            assert bad.donor == donor
            assert not swarm.nodes[n].reputations.takes_new_shards(donor)
            assert swarm.nodes[n].reputations.is_contradicted(donor)


async def test_a_donor_that_fetches_its_blocks_when_asked_is_slow(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers right, a round trip a sample: too late. The honest ones, as far away, are not."""
    config = build_config({"audit.interval_s": ROUND_S, "audit.samples": SAMPLES,
                           "repair.check_interval_s": 86_400})  # fmt: skip
    assert config != CONFIG
    async with swarm_of(tmp_path, 4, Code(2, 4), config=config) as swarm:
        await _make_lazy(swarm, monkeypatch)
        await rounds(4)
        audits = [swarm.nodes[n].auditing.own_audits() for n in range(4)]
        assert audits[CHEAT].slow >= 2
        assert audits[CHEAT].passed == audits[CHEAT].failed == 0, "late is slow, never failed"
        for n in (0, 2, 3):
            assert audits[n].passed >= 2
            assert audits[n].slow == audits[n].failed == 0
        lazy = swarm.nodes[CHEAT].keys.peer_id
        weights = [
            swarm.nodes[n].reputations.weight(lazy)
            for n in (0, 2, 3, 4)
            if swarm.nodes[n].reputations.of(lazy).samples
        ]
        assert weights
        assert max(weights) < 1_000_000
        (lease,) = swarm.of(CHEAT, CHEAT)
        assert not swarm.nodes[CHEAT].evidence.vesting(swarm.segment(), lease.lease_id), "late vests nothing"


async def _make_lazy(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the cheat keep its leaves, and its blocks at an accomplice 50 ms away."""
    node = swarm.nodes[CHEAT]
    segment_id = swarm.segment()
    (shard,) = node.store.shards_of(segment_id)
    blocks = [node.store.read_block(segment_id, shard, index) for index in range(64)]
    accomplice = peer_id_of(KeyPair.from_seed(b"accomplice".ljust(32)).public)
    internet = swarm.world.internet
    for one in [each.keys.peer_id for each in swarm.nodes]:
        for other in [accomplice, *(each.keys.peer_id for each in swarm.nodes)]:
            internet.set_link(one, other, Link(latency_s=0.05))
            internet.set_link(other, one, Link(latency_s=0.05))

    async def serve(stream: Stream) -> None:
        framed = FramedStream(stream)
        while (frame := await framed.receive_or_end(deadline_s=3600)) is not None:
            index = frame.values[0]
            assert isinstance(index, int)
            await framed.send_block([index], blocks[index])

    async def run(task_status: TaskStatus[Contact]) -> None:
        async with internet.join(accomplice) as network:
            network.serve(BLOCKS_PROTOCOL, serve, streams_max=9, streams_max_per_peer=9)
            task_status.started(Contact(accomplice, network.listen_addresses()))
            with trio.move_on_after(100 * ROUND_S):
                while not swarm.overs[CHEAT].is_set():  # noqa: ASYNC110 - it may be replaced
                    await trio.sleep(ROUND_S)

    contact = await swarm.nursery.start(run)

    async def fetching(challenge: Challenge, leases: list[Lease]) -> list[Sample]:
        stream = FramedStream(await node.ports.network.open_stream(contact, BLOCKS_PROTOCOL))
        fetched: dict[int, bytes] = {}
        link = challenge.first()
        for number in range(challenge.sample_count):
            place = place_of(link, challenge.targets, number)
            await stream.send([place.block_index])
            _, block = await stream.receive_block(deadline_s=60)
            fetched[place.block_index] = bytes(block)
            start = place.chunk_index * 1024
            link = next_link(link, fetched[place.block_index][start : start + 1024])
        await stream.aclose()
        leaves = node.store.leaves(segment_id, shard)
        return answer(challenge, lambda _, index: fetched[index], lambda _: leaves)

    monkeypatch.setattr(node.auditing.server, "answer", fetching)
