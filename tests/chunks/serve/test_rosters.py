"""What a holder knows of a segment's leases: checked before it counts, merged, and outliving rot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from node import tagged
from node.chunks.client import HolderClient
from node.chunks.serve.incoming import RefusalError
from node.crypto.identity import peer_id_of
from node.crypto.signing import KeyPair
from node.errors import CorruptBlockError, CryptoError
from node.records.lease import Lease
from node.units import PeerId, SegmentId
from tests.chunks.put_swarm import Donor
from tests.chunks.sample_segment import SampleSegment, sample_segment
from tests.chunks.serve.one_donor import one_donor

OTHER = KeyPair.from_seed(b"o" * 32)
OTHER_ID = peer_id_of(OTHER.public)


@asynccontextmanager
async def holding(sample: SampleSegment, shards: Sequence[int]) -> AsyncIterator[tuple[Donor, HolderClient]]:
    async with one_donor() as (_, donor, client):
        async with client.session(donor.contact) as session:
            await sample.put(session, donor.contact, tuple(shards))
        yield donor, client


def of_others(sample: SampleSegment, *shards: int) -> list[Lease]:
    return [sample.lease(OTHER_ID, shard).countersign(OTHER) for shard in shards]


def known(donor: Donor, segment_id: SegmentId) -> set[tuple[PeerId, int]]:
    return {(lease.holder, lease.shard_index) for lease in donor.server.rosters.known_leases(segment_id)}


def rot_object(donor: Donor, data: bytes) -> None:
    """Flip a bit of what the packs have of an object."""
    for path in list(donor.disk._files):
        if "pack" in str(path):
            with_it = donor.disk.open(path)
            offset = with_it.read_at(0, with_it.size()).find(data)
            if offset >= 0:
                donor.disk.flip_bit(path, offset + len(data) // 2)
                return
    raise AssertionError("it is in no pack")


async def test_what_others_hold_is_checked_and_merged(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with holding(sample, (0,)) as (donor, _):
        rosters, segment_id = donor.server.rosters, sample.manifest.segment_id
        assert known(donor, segment_id) == {(donor.peer_id, 0)}
        assert rosters.learn_leases(segment_id, of_others(sample, 1)) == 1
        assert rosters.learn_leases(segment_id, of_others(sample, 1, 2)) == 2
        assert known(donor, segment_id) == {(donor.peer_id, 0), (OTHER_ID, 1), (OTHER_ID, 2)}
        with pytest.raises(CryptoError):
            rosters.learn_leases(segment_id, [sample.lease(OTHER_ID, 3)])
        with pytest.raises(RefusalError):
            rosters.learn_leases(SegmentId(bytes(32)), [])
        assert len(known(donor, segment_id)) == 3


async def test_a_rotten_roster_is_one_that_was_never_heard(autojump_clock: MockClock) -> None:
    sample = sample_segment()
    async with holding(sample, (0,)) as (donor, client):
        segment_id, heard = sample.manifest.segment_id, of_others(sample, 1, 2)
        donor.server.rosters.learn_leases(segment_id, heard)
        rot_object(donor, tagged.pack_records(lease.encode() for lease in heard))
        with pytest.raises(CorruptBlockError):
            donor.store.roster(segment_id)

        # Its own leases stand in the index: they are known, and whoever asks hears of them.
        assert known(donor, segment_id) == {(donor.peer_id, 0)}
        async with client.session(donor.contact) as session:
            assert len(await session.roster(segment_id)) == 1
            # The next exchange brings back what was lost, for good.
            await session.merge_roster(segment_id, [lease.encode() for lease in heard])
        assert known(donor, segment_id) == {(donor.peer_id, 0), (OTHER_ID, 1), (OTHER_ID, 2)}
        assert donor.store.roster(segment_id) is not None
        assert donor.server.care.suspended is None
