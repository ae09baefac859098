"""Segment and file manifests: the canonical, public descriptions that hashes name. Layer 2, pure.

Invariants: a manifest that exists is consistent (lengths and counts follow from its geometry); `encoded` is
the only encoding of it, the one that was received or will be sent, and its BLAKE3 is the segment id or the
file hash; magic, version and owner key stand first, so the owner key lies at a fixed offset that one BLAKE3
chunk proves. Nothing here reveals more than lengths: name, type and folder index are in the sealed header
(`node.chunks.header`). Source: design.md, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from node import limits, wire
from node.chunks.geometry import BLOCK_BYTES, Code, FileGeometry, SegmentGeometry
from node.crypto.hashing import HASH_BYTES, blake3_256
from node.crypto.sealing import KEY_CHECK_BYTES, OWNER_SALT_BYTES, Suite
from node.errors import OwnerInconsistentError, ProtocolError, UsageError
from node.units import FileHash, OwnerKey, SegmentId

FORMAT_VERSION: Final = 1
FILE_MAGIC: Final = "cairn/file"
SEGMENT_MAGIC: Final = "cairn/segment"
OWNER_KEY_BYTES: Final = 32


_SEGMENT_FIELDS: Final = 10
_FILE_FIELDS: Final = 12


@dataclass(frozen=True, slots=True)
class SegmentManifest:
    """All that a holder needs to audit and repair a segment, without a key and without knowing the file.

    `roots` are `total_shards` shard roots, `stripe_hashes` one BLAKE3 for each stripe's data blocks
    (ciphertext, tag, zero padding). Raises `ProtocolError` if anything does not add up.
    """

    owner_key: OwnerKey
    owner_salt: bytes
    geometry: SegmentGeometry
    roots: bytes
    stripe_hashes: bytes
    encoded: bytes = field(init=False, repr=False, compare=False)
    segment_id: SegmentId = field(init=False, compare=False)

    def __post_init__(self) -> None:
        code = self.geometry.code
        wire.expect_bytes(self.owner_key, size=OWNER_KEY_BYTES)
        wire.expect_bytes(self.owner_salt, size=OWNER_SALT_BYTES)
        wire.expect_bytes(self.roots, size=code.total_shards * HASH_BYTES)
        wire.expect_bytes(self.stripe_hashes, size=self.geometry.stripe_count * HASH_BYTES)
        encoded = wire.encode([
            SEGMENT_MAGIC, FORMAT_VERSION, self.owner_key, self.owner_salt,
            code.data_shards, code.total_shards, BLOCK_BYTES, self.geometry.plaintext_bytes,
            self.roots, self.stripe_hashes,
        ])  # fmt: skip
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "segment_id", SegmentId(blake3_256(encoded)))

    @classmethod
    def decode(cls, data: bytes) -> SegmentManifest:
        """The manifest in `data`, whose hash the caller compares. Raises `ProtocolError`."""
        fields = _fields(data, limits.SEGMENT_MANIFEST_BYTES_MAX, SEGMENT_MAGIC, _SEGMENT_FIELDS)
        code = _code(fields[4], fields[5])
        wire.expect_int(fields[6], low=BLOCK_BYTES, high=BLOCK_BYTES)
        plaintext_bytes = wire.expect_int(fields[7], low=0, high=code.segment_plaintext_bytes)
        return cls(
            owner_key=OwnerKey(wire.expect_bytes(fields[2])),
            owner_salt=wire.expect_bytes(fields[3]),
            geometry=SegmentGeometry(code, plaintext_bytes),
            roots=wire.expect_bytes(fields[8]),
            stripe_hashes=wire.expect_bytes(fields[9]),
        )

    @property
    def code(self) -> Code:
        """The erasure code."""
        return self.geometry.code

    def root(self, shard_index: int) -> bytes:
        """The Merkle root of a shard. Raises `IndexError`."""
        return _nth_hash(self.roots, shard_index)

    def stripe_hash(self, stripe_index: int) -> bytes:
        """BLAKE3 of a stripe's data blocks. Raises `IndexError`."""
        return _nth_hash(self.stripe_hashes, stripe_index)


@dataclass(frozen=True, slots=True)
class FileManifest:
    """The public description of a file. Raises `ProtocolError` if anything does not add up."""

    owner_key: OwnerKey
    owner_salt: bytes
    suite: Suite
    geometry: FileGeometry
    segment_ids: bytes
    """The 32-byte segment ids, in order, as one byte string."""
    key_check: bytes
    """Tells a wrong key from a damaged file (`FileKeys.key_check`)."""
    sealed_header: bytes
    encoded: bytes = field(init=False, repr=False, compare=False)
    file_hash: FileHash = field(init=False, compare=False)

    def __post_init__(self) -> None:
        code = self.geometry.code
        wire.expect_bytes(self.owner_key, size=OWNER_KEY_BYTES)
        wire.expect_bytes(self.owner_salt, size=OWNER_SALT_BYTES)
        wire.expect_bytes(self.segment_ids, size=self.geometry.segment_count * HASH_BYTES)
        wire.expect_bytes(self.key_check, size=KEY_CHECK_BYTES)
        wire.expect_bytes(self.sealed_header, size_max=limits.SEALED_HEADER_BYTES_MAX)
        encoded = wire.encode([
            FILE_MAGIC, FORMAT_VERSION, self.owner_key, self.owner_salt, int(self.suite),
            code.data_shards, code.total_shards, BLOCK_BYTES, self.geometry.plaintext_bytes,
            self.segment_ids, self.key_check, self.sealed_header,
        ])  # fmt: skip
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "file_hash", FileHash(blake3_256(encoded)))

    @classmethod
    def decode(cls, data: bytes) -> FileManifest:
        """The manifest in `data`, whose hash the caller compares. Raises `ProtocolError`."""
        fields = _fields(data, limits.FILE_MANIFEST_BYTES_MAX, FILE_MAGIC, _FILE_FIELDS)
        try:
            suite = Suite(wire.expect_int(fields[4], low=0, high=255))
        except ValueError as error:
            raise ProtocolError("the file is sealed with a suite that this version does not know") from error
        code = _code(fields[5], fields[6])
        wire.expect_int(fields[7], low=BLOCK_BYTES, high=BLOCK_BYTES)
        plaintext_bytes = wire.expect_int(fields[8], low=0, high=code.file_plaintext_bytes_max)
        return cls(
            owner_key=OwnerKey(wire.expect_bytes(fields[2])),
            owner_salt=wire.expect_bytes(fields[3]),
            suite=suite,
            geometry=FileGeometry(code, plaintext_bytes),
            segment_ids=wire.expect_bytes(fields[9]),
            key_check=wire.expect_bytes(fields[10]),
            sealed_header=wire.expect_bytes(fields[11]),
        )

    @property
    def code(self) -> Code:
        """The erasure code."""
        return self.geometry.code

    @property
    def plaintext_bytes(self) -> int:
        """Length of the file."""
        return self.geometry.plaintext_bytes

    @property
    def segment_count(self) -> int:
        """How many segments the file has."""
        return self.geometry.segment_count

    def segment_id(self, segment_index: int) -> SegmentId:
        """The id of a segment. Raises `IndexError`."""
        return SegmentId(_nth_hash(self.segment_ids, segment_index))

    def check_segment(self, segment_index: int, segment: SegmentManifest) -> None:
        """Accept `segment` only as the one this file names at `segment_index`.

        Raises:
            ProtocolError: another segment manifest (whoever sent it is at fault).
            OwnerInconsistentError: the right one, but it contradicts this file's geometry or owner.
        """
        if segment.segment_id != self.segment_id(segment_index):
            raise ProtocolError(f"not the manifest of segment {segment_index}")
        if segment.geometry != self.geometry.segment(segment_index):
            raise OwnerInconsistentError(
                f"segment {segment_index} has another code or length than its file says: the file is damaged"
            )
        if segment.owner_key != self.owner_key or segment.owner_salt != self.owner_salt:
            raise OwnerInconsistentError(
                f"segment {segment_index} has another owner than its file: it is damaged"
            )


def encode_bundle(segments: Sequence[SegmentManifest]) -> bytes | None:
    """All segment manifests of a file in one message, or None where they don't fit in 256 KiB."""
    if len(segments) > limits.SEGMENT_BUNDLE_COUNT_MAX:
        return None
    encoded = wire.encode([segment.encoded for segment in segments])
    return encoded if len(encoded) <= limits.SEGMENT_BUNDLE_BYTES_MAX else None


def decode_bundle(data: bytes, file: FileManifest) -> tuple[SegmentManifest, ...]:
    """The segment manifests of `file`, in order, each checked. Raises as `check_segment` does."""
    parts = wire.decode(data, size_max=limits.SEGMENT_BUNDLE_BYTES_MAX)
    wire.expect_list(parts, count=file.segment_count)
    segments = tuple(SegmentManifest.decode(wire.expect_bytes(part)) for part in parts)
    for index, segment in enumerate(segments):
        file.check_segment(index, segment)
    return segments


def _fields(data: bytes, size_max: int, magic: str, count: int) -> list[wire.Value]:
    fields = wire.decode(data, size_max=size_max)
    if len(fields) < 2 or fields[0] != magic:
        raise ProtocolError(f"not a {magic} manifest")
    if fields[1] != FORMAT_VERSION or isinstance(fields[1], bool):
        raise ProtocolError(f"a {magic} manifest of a version that this program does not know")
    wire.expect_list(fields, count=count)
    return fields


def _code(data_shards: wire.Value, total_shards: wire.Value) -> Code:
    numbers = [
        wire.expect_int(value, low=1, high=limits.TOTAL_SHARDS_MAX) for value in (data_shards, total_shards)
    ]
    try:
        return Code(*numbers)
    except UsageError as error:
        raise ProtocolError(str(error)) from error


def _nth_hash(hashes: bytes, index: int) -> bytes:
    if not 0 <= index < len(hashes) // HASH_BYTES:
        raise IndexError(f"hash {index} of {len(hashes) // HASH_BYTES}")
    return hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
