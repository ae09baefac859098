"""One segment's stripes, made from the source when holders need them, again too; then its manifest. Layer 4.

Invariants: a stripe made again equals its journalled hash (`FileChangedError`); its hash is durable before
anybody is given a block of it, and the manifest before anybody is told of it.
Source: design.md, sections 3 and 4.
"""

from __future__ import annotations

from typing import Final

from node import limits
from node.chunks.manifest import SegmentManifest
from node.chunks.pipeline import EncodedStripe, SegmentBuilder, SegmentCodec
from node.chunks.put.journal import SegmentMade, StripesMade
from node.chunks.put.put_context import PutContext
from node.units import OwnerKey

MAKE_BYTES: Final = 4 * 1024 * 1024
"""Encoded bytes that a thread makes, and the journal syncs the hashes of, at a time."""


class StripeMaker:
    """Makes the stripes of one segment."""

    def __init__(self, put: PutContext, segment_index: int) -> None:
        self._put = put
        self._index = segment_index
        self._geometry = put.geometry.segment(segment_index)
        self._code = self._geometry.code
        self._codec = SegmentCodec.of(
            put.geometry, segment_index, keys=put.keys, suite=put.suite, engine=put.engine, pool=put.buffers
        )
        self._builder = SegmentBuilder(self._geometry)
        self._state = put.journal.segment(segment_index)
        self.manifest: SegmentManifest | None = None
        """Once every stripe was made, in this run or before."""
        self.batch = max(1, MAKE_BYTES // (self._code.total_shards * limits.BLOCK_BYTES))
        """How many stripes are made at a time."""

    def restore(self) -> None:
        """Take up the manifest if an earlier run journalled it. Raises `ProtocolError`."""
        if self._state.manifest is not None:
            self.manifest = SegmentManifest.decode(self._state.manifest)

    @property
    def is_complete(self) -> bool:
        """Whether every stripe was made in this run, so that `finish` can be called."""
        return self._builder.is_complete

    def first_missing(self, before: int) -> int | None:
        """The first stripe under `before` that this run has not made."""
        return next((index for index in range(before) if self._builder.recorded_hash(index) is None), None)

    async def make(self, first: int, count: int) -> list[EncodedStripe]:
        """Stripes `first` to `first + count - 1`; their hashes are durable when this returns.

        Raises `FileChangedError`, and what reading the source or writing the journal raises.
        """
        recorded = [self._recorded_hash(index) for index in range(first, first + count)]

        def work() -> list[EncodedStripe]:
            made = []
            for stripe_index, known in zip(range(first, first + count), recorded, strict=True):
                plaintext = self._read(stripe_index)
                made.append(self._codec.encode(stripe_index, plaintext, recorded_hash=known))
            if None in recorded:
                hashes = b"".join(stripe.stripe_hash for stripe in made)
                self._put.journal.append(StripesMade(self._index, first, hashes))
            return made

        made = await self._put.offload.run(work)
        for stripe in made:
            self._builder.add(stripe.stripe_index, stripe.leaves, stripe.stripe_hash)
        return made

    def _read(self, stripe_index: int) -> bytes:
        offset = (
            self._index * self._code.segment_plaintext_bytes
            + stripe_index * self._code.stripe_plaintext_bytes
        )
        with self._put.read_lock:
            return self._put.reader.read(offset, self._geometry.stripe_plaintext_bytes(stripe_index))

    def _recorded_hash(self, stripe_index: int) -> bytes | None:
        if self.manifest is not None:
            return self.manifest.stripe_hash(stripe_index)
        return self._state.stripe_hashes.get(stripe_index) or self._builder.recorded_hash(stripe_index)

    async def finish(self) -> SegmentManifest:
        """The manifest, durable. Raises the journal's errors."""
        manifest = self._builder.build(OwnerKey(self._put.owner.public), self._put.journal.started.owner_salt)
        await self._put.journal_queue.append(SegmentMade(self._index, manifest.encoded))
        self.manifest = manifest
        return manifest
