"""Geometry: every byte of a file has one place, and the numbers add up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.geometry import (
    BLOCK_BYTES,
    SEGMENT_STRIPES,
    TAG_BYTES,
    Code,
    FileGeometry,
    SegmentGeometry,
)
from node.errors import UsageError
from tests.chunks.strategies import codes, law


@st.composite
def files(draw: st.DrawFn) -> FileGeometry:
    """Lengths around the edges of stripes and segments, and anywhere up to the largest."""
    code = draw(codes(data_max=255, parity_max=0) | codes())
    unit = draw(st.sampled_from([1, 64, code.stripe_plaintext_bytes, code.segment_plaintext_bytes]))
    length = unit * draw(st.integers(0, 200)) + draw(st.integers(-70, 70))
    length = draw(st.sampled_from([length, length, code.file_plaintext_bytes_max - abs(length)]))
    return FileGeometry.of(min(max(length, 0), code.file_plaintext_bytes_max), code)


@law(200)
@given(files())
def test_segments_and_stripes_add_up_to_the_file(file: FileGeometry) -> None:
    last = file.segment(file.segment_count - 1)
    assert (file.segment_count - 1) * file.code.segment_plaintext_bytes + last.plaintext_bytes == (
        file.plaintext_bytes
    )
    assert (file.segment_count - 1) * SEGMENT_STRIPES + last.stripe_count == file.stripe_count
    assert sum(map(last.stripe_plaintext_bytes, range(last.stripe_count))) == last.plaintext_bytes
    assert sum(map(last.block_bytes, range(last.stripe_count))) == last.shard_bytes
    assert last.stored_bytes == last.shard_bytes * file.code.total_shards
    for index in {0, file.segment_count // 2, file.segment_count - 2} & set(range(file.segment_count - 1)):
        assert file.segment(index) == SegmentGeometry(file.code, file.code.segment_plaintext_bytes)
        assert file.segment(index).stripe_count == SEGMENT_STRIPES
        assert file.segment(index).last_block_bytes == BLOCK_BYTES
    assert file.stored_bytes == last.stored_bytes + (file.segment_count - 1) * (
        SEGMENT_STRIPES * BLOCK_BYTES * file.code.total_shards
    )


@law(200)
@given(files())
def test_the_last_block_is_the_smallest_multiple_of_64_that_holds_the_rest(file: FileGeometry) -> None:
    segment = file.segment(file.segment_count - 1)
    block, shards = segment.last_block_bytes, file.code.data_shards
    sealed = segment.stripe_plaintext_bytes(segment.stripe_count - 1) + TAG_BYTES
    assert block % limits.BLOCK_ALIGN_BYTES == 0
    assert (block - limits.BLOCK_ALIGN_BYTES) * shards < sealed <= block * shards
    assert 0 < block <= BLOCK_BYTES


@law(200)
@given(files(), st.data())
def test_a_byte_range_is_cut_into_the_stripes_that_hold_it(file: FileGeometry, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, file.plaintext_bytes))
    reach = 5 * file.code.stripe_plaintext_bytes
    stop = data.draw(st.integers(start, min(file.plaintext_bytes, start + reach)))
    spans = list(file.stripes_of_range(start, stop))
    assert sum(span.stop - span.start for span in spans) == stop - start
    expected_offset = start
    for span in spans:
        assert file.stripe_offset(span.segment_index, span.stripe_index) + span.start == expected_offset
        limit = file.segment(span.segment_index).stripe_plaintext_bytes(span.stripe_index)
        assert 0 <= span.start < span.stop <= limit
        expected_offset += span.stop - span.start


def test_an_empty_file_is_one_stripe_of_empty_plaintext() -> None:
    file = FileGeometry.of(0, Code(10, 30))
    assert (file.segment_count, file.stripe_count) == (1, 1)
    segment = file.segment(0)
    assert (segment.plaintext_bytes, segment.stripe_count, segment.last_block_bytes) == (0, 1, 64)
    assert list(file.stripes_of_range(0, 0)) == []


def test_a_small_file_stays_small() -> None:
    assert FileGeometry.of(1024, Code(10, 30)).stored_bytes == 30 * 128


def test_the_numbers_of_the_design() -> None:
    code = Code(10, 30)
    segment = FileGeometry.of(10**9, code).segment(0)
    assert code.stripe_plaintext_bytes == 10 * 65_472 - 16
    assert (segment.plaintext_bytes, segment.shard_bytes) == (64 * 654_704, 64 * 65_472)
    assert code.file_plaintext_bytes_max > 5 * 10**12


@pytest.mark.parametrize("text", ["10/30", " 10/30 ", "1/1", "255/255", "010/030"])
def test_codes_are_read(text: str) -> None:
    assert Code.parse(str(Code.parse(text))) == Code.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10",
        "10/",
        "/30",
        "10-30",
        "30/10",
        "0/3",
        "1/256",
        "256/256",
        "-1/3",
        "1.0/3",
        "1e1/30",
        "\u0661/\u0663",
        "1/3/5",
    ],
)
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Code.parse(text)


def test_what_lies_outside_is_refused() -> None:
    code = Code(4, 6)
    file = FileGeometry.of(code.segment_plaintext_bytes + 1, code)
    with pytest.raises(UsageError, match="choose a code"):
        FileGeometry.of(code.file_plaintext_bytes_max + 1, code)
    with pytest.raises(UsageError):
        FileGeometry.of(-1, code)
    with pytest.raises(UsageError):
        SegmentGeometry(code, code.segment_plaintext_bytes + 1)
    with pytest.raises(IndexError):
        file.segment(2)
    with pytest.raises(IndexError):
        file.segment(1).block_bytes(1)
    with pytest.raises(IndexError):
        file.stripe_offset(1, 1)
    for start, stop in ((-1, 2), (3, 2), (0, file.plaintext_bytes + 1)):
        with pytest.raises(IndexError):
            file.stripes_of_range(start, stop)
