"""The catalogue of own files."""

from __future__ import annotations

from node.chunks.catalogue import Catalogue, CatalogueEntry, CatalogueSegment
from node.crypto.identity import peer_id_of
from node.units import Contact, FileHash, Multiaddr
from simulations.key_value import FakeKeyValue
from tests.chunks.sample_segment import sample_segment

SAMPLE = sample_segment(1000)
HOLDER = peer_id_of(SAMPLE.owner.public)
CONTACT = Contact(HOLDER, (Multiaddr("/ip4/10.0.0.1/tcp/1"),))


def entry(number: int, *, is_index: bool = False) -> CatalogueEntry:
    return CatalogueEntry(
        file_hash=FileHash(bytes([number]) * 32),
        link=f"link {number}",
        name=f"name {number}",
        size_bytes=number,
        data_shards=10,
        total_shards=30,
        segments=1,
        created_s=1000 + number,
        expires_s=2000,
        owner_salt=b"s" * 16,
        index_hash=FileHash(b"i" * 32) if number % 2 else None,
        is_index=is_index,
    )


def test_files_segments_and_holders() -> None:
    catalogue = Catalogue(FakeKeyValue(), network="test")
    segments = [
        CatalogueSegment(index, SAMPLE.manifest.segment_id, (SAMPLE.lease(HOLDER, index),))
        for index in range(3)
    ]
    catalogue.add_segments(entry(1).file_hash, segments)
    assert catalogue.files() == []  # not before everything about it is there
    catalogue.add(entry(1), [CONTACT])
    catalogue.add(entry(2), [])
    catalogue.add(entry(3, is_index=True), [])
    assert catalogue.files() == [entry(2), entry(1)]
    assert catalogue.get(entry(3).file_hash) == entry(3, is_index=True)
    assert list(catalogue.segments(entry(1).file_hash)) == segments
    assert list(catalogue.holders(entry(1).file_hash)) == [CONTACT]
    catalogue.set_expiry(entry(1).file_hash, 9000)
    found = catalogue.get(entry(1).file_hash)
    assert found is not None
    assert found.expires_s == 9000
    catalogue.remove(entry(1).file_hash)
    assert catalogue.files() == [entry(2)]
    assert list(catalogue.segments(entry(1).file_hash)) == []
    assert list(catalogue.holders(entry(1).file_hash)) == []
    catalogue.set_expiry(entry(1).file_hash, 1)
    assert catalogue.get(entry(1).file_hash) is None
