"""What audits cost on the wire, from real encoded messages, in a small network and in a large one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from node import wire
from node.chunks.audit import Challenge as PureChallenge
from node.chunks.audit import due_days
from node.chunks.audits import messages
from node.chunks.audits.duties import OWNER_TURNS, Duty, co_holder_duty, owner_duty
from node.chunks.audits.telling import TOLD
from node.chunks.geometry import Code, SegmentGeometry
from node.chunks.merkle import leaf_of, shard_root
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.framing import Preamble
from node.records.lease import Lease
from node.records.receipt import AuditReceipt, Outcome, join_lease_ids
from node.units import DAY_S, KIB, LeaseId, OwnerKey, PeerId, SegmentId
from node.wire import Value
from tests.chunks.audits.answering import answer_with

CODE = Code(10, 30)
BUDGET = 0.015
MONTH_DAYS = 30
NOW_S = 1_800_000_000
BLOCK_FRAME_BYTES = 4 + 1 + 6
DONOR, AUDITOR, OWNER = (KeyPair.from_seed(letter * 32) for letter in (b"d", b"a", b"o"))
PREAMBLE = Preamble("cairn", 1, (("audit.interval_s", DAY_S),))


def framed(*values: Value) -> int:
    """Bytes of messages with their frames."""
    return sum(4 + len(wire.encode(value)) for value in values)


def message_bytes(*sent: messages.Message) -> int:
    return framed(*(messages.encode(message) for message in sent))


class Costs:
    """Bytes of the parts of an audit of `pooled` leases, one sample each, of shards like these."""

    def __init__(self, geometry: SegmentGeometry, pooled: int) -> None:
        source = random.Random(1)
        blocks = [source.randbytes(geometry.block_bytes(index)) for index in range(geometry.stripe_count)]
        leaves = b"".join(leaf_of(block) for block in blocks)
        ids = sorted(LeaseId(source.randbytes(16)) for _ in range(pooled))
        challenge, samples = answer_with(ids, shard_root(leaves), geometry, blocks, leaves)
        assert isinstance(challenge, PureChallenge)
        body = messages.pack_samples(samples)
        receipt = AuditReceipt(
            "cairn", join_lease_ids(ids), NOW_S // DAY_S, challenge.nonce, pooled, pooled, 0, NOW_S,
            Outcome.PASSED, peer_id_of(AUDITOR.public), peer_id_of(DONOR.public),
        ).sign(AUDITOR)  # fmt: skip
        ask = messages.Ask(NOW_S // DAY_S, join_lease_ids(ids), bytes(8 * pooled))
        signed = replace(ask, owner_key=OWNER.public, signature=OWNER.sign("audit-ask", b"any"))
        self.owners_surplus = message_bytes(signed) - message_bytes(ask)
        self.preamble = framed(PREAMBLE.as_value())
        self.audit = (
            self.preamble
            + message_bytes(
                ask,
                messages.Ready(bytes(pooled)),
                messages.Challenge(challenge.nonce, pooled),
                messages.Answer(receipt.signature, len(body)),
                messages.Receipt(b"", pooled, pooled, 0, NOW_S, 1, receipt.signature),
            )
            + BLOCK_FRAME_BYTES * -(-len(body) // 61_440)
            + len(body)
        )
        encoded = messages.pack_records([receipt.encode()], size_max=10**6)
        tell = messages.Tell((SegmentId(bytes(32)),) * pooled, len(encoded))
        self.tell = self.preamble + message_bytes(tell, messages.Done(1)) + BLOCK_FRAME_BYTES + len(encoded)
        self.receipt = len(encoded) + BLOCK_FRAME_BYTES


def monthly(geometry: SegmentGeometry, pooled: int) -> float:
    """Share of a shard's bytes that its audits cost in a month, its owner's included."""
    costs = Costs(geometry, pooled)
    turns = MONTH_DAYS / due_days(geometry.shard_bytes)
    weeks = MONTH_DAYS / 7
    sampled = turns * (costs.audit + costs.owners_surplus / OWNER_TURNS)
    # A week's first pass of the first auditor is told, to three holders; the owner collects with its turn
    # receipts of the week's three auditors.
    told = weeks * TOLD * costs.tell
    collect = messages.Collect((SegmentId(bytes(32)),) * pooled, NOW_S)
    collected = turns / OWNER_TURNS * (message_bytes(collect, messages.Body(1000)) + 3 * costs.receipt)
    return (sampled + told + collected) / pooled / geometry.shard_bytes


def pools(nodes: int, segments_a_file: int, *, rounds: int = 7) -> float:
    """Leases that one challenge of a co-holder takes on average, by the real rules, for a file whose segments
    sit at the same 30 holders of a network of `nodes`."""
    source = random.Random(nodes)
    peers = [peer_id_of(KeyPair.from_seed(source.randbytes(32)).public) for _ in range(min(nodes, 30))]
    samples = challenges = 0
    for number in range(rounds):
        round_number = NOW_S // DAY_S + number
        pairs: dict[tuple[PeerId, PeerId], int] = {}
        for segment in range(segments_a_file):
            segment_id = SegmentId(random.Random(f"{nodes} {segment}").randbytes(32))
            for shard, target in enumerate(peers):
                lease = lease_of(segment_id, shard, target)
                for me in peers:
                    duty = co_holder_duty(me, lease, peers, round_number=round_number, interval_s=DAY_S)
                    if duty is Duty.SAMPLE:
                        pairs[me, target] = pairs.get((me, target), 0) + 1
        samples += sum(pairs.values())
        challenges += len(pairs)
    return samples / challenges


def lease_of(segment_id: SegmentId, shard: int, holder: PeerId) -> Lease:
    owner = OwnerKey(OWNER.public)
    return Lease(
        "cairn", LeaseId(bytes(16)), segment_id, shard, bytes(32), 64 * 65_472, owner, holder, 1, 31, 1, 1,
        bytes(16),
    )  # fmt: skip


FULL_SEGMENT = SegmentGeometry(CODE, CODE.segment_plaintext_bytes)


@pytest.mark.parametrize(("nodes", "segments"), [(30, 24), (10_000, 1), (10_000, 3)])
def test_audits_cost_less_than_the_budget(
    nodes: int, segments: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """30 nodes keep all of everybody's files; of 10,000 a pair shares one file, at worst of one segment."""
    pooled = pools(nodes, segments)
    share = monthly(FULL_SEGMENT, max(1, int(pooled)))
    with capsys.disabled():
        print(f"\n{nodes} nodes, files of {segments} segments: {pooled:.2f} shards a challenge, "
              f"{100 * share:.2f} % of the bytes kept a month")  # fmt: skip
    assert 0.005 < share < BUDGET


def test_what_smaller_shards_cost(capsys: pytest.CaptureFixture[str]) -> None:
    shares = {}
    for size in (4_190_208, 2048 * KIB, 1024 * KIB, 512 * KIB, 140 * KIB, 64 * KIB, 16 * KIB, 4 * KIB, KIB):
        geometry = SegmentGeometry(CODE, min(10 * size, CODE.segment_plaintext_bytes))
        shares[geometry.shard_bytes] = monthly(geometry, 1)
    with capsys.disabled():
        print("\nshard bytes: audits a month in % of it, nothing pooled")
        for size, share in shares.items():
            print(f"{size:>9}: {100 * share:.2f}")
    assert shares[max(shares)] < BUDGET
    assert all(share > 0 for share in shares.values())


def test_a_due_shard_costs_one_sample() -> None:
    """Of 30 co-holders and the owner exactly one samples it, in turns, and only one watches it else."""
    source = random.Random(3)
    peers = [peer_id_of(KeyPair.from_seed(source.randbytes(32)).public) for _ in range(30)]
    by_owner, auditors = 0, set()
    for round_number in range(20_000, 20_070):
        lease = lease_of(SegmentId(b"s" * 32), 3, peers[3])
        duties = {
            peer: co_holder_duty(peer, lease, peers, round_number=round_number, interval_s=DAY_S)
            for peer in peers
        }
        samplers = [peer for peer, duty in duties.items() if duty is Duty.SAMPLE]
        watchers = [peer for peer, duty in duties.items() if duty is Duty.WATCH]
        owner = owner_duty(lease, peers, round_number=round_number)
        assert len(samplers) + (owner is Duty.SAMPLE) == 1
        assert len(samplers) + len(watchers) == 1
        assert peers[3] not in samplers + watchers
        by_owner += owner is Duty.SAMPLE
        auditors.update(samplers)
    assert by_owner == 10
    assert len(auditors) > 15
