"""The list of files: rows merge in any order, parts stay few, and only the account reads any of it."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import limits
from node.chunks.file_list import (
    SALT_BYTES,
    ListKeys,
    ListPart,
    ListRoot,
    ListRow,
    PartReader,
    encode_part,
    plan_merge,
    wins,
)
from node.errors import CryptoError, ProtocolError
from node.units import FileHash

SEED = bytes(range(32))
HASHES = st.binary(min_size=32, max_size=32).map(FileHash)
ROWS = st.builds(
    ListRow,
    file_hash=HASHES,
    version=st.integers(1, 2**53),
    until_s=st.integers(0, limits.RECORD_TIME_S_MAX),
    data=st.none() | st.binary(max_size=300),
)


def row(number: int, version: int = 1, size: int = 250) -> ListRow:
    return ListRow(FileHash(number.to_bytes(32, "big")), version, 0, bytes(size))


@given(st.lists(ROWS, max_size=20), st.integers(1, 100))
def test_a_part_reads_back_however_it_arrives(rows: list[ListRow], piece_bytes: int) -> None:
    data = encode_part(rows)
    reader = PartReader()
    found = [
        each
        for start in range(0, len(data), piece_bytes)
        for each in reader.feed(data[start : start + piece_bytes])
    ]
    reader.finish()
    assert found == rows


@given(st.lists(ROWS, min_size=1, max_size=5), st.data())
def test_a_part_that_is_cut_or_damaged_is_noticed(rows: list[ListRow], data: st.DataObject) -> None:
    whole = encode_part(rows)
    cut = data.draw(st.integers(0, len(whole) - 1))
    reader = PartReader()
    found = list(reader.feed(whole[:cut]))
    assert found == rows[: len(found)]
    if len(encode_part(found)) != cut:
        with pytest.raises(ProtocolError):
            reader.finish()


@pytest.mark.parametrize("data", [b"CairnLs2", b"CairnLs1\xff\xff\xff\xff", b"CairnLs1\0\0\0\1x"])
def test_what_is_no_part_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(PartReader().feed(data))


@given(st.lists(st.tuples(st.integers(1, 3), st.none() | st.binary(max_size=1)), min_size=1, max_size=4))
def test_the_order_of_news_does_not_matter(states: list[tuple[int, bytes | None]]) -> None:
    rows = [ListRow(FileHash(bytes(32)), version, 0, data) for version, data in states]
    results = set()
    for order in permutations(rows):
        best = order[0]
        for each in order[1:]:
            best = each if wins(each, best) else best
        results.add((best.version, best.data))
    assert len(results) == 1


@given(st.lists(ROWS, max_size=8), st.lists(st.tuples(HASHES, HASHES, st.integers(0, 2**32)), max_size=30))
def test_a_root_comes_back_for_the_account_alone(
    rows: list[ListRow], parts: list[tuple[FileHash, bytes, int]]
) -> None:
    root = ListRoot(tuple(ListPart(*part) for part in parts), tuple(rows))
    keys, salt = ListKeys.derive(SEED), b"s" * SALT_BYTES
    sealed = keys.seal(root, sequence=7, salt=salt)
    assert keys.open(sealed, sequence=7) == root
    for other, sequence in ((ListKeys.derive(bytes(32)), 7), (keys, 8)):
        with pytest.raises(CryptoError):
            other.open(sealed, sequence=sequence)
    with pytest.raises(CryptoError):
        keys.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), sequence=7)
    assert keys.seal(root, sequence=7, salt=b"t" * SALT_BYTES)[SALT_BYTES:] != sealed[SALT_BYTES:]


def test_a_root_takes_what_a_pointer_carries_and_no_more() -> None:
    rows = 0
    while ListRoot(rows=tuple(row(number) for number in range(rows + 1))).fits():
        rows += 1
    assert 20 <= rows <= 30
    full = ListRoot(rows=tuple(row(number) for number in range(rows + 1)))
    with pytest.raises(ProtocolError):
        full.encode()
    parts = tuple(
        ListPart(FileHash(bytes([number]) * 32), bytes(32), 2**31) for number in range(limits.LIST_PARTS_MAX)
    )
    assert ListRoot(parts, (row(1),)).fits()
    lengths = {
        len(ListRoot(rows=tuple(row(number) for number in range(count))).encode()) for count in range(rows)
    }
    assert all(length % 1024 == 0 for length in lengths)


def test_a_list_of_100000_files_is_written_a_few_times_and_has_few_parts() -> None:
    live: dict[FileHash, int] = {}
    numbers = iter(range(10**6))
    written = largest = most = 0

    def add(count: int) -> None:
        nonlocal written, largest
        live[FileHash(next(numbers).to_bytes(32, "big"))] = count
        written += count
        largest = max(largest, count)

    for _ in range(0, 100_000, 20):
        add(20)
        while merging := plan_merge(live):
            add(sum(live.pop(part) for part in merging))
        most = max(most, len(live))
    assert sum(live.values()) == 100_000
    assert most <= 32
    assert written <= 100_000 * 8
    assert largest <= 65_536


@given(st.dictionaries(HASHES, st.integers(1, 10**6), max_size=40))
def test_merging_comes_to_an_end_and_leaves_few_of_a_size(live: dict[FileHash, int]) -> None:
    names = random.Random(1)
    for _ in range(100):
        merging = plan_merge(live)
        if not merging:
            break
        assert len(merging) >= 2
        live[FileHash(names.randbytes(32))] = sum(live.pop(part) for part in merging)
    else:
        pytest.fail("merging goes on and on")
    small = [count for count in live.values() if count < 4 ** (limits.LIST_PART_CLASS_MAX + 1)]
    assert len(small) <= 3 * (limits.LIST_PART_CLASS_MAX + 1)
