"""The algebra of GF(2^8) and the choice of sources."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.chunks.coding_engines import generator_matrix
from node.chunks.erasure import check_encode, choose_sources, invert, multiply, rebuild_matrix
from node.chunks.geometry import Code
from node.errors import ProtocolError
from tests.chunks.strategies import codes, law


def product(left: int, right: int) -> int:
    """Multiplication in GF(2^8) by its definition: carry-less, then reduced by 0x11d."""
    total = 0
    for bit in range(8):
        total ^= (left << bit) * (right >> bit & 1)
    for bit in range(14, 7, -1):
        total ^= (0x11D << (bit - 8)) * (total >> bit & 1)
    return total


def test_multiplication_is_that_of_the_field() -> None:
    column = np.arange(256, dtype=np.uint8).reshape(256, 1)
    expected = np.array([[product(a, b) for b in range(256)] for a in range(256)], dtype=np.uint8)
    assert np.array_equal(multiply(column, column.T), expected)


@law(60)
@given(codes(), st.data())
def test_any_data_shards_rows_have_an_inverse(code: Code, data: st.DataObject) -> None:
    sources = data.draw(st.permutations(range(code.total_shards)))[: code.data_shards]
    rows = generator_matrix(code)[sources]
    assert np.array_equal(multiply(rows, invert(rows)), np.eye(code.data_shards, dtype=np.uint8))
    assert np.array_equal(rebuild_matrix(generator_matrix(code), sources, sources), np.eye(code.data_shards))


def test_a_singular_matrix_is_refused() -> None:
    with pytest.raises(ProtocolError):
        invert(np.array([[1, 2], [1, 2]], dtype=np.uint8))
    with pytest.raises(ProtocolError):
        rebuild_matrix(generator_matrix(Code(2, 3)), [1, 1], [0])


def test_sources_are_the_lowest_indices() -> None:
    blocks = {index: bytes(64) for index in (9, 3, 7, 0, 5)}
    assert choose_sources(Code(3, 10), blocks, {1: bytearray(64)}) == (0, 3, 5)


@pytest.mark.parametrize(
    ("blocks", "wanted"),
    [
        ({0: bytes(64)}, {}),
        ({0: bytes(64), 6: bytes(64)}, {}),
        ({0: bytes(64), -1: bytes(64)}, {}),
        ({0: bytes(64), 1: bytes(64)}, {6: bytearray(64)}),
        ({0: bytes(64), 1: bytes(128)}, {}),
        ({0: bytes(64), 1: bytes(64)}, {2: bytearray(128)}),
        ({0: bytes(63), 1: bytes(63)}, {}),
        ({0: b"", 1: b""}, {}),
    ],
)
def test_blocks_that_do_not_fit_the_code_are_refused(
    blocks: dict[int, bytes], wanted: dict[int, bytearray]
) -> None:
    with pytest.raises(ProtocolError):
        choose_sources(Code(2, 6), blocks, wanted)


@pytest.mark.parametrize(
    ("data_count", "parity_count", "length"), [(1, 4, 64), (2, 3, 64), (2, 4, 65), (2, 4, 0)]
)
def test_a_stripe_that_does_not_fit_the_code_is_refused(
    data_count: int, parity_count: int, length: int
) -> None:
    with pytest.raises(ProtocolError):
        check_encode(Code(2, 6), [bytes(length)] * data_count, [bytearray(length)] * parity_count)


@pytest.mark.parametrize("code", [Code(1, 4), Code(3, 7), Code(10, 30), Code(20, 255)], ids=str)
def test_the_matrix_is_the_documented_one(code: Code) -> None:
    """docs/formats/files.md: a Vandermonde matrix made systematic, so that others need no zfec."""
    powers = [1]
    while len(powers) < 255:
        powers.append(product(powers[-1], 2))
    vandermonde = np.zeros((code.total_shards, code.data_shards), dtype=np.uint8)
    vandermonde[0, 0] = 1
    for row in range(1, code.total_shards):
        vandermonde[row] = [powers[(row - 1) * column % 255] for column in range(code.data_shards)]
    expected = multiply(vandermonde, invert(vandermonde[: code.data_shards]))
    assert np.array_equal(generator_matrix(code), expected)
