"""Sizes, times and rates as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node import units
from node.errors import UsageError


@pytest.mark.parametrize(
    ("text", "byte_count"),
    [
        ("0", 0),
        ("17", 17),
        ("64MB", 64_000_000),
        ("64MiB", 67_108_864),
        ("1.5 GiB", 3 * 2**29),
        ("2tb", 2 * 10**12),
        ("0.000001MB", 1),
    ],
)
def test_sizes(text: str, byte_count: int) -> None:
    assert units.parse_size(text) == byte_count


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1e9", "5 parsecs", "1.2.3GB", "9" * 40, "٣MB٣"])
def test_what_is_no_size_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        units.parse_size(text)


@given(st.integers(0, 10**14))
def test_plain_bytes_are_exact(byte_count: int) -> None:
    assert units.parse_size(str(byte_count)) == byte_count


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("90m", 5_400), ("2w", 1_209_600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1y", "-3d", "3.5d", "30"])
def test_what_is_no_duration_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="is not a length of time"):
        units.parse_duration(text)


def test_rates() -> None:
    assert units.parse_rate("2MiB/s") == 2 * units.MIB
    assert units.parse_rate("500kB") == 500_000


@pytest.mark.parametrize(
    ("byte_count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (64_000_000, "64.0 MB"),
        (10**9, "1.0 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_for_people(byte_count: int, text: str) -> None:
    assert units.format_size(byte_count) == text


def test_durations_for_people() -> None:
    assert [units.format_duration(value) for value in (5, 300, 10_800, 30 * 86_400)] == [
        "5 s",
        "5 min",
        "3 h",
        "30 days",
    ]


@pytest.mark.parametrize(
    "text", ["/ip4/192.0.2.1/tcp/4001", "/ip6/2001:db8::1/tcp/1/p2p/12D3KooWx", "/dns4/a-b.example"]
)
def test_multiaddrs_have_their_form(text: str) -> None:
    assert units.is_multiaddr(text)


@pytest.mark.parametrize(
    "text", ["", "/", "ip4/1.2.3.4", "/ip4//tcp", "/ip4/1.2.3.4/", "/a b", "/a\n", "/\u00e9", "/" + "a" * 256]
)
def test_other_text_is_no_multiaddr(text: str) -> None:
    assert not units.is_multiaddr(text)


def test_counts_agree_with_their_nouns() -> None:
    assert [units.format_count(number, "shard") for number in (0, 1, 2, 1_200)] == [
        "0 shards",
        "1 shard",
        "2 shards",
        "1,200 shards",
    ]
    assert [units.format_count(number, "shard is", "shards are") for number in (1, 2)] == [
        "1 shard is",
        "2 shards are",
    ]
    assert units.format_size(1) == "1 byte"
