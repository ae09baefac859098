"""Stripes through sealing, coding and hashing, and back. Layer 2, pure; run through the Offload port.

Invariants: a stripe made again equals its recorded hash before a byte of it leaves (nothing is sealed twice
under one key with different bytes); what `decode` returns is what the owner sealed, whichever shards it came
from, or an error. Source: design.md, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.chunks.erasure import CodingEngine
from node.chunks.geometry import Code, FileGeometry, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.crypto.sealing import FileKeys, SegmentKey, Suite
from node.ports import Buffer
from node.units import OwnerKey


def stripes_per_call(code: Code) -> int:
    """How many stripes make about 2 MiB of work, the least a thread should be handed."""
    raise NotImplementedError


class BufferPool:
    """Bounded stock of buffers to use again: fresh large allocations fault pages. Thread-safe."""

    def __init__(self, *, buffers_max: int) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class EncodedStripe:
    """The blocks of one stripe. The views are valid until `release`, which gives their buffer back."""

    stripe_index: int
    blocks: tuple[memoryview, ...]
    """By shard index, read-only."""
    leaves: bytes
    """The Merkle leaves of the blocks, by shard index, concatenated."""
    stripe_hash: bytes
    """BLAKE3 of the data blocks: ciphertext, tag, zero padding."""

    def release(self) -> None:
        """The blocks were sent. Optional (without it the buffer is collected), idempotent."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class SegmentCodec:
    """One segment's sealing and coding. Stateless: any stripe, any thread, any order."""

    geometry: SegmentGeometry
    segment_index: int
    is_last_segment: bool
    key: SegmentKey
    engine: CodingEngine
    pool: BufferPool | None = None

    @classmethod
    def of(
        cls, file: FileGeometry, segment_index: int, *, keys: FileKeys, suite: Suite, engine: CodingEngine,
        pool: BufferPool | None = None,
    ) -> SegmentCodec:  # fmt: skip
        """The codec of a file's segment, with its derived key."""
        raise NotImplementedError

    def encode(
        self, stripe_index: int, plaintext: Buffer, *, recorded_hash: bytes | None = None
    ) -> EncodedStripe:
        """Seal, code and hash one stripe.

        Raises:
            FileChangedError: `plaintext` has not the stripe's length, or the result is not `recorded_hash`.
        """
        raise NotImplementedError

    def decode(self, stripe_index: int, blocks: Mapping[int, Buffer], *, stripe_hash: bytes) -> Buffer:
        """The plaintext of one stripe from any `data_shards` blocks (by shard index), each checked on arrival.

        Raises:
            ProtocolError: too few blocks, or of a wrong length.
            OwnerInconsistentError: blocks that passed their roots contradict the stripe's hash, or don't open.
        """
        raise NotImplementedError


def rebuild_blocks(
    engine: CodingEngine, manifest: SegmentManifest, stripe_index: int, blocks: Mapping[int, Buffer],
    wanted: Sequence[int],
) -> dict[int, bytes]:  # fmt: skip
    """The `wanted` blocks of one stripe from any `data_shards` verified others, without any key.

    Raises:
        ProtocolError: too few blocks, or of a wrong length.
        OwnerInconsistentError: verified blocks contradict the stripe's hash.
    """
    raise NotImplementedError


def check_rebuilt(manifest: SegmentManifest, shard_index: int, leaves: bytes) -> None:
    """Accept a rebuilt shard's leaves only under its root. Raises `OwnerInconsistentError`."""
    raise NotImplementedError


class SegmentBuilder:
    """Collects what a segment manifest says while stripes are made, in any order. Not thread-safe."""

    def __init__(self, geometry: SegmentGeometry) -> None:
        raise NotImplementedError

    def add(self, stripe_index: int, leaves: bytes, stripe_hash: bytes) -> None:
        """Record a stripe (also one from a journal). Raises `FileChangedError` if it was another one before."""
        raise NotImplementedError

    def recorded_hash(self, stripe_index: int) -> bytes | None:
        """The stripe's hash, if it was made before: pass it to `SegmentCodec.encode`."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """Whether every stripe was added."""
        raise NotImplementedError

    def shard_leaves(self, shard_index: int) -> bytes:
        """The leaves of a shard, by stripe, concatenated. All stripes must be there."""
        raise NotImplementedError

    def build(self, owner_key: OwnerKey, owner_salt: bytes) -> SegmentManifest:
        """The manifest, once complete."""
        raise NotImplementedError
