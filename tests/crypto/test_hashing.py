"""Hashes, contexts and CIDs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.crypto.hashing import Context, blake3_256, cid_text, derive, multihash, parse_cid
from node.errors import UsageError
from node.units import FileHash

hashes = st.binary(min_size=32, max_size=32).map(FileHash)


def test_contexts_are_distinct_and_derive_distinct_bytes() -> None:
    assert len({context.value for context in Context}) == len(Context)
    assert len({derive(context, b"material") for context in Context}) == len(Context)
    assert blake3_256(b"material") not in {derive(context, b"material") for context in Context}


def test_a_longer_derivation_extends_a_shorter_one() -> None:
    assert derive(Context.KEY_CHECK, b"x", size=64)[:32] == derive(Context.KEY_CHECK, b"x")


def test_a_multihash_names_blake3() -> None:
    assert multihash(bytes(32)) == b"\x1e\x20" + bytes(32)


@given(hashes)
def test_cid_text_parses_back(file_hash: FileHash) -> None:
    text = cid_text(file_hash)
    assert len(text) == 59
    assert text.startswith("bafkr4i")
    assert parse_cid(text) == file_hash


@given(hashes, st.integers(0, 58), st.characters())
def test_a_cid_has_one_spelling(file_hash: FileHash, position: int, character: str) -> None:
    text = cid_text(file_hash)
    changed = text[:position] + character + text[position + 1 :]
    try:
        parsed = parse_cid(changed)
    except UsageError:
        return
    assert cid_text(parsed) == changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkr4i" + "a" * 51,
        cid_text(FileHash(bytes(32))).upper(),
        cid_text(FileHash(bytes(32))) + "a",
        cid_text(FileHash(bytes(32)))[:-1] + "b",  # padding bits set
        "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",  # sha2-256
    ],
)
def test_other_text_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="not a file hash"):
        parse_cid(text)


def test_the_formats_page_lists_every_context() -> None:
    page = (Path(__file__).parents[2] / "docs/formats/keys-links-records.md").read_text()
    assert re.findall(r"^\| `(cairn/1 [a-z ]+)`", page, re.MULTILINE) == [
        context.value for context in Context
    ]
