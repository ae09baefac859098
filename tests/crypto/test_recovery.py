"""The recovery phrase: words and entropy, and what is said of a wrong one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.crypto.recovery import account_of, entropy_of, words_of
from node.errors import WrongPassphraseError

WORDS = words_of(bytes(range(32)))


@given(st.binary(min_size=32, max_size=32))
def test_words_go_round(entropy: bytes) -> None:
    words = words_of(entropy)
    assert len(words) == 24
    assert entropy_of(" ".join(words)) == entropy


def test_case_and_white_space_do_not_matter() -> None:
    assert entropy_of("  " + "\n ".join(word.upper() for word in WORDS) + "\n") == bytes(range(32))


def test_the_published_vector() -> None:
    """BIP 39's first vector of 256 bits."""
    assert " ".join(words_of(bytes(32))) == "abandon " * 23 + "art"


def test_an_unknown_word_is_named_with_its_neighbour() -> None:
    typed = ["abandn", *WORDS[1:]]
    with pytest.raises(WrongPassphraseError, match=r"word 1, 'abandn', .* did you mean 'abandon'"):
        entropy_of(" ".join(typed))
    with pytest.raises(WrongPassphraseError, match=r"word 24, 'zzqx9', .* look at your note"):
        entropy_of(" ".join([*WORDS[:23], "zzqx9"]))


def test_a_wrong_checksum_is_named() -> None:
    with pytest.raises(WrongPassphraseError, match="checksum"):
        entropy_of("abandon " * 24)


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25])
def test_a_wrong_number_of_words_is_named(count: int) -> None:
    with pytest.raises(WrongPassphraseError, match=f"24 words, this one has {count}"):
        entropy_of(" ".join(["abandon"] * count))


def test_an_endless_phrase_is_refused_before_it_is_read() -> None:
    with pytest.raises(WrongPassphraseError, match="too long"):
        entropy_of("abandon " * 100_000)


def test_each_phrase_has_its_account() -> None:
    assert account_of(bytes(32)).public != account_of(bytes(range(32))).public
    assert account_of(bytes(32)).seed != bytes(32)
