"""Manifests: canonical, consistent, and refused before anything is built from a hostile one."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from node import limits, wire
from node.chunks.coding_engines import best_engine
from node.chunks.geometry import BLOCK_BYTES, Code, FileGeometry, SegmentGeometry
from node.chunks.header import FileHeader
from node.chunks.manifest import FileManifest, SegmentManifest, decode_bundle, encode_bundle
from node.chunks.pipeline import SegmentBuilder, SegmentCodec
from node.crypto.sealing import FileKeys, Suite, owner_key
from node.errors import OwnerInconsistentError, ProtocolError
from node.records.placement_hint import OWNER_KEY_OFFSET, owner_key_in
from node.units import OwnerKey
from tests.chunks.strategies import codes, law, noise

VECTORS = Path(__file__).parents[1] / "vectors" / "manifests.json"
OWNER = OwnerKey(noise(32, "owner"))
SALT = noise(16, "salt")


def segment_manifest(geometry: SegmentGeometry, seed: object = 0) -> SegmentManifest:
    return SegmentManifest(
        owner_key=OWNER,
        owner_salt=SALT,
        geometry=geometry,
        roots=noise(32 * geometry.code.total_shards, (seed, "roots")),
        stripe_hashes=noise(32 * geometry.stripe_count, (seed, "stripes")),
    )


def file_manifest(geometry: FileGeometry, header: bytes = b"sealed") -> FileManifest:
    return FileManifest(
        owner_key=OWNER,
        owner_salt=SALT,
        suite=Suite.XCHACHA20_POLY1305,
        geometry=geometry,
        segment_ids=noise(32 * geometry.segment_count, "ids"),
        key_check=noise(32, "check"),
        sealed_header=header,
    )


def whole_file(geometry: FileGeometry) -> tuple[FileManifest, list[SegmentManifest]]:
    segments = [segment_manifest(geometry.segment(index), index) for index in range(geometry.segment_count)]
    ids = b"".join(segment.segment_id for segment in segments)
    return dataclasses.replace(file_manifest(geometry), segment_ids=ids), segments


@law(80)
@given(codes(), st.data())
def test_manifests_survive_their_encoding(code: Code, data: st.DataObject) -> None:
    segment = segment_manifest(SegmentGeometry(code, data.draw(st.integers(0, code.segment_plaintext_bytes))))
    assert SegmentManifest.decode(segment.encoded) == segment
    assert segment.segment_id == blake3(segment.encoded).digest()
    geometry = FileGeometry.of(data.draw(st.integers(0, 20 * code.segment_plaintext_bytes)), code)
    file = file_manifest(geometry, data.draw(st.binary(max_size=300)))
    assert FileManifest.decode(file.encoded) == file
    assert FileManifest.decode(file.encoded).file_hash == file.file_hash == blake3(file.encoded).digest()


@law(150)
@given(st.data())
def test_no_other_bytes_are_accepted_in_their_place(data: st.DataObject) -> None:
    """Whatever still decodes after a change is another manifest with another hash, never the same one."""
    original = data.draw(st.sampled_from([SEGMENT.encoded, FILE.encoded]))
    changed = bytearray(original)
    at = data.draw(st.integers(0, len(changed) - 1))
    action = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    if action == "flip":
        changed[at] ^= data.draw(st.integers(1, 255))
    elif action == "cut":
        del changed[at:]
    else:
        changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    kind = SegmentManifest if original == SEGMENT.encoded else FileManifest
    try:
        decoded = kind.decode(bytes(changed))
    except ProtocolError:
        return
    assert decoded.encoded == changed


CODE = Code(4, 6)
SEGMENT = segment_manifest(SegmentGeometry(CODE, 3 * CODE.stripe_plaintext_bytes - 5))
FILE = file_manifest(FileGeometry.of(3 * CODE.segment_plaintext_bytes + 1, CODE))


def test_the_owner_key_lies_where_hints_look_for_it() -> None:
    assert FILE.encoded[OWNER_KEY_OFFSET : OWNER_KEY_OFFSET + 32] == OWNER
    assert owner_key_in(FILE.encoded[:1024]) == OWNER


def with_field(manifest: FileManifest | SegmentManifest, index: int, value: wire.Value) -> bytes:
    fields = wire.decode(manifest.encoded, size_max=limits.FILE_MANIFEST_BYTES_MAX)
    fields[index] = value
    return wire.encode(fields)


HOSTILE_SEGMENTS = [
    with_field(SEGMENT, 0, "cairn/file"),
    with_field(SEGMENT, 0, b"cairn/segment"),
    with_field(SEGMENT, 1, 2),
    with_field(SEGMENT, 1, True),
    with_field(SEGMENT, 2, noise(31)),
    with_field(SEGMENT, 3, noise(17)),
    with_field(SEGMENT, 4, 0),
    with_field(SEGMENT, 4, 7),
    with_field(SEGMENT, 4, 2**63),
    with_field(SEGMENT, 5, 256),
    with_field(SEGMENT, 5, 5),
    with_field(SEGMENT, 6, 64),
    with_field(SEGMENT, 6, 2**40),
    with_field(SEGMENT, 7, -1),
    with_field(SEGMENT, 7, 2**64 - 1),
    with_field(SEGMENT, 7, CODE.segment_plaintext_bytes + 1),
    with_field(SEGMENT, 7, 2 * CODE.stripe_plaintext_bytes),
    with_field(SEGMENT, 8, SEGMENT.roots[:-32]),
    with_field(SEGMENT, 8, SEGMENT.roots + bytes(32)),
    with_field(SEGMENT, 8, [SEGMENT.roots]),
    with_field(SEGMENT, 9, SEGMENT.stripe_hashes[:-1]),
    with_field(SEGMENT, 9, b""),
    with_field(SEGMENT, 9, bytes(limits.SEGMENT_MANIFEST_BYTES_MAX)),
    SEGMENT.encoded[:-1],
    SEGMENT.encoded + b"\x00",
    b"",
    b"\x90",
    b"\xdd\xff\xff\xff\xff",
    FILE.encoded,
]
HOSTILE_FILES = [
    with_field(FILE, 0, "cairn/segment"),
    with_field(FILE, 1, 0),
    with_field(FILE, 1, True),
    with_field(FILE, 2, noise(33)),
    with_field(FILE, 3, "salt"),
    with_field(FILE, 4, 0),
    with_field(FILE, 4, 2),
    with_field(FILE, 4, 256),
    with_field(FILE, 5, 0),
    with_field(FILE, 6, 3),
    with_field(FILE, 6, 2**64 - 1),
    with_field(FILE, 7, BLOCK_BYTES + 64),
    with_field(FILE, 8, -1),
    with_field(FILE, 8, 2**64 - 1),
    with_field(FILE, 8, CODE.file_plaintext_bytes_max),
    with_field(FILE, 8, CODE.file_plaintext_bytes_max + 1),
    with_field(FILE, 8, FILE.plaintext_bytes - 1),
    with_field(FILE, 9, FILE.segment_ids[:-32]),
    with_field(FILE, 9, FILE.segment_ids + bytes(32)),
    with_field(FILE, 9, FILE.segment_ids[:-1]),
    with_field(FILE, 9, [FILE.segment_ids]),
    with_field(FILE, 9, b""),
    with_field(FILE, 10, noise(31)),
    with_field(FILE, 11, bytes(limits.SEALED_HEADER_BYTES_MAX + 1)),
    with_field(FILE, 11, None),
    FILE.encoded[:-1],
    FILE.encoded + b"\xc0",
    FILE.encoded[:1] + b"\xd9\x0acairn/file" + FILE.encoded[12:],
    b"\xdd\x00\x00\x00\x0c" + FILE.encoded[1:],
    b"",
    b"\xc4\x00",
    SEGMENT.encoded,
    bytes(limits.FILE_MANIFEST_BYTES_MAX + 1),
]


@pytest.mark.parametrize("data", HOSTILE_SEGMENTS)
def test_hostile_segment_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        SegmentManifest.decode(data)


@pytest.mark.parametrize("data", HOSTILE_FILES)
def test_hostile_file_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        FileManifest.decode(data)


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (FileManifest.decode, with_field(FILE, 8, CODE.file_plaintext_bytes_max)),
        (FileManifest.decode, b"\x9c\xdd\xff\xff\xff\xff"),
        (FileManifest.decode, b"\x9c\xc6\xff\xff\xff\xff"),
        (FileManifest.decode, b"\x91" * 100_000),
        (SegmentManifest.decode, with_field(SEGMENT, 7, CODE.segment_plaintext_bytes)),
        (SegmentManifest.decode, b"\x9a\xdb\xff\xff\xff\xff"),
    ],
)
def test_huge_counts_allocate_nothing(decode: Callable[[bytes], object], data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(data) + 512 * 1024  # msgpack works in a buffer of 256 KiB


def test_the_largest_manifests_fit_their_limits() -> None:
    code = Code(255, 255)
    segment = segment_manifest(SegmentGeometry(code, code.segment_plaintext_bytes))
    assert len(segment.encoded) <= limits.SEGMENT_MANIFEST_BYTES_MAX
    file = file_manifest(
        FileGeometry.of(code.file_plaintext_bytes_max, code), bytes(limits.SEALED_HEADER_BYTES_MAX)
    )
    assert len(file.encoded) <= limits.FILE_MANIFEST_BYTES_MAX
    assert FileManifest.decode(file.encoded).segment_count == limits.SEGMENTS_MAX


def test_a_file_accepts_its_own_segments_only() -> None:
    file, segments = whole_file(FileGeometry.of(2 * CODE.segment_plaintext_bytes + 9, CODE))
    for index, segment in enumerate(segments):
        file.check_segment(index, segment)
    with pytest.raises(ProtocolError):
        file.check_segment(0, segments[1])
    with pytest.raises(IndexError):
        file.check_segment(3, segments[0])


@pytest.mark.parametrize(
    "change",
    [
        {"owner_key": OwnerKey(noise(32, "thief"))},
        {"owner_salt": noise(16, "other")},
        {"geometry": SegmentGeometry(CODE, 8)},
        {
            "geometry": SegmentGeometry(Code(4, 7), 9),
            "roots": noise(7 * 32),
        },
        {"geometry": SegmentGeometry(Code(3, 6), 9)},
    ],
    ids=["owner", "salt", "length", "total", "data"],
)
def test_an_owner_who_names_segments_that_contradict_the_file_is_found_out(change: dict[str, object]) -> None:
    file, segments = whole_file(FileGeometry.of(9, CODE))
    segment = dataclasses.replace(segments[0], **change)  # type: ignore[arg-type]
    file = dataclasses.replace(file, segment_ids=segment.segment_id)
    with pytest.raises(OwnerInconsistentError):
        file.check_segment(0, segment)


def test_segments_that_fit_travel_together() -> None:
    file, segments = whole_file(FileGeometry.of(2 * CODE.segment_plaintext_bytes + 9, CODE))
    bundle = encode_bundle(segments)
    assert bundle is not None
    assert list(decode_bundle(bundle, file)) == segments
    for wrong in (segments[:-1], [*segments, segments[0]], segments[::-1]):
        with pytest.raises(ProtocolError):
            decode_bundle(wire.encode([segment.encoded for segment in wrong]), file)
    with pytest.raises(ProtocolError):
        decode_bundle(wire.encode([SEGMENT.encoded, 1, 2]), file)
    assert encode_bundle(segments * 60) is None
    assert encode_bundle(segments * 500) is None


def test_what_does_not_add_up_can_not_be_made_either() -> None:
    with pytest.raises(ProtocolError):
        dataclasses.replace(SEGMENT, roots=b"")
    with pytest.raises(ProtocolError):
        dataclasses.replace(FILE, segment_ids=b"")
    with pytest.raises(IndexError):
        SEGMENT.root(6)
    with pytest.raises(IndexError):
        SEGMENT.stripe_hash(-1)
    with pytest.raises(IndexError):
        FILE.segment_id(4)


def described(case: dict[str, object]) -> tuple[FileManifest, list[SegmentManifest]]:
    """A file made by the whole pipeline from what a vector says about it."""
    code, length = Code.parse(str(case["code"])), int(str(case["plaintext_bytes"]))
    keys = FileKeys.derive(bytes.fromhex(str(case["file_key"])))
    salt = bytes.fromhex(str(case["owner_salt"]))
    owner = OwnerKey(owner_key(bytes.fromhex(str(case["account_seed"])), salt).public)
    plaintext = bytes(index * index % 251 for index in range(length))  # the pattern the vectors name
    geometry = FileGeometry.of(length, code)
    segments = []
    for segment_index in range(geometry.segment_count):
        codec = SegmentCodec.of(
            geometry, segment_index, keys=keys, suite=Suite.XCHACHA20_POLY1305, engine=best_engine()
        )
        builder = SegmentBuilder(codec.geometry)
        for index in range(codec.geometry.stripe_count):
            start = geometry.stripe_offset(segment_index, index)
            stop = start + codec.geometry.stripe_plaintext_bytes(index)
            stripe = codec.encode(index, plaintext[start:stop])
            builder.add(index, stripe.leaves, stripe.stripe_hash)
        segments.append(builder.build(owner, salt))
    header = FileHeader(str(case["name"]), length, str(case["media_type"]))
    file = FileManifest(
        owner_key=owner,
        owner_salt=salt,
        suite=Suite.XCHACHA20_POLY1305,
        geometry=geometry,
        segment_ids=b"".join(segment.segment_id for segment in segments),
        key_check=keys.key_check,
        sealed_header=keys.header_key.seal(header.encode()),
    )
    return file, segments


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text())["files"], ids=lambda case: case["name"])
def test_the_format_is_frozen(case: dict[str, object]) -> None:
    file, segments = described(case)
    assert file.encoded.hex() == case["file_manifest"]
    assert file.file_hash.hex() == case["file_hash"]
    assert [segment.encoded.hex() for segment in segments] == case["segment_manifests"]
    assert [segment.segment_id.hex() for segment in segments] == case["segment_ids"]
