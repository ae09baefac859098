"""What the holders of several segments are told at once, and that one bad segment harms no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trio.testing import MockClock

from node.chunks import messages
from node.chunks.manifest import FileManifest
from node.chunks.put.publish import Announcements, SegmentNews, publish_file, publish_segments
from node.chunks.put.segment_publisher import BATCH_SEGMENTS
from node.chunks.put.upload import PutOptions
from node.chunks.store.shard_store import AttachmentKind
from node.crypto.hashing import multihash
from node.crypto.sealing import owner_key
from node.records.placement_hint import PlacementHint
from node.units import SegmentId
from tests.chunks.put.test_upload import SMALL
from tests.chunks.put_swarm import BoardDirectory, Putter, Swarm, swarm_of, write_file
from tests.clocks import VirtualClock


def known_at(swarm: Swarm, segment_id: SegmentId) -> list[int]:
    """How many leases each holder of a segment knows of it."""
    return [
        len(donor.server.rosters.known_leases(segment_id))
        for donor in swarm.donors
        if donor.store.shards_of(segment_id)
    ]


async def test_all_holders_of_all_segments_know_each_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 2 * SMALL.segment_plaintext_bytes + 1)
    async with swarm_of(6) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        segments = list(putter.catalogue.segments(report.file_hash))
        assert len(segments) == 3 < BATCH_SEGMENTS
        for segment in segments:
            assert known_at(swarm, segment.segment_id) == [5] * 5
            assert len(swarm.board.providers[multihash(segment.segment_id)]) == 5
        # The file goes with the segments that its announcers announce anyway.
        by_file = swarm.board.providers[multihash(report.file_hash)]
        by_segments = {
            peer for each in segments for peer in swarm.board.providers[multihash(each.segment_id)]
        }
        assert len(by_file) == 3
        assert by_file <= by_segments


async def test_the_file_is_announced_by_others_where_announcers_die(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, 5_000)
    async with swarm_of(6) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        manifest = next(
            FileManifest.decode(data)
            for donor in swarm.donors
            if (data := donor.store.attachment(report.file_hash, AttachmentKind.FILE_MANIFEST)) is not None
        )
        (segment,) = putter.catalogue.segments(report.file_hash)
        holders = [donor for donor in swarm.donors if donor.store.shards_of(segment.segment_id)]
        contacts = {donor.peer_id: donor.contact for donor in holders}
        swarm.board.providers.clear()
        dying = holders[:3]

        async def tell() -> Announcements:
            # They have the manifest by now, or never get it.
            for donor in dying:
                await donor.die()
            return {donor.peer_id: [segment.segment_id] for donor in dying}

        hint = PlacementHint.make(
            network="test",
            manifest=manifest.encoded,
            owner=owner_key(putter.keys.account.seed, manifest.owner_salt),
            sequence=VirtualClock().now_s(),
            expires_s=VirtualClock().now_s() + 1000,
            holders=list(contacts.values()),
        )
        async with swarm.client() as client:
            published = await publish_file(
                client,
                BoardDirectory(swarm.board, client.peer_id),
                manifest,
                hint,
                [(messages.ATTACHED_MANIFEST, manifest.encoded)],
                list(contacts.values()),
                tell=tell,
                contacts=contacts,
            )
        assert published.announced == 2
        assert swarm.board.providers[multihash(report.file_hash)] == {donor.peer_id for donor in holders[3:]}


async def test_a_segment_that_a_holder_refuses_keeps_no_other_from_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with swarm_of(5) as swarm:
        putter = Putter(swarm)
        news = []
        for name in ("one", "two"):
            path = write_file(tmp_path, 5_000, name=name)
            async with putter.running() as uploader:
                report = await uploader.put(path, PutOptions(code=SMALL))
            (segment,) = putter.catalogue.segments(report.file_hash)
            contacts = {donor.peer_id: donor.contact for donor in swarm.donors}
            news.append(SegmentNews(segment.segment_id, segment.leases, contacts))
        one, two = news
        swarm.board.providers.clear()
        nowhere = replace(one, segment_id=SegmentId(bytes(32)))  # nobody has it: refused
        async with swarm.client() as client:
            announced = await publish_segments(client, VirtualClock(), [one, nowhere, two])
        assert announced == 5
        for each in (one, two):
            assert len(swarm.board.providers[multihash(each.segment_id)]) == 5
        assert multihash(nowhere.segment_id) not in swarm.board.providers
