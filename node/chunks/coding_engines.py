"""The erasure-coding engines: ISA-L through ctypes, else zfec. Layer 3, the adapter over both.

ISA-L is the private library inside the pyeclib wheel (Linux), else the system's. It is fed the matrix read
off zfec, so both engines give the same bytes; its own `gf_gen_rs_matrix` is singular for some subsets and
never used. ctypes releases the GIL during a call. A self-test at start decides which engine runs. Sources:
github.com/intel/isa-l, include/erasure_code.h. Figures: `python -m benchmarks pipeline`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import zfec
from numpy.typing import NDArray

from node import limits
from node.chunks.erasure import (
    CodingEngine,
    Matrix,
    WritableBuffer,
    check_encode,
    choose_sources,
    rebuild_matrix,
)
from node.chunks.geometry import Code
from node.errors import ConfigError, ProtocolError
from node.ports import Buffer

_SYSTEM_LIBRARY: Final = "libisal.so.2"
_ISAL_TABLE_BYTES: Final = 32  # bytes ISA-L expands a coefficient to
_SELF_TEST_CODES: Final = (Code(1, 2), Code(4, 6), Code(10, 30), Code(17, 40))
_SELF_TEST_BYTES: Final = (64, 192, 4_160)


class ZfecEngine:
    """The reference: portable, and 20 to 80 times slower than ISA-L."""

    name = "zfec"

    def encode(self, code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """See `CodingEngine.encode`."""
        check_encode(code, data, parity)
        if not parity:
            return
        numbers = tuple(range(code.data_shards, code.total_shards))
        for block, made in zip(parity, _zfec_encoder(code).encode(tuple(data), numbers), strict=True):
            memoryview(block)[:] = made

    def rebuild(self, code: Code, blocks: Mapping[int, Buffer], wanted: Mapping[int, WritableBuffer]) -> None:
        """See `CodingEngine.rebuild`."""
        sources = choose_sources(code, blocks, wanted)
        if not wanted:
            return
        decoder = _zfec_decoder(code)
        data = tuple(decoder.decode(tuple(blocks[index] for index in sources), sources))
        made = _zfec_encoder(code).encode(data, tuple(wanted))
        for block, content in zip(wanted.values(), made, strict=True):
            memoryview(block)[:] = content


class IsalEngine:
    """ISA-L behind ctypes: no copies, tables cached by the set of shards they serve.

    Raises `OSError` or `AttributeError` if the library is missing or is another one.
    """

    def __init__(self, library: Path | str, *, name: str) -> None:
        self.name = name
        isal = ctypes.CDLL(str(library))
        self._init_tables = isal.ec_init_tables
        self._init_tables.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._init_tables.restype = None
        self._encode_data = isal.ec_encode_data
        self._encode_data.argtypes = [ctypes.c_int] * 3 + [ctypes.c_void_p] * 3
        self._encode_data.restype = None
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[Code, tuple[int, ...], tuple[int, ...]], NDArray[np.uint8]]
        self._tables = OrderedDict()
        self._tables_bytes = 0

    def encode(self, code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        """See `CodingEngine.encode`."""
        check_encode(code, data, parity)
        sources = tuple(range(code.data_shards))
        self._apply(code, sources, data, tuple(range(code.data_shards, code.total_shards)), parity)

    def rebuild(self, code: Code, blocks: Mapping[int, Buffer], wanted: Mapping[int, WritableBuffer]) -> None:
        """See `CodingEngine.rebuild`."""
        sources = choose_sources(code, blocks, wanted)
        taken = [blocks[index] for index in sources]
        self._apply(code, sources, taken, tuple(wanted), list(wanted.values()))

    @property
    def table_bytes(self) -> int:
        """Memory held by cached tables."""
        return self._tables_bytes

    def _apply(
        self,
        code: Code,
        sources: tuple[int, ...],
        given: Sequence[Buffer],
        wanted: tuple[int, ...],
        made: Sequence[WritableBuffer],
    ) -> None:
        if not wanted:
            return
        tables = self._tables_for(code, sources, wanted)
        if any(isinstance(buffer, memoryview) and buffer.readonly for buffer in made):
            raise ProtocolError("a block to be made lies in a buffer that can't be written")
        # These hold the buffers in place until the call is over.
        inputs, outputs = [_pin(buffer) for buffer in given], [_pin(buffer) for buffer in made]
        self._encode_data(
            len(given[0]),
            len(inputs),
            len(outputs),
            tables.ctypes.data,
            _pointers(inputs),
            _pointers(outputs),
        )

    def _tables_for(self, code: Code, sources: tuple[int, ...], wanted: tuple[int, ...]) -> NDArray[np.uint8]:
        key = (code, sources, wanted)
        with self._lock:
            tables = self._tables.get(key)
            if tables is not None:
                self._tables.move_to_end(key)
                return tables
        rows = np.ascontiguousarray(rebuild_matrix(generator_matrix(code), sources, wanted))
        tables = np.zeros(_ISAL_TABLE_BYTES * rows.size, dtype=np.uint8)
        self._init_tables(code.data_shards, len(wanted), rows.ctypes.data, tables.ctypes.data)
        with self._lock:
            if key not in self._tables:
                self._tables[key] = tables
                self._tables_bytes += tables.nbytes
            while self._tables_bytes > limits.CODING_TABLES_BYTES_MAX and len(self._tables) > 1:
                _, evicted = self._tables.popitem(last=False)
                self._tables_bytes -= evicted.nbytes
        return tables


@lru_cache(maxsize=limits.CODING_CODES_MAX)
def generator_matrix(code: Code) -> Matrix:
    """zfec's matrix, a row a shard, read off by encoding unit vectors. Read-only."""
    matrix = np.eye(code.total_shards, code.data_shards, dtype=np.uint8)
    parity = tuple(range(code.data_shards, code.total_shards))
    if parity:
        units = tuple(bytes(row) for row in np.eye(code.data_shards, dtype=np.uint8))
        rows = _zfec_encoder(code).encode(units, parity)
        matrix[code.data_shards :] = [np.frombuffer(row, dtype=np.uint8) for row in rows]
    matrix.flags.writeable = False
    return matrix


@cache
def best_engine() -> CodingEngine:
    """The fastest engine that passes the self-test, the same object at every call.

    Raises `ConfigError` if none does: nothing may be stored then.
    """
    for engine in _candidates():
        if passes_self_test(engine):
            return engine
    raise ConfigError("no erasure-coding engine of this installation works: install Cairn again")


def engine_name() -> str:
    """The name of `best_engine()`, for `cairn status`."""
    return best_engine().name


def passes_self_test(engine: CodingEngine) -> bool:
    """Whether `engine` encodes as zfec does and rebuilds what was lost, for several codes and lengths."""
    reference = ZfecEngine()
    for code in _SELF_TEST_CODES:
        for length in _SELF_TEST_BYTES:
            data = [
                bytes((7 * shard + 31 * i + i // 251) % 256 for i in range(length))
                for shard in range(code.data_shards)
            ]
            made = [bytearray(length) for _ in range(code.parity_shards)]
            expected = [bytearray(length) for _ in range(code.parity_shards)]
            engine.encode(code, data, made)
            reference.encode(code, data, expected)
            if made != expected:
                return False
            shards: list[Buffer] = [*data, *expected]
            kept = {
                index: shards[index]
                for index in range(code.total_shards - code.data_shards, code.total_shards)
            }
            lost = {index: bytearray(length) for index in range(code.total_shards) if index not in kept}
            engine.rebuild(code, kept, lost)
            if any(block != shards[index] for index, block in lost.items()):
                return False
    return True


def _candidates() -> Iterator[CodingEngine]:
    for library, name in _isal_libraries():
        try:
            yield IsalEngine(library, name=name)
        except (OSError, AttributeError):
            continue  # not on this machine, or another library of that name
    yield ZfecEngine()


def _isal_libraries() -> Iterator[tuple[Path | str, str]]:
    """Where ISA-L may be: inside the pyeclib wheel, then wherever the loader looks."""
    spec = importlib.util.find_spec("pyeclib")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted((Path(location).parent / "pyeclib.libs").glob("libisal*.so*")):
            yield path, "isa-l (pyeclib)"
    yield _SYSTEM_LIBRARY, "isa-l (system)"


def _pin(buffer: Buffer) -> tuple[int, object]:
    """The address of a buffer, good as long as the second value lives."""
    if isinstance(buffer, bytes) or (isinstance(buffer, memoryview) and buffer.readonly):
        array = np.frombuffer(buffer, dtype=np.uint8)  # ctypes itself refuses what can't be written
        return array.ctypes.data, array
    view = ctypes.c_char.from_buffer(buffer)
    return ctypes.addressof(view), view


def _pointers(pinned: Sequence[tuple[int, object]]) -> Any:
    return (ctypes.c_void_p * len(pinned))(*(address for address, _ in pinned))


@lru_cache(maxsize=limits.CODING_CODES_MAX)
def _zfec_encoder(code: Code) -> Any:
    return zfec.Encoder(code.data_shards, code.total_shards)


@lru_cache(maxsize=limits.CODING_CODES_MAX)
def _zfec_decoder(code: Code) -> Any:
    return zfec.Decoder(code.data_shards, code.total_shards)
