"""MB/s of seal + code + hash and of the way back, against its parts alone, measured in the same run.

A part alone is a lower bound on the time a stripe takes; their times add up to the bound of the whole, since
every thread does all of them. Everything is MB/s of plaintext, so lines compare; the best of several rounds
counts, since a shared machine only ever adds time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rich.console import Console
from rich.table import Table

from node.chunks.coding_engines import best_engine, engine_name
from node.chunks.erasure import WritableBuffer
from node.chunks.geometry import BLOCK_BYTES, Code, FileGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import BufferPool, EncodedStripe, SegmentCodec
from node.chunks.root_check import RootCheck
from node.crypto.hashing import blake3_256
from node.crypto.sealing import SEAL_BYTES, FileKeys, Suite
from node.ports import Buffer
from node.units import OwnerKey

Work = Callable[[], object]
"""One stripe's worth of a stage, with buffers of its own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of the table."""

    name: str
    make: Callable[[], Work]
    bound: tuple[str, ...] = ()
    """The stages whose times add up to the least this one can take."""
    documented: str = ""
    """What it made at 10/30, one thread / two, on the machine of the design (AVX-512 and GFNI)."""


class Bench:
    """A stripe at one code, and the stages made of it."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.engine = best_engine()
        self.plaintext = os.urandom(code.stripe_plaintext_bytes)
        self.stripe = self._codec().encode(0, self.plaintext)
        # As they come from the network: blocks of their own.
        self.received = [bytes(block) for block in self.stripe.blocks]

    def stages(self) -> Sequence[Stage]:
        """All lines, in the order of the table."""
        code = self.code
        put = ("seal", "encode", "hash blocks", "hash stripe")
        get = ("copy", "hash data blocks", "hash stripe", "open")
        return (
            Stage("copy", self._copy),
            Stage("seal", self._seal),
            Stage("open", self._open),
            Stage("encode", self._encode),
            Stage("rebuild", self._rebuild),
            Stage("hash blocks", partial(self._hash_blocks, code.total_shards)),
            Stage("hash data blocks", partial(self._hash_blocks, code.data_shards)),
            Stage("hash stripe", self._hash_stripe),
            Stage("seal + code + hash", self._put, put, "529 / 975"),
            Stage("back, data shards", partial(self._get, range(code.data_shards)), get, "1234"),
            Stage("back, most erased", partial(self._get, self._parity_first()), (*get, "rebuild"), "1177"),
            Stage("back, all roots", self._get_whole, ("copy", "hash blocks", *get[2:], "encode"), ""),
        )

    def _codec(self) -> SegmentCodec:
        return SegmentCodec.of(
            FileGeometry.of(2 * self.code.segment_plaintext_bytes, self.code),
            0,
            keys=FileKeys.derive(bytes(32)),
            suite=Suite.XCHACHA20_POLY1305,
            engine=self.engine,
            pool=BufferPool(buffers_max=2),
        )

    def _parity_first(self) -> range:
        return range(self.code.total_shards - self.code.data_shards, self.code.total_shards)

    def _sealed(self) -> bytearray:
        return bytearray(b"".join(self.received[: self.code.data_shards]))

    def _copy(self) -> Work:
        target, source = memoryview(self._sealed()), self._sealed()
        return lambda: target.__setitem__(slice(None), source)

    def _seal(self) -> Work:
        key, sealed = self._codec().key, bytearray(len(self.plaintext) + SEAL_BYTES)
        return lambda: key.seal_into(0, last=False, plaintext=self.plaintext, sealed=sealed)

    def _open(self) -> Work:
        key, sealed, opened = self._codec().key, self._sealed(), bytearray(len(self.plaintext))
        return lambda: key.open_into(0, last=False, ciphertext=sealed, opened=opened)

    def _encode(self) -> Work:
        data = self.received[: self.code.data_shards]
        view = memoryview(bytearray(self.code.parity_shards * BLOCK_BYTES))
        parity = [view[index * BLOCK_BYTES :][:BLOCK_BYTES] for index in range(self.code.parity_shards)]
        return lambda: self.engine.encode(self.code, data, parity)

    def _rebuild(self) -> Work:
        kept: Mapping[int, Buffer] = {index: self.received[index] for index in self._parity_first()}
        lost = [index for index in range(self.code.data_shards) if index not in kept]
        made: Mapping[int, WritableBuffer] = {index: bytearray(BLOCK_BYTES) for index in lost}
        return lambda: self.engine.rebuild(self.code, kept, made)

    def _hash_blocks(self, count: int) -> Work:
        blocks = [bytes(block) for block in self.received[:count]]
        return lambda: [leaf_of(block) for block in blocks]

    def _hash_stripe(self) -> Work:
        sealed = self._sealed()
        return lambda: blake3_256(sealed)

    def _put(self) -> Work:
        codec = self._codec()
        return lambda: EncodedStripe.release(codec.encode(0, self.plaintext))

    def _get_whole(self) -> Work:
        """What a get of whole segments does: the blocks that it did not read are made and hashed as well."""
        codec = self._codec()
        geometry = codec.geometry
        roots, hashes = bytes(32 * self.code.total_shards), bytes(32 * geometry.stripe_count)
        manifest = SegmentManifest(OwnerKey(bytes(32)), bytes(16), geometry, roots, hashes)
        return self._get(range(self.code.data_shards), RootCheck(self.engine, manifest))

    def _get(self, shards: range, roots: RootCheck | None = None) -> Work:
        codec, buffer = self._codec(), bytearray(self.code.data_shards * BLOCK_BYTES)
        blocks: dict[int, Buffer] = {index: bytes(self.received[index]) for index in shards}

        def work() -> None:
            for index, block in blocks.items():
                assert leaf_of(block) == self.stripe.leaves[32 * index : 32 * index + 32]
            codec.decode(0, blocks, stripe_hash=self.stripe.stripe_hash, buffer=buffer, roots=roots)

        return work


def measure(stages: Sequence[Stage], *, threads: int, calls: int, rounds: int) -> dict[str, float]:
    """Seconds a call takes in each stage, over all threads: the best of `rounds`.

    Every round goes through all stages, so that a busy moment of the machine spoils no single one.
    """
    works = {stage.name: [stage.make() for _ in range(threads)] for stage in stages}
    best = dict.fromkeys(works, float("inf"))

    def repeat(work: Work) -> None:
        for _ in range(calls):
            work()

    with ThreadPoolExecutor(threads) as executor:
        for made in works.values():
            list(executor.map(lambda work: work(), made))  # threads started, tables made, pages touched
        for _ in range(rounds):
            for name, made in works.items():
                start = time.perf_counter()
                list(executor.map(repeat, made))
                best[name] = min(best[name], (time.perf_counter() - start) / (calls * threads))
    return best


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pipeline")
    parser.add_argument("--code", type=Code.parse, default=Code(10, 30), help="default: 10/30")
    parser.add_argument(
        "--mib", type=int, default=32, help="plaintext a stage, round and thread (default: 32)"
    )
    parser.add_argument("--rounds", type=int, default=8, help="the best of so many counts (default: 8)")
    options = parser.parse_args(arguments)
    stages = Bench(options.code).stages()
    stripe_bytes = options.code.stripe_plaintext_bytes
    calls = max(1, options.mib * 2**20 // stripe_bytes)

    table = Table(title=f"MB/s of plaintext at {options.code} with {engine_name()}")
    table.add_column("stage")
    rows: dict[str, list[str]] = {stage.name: [stage.name] for stage in stages}
    for threads in sorted({1, min(2, os.cpu_count() or 1)}):
        table.add_column(f"{threads} thread{'s' * (threads > 1)}", justify="right")
        table.add_column("of bound", justify="right")
        seconds = measure(stages, threads=threads, calls=calls, rounds=options.rounds)
        for stage in stages:
            taken, bound = seconds[stage.name], sum(seconds[part] for part in stage.bound)
            rows[stage.name] += [
                f"{stripe_bytes / taken / 1e6:,.0f}",
                f"{bound / taken:.0%}" if bound else "",
            ]
    table.add_column("documented", justify="right")
    for stage in stages:
        table.add_row(*rows[stage.name], stage.documented, end_section=stage.name == "hash stripe")
    Console().print(table)
