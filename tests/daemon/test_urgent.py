"""Half of a segment's holders fall silent at once: hours of patience instead of days, and for nobody else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio
from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.healing.client import RepairClient
from node.chunks.put.upload import PutOptions
from node.daemon.compose import Node
from node.framing import Preamble
from node.records.lease import Lease
from node.records.receipt import AUDIT_NONCE_BYTES, AuditReceipt, Outcome, join_lease_ids
from node.units import SegmentId
from tests.daemon.healing_swarm import Swarm, comes_true, put, swarm_of
from tests.daemon.worlds import Machine, contact_of

CODE = Code(2, 6)
DEAD_S, URGENT_S = 30_000, 1_200
PATIENCE_S = URGENT_S * 3 // 4
AUDITS_S = 600
SETTINGS = {
    "repair.dead_after_s": DEAD_S,
    "repair.urgent_after_s": URGENT_S,
    "audit.interval_s": AUDITS_S,
}
WHOLE = dict.fromkeys(range(6), 1)


async def one_file(swarm: Swarm, folder: Path) -> tuple[SegmentId, list[int]]:
    """Its segment, and the holders that are not the donor through whom the others join."""
    path = folder / "file"
    path.write_bytes(bytes(range(256)) * 400)
    _, (segment_id,) = await put(swarm, path, CODE)
    return segment_id, [number for number in swarm.holders(segment_id) if number]


def lease_of(node: Node, segment_id: SegmentId, holder: Node) -> Lease:
    view = node.healing.held.view(segment_id)
    assert view is not None
    (lease,) = [lease for lease in view.leases if lease.holder == holder.keys.peer_id]
    return lease


def patience_s(node: Node, segment_id: SegmentId) -> int:
    view = node.healing.held.view(segment_id)
    assert view is not None
    copies = node.healing.held.copies(view)
    return node.healing.held.patience_s(CODE, copies.values())


def silent(node: Node, segment_id: SegmentId) -> set[bytes]:
    """Peers that a holder misses."""
    view = node.healing.held.view(segment_id)
    assert view is not None
    return {lease.holder for lease in node.healing.held.silent(segment_id, view.leases)}


async def witnessed(asker: Node, witness: Node, segment_id: SegmentId, holders: list[Node]) -> set[bytes]:
    """Of which holders a witness signs that they are silent."""
    client = RepairClient(asker.ports.network, Preamble("cairn", 1, (("audit.interval_s", AUDITS_S),)))
    names = [lease_of(witness, segment_id, holder).lease_id for holder in holders]
    async with client.session(contact_of(witness)) as session:
        records = await session.witness(segment_id, names)
    return {AuditReceipt.decode(record, network="cairn").donor for record in records}


async def test_half_of_the_holders_gone_at_once_are_replaced_long_before_one_would_be(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    # Audits are a day apart, so it is the pulse that notices.
    async with swarm_of(10, **{**SETTINGS, "audit.interval_s": 86_400}) as (swarm, _):
        segment_id, holders = await one_file(swarm, tmp_path)
        began_s = trio.current_time()
        for number in holders[:3]:
            await swarm.kill(number)
        await trio.sleep(PATIENCE_S - 100)
        assert len(swarm.shards(segment_id)) == 3
        assert await comes_true(lambda: swarm.shards(segment_id) == WHOLE, DEAD_S // 2)
        assert trio.current_time() - began_s > URGENT_S
        watchers = [node for node in swarm.living() if node.store.shards_of(segment_id)]
        assert any(node.healing.pulse.alarms for node in watchers)


async def test_one_holder_is_waited_for_as_long_as_ever(autojump_clock: MockClock, tmp_path: Path) -> None:
    # By the threshold a single loss would be repaired.
    async with swarm_of(9, **SETTINGS, **{"repair.threshold": 0.0}) as (swarm, _):
        segment_id, holders = await one_file(swarm, tmp_path)
        began_s = trio.current_time()
        await swarm.kill(holders[0])
        assert await comes_true(lambda: swarm.shards(segment_id) == WHOLE, 2 * DEAD_S)
        assert trio.current_time() - began_s > DEAD_S


async def test_a_pulse_outlives_a_restart_and_ends_with_a_connection(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    quiet = {**SETTINGS, "audit.interval_s": 86_400, "repair.threshold": 1.0}
    async with swarm_of(9, **quiet) as (swarm, _), AsyncExitStack() as stack:
        segment_id, holders = await one_file(swarm, tmp_path)
        *gone, watcher = holders[:4]
        away = swarm.donors[gone[0]].keys.peer_id
        for number in gone:
            await swarm.kill(number)
        node = swarm.donors[watcher]
        assert await comes_true(lambda: len(silent(node, segment_id)) == 3, 600)
        since_s = node.healing.pulse.absent_since(away)
        assert since_s is not None
        await trio.sleep(120)
        await swarm.kill(watcher)
        off_s = 1_000
        await trio.sleep(off_s)

        async def back(number: int) -> Node:
            return await stack.enter_async_context(
                swarm.world.node(
                    swarm.machines[number], listed=[contact_of(swarm.donors[0])], config=swarm.config
                )
            )

        node = await back(watcher)
        started_s = swarm.world.clock.now_s()
        assert not silent(node, segment_id)
        assert await comes_true(lambda: len(silent(node, segment_id)) == 3, 600)
        again_s = node.healing.pulse.absent_since(away)
        assert again_s is not None
        assert since_s + off_s <= again_s < started_s
        await back(gone[0])
        assert await comes_true(lambda: away not in silent(node, segment_id), 600)
        assert len(silent(node, segment_id)) == 2


async def test_a_liar_makes_nobody_hurry(autojump_clock: MockClock, tmp_path: Path) -> None:
    """One holder is away; another one signs that living ones are, too. A witness sees for itself."""
    async with swarm_of(9, **SETTINGS, **{"repair.threshold": 1.0}) as (swarm, _):
        segment_id, holders = await one_file(swarm, tmp_path)
        gone, first, second, witness, liar = (swarm.donors[number] for number in holders[:5])
        await swarm.kill(holders[0])
        assert await comes_true(lambda: gone.keys.peer_id in silent(witness, segment_id), 4 * AUDITS_S)
        await trio.sleep(URGENT_S + AUDITS_S)
        assert await witnessed(liar, witness, segment_id, [gone]) == set()
        view = witness.healing.held.view(segment_id)
        assert view is not None
        now_s = swarm.world.clock.now_s()
        for victim in (first, second):
            lie = AuditReceipt(
                network="cairn",
                leases=join_lease_ids([lease_of(witness, segment_id, victim).lease_id]),
                round_number=0,
                nonce=bytes(AUDIT_NONCE_BYTES),
                asked_count=1,
                passed_count=0,
                failed_count=0,
                time_s=now_s,
                outcome=Outcome.NO_ANSWER,
                auditor=liar.keys.peer_id,
                donor=victim.keys.peer_id,
            ).sign(liar.keys.identity)
            assert witness.evidence.add_receipts([lie], view.leases, now_s=now_s)
        swarm.world.clock.ahead_s += URGENT_S
        assert patience_s(witness, segment_id) == PATIENCE_S, "it believes the lie until it looks"
        asked = [gone, first, second]
        assert await witnessed(liar, witness, segment_id, asked) == set()
        assert patience_s(witness, segment_id) == DEAD_S
        assert silent(witness, segment_id) == {gone.keys.peer_id}
        # Once it is true it is signed for.
        for number in holders[1:3]:
            await swarm.kill(number)
        everybody = {node.keys.peer_id for node in asked}
        assert await comes_true(lambda: silent(witness, segment_id) == everybody, 4 * AUDITS_S)
        await trio.sleep(2 * URGENT_S)
        assert await witnessed(liar, witness, segment_id, asked) == everybody


async def test_an_owners_node_hurries_as_well(autojump_clock: MockClock, tmp_path: Path) -> None:
    # Holders repair nothing by themselves.
    quiet = {**SETTINGS, "audit.interval_s": 86_400, "repair.threshold": 1.0}
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 400)
    async with (
        swarm_of(10, **quiet) as (swarm, _),
        swarm.world.node(
            Machine("owner"), listed=[contact_of(swarm.donors[0])], config=swarm.config
        ) as owner,
    ):
        assert await owner.wait_joined(30)
        report = await owner.uploader.put(path, PutOptions(code=CODE))
        (segment,) = owner.catalogue.segments(report.file_hash)
        segment_id = segment.segment_id
        remade = owner.healing.owner_watch.statistics
        holders = [number for number in swarm.holders(segment_id) if number]
        await swarm.kill(holders[0])
        await trio.sleep(2 * URGENT_S)
        assert remade.shards_remade == 0, "one is waited for"
        for number in holders[1:3]:
            await swarm.kill(number)
        assert await comes_true(lambda: remade.shards_remade == 3, DEAD_S // 2)
        assert swarm.shards(segment_id) == WHOLE
