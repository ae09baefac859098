"""Two engines, bit for bit the same; any data_shards of total_shards restore everything."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks import coding_engines
from node.chunks.coding_engines import (
    IsalEngine,
    ZfecEngine,
    best_engine,
    engine_name,
    generator_matrix,
    passes_self_test,
)
from node.chunks.erasure import CodingEngine, WritableBuffer
from node.chunks.geometry import Code
from node.errors import ProtocolError
from node.ports import Buffer
from tests.chunks.strategies import codes, law, noise

ENGINES = list(coding_engines._candidates())
engines = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


def stripe(code: Code, length: int, seed: object = 0) -> list[bytes]:
    return [noise(length, (seed, index)) for index in range(code.data_shards)]


def encoded(engine: CodingEngine, code: Code, data: Sequence[Buffer]) -> list[Buffer]:
    parity = [bytearray(len(data[0])) for _ in range(code.parity_shards)]
    engine.encode(code, data, parity)
    return [*data, *parity]


def test_isal_is_found_where_its_wheel_is_installed() -> None:
    pytest.importorskip("pyeclib")
    assert engine_name() == "isa-l (pyeclib)"
    assert best_engine() is best_engine()


@law(80)
@given(codes(), st.integers(1, 40), st.data())
def test_engines_agree_and_restore_from_any_data_shards(code: Code, units: int, data: st.DataObject) -> None:
    blocks = stripe(code, units * limits.BLOCK_ALIGN_BYTES, data.draw(st.integers(0, 99)))
    shards = encoded(ENGINES[-1], code, blocks)
    kept = data.draw(st.permutations(range(code.total_shards)))[: code.data_shards]
    extra = data.draw(st.integers(0, 2))
    wanted = [index for index in range(code.total_shards) if index not in kept[extra:]]
    for engine in ENGINES:
        assert encoded(engine, code, blocks) == shards
        made = {index: bytearray(len(blocks[0])) for index in wanted}
        engine.rebuild(code, {index: shards[index] for index in kept}, made)
        assert made == {index: shards[index] for index in wanted}


@pytest.mark.parametrize("code", [Code(1, 255), Code(127, 255), Code(254, 255), Code(255, 255)], ids=str)
def test_engines_agree_on_the_largest_codes(code: Code) -> None:
    data = stripe(code, 128)
    first, *others = (encoded(engine, code, data) for engine in ENGINES)
    assert all(other == first for other in others)
    for engine in ENGINES:
        kept = range(code.total_shards - code.data_shards, code.total_shards)
        made = {0: bytearray(128), code.total_shards - 1: bytearray(128)}
        engine.rebuild(code, {index: first[index] for index in kept}, made)
        assert made == {index: first[index] for index in made}


@engines
def test_every_subset_of_a_small_code_restores_a_full_block(engine: CodingEngine) -> None:
    code = Code(3, 8)
    shards = encoded(engine, code, stripe(code, limits.BLOCK_BYTES))
    subsets = [(a, b, c) for a in range(8) for b in range(a) for c in range(b)]
    for kept in subsets:
        made = {index: bytearray(limits.BLOCK_BYTES) for index in range(8)}
        engine.rebuild(code, {index: shards[index] for index in kept}, made)
        assert list(made.values()) == shards


@engines
def test_buffers_of_every_kind_are_taken_where_they_lie(engine: CodingEngine) -> None:
    code = Code(2, 4)
    whole = bytearray(noise(256) + bytes(256))
    view = memoryview(whole)
    parity: list[WritableBuffer] = [view[256:384], view[384:512]]
    engine.encode(code, [bytes(view[:128]), view[128:256].toreadonly()], parity)
    made = {0: bytearray(128)}
    sources: Mapping[int, Buffer] = {2: view[256:384].toreadonly(), 3: bytearray(view[384:])}
    engine.rebuild(code, sources, made)
    assert made[0] == view[:128]


@engines
def test_buffers_that_do_not_fit_are_refused(engine: CodingEngine) -> None:
    code = Code(2, 3)
    with pytest.raises(ProtocolError):
        engine.encode(code, [bytes(64)], [bytearray(64)])
    with pytest.raises(ProtocolError):
        engine.encode(code, [bytes(64), bytes(128)], [bytearray(64)])
    with pytest.raises(ProtocolError):
        engine.rebuild(code, {0: bytes(64)}, {1: bytearray(64)})
    with pytest.raises((ProtocolError, TypeError)):
        engine.encode(code, [bytes(64), bytes(64)], [memoryview(bytes(64))])


@engines
def test_nothing_to_make_is_no_work(engine: CodingEngine) -> None:
    engine.encode(Code(1, 1), [bytes(64)], [])
    engine.rebuild(Code(1, 1), {0: bytes(64)}, {})


@engines
def test_threads_share_an_engine(engine: CodingEngine) -> None:
    code = Code(4, 12)
    shards = encoded(ZfecEngine(), code, stripe(code, 640))
    wrong: list[tuple[int, ...]] = []

    def work(offset: int) -> None:
        for turn in range(40):
            kept = tuple(sorted((offset + turn + 3 * step) % 12 for step in range(4)))
            made = {index: bytearray(640) for index in range(12)}
            engine.rebuild(code, {index: shards[index] for index in kept}, made)
            if list(made.values()) != shards:
                wrong.append(kept)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tables_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CODING_TABLES_BYTES_MAX", 4_096)
    engine = ENGINES[0]
    assert isinstance(engine, IsalEngine)
    code = Code(4, 12)
    shards = encoded(engine, code, stripe(code, 64))
    for lost in range(12):
        made = {lost: bytearray(64)}
        engine.rebuild(code, {index: shards[index] for index in range(12) if index != lost}, made)
        assert made[lost] == shards[lost]
    assert engine.table_bytes <= 4_096


class CarelessEngine(ZfecEngine):
    """An engine that gets one byte of one parity block wrong."""

    name = "careless"

    def encode(self, code: Code, data: Sequence[Buffer], parity: Sequence[WritableBuffer]) -> None:
        super().encode(code, data, parity)
        if parity:
            memoryview(parity[-1])[-1] ^= 1


def test_the_self_test_refuses_an_engine_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(map(passes_self_test, ENGINES))
    assert not passes_self_test(CarelessEngine())
    monkeypatch.setattr(coding_engines, "_candidates", lambda: iter([CarelessEngine(), ZfecEngine()]))
    assert best_engine.__wrapped__().name == "zfec"


def test_without_isal_zfec_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        coding_engines,
        "_isal_libraries",
        lambda: iter([("libno-such-thing.so", "isa-l"), ("libc.so.6", "isa-l")]),
    )
    assert [engine.name for engine in coding_engines._candidates()] == ["zfec"]


def test_the_matrix_begins_with_the_identity_and_is_read_only() -> None:
    matrix = generator_matrix(Code(3, 5))
    assert matrix[:3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 2
