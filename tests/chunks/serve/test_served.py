"""Receipts on a stream of shards: taken for what was served there, refused for anything else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.chunks import messages
from node.chunks.client import HolderSession
from node.crypto.signing import KeyPair
from node.errors import RefusedError
from node.records.receipt import ServeReceipt, session_of
from node.units import AccountId, LeaseId, PeerId
from tests.chunks.put_swarm import Donor, swarm_of
from tests.chunks.sample_segment import TODAY, SampleSegment, sample_segment

READER = KeyPair.from_seed(b"r" * 32)


class Purse:
    """Where a donor's receipts go. Nobody has a claim."""

    def __init__(self, *, goes_first: bool = True) -> None:
        self.receipts: list[ServeReceipt] = []
        self.asked = 0
        self._goes_first = goes_first

    def has_served(self, receipts: Sequence[ServeReceipt]) -> None:
        self.receipts.extend(receipts)

    async def goes_first(self, peer_id: PeerId) -> bool:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self._goes_first


@asynccontextmanager
async def reading(
    purse: Purse, sample: SampleSegment, blocks: Sequence[int]
) -> AsyncIterator[tuple[Donor, HolderSession, ServeReceipt]]:
    """A session in which these blocks of shard 0 were read, and the receipt for them."""
    async with swarm_of(0) as swarm:
        donor = Donor(swarm, "donor 0", 10**9)
        donor.serving = purse
        await swarm.nursery.start(donor.run)
        async with swarm.client() as client:
            async with client.session(donor.contact) as session:
                await sample.put(session, donor.contact, (0,))
            async with client.session(donor.contact) as session:
                await session.request_leaves(sample.manifest.segment_id, 0)
                reply = await session.receive_leaves()
                await session.request_blocks(sample.manifest.segment_id, 0, blocks)
                for index in blocks:
                    await session.receive_block(0, index)
                receipt = ServeReceipt(
                    network="test",
                    session=session_of(TODAY, bytes(12)),
                    donor=donor.peer_id,
                    reader=AccountId(READER.public),
                    lease_id=LeaseId(reply.lease_id),
                    byte_count=sum(len(sample.blocks[0][index]) for index in blocks),
                )
                yield donor, session, receipt


async def test_a_receipt_for_what_was_served_goes_to_the_donor_at_the_end(autojump_clock: MockClock) -> None:
    purse, sample = Purse(), sample_segment()
    async with reading(purse, sample, (0, 1)) as (donor, session, receipt):
        assert receipt.lease_id == sample.lease(donor.peer_id, 0).lease_id
        half = replace(receipt, byte_count=receipt.byte_count // 2).sign(READER)
        await session.send_receipts([half, receipt.sign(READER)])
        leaves = await session.leaves(sample.manifest.segment_id, 0)  # nothing was answered to receipts
        assert len(leaves) == 32 * sample.manifest.geometry.stripe_count
        assert purse.receipts == []
        await session.aclose()
        await trio.sleep(1)
        assert purse.receipts == [receipt.sign(READER)]


@pytest.mark.parametrize("bad", ["more", "network", "donor", "lease"])
async def test_a_receipt_for_anything_else_ends_the_stream_and_counts_for_nothing(
    autojump_clock: MockClock, bad: str
) -> None:
    purse = Purse()
    async with reading(purse, sample_segment(), (0,)) as (_, session, receipt):
        wrong = {
            "more": replace(receipt, byte_count=receipt.byte_count + 1),
            "network": replace(receipt, network="another"),
            "donor": replace(receipt, donor=PeerId(receipt.donor[:-1] + b"?")),
            "lease": replace(receipt, lease_id=LeaseId(b"?" * 16)),
        }[bad]
        good = replace(receipt, byte_count=1).sign(READER)
        await session.send_receipts([good, wrong.sign(READER)])
        with pytest.raises(RefusedError) as caught:
            await session.leaves(sample_segment().manifest.segment_id, 0)
        assert caught.value.code == messages.REFUSED_INVALID
        await trio.sleep(1)
        assert purse.receipts == [good]


async def test_only_what_goes_beyond_the_free_egress_asks_for_credit_and_is_served_all_the_same(
    autojump_clock: MockClock,
) -> None:
    purse, sample = Purse(goes_first=False), sample_segment()  # the sample's leases have one free byte
    async with reading(purse, sample, (0,)) as (_, session, _):
        assert purse.asked == 0
        start = trio.current_time()
        await session.request_blocks(sample.manifest.segment_id, 0, (1,))
        block = await session.receive_block(0, 1)
        assert not isinstance(block, messages.BlockMissing)
        assert bytes(block) == sample.blocks[0][1]
        assert purse.asked == 1
        assert trio.current_time() == start  # an idle donor lets nobody wait
