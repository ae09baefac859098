"""Which bytes a request for a file asks for (RFC 9110, section 14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.control.file_urls import RangeNotSatisfiableError, requested_range

ETAG = '"here"'
LENGTHS = st.integers(0, 50)
NUMBERS = st.none() | st.integers(0, 60)


def asked(text: str | None, **more: str) -> dict[bytes, str]:
    headers = {} if text is None else {b"range": text}
    return headers | {name.replace("_", "-").encode(): value for name, value in more.items()}


@given(length=LENGTHS, first=NUMBERS, last=NUMBERS)
def test_one_range_is_what_the_specification_says_byte_for_byte(
    length: int, first: int | None, last: int | None
) -> None:
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    data = bytes(range(length))
    if first is None and last is None:
        wanted = None  # no range at all
    elif first is None:
        assert last is not None
        wanted = data[-last:] if last else b""
    elif last is not None and last < first:
        wanted = None
    else:
        wanted = data[first:] if last is None else data[first : last + 1]
    if wanted is None:
        assert requested_range(asked(text), length=length, etag=ETAG) is None
    elif not wanted:
        with pytest.raises(RangeNotSatisfiableError):
            requested_range(asked(text), length=length, etag=ETAG)
    else:
        part = requested_range(asked(text), length=length, etag=ETAG)
        assert part is not None
        assert data[slice(*part)] == wanted


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2,4-5",
        "lines=1-2",
        "bytes=\u0661-\u0662",
        "bytes=--1",
    ],
)
def test_what_is_no_single_range_is_answered_with_the_whole_file(text: str | None) -> None:
    assert requested_range(asked(text), length=9, etag=ETAG) is None


def test_a_range_of_another_version_is_answered_with_the_whole_file() -> None:
    assert requested_range(asked("bytes=1-2", if_range=ETAG), length=9, etag=ETAG) == (1, 3)
    assert requested_range(asked("bytes=1-2", if_range='"there"'), length=9, etag=ETAG) is None
