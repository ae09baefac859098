"""Put over real servers and stores: whatever happens on the way, the file is kept, or nothing is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from trio.testing import MockClock

from node.chunks.coding_engines import best_engine
from node.chunks.erasure import CodingEngine
from node.chunks.geometry import Code
from node.chunks.header import FileHeader
from node.chunks.manifest import FileManifest, SegmentManifest, decode_bundle
from node.chunks.merkle import check_leaves, leaf_of
from node.chunks.pipeline import SegmentCodec
from node.chunks.placement import is_weak
from node.chunks.put.put_report import PutReport
from node.chunks.put.upload import PutOptions
from node.chunks.roster import Placement, check_grant_of
from node.chunks.store.shard_store import AttachmentKind
from node.credit.units import lease_value
from node.crypto.hashing import multihash
from node.crypto.links import Link
from node.crypto.sealing import FileKeys
from node.records.lease import Lease
from node.records.placement_hint import PlacementHint, hint_key
from node.records.repair import RepairGrant
from node.units import SegmentId
from tests.chunks.put_swarm import Putter, Swarm, swarm_of, write_file

STRIPE = Code(10, 30).stripe_plaintext_bytes
SMALL = Code(2, 5)


def read_back(swarm: Swarm, report: PutReport, *, engine: CodingEngine | None = None) -> bytes:
    """The file's bytes, from the disks of the donors that live, checked as a reader checks them."""
    assert report.link.key is not None
    live = [donor for donor in swarm.donors if donor.alive]
    encoded = next(
        data
        for donor in live
        if (data := donor.store.attachment(report.file_hash, AttachmentKind.FILE_MANIFEST)) is not None
    )
    manifest = FileManifest.decode(encoded)
    assert manifest.file_hash == report.file_hash
    keys = FileKeys.derive(report.link.key)
    header = FileHeader.decode(
        keys.header_key.open(manifest.sealed_header), plaintext_bytes=manifest.plaintext_bytes
    )
    assert header.name == report.name
    plaintext = b""
    for index in range(manifest.segment_count):
        plaintext += _read_segment(swarm, manifest, index, keys, engine or best_engine())
    return plaintext


def _read_segment(
    swarm: Swarm, manifest: FileManifest, index: int, keys: FileKeys, engine: CodingEngine
) -> bytes:
    segment_id = manifest.segment_id(index)
    segment: SegmentManifest | None = None
    stripes: dict[int, dict[int, bytes]] = {}
    for donor in (donor for donor in swarm.donors if donor.alive):
        encoded = donor.store.segment_manifest(segment_id)
        if encoded is None:
            continue
        segment = SegmentManifest.decode(encoded)
        manifest.check_segment(index, segment)
        for shard in donor.store.shards_of(segment_id):
            leaves = donor.store.leaves(segment_id, shard)
            assert leaves is not None
            count = segment.geometry.stripe_count
            check_leaves(leaves, leaf_count=count, root=segment.root(shard))
            for stripe in range(count):
                block = donor.store.read_block(segment_id, shard, stripe)
                assert leaf_of(block) == leaves[32 * stripe : 32 * stripe + 32]
                stripes.setdefault(stripe, {})[shard] = block
    assert segment is not None
    codec = SegmentCodec.of(manifest.geometry, index, keys=keys, suite=manifest.suite, engine=engine)
    return b"".join(
        bytes(codec.decode(stripe, blocks, stripe_hash=segment.stripe_hash(stripe)))
        for stripe, blocks in sorted(stripes.items())
    )


def shards_held(swarm: Swarm, segment_id: SegmentId) -> dict[int, int]:
    """How many live donors hold each shard."""
    held: dict[int, int] = {}
    for donor in (donor for donor in swarm.donors if donor.alive):
        for shard in donor.store.shards_of(segment_id):
            held[shard] = held.get(shard, 0) + 1
    return held


def assert_granted(swarm: Swarm, putter: Putter) -> None:
    """Every holder has the same grant for what it holds, and it covers a lease of any shard."""
    grants: dict[SegmentId, set[bytes | None]] = {}
    for donor in swarm.donors:
        for segment_id in donor.store.segments():
            grants.setdefault(segment_id, set()).add(donor.store.grant(segment_id))
            encoded = donor.store.segment_manifest(segment_id)
            assert encoded is not None
            manifest = SegmentManifest.decode(encoded)
            data = donor.store.grant(segment_id)
            assert data is not None
            grant = RepairGrant.decode(data, network="test")
            check_grant_of(grant, manifest)
            assert grant.account == putter.keys.account.public
            for held in donor.store.leases(segment_id):
                lease = Lease.decode(held.lease.data, network="test")
                assert lease.expires_s <= grant.expires_s
                assert lease.rate <= grant.rate
                assert lease_value(lease, len(encoded)) * grant.total_shards <= grant.max_credits
    assert all(len(records) == 1 for records in grants.values())


@pytest.mark.parametrize("size", [0, 1, STRIPE, STRIPE + 1, 3 * STRIPE])
async def test_put_to_thirty_donors_places_every_shard_once(
    size: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    path = write_file(tmp_path, size)
    async with swarm_of(30) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions())
        assert read_back(swarm, report) == path.read_bytes()
        assert (report.bytes, report.holders, report.weak) == (size, 30, False)
        assert report.stored_bytes == swarm.bytes_received()
        assert report.missing_shards == 0
        assert swarm.leases() == 30
        assert_granted(swarm, putter)
        assert swarm.reserved_bytes() == 0
        assert putter.home.list(Path("puts")) == []


async def test_put_of_several_segments(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 2 * SMALL.segment_plaintext_bytes + 12345)
    async with swarm_of(7) as swarm:
        putter = Putter(swarm)
        progress: list[int] = []
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL), lambda p: progress.append(p.done_bytes))
        assert read_back(swarm, report) == path.read_bytes()
        assert report.segments == 3
        assert report.holders == 5
        assert progress == sorted(progress)
        assert progress[-1] == report.bytes
        entry = putter.catalogue.get(report.file_hash)
        assert entry is not None
        assert entry.link == str(report.link)
        segments = list(putter.catalogue.segments(report.file_hash))
        assert [len(segment.leases) for segment in segments] == [5, 5, 5]
        assert {contact.peer_id for contact in putter.catalogue.holders(report.file_hash)} == {
            lease.holder for segment in segments for lease in segment.leases
        }


async def test_when_put_returns_the_file_can_be_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, SMALL.segment_plaintext_bytes + 1)
    async with swarm_of(7) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        providers = swarm.board.providers[multihash(report.file_hash)]
        assert len(providers) == 3
        hint = PlacementHint.decode(swarm.board.values[hint_key(report.file_hash)], network="test")
        hint.verify()
        holders = [donor for donor in swarm.donors if donor.store.statistics().leases]
        assert {contact.peer_id for contact in hint.holders} == {donor.peer_id for donor in holders}
        assert all(contact.addresses for contact in hint.holders)
        for donor in holders:
            store = donor.store
            encoded = store.attachment(report.file_hash, AttachmentKind.FILE_MANIFEST)
            assert encoded is not None
            manifest = FileManifest.decode(encoded)
            bundle = store.attachment(report.file_hash, AttachmentKind.SEGMENT_MANIFESTS)
            assert bundle is not None
            assert len(decode_bundle(bundle, manifest)) == 2
            data = store.attachment(report.file_hash, AttachmentKind.PLACEMENT)
            assert data is not None
            placement = Placement.decode(data, network="test")
            placement.check_file(report.file_hash, manifest.owner_key)
            for index in range(2):
                places = dict(placement.holders_of(index))
                assert sorted(places) == list(range(5))
                for shard, contact in places.items():
                    at = next(donor for donor in swarm.donors if donor.peer_id == contact.peer_id)
                    assert at.store.has_shard(manifest.segment_id(index), shard)
        for index in range(2):
            assert len(swarm.board.providers[multihash(manifest.segment_id(index))]) == 5


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12])
async def test_few_donors_hold_several_shards_each_and_weak_is_true_to_what_is_lost(
    count: int, tmp_path: Path, autojump_clock: MockClock
) -> None:
    code = Code(10, 30)
    path = write_file(tmp_path, 5000)
    async with swarm_of(count) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(path, PutOptions(code=code))
        assert report.holders == count
        counts = sorted((donor.store.statistics().shards for donor in swarm.donors), reverse=True)
        assert sum(counts) == 30
        assert counts[0] <= -(-30 // count)
        assert report.weak == is_weak(code, counts)
        worst = sorted(swarm.donors, key=lambda donor: -donor.store.statistics().shards)
        for donor in worst[: max(1, count // 3)]:
            await donor.die()
        if report.weak:
            left = sum(d.store.statistics().shards for d in swarm.donors if d.alive)
            assert left < code.data_shards
        else:
            assert read_back(swarm, report) == path.read_bytes()


async def test_a_folder_is_put_as_one_file_with_its_index(tmp_path: Path, autojump_clock: MockClock) -> None:
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "one").write_bytes(b"1" * 1000)
    (folder / "two").write_bytes(b"2" * 500)
    (folder / "link").symlink_to("two")
    async with swarm_of(5) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(folder, PutOptions(code=SMALL))
        assert (report.name, report.bytes) == ("photos", 1500)
        assert report.notes == ("skipped the link link",)
        assert read_back(swarm, report) == b"1" * 1000 + b"2" * 500


async def test_a_large_index_is_a_file_of_its_own_and_goes_with_a_dropped_put(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1200):
        (folder / f"{number:04}-{'x' * 60}").write_bytes(b"%d" % number)
    async with swarm_of(5) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(folder, PutOptions(code=SMALL))
        assert read_back(swarm, report) == b"".join(b"%d" % number for number in range(1200))
        assert swarm.leases() == 10
        entry = putter.catalogue.get(report.file_hash)
        assert entry is not None
        assert entry.index_hash is not None
        assert [file.file_hash for file in putter.catalogue.files()] == [report.file_hash]
        index = putter.catalogue.get(entry.index_hash)
        assert index is not None
        assert index.is_index


async def test_a_password_wraps_the_key(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 100)
    async with swarm_of(5) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL, password="correct horse", name="n.txt"))
        assert report.link.key is None
        assert report.name == "n.txt"
        opened = Link(report.file_hash, key=report.link.file_key("correct horse"))
        assert read_back(swarm, replace(report, link=opened)) == path.read_bytes()


async def test_no_key_and_no_name_reaches_a_holder(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 300_000, name="a-very-secret-name.txt")
    plaintext = path.read_bytes()
    async with swarm_of(5) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(path, PutOptions(code=SMALL))
        assert report.link.key is not None
        secrets = (report.link.key, b"a-very-secret-name", plaintext[1000:1032], plaintext[-64:-32])
        for donor in swarm.donors:
            disk = b"".join(bytes(file.content) for file in donor.disk._files.values())
            tables = b"".join(k + v for table in donor.tables._tables.values() for k, v in table.items())
            assert len(disk) > 100_000
            assert [secret for secret in secrets if secret in disk or secret in tables] == []


async def test_the_estimate_is_what_the_put_stores(tmp_path: Path, autojump_clock: MockClock) -> None:
    path = write_file(tmp_path, 300_000)
    async with swarm_of(5) as swarm, Putter(swarm).running() as uploader:
        estimate = await uploader.estimate(path, PutOptions(code=SMALL))
        report = await uploader.put(path, PutOptions(code=SMALL))
        assert (estimate.stored_bytes, estimate.segments) == (report.stored_bytes, report.segments)
        assert 0 < report.price_microcredits <= estimate.price_microcredits
        assert report.expires_s > 29 * 86_400
