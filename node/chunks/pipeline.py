"""Stripes through sealing, coding and hashing, and back. Layer 2, pure; run through the Offload port.

Invariants: a stripe made again equals its recorded hash before a byte of it leaves (nothing is sealed twice
under one key with different bytes); what `decode` returns is what the owner sealed, whichever shards it came
from, or an error. The stripe hash is the BLAKE3 of the data blocks: ciphertext, tag and zero padding.
Source: design.md, section 3.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.chunks.erasure import CodingEngine
from node.chunks.geometry import BLOCK_BYTES, Code, FileGeometry, SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of, shard_root
from node.chunks.root_check import RootCheck
from node.crypto.hashing import HASH_BYTES, blake3_256
from node.crypto.sealing import SEAL_BYTES, FileKeys, SegmentKey, Suite
from node.errors import CryptoError, FileChangedError, OwnerInconsistentError, ProtocolError
from node.ports import Buffer
from node.units import MIB, OwnerKey

WORK_BYTES: Final = 2 * MIB
"""What a thread is handed at a time, at least about: less, and handing over costs more than the work."""
_CHANGED: Final = "the file changed while it was being stored: put it again"


def stripes_per_call(code: Code) -> int:
    """How many stripes make about 2 MiB of work, the least a thread should be handed."""
    return max(1, WORK_BYTES // (code.total_shards * BLOCK_BYTES))


class BufferPool:
    """Bounded stock of buffers to use again: fresh large allocations fault pages. Thread-safe."""

    def __init__(self, *, buffers_max: int) -> None:
        """Keeps at most `buffers_max` idle buffers, all of one size: that of the last one given back."""
        self._buffers_max = buffers_max
        self._idle: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> bytearray:
        """A buffer of `size` bytes with any content."""
        with self._lock:
            if self._idle and len(self._idle[-1]) == size:
                return self._idle.pop()
        return bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Take back a buffer. One that somebody still has a view of is left to the garbage collector."""
        try:
            # Resizing is what a bytearray refuses while views of it live. Neither step moves it.
            last = buffer.pop()
            buffer.append(last)
        except (BufferError, IndexError):
            return
        with self._lock:
            if self._idle and len(self._idle[-1]) != len(buffer):
                self._idle.clear()
            if len(self._idle) < self._buffers_max:
                self._idle.append(buffer)

    @property
    def idle_count(self) -> int:
        """Buffers waiting to be used again."""
        return len(self._idle)


@dataclass(slots=True)
class EncodedStripe:
    """The blocks of one stripe, as views: nothing was copied."""

    stripe_index: int
    blocks: tuple[memoryview, ...]
    """By shard index, read-only."""
    leaves: bytes
    """The Merkle leaves of the blocks, by shard index, concatenated."""
    stripe_hash: bytes
    """BLAKE3 of the data blocks."""
    _buffer: bytearray | None = field(default=None, repr=False)
    _pool: BufferPool | None = field(default=None, repr=False)

    def release(self) -> None:
        """All blocks were sent or dropped: their buffer may be used again. Optional, idempotent."""
        self.blocks = ()
        if self._buffer is not None and self._pool is not None:
            self._pool.give(self._buffer)
        self._buffer = None


@dataclass(frozen=True, slots=True)
class SegmentCodec:
    """One segment's sealing and coding. Stateless: any stripe, any thread, any order."""

    geometry: SegmentGeometry
    key: SegmentKey
    engine: CodingEngine
    is_last_segment: bool
    pool: BufferPool | None = None

    @classmethod
    def of(
        cls,
        file: FileGeometry,
        segment_index: int,
        *,
        keys: FileKeys,
        suite: Suite,
        engine: CodingEngine,
        pool: BufferPool | None = None,
    ) -> SegmentCodec:
        """The codec of a file's segment, with its derived key. Raises `IndexError`."""
        geometry = file.segment(segment_index)
        key = keys.segment_key(
            suite,
            data_shards=file.code.data_shards,
            block_bytes=BLOCK_BYTES,
            segment_index=segment_index,
        )
        return cls(geometry, key, engine, segment_index == file.segment_count - 1, pool)

    def encode(
        self, stripe_index: int, plaintext: Buffer, *, recorded_hash: bytes | None = None
    ) -> EncodedStripe:
        """Seal, code and hash one stripe; with `recorded_hash`, only into what was made before.

        Raises:
            FileChangedError: `plaintext` has not the stripe's length, or the result is another one.
            IndexError: the segment has no such stripe.
        """
        code, block_bytes = self.geometry.code, self.geometry.block_bytes(stripe_index)
        if len(plaintext) != self.geometry.stripe_plaintext_bytes(stripe_index):
            raise FileChangedError(_CHANGED)
        buffer_bytes = code.total_shards * block_bytes
        buffer = self.pool.take(buffer_bytes) if self.pool else bytearray(buffer_bytes)
        view = memoryview(buffer)
        data_bytes, sealed_bytes = code.data_shards * block_bytes, len(plaintext) + SEAL_BYTES
        self.key.seal_into(
            stripe_index, last=self._is_last(stripe_index), plaintext=plaintext, sealed=view[:sealed_bytes]
        )
        view[sealed_bytes:data_bytes] = bytes(data_bytes - sealed_bytes)
        stripe_hash = blake3_256(view[:data_bytes])
        if recorded_hash is not None and stripe_hash != recorded_hash:
            raise FileChangedError(_CHANGED)
        blocks = _cut(view, block_bytes)
        self.engine.encode(code, blocks[: code.data_shards], blocks[code.data_shards :])
        leaves = b"".join(leaf_of(block) for block in blocks)
        readonly = tuple(block.toreadonly() for block in blocks)
        return EncodedStripe(stripe_index, readonly, leaves, stripe_hash, buffer, self.pool)

    def decode(
        self,
        stripe_index: int,
        blocks: Mapping[int, Buffer],
        *,
        stripe_hash: bytes,
        buffer: bytearray | None = None,
        roots: RootCheck | None = None,
    ) -> memoryview:
        """The plaintext of one stripe from any `data_shards` blocks (by shard index), each one verified.

        It is a view of `buffer`, if one of at least `decode_buffer_bytes` is given to be used again. The
        stripe is added to `roots` where the reader wants the whole segment.

        Raises:
            ProtocolError: too few blocks, or of a wrong length.
            OwnerInconsistentError: verified blocks contradict the stripe's hash, or don't open.
            IndexError: the segment has no such stripe.
        """
        block_bytes = self.geometry.block_bytes(stripe_index)
        data_bytes = self.geometry.code.data_shards * block_bytes
        view = memoryview(bytearray(data_bytes) if buffer is None else buffer)[:data_bytes]
        data = _cut(view, block_bytes)
        _fill_data(self.engine, self.geometry.code, blocks, data)
        _check_stripe(view, stripe_index, stripe_hash)
        if roots is not None:
            roots.add(stripe_index, data, sorted(blocks)[: len(data)])  # blocks beyond those were not used
        plaintext_bytes = self.geometry.stripe_plaintext_bytes(stripe_index)
        plaintext, ciphertext = view[:plaintext_bytes], view[: plaintext_bytes + SEAL_BYTES]
        try:
            self.key.open_into(
                stripe_index, last=self._is_last(stripe_index), ciphertext=ciphertext, opened=plaintext
            )
        except CryptoError as error:
            # The hash pins these bytes and the key check passed before: the owner sealed something else.
            raise OwnerInconsistentError(
                f"stripe {stripe_index} does not open with the file's key"
            ) from error

        return plaintext.toreadonly()

    @property
    def decode_buffer_bytes(self) -> int:
        """The size of a buffer that takes any stripe of this segment."""
        return self.geometry.code.data_shards * self.geometry.block_bytes(0)

    def _is_last(self, stripe_index: int) -> bool:
        return self.is_last_segment and stripe_index == self.geometry.stripe_count - 1


def rebuild_blocks(
    engine: CodingEngine,
    manifest: SegmentManifest,
    stripe_index: int,
    blocks: Mapping[int, Buffer],
    wanted: Sequence[int],
) -> dict[int, Buffer]:
    """The `wanted` blocks (by shard index) of one stripe from any `data_shards` verified ones, without a key.

    Raises:
        ProtocolError: too few blocks, of a wrong length, or an index outside the code.
        OwnerInconsistentError: verified blocks contradict the stripe's hash.
        IndexError: the segment has no such stripe.
    """
    code, block_bytes = manifest.code, manifest.geometry.block_bytes(stripe_index)
    view = memoryview(bytearray(code.data_shards * block_bytes))
    data = _cut(view, block_bytes)
    _fill_data(engine, code, blocks, data)
    _check_stripe(view, stripe_index, manifest.stripe_hash(stripe_index))
    made: dict[int, Buffer] = {index: data[index] for index in wanted if 0 <= index < code.data_shards}
    parity = {index: bytearray(block_bytes) for index in wanted if index not in made}
    engine.rebuild(code, dict(enumerate(data)), parity)
    return made | parity


def check_rebuilt(manifest: SegmentManifest, shard_index: int, leaves: Buffer) -> None:
    """Accept a rebuilt shard's leaves (one a stripe, concatenated) only under the shard's root.

    Raises `OwnerInconsistentError`: the stripes had their hashes, so the root was never theirs.
    """
    if shard_root(leaves) != manifest.root(shard_index):
        raise OwnerInconsistentError(f"shard {shard_index} as rebuilt does not have the root in the manifest")


class SegmentBuilder:
    """Collects what a segment manifest says while stripes are made, in any order. Not thread-safe."""

    def __init__(self, geometry: SegmentGeometry) -> None:
        self.geometry = geometry
        self._stripes: dict[int, tuple[bytes, bytes]] = {}

    def add(self, stripe_index: int, leaves: bytes, stripe_hash: bytes) -> None:
        """Record a stripe, made now or read from a journal.

        Raises:
            FileChangedError: the stripe was another one before.
            IndexError, ProtocolError: no such stripe; not one leaf a shard.
        """
        self.geometry.block_bytes(stripe_index)
        if len(leaves) != self.geometry.code.total_shards * HASH_BYTES or len(stripe_hash) != HASH_BYTES:
            raise ProtocolError("a stripe is recorded with one leaf a shard and one hash")
        if self._stripes.setdefault(stripe_index, (leaves, stripe_hash)) != (leaves, stripe_hash):
            raise FileChangedError(_CHANGED)

    def recorded_hash(self, stripe_index: int) -> bytes | None:
        """The stripe's hash if it was made before: pass it to `SegmentCodec.encode`."""
        recorded = self._stripes.get(stripe_index)
        return recorded[1] if recorded else None

    @property
    def is_complete(self) -> bool:
        """Whether every stripe was added."""
        return len(self._stripes) == self.geometry.stripe_count

    def shard_leaves(self, shard_index: int) -> bytes:
        """The leaves of a shard, by stripe, concatenated. Raises `IndexError`, `ProtocolError`."""
        if not 0 <= shard_index < self.geometry.code.total_shards:
            raise IndexError(f"shard {shard_index} at {self.geometry.code}")
        if not self.is_complete:
            raise ProtocolError("a segment has no leaf lists before its last stripe")
        span = slice(shard_index * HASH_BYTES, (shard_index + 1) * HASH_BYTES)
        return b"".join(self._stripes[index][0][span] for index in range(self.geometry.stripe_count))

    def build(self, owner_key: OwnerKey, owner_salt: bytes) -> SegmentManifest:
        """The manifest. Raises `ProtocolError` before the last stripe was added."""
        shards = range(self.geometry.code.total_shards)
        return SegmentManifest(
            owner_key=owner_key,
            owner_salt=owner_salt,
            geometry=self.geometry,
            roots=b"".join(shard_root(self.shard_leaves(index)) for index in shards),
            stripe_hashes=b"".join(self._stripes[index][1] for index in range(self.geometry.stripe_count)),
        )


def _fill_data(
    engine: CodingEngine, code: Code, blocks: Mapping[int, Buffer], data: Sequence[memoryview]
) -> None:
    """Fill the data blocks of a stripe: copy those that were given, rebuild the others from all."""
    if any(len(block) != len(data[0]) for block in blocks.values()):
        raise ProtocolError(f"a block of a stripe has not {len(data[0])} bytes")
    missing = {index: block for index, block in enumerate(data) if index not in blocks}
    if missing:
        engine.rebuild(code, blocks, missing)
    for index, block in enumerate(data):
        if index not in missing:
            block[:] = blocks[index]


def _check_stripe(sealed: Buffer, stripe_index: int, stripe_hash: bytes) -> None:
    if blake3_256(sealed) != stripe_hash:
        raise OwnerInconsistentError(
            f"the verified blocks of stripe {stripe_index} contradict its hash: the file was stored damaged"
        )


def _cut(view: memoryview, block_bytes: int) -> list[memoryview]:
    return [view[offset : offset + block_bytes] for offset in range(0, len(view), block_bytes)]
