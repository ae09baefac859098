"""Tables of tagged arrays: what is encoded decodes, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import tagged, wire
from node.errors import ProtocolError
from node.tagged import Table, array, exactly, integer, text, up_to
from node.wire import Value


@dataclass(frozen=True)
class Point:
    x: int
    y: int

    def as_value(self) -> Value:
        return [self.x, self.y]

    @classmethod
    def of_value(cls, value: Value) -> Point:
        x, y = wire.expect_list(value, count=2)
        return cls(wire.expect_int(x, low=0, high=9), wire.expect_int(y, low=0, high=9))


@dataclass(frozen=True)
class Line:
    name: str
    points: tuple[Point, ...]
    colour: bytes = b""


@dataclass(frozen=True)
class Nothing:
    pass


TABLE = Table[Line | Nothing]({
    "line": (Line, (text(4), array(Point.of_value, low=1, high=3), exactly(0, 3))),
    "nothing": (Nothing, ()),
})  # fmt: skip

points = st.builds(Point, st.integers(0, 9), st.integers(0, 9))
lines = st.builds(
    Line,
    st.text("abc", max_size=4),
    st.lists(points, min_size=1, max_size=3).map(tuple),
    st.binary(min_size=3, max_size=3) | st.just(b""),
)


@given(lines | st.builds(Nothing))
def test_what_is_encoded_decodes(item: Line | Nothing) -> None:
    values = wire.decode(wire.encode(TABLE.encode(item)), size_max=1000)
    assert TABLE.decode(values) == item


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1],
        ["circle"],
        ["nothing", 1],
        ["line", "abc", [[1, 2]]],
        ["line", "abc", [[1, 2]], b"", 0],
        ["line", "abcde", [[1, 2]], b""],
        ["line", "abc", [], b""],
        ["line", "abc", [[1, 2]] * 4, b""],
        ["line", "abc", [[1, 10]], b""],
        ["line", "abc", [[1, 2]], b"12"],
        ["line", b"abc", [[1, 2]], b""],
    ],
)
def test_nothing_else_does(values: list[Value]) -> None:
    with pytest.raises(ProtocolError):
        TABLE.decode(values)


def test_a_row_that_misses_a_field_is_no_row() -> None:
    with pytest.raises(AssertionError):
        Table[Line]({"line": (Line, (text(4),))})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (integer(1, 3), [1, 3], [0, 4, True, b"", None]),
        (exactly(2), [b"ab"], [b"", b"a", b"abc", "ab", 2]),
        (up_to(2), [b"", b"ab"], [b"abc", "ab", 2]),
        (text(2), ["", "ab", "ö"], ["abc", "öö", b"ab"]),
        (array(up_to(1), high=2), [[], [b"a", b""]], [[b""] * 3, [b"ab"], b""]),
    ],
)
def test_bounds(field: tagged.Field, good: list[Value], bad: list[Value]) -> None:
    for value in good:
        read = field(value)
        assert list(read) == value if isinstance(read, tuple) else read == value
    for value in bad:
        with pytest.raises(ProtocolError):
            field(value)


@given(st.lists(st.binary(max_size=8), max_size=5))
def test_bodies_of_records(records: list[bytes]) -> None:
    body = tagged.pack_records(records)
    assert tagged.unpack_records(body, size_max=100, count_max=5, record_bytes_max=8) == tuple(records)
    if records:
        with pytest.raises(ProtocolError):
            tagged.unpack_records(body, size_max=100, count_max=len(records) - 1)
        with pytest.raises(ProtocolError):
            tagged.unpack_records(body, size_max=len(body) - 1)
        longest = max(map(len, records))
        if longest:
            with pytest.raises(ProtocolError):
                tagged.unpack_records(body, size_max=100, record_bytes_max=longest - 1)
