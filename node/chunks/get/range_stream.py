"""A byte range of a file as plaintext, in order, with segments fetched ahead. Layer 4.

Invariants: the stripes in memory, fetched or on their way, never exceed the window; stripes are opened,
decoded and handed out strictly in order, so the window can't lock up; every plaintext was checked against
its stripe hash and its seal; the last stripe of a segment that is read from its beginning leaves only after
all roots of the segment held. Source: design.md, sections 2 to 4.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import trio

from node.chunks.erasure import CodingEngine
from node.chunks.geometry import StripeSpan
from node.chunks.get.segment_fetch import SegmentFetch
from node.chunks.manifest import FileManifest
from node.chunks.pipeline import SegmentCodec, stripes_per_call
from node.chunks.root_check import RootCheck
from node.crypto.sealing import FileKeys
from node.errors import FileChangedError, NodeError, OwnerInconsistentError, ProtocolError, StoreError
from node.ports import Buffer, Offload

STEPS_A_WINDOW = 4
"""The window moves in such parts, so that a request names several blocks."""
PIECES_AHEAD = 1
"""Decoded calls that wait for the reader, beside the one being decoded."""

MakeFetch = Callable[[int, int, int], SegmentFetch]
"""(segment index, first stripe, end stripe) to a fetch that is not running yet."""
Part = tuple[SegmentFetch, Sequence[StripeSpan]]


@dataclass(frozen=True, slots=True)
class Earlier:
    """Bytes of the file from `start` on that an earlier read left, up to where this one begins."""

    start: int
    read: Callable[[int, int], bytes]
    """(offset in the file, count) to bytes; for the offload. Raises `StoreError`."""


class RangeStream:
    """Plaintext bytes [start, stop) of a file. Use `open_range`."""

    def __init__(
        self,
        *,
        manifest: FileManifest,
        keys: FileKeys,
        engine: CodingEngine,
        offload: Offload,
        make_fetch: MakeFetch,
        window_stripes: int,
        earlier: Earlier | None = None,
    ) -> None:
        """With `earlier`, the roots of a segment that it has the beginning of are compared as well."""
        self._manifest = manifest
        self._keys = keys
        self._engine = engine
        self._offload = offload
        self._make_fetch = make_fetch
        self._window = _Window(window_stripes)
        self._step = max(1, window_stripes // STEPS_A_WINDOW)
        self._earlier = earlier

    @asynccontextmanager
    async def open_range(self, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of the range; leaving the context stops whatever is still being fetched."""
        failed: Exception | None = None
        async with trio.open_nursery() as nursery:
            send_part, parts = trio.open_memory_channel[Part](math.inf)
            send_piece, pieces = trio.open_memory_channel[Sequence[bytes]](PIECES_AHEAD)
            errors: list[NodeError] = []
            nursery.start_soon(self._fetch_parts, start, stop, send_part, nursery)
            nursery.start_soon(self._decode_parts, parts, send_piece, errors)
            try:
                yield _Pieces(pieces, errors)
            except Exception as error:  # noqa: BLE001  the reader's own error: kept out of the nursery's group
                failed = error
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _fetch_parts(
        self, start: int, stop: int, parts: trio.MemorySendChannel[Part], nursery: trio.Nursery
    ) -> None:
        """Open the window over the range's stripes, in order, starting a fetch for each segment."""
        async with parts:
            for spans in _spans_by_segment(self._manifest, start, stop):
                first, end = spans[0].stripe_index, spans[-1].stripe_index + 1
                await self._window.take(min(self._step, end - first))
                fetch = self._make_fetch(spans[0].segment_index, first, end)
                opened = first + min(self._step, end - first)
                fetch.extend(opened)
                nursery.start_soon(fetch.run)
                parts.send_nowait((fetch, spans))
                while opened < end:
                    step = min(self._step, end - opened)
                    await self._window.take(step)
                    opened += step
                    fetch.extend(opened)

    async def _decode_parts(
        self,
        parts: trio.MemoryReceiveChannel[Part],
        pieces: trio.MemorySendChannel[Sequence[bytes]],
        errors: list[NodeError],
    ) -> None:
        async with pieces:
            try:
                async for fetch, spans in parts:
                    await self._decode_part(fetch, spans, pieces)
            except NodeError as error:
                errors.append(error)

    async def _decode_part(
        self,
        fetch: SegmentFetch,
        spans: Sequence[StripeSpan],
        pieces: trio.MemorySendChannel[Sequence[bytes]],
    ) -> None:
        codec = SegmentCodec.of(
            self._manifest.geometry,
            fetch.segment_index,
            keys=self._keys,
            suite=self._manifest.suite,
            engine=self._engine,
        )
        at_once = stripes_per_call(self._manifest.code)
        roots: RootCheck | None = None
        position = 0
        while position < len(spans):
            batch: list[tuple[StripeSpan, Mapping[int, Buffer]]] = []
            while len(batch) < at_once and position < len(spans):
                span = spans[position]
                if batch and not fetch.has_stripe(span.stripe_index):
                    break
                batch.append((span, await fetch.wait_stripe(span.stripe_index)))
                position += 1
            if position == len(batch) and self._has_whole(codec, fetch.segment_index, spans):
                roots = RootCheck(self._engine, fetch.manifest)
                await self._add_earlier(codec, fetch, spans[0].stripe_index, roots)
            leaf_lists = fetch.leaf_lists() if roots is not None and position == len(spans) else {}
            decoded = await self._offload.run(partial(_decode, codec, fetch, tuple(batch), roots, leaf_lists))
            self._window.give(len(batch))
            batch.clear()
            await pieces.send(decoded)

    def _has_whole(self, codec: SegmentCodec, segment_index: int, spans: Sequence[StripeSpan]) -> bool:
        """Whether every stripe of the segment passes here, or did: only then can its roots be compared."""
        if spans[-1].stripe_index + 1 < codec.geometry.stripe_count:
            return False
        segment_start = self._manifest.geometry.stripe_offset(segment_index, 0)
        return not spans[0].stripe_index or (
            self._earlier is not None and self._earlier.start <= segment_start
        )

    async def _add_earlier(
        self, codec: SegmentCodec, fetch: SegmentFetch, end_stripe: int, roots: RootCheck
    ) -> None:
        """Make the stripes before `end_stripe` again from what an earlier read left. Raises `StoreError`."""
        for stripe_index in range(end_stripe):

            def add(stripe_index: int = stripe_index) -> None:
                assert self._earlier is not None
                plaintext = self._earlier.read(
                    self._manifest.geometry.stripe_offset(fetch.segment_index, stripe_index),
                    codec.geometry.stripe_plaintext_bytes(stripe_index),
                )
                try:
                    made = codec.encode(
                        stripe_index, plaintext, recorded_hash=fetch.manifest.stripe_hash(stripe_index)
                    )
                except FileChangedError:
                    raise StoreError(
                        "the unfinished output was changed by somebody else: remove it and say the same again"
                    ) from None
                roots.add_leaves(stripe_index, made.leaves)

            await self._offload.run(add)


class _Window:
    """How many stripes may be in memory; one taker."""

    def __init__(self, stripes: int) -> None:
        self._free = stripes
        self._freed = trio.Event()

    async def take(self, stripes: int) -> None:
        while self._free < stripes:
            self._freed = trio.Event()
            await self._freed.wait()
        self._free -= stripes

    def give(self, stripes: int) -> None:
        self._free += stripes
        self._freed.set()


def _spans_by_segment(manifest: FileManifest, start: int, stop: int) -> Iterator[Sequence[StripeSpan]]:
    """The stripes of a range, a segment at a time: never those of a whole large file."""
    full = manifest.code.segment_plaintext_bytes
    while start < stop:
        end = min(stop, (start // full + 1) * full)
        yield tuple(manifest.geometry.stripes_of_range(start, end))
        start = end


def _decode(
    codec: SegmentCodec,
    fetch: SegmentFetch,
    batch: Sequence[tuple[StripeSpan, Mapping[int, Buffer]]],
    roots: RootCheck | None,
    leaf_lists: Mapping[int, bytes],
) -> list[bytes]:
    """The wanted part of each stripe's plaintext; of a segment's last one once all of `roots` held."""
    pieces = []
    for span, blocks in batch:
        try:
            plaintext = codec.decode(
                span.stripe_index,
                blocks,
                stripe_hash=fetch.manifest.stripe_hash(span.stripe_index),
                roots=roots,
            )
            if roots is not None and roots.is_complete:
                roots.check(leaf_lists)
        except (ProtocolError, OwnerInconsistentError) as error:
            # Each block has its leaf, so only the owner can have made them not fit together.
            raise OwnerInconsistentError(f"segment {fetch.segment_index}: {error}") from error
        whole = span.start == 0 and span.stop == len(plaintext)
        pieces.append(bytes(plaintext if whole else memoryview(plaintext)[span.start : span.stop]))
    return pieces


class _Pieces:
    """What the reader iterates over: not a generator, which would have to be closed when left early."""

    def __init__(
        self, batches: trio.MemoryReceiveChannel[Sequence[bytes]], errors: Sequence[NodeError]
    ) -> None:
        self._batches = batches
        self._errors = errors
        self._ready: deque[bytes] = deque()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._ready:
            try:
                self._ready.extend(await self._batches.receive())
            except trio.EndOfChannel:
                if self._errors:
                    raise self._errors[0] from None
                raise StopAsyncIteration from None
        return self._ready.popleft()
