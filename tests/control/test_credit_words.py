"""Credit in words: no number without what it buys."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.control.credit_words import (
    file_bytes,
    line_words,
    peer_words,
    price_words,
    summary_lines,
    worth,
)

CODE = [10, 30]
GB = 1_000_000_000


def summary(**fields: Any) -> dict[str, Any]:
    return {
        "net": 0.0,
        "earned": 0.0,
        "kept_for_others_bytes": 0,
        "given_bytes": 0,
        "code": CODE,
        "friends": 0,
        "lines_bytes": 0,
        **fields,
    }


def peer(**fields: Any) -> dict[str, Any]:
    return {"balance": 0.0, "line_bytes": 0, "line_left_bytes": 0, "frozen": False, **fields}


def test_the_sentence_of_the_specification() -> None:
    lines = summary_lines(summary(kept_for_others_bytes=12 * GB, friends=3, lines_bytes=20 * GB))
    text = " ".join(lines)
    assert "You keep 12.0 GB for others; that lets you keep 4.0 GB at 10/30." in text
    assert "3 friends can use 20.0 GB of yours." in text


def test_ten_gigabytes_for_a_month_are_what_the_price_says() -> None:
    assert file_bytes(858_307, CODE) == pytest.approx(10 * GB, rel=1e-5)
    assert worth(858_307, CODE) == "10.0 GB at 10/30 for 30 days"
    assert file_bytes(-5, CODE) == 0


@given(net=st.floats(-1e9, 1e9), earned=st.floats(0, 1e9), kept=st.integers(0, 10**15))
def test_every_sentence_with_credits_says_what_they_buy(net: float, earned: float, kept: int) -> None:
    for line in summary_lines(summary(net=net, earned=earned, kept_for_others_bytes=kept)):
        if re.search(r"\d credits?\b", line):
            assert re.search(r"\d (bytes|kB|MB|GB|TB)\b", line), line


@given(balance=st.floats(-1e9, 1e9))
def test_every_balance_says_what_it_buys(balance: float) -> None:
    words = peer_words(peer(balance=balance), CODE)
    assert words == "nothing owed" or re.search(r"\d credits?: keeps? .*\d (bytes|kB|MB|GB|TB)\b", words)


def test_a_price_says_what_keeping_earns_it() -> None:
    assert price_words(1_721.93) == "1,721.93 credits: what keeping 60.2 MB for others for 30 days earns"
    assert price_words(1.0).startswith("1.00 credit: what keeping 35.0 kB for others")


def test_debts_say_how_they_are_paid_back_and_nothing_says_how_to_begin() -> None:
    debt = summary_lines(summary(net=-300.0, kept_for_others_bytes=1))
    assert any("10.5 MB for them for 30 days gives it back" in line for line in debt)
    fresh = summary_lines(summary())
    assert "cairn donate" in fresh[0]
    assert "cairn credit line ACCOUNT" in fresh[-1]
    assert "1 friend can use" in summary_lines(summary(friends=1, lines_bytes=5))[-1]


def test_lines_and_frozen_accounts_show() -> None:
    assert line_words(peer()) == ""
    assert line_words(peer(line_bytes=20 * GB, line_left_bytes=20 * GB)) == "20.0 GB"
    assert line_words(peer(line_bytes=20 * GB, line_left_bytes=GB)) == "20.0 GB, 1.0 GB of it left"
    assert "frozen" in peer_words(peer(frozen=True), CODE)


def test_who_gives_already_is_not_told_to_give() -> None:
    lines = summary_lines(summary(given_bytes=20 * GB))
    assert lines[0].startswith("You give 20.0 GB and keep nothing for others yet")
    assert not any("cairn donate" in line for line in lines)
