"""Links: parsing undoes writing, other text is refused in words, and keys stay out of sight."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node import limits
from node.crypto.hashing import cid_text
from node.crypto.links import (
    Link,
    WrappedKey,
    parse_hash_or_link,
    parse_link,
    parse_link_and_path,
    unwrap_key,
    wrap_key,
)
from node.crypto.passwords import PasswordCost
from node.errors import UsageError, WrongPassphraseError
from node.units import FileHash, Multiaddr

CHEAP = PasswordCost(memory_kib=8, passes=1)
HASH = FileHash(bytes(range(32)))
KEY = bytes(range(100, 132))
CID = cid_text(HASH)
SALT = bytes(16)

hashes = st.binary(min_size=32, max_size=32).map(FileHash)
keys = st.binary(min_size=32, max_size=32)
parts = st.text(alphabet="az09.:%-_", min_size=1, max_size=12)
addresses = st.lists(parts, min_size=1, max_size=6).map(lambda names: Multiaddr("/" + "/".join(names)))
costs = st.builds(
    PasswordCost,
    memory_kib=st.integers(limits.ARGON2_MEMORY_KIB_MIN, limits.ARGON2_MEMORY_KIB_MAX),
    passes=st.integers(1, limits.ARGON2_PASSES_MAX),
)
wrapped_keys = st.builds(
    WrappedKey,
    salt=st.binary(min_size=16, max_size=16),
    cost=costs,
    sealed=st.binary(min_size=48, max_size=48),
)
vias = st.lists(addresses, max_size=limits.LINK_ADDRESSES_MAX).map(tuple)
links = (
    st.builds(Link, hashes, keys, vias)
    | st.builds(Link, hashes, st.none(), vias, wrapped_keys)
    | st.builds(Link, hashes, st.none(), vias)
)


@given(links)
def test_parsing_undoes_writing(link: Link) -> None:
    text = str(link)
    assert parse_link(text) == link
    assert parse_link(f"  {text}\n") == link
    assert parse_hash_or_link(text) == link
    assert re.fullmatch(r"[A-Za-z0-9:/?&=%#._~-]+", text)


@given(links, st.data())
def test_a_changed_link_means_something_else_or_is_refused(link: Link, data: st.DataObject) -> None:
    text = str(link)
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.characters(codec="utf-8")) + text[position + 1 :]
    try:
        parsed = parse_link(changed)
    except UsageError:
        return
    if changed.strip() != text:
        # Only percent-encoding has more than one spelling.
        assert parsed != link or "%" in changed


@given(links)
def test_cut_at_the_hash_sign_it_is_the_verify_link(link: Link) -> None:
    verify_link = link.verify_link()
    assert str(verify_link) == str(link).partition("#")[0]
    assert verify_link.key is None
    assert verify_link.wrapped is None


@given(links, st.text(max_size=40).filter(lambda path: path == path.strip()))
def test_a_path_may_follow_a_key(link: Link, path: str) -> None:
    if link.key is None and link.wrapped is None:
        assert parse_link_and_path(str(link)) == (link, "")
    else:
        assert parse_link_and_path(f"{link}/{path}") == (link, path)


def test_the_shape_of_a_link() -> None:
    via = (Multiaddr("/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWx"), Multiaddr("/ip6/2001:db8::1/tcp/4001"))
    assert str(Link(HASH, KEY, via)) == (
        f"cairn:{CID}?via=/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWx&via=/ip6/2001:db8::1/tcp/4001#{_base64url(KEY)}"
    )
    assert parse_link(f"cairn:{CID}?via=%2Fip4%2F192.0.2.7%2Ftcp%2F4001").via == ("/ip4/192.0.2.7/tcp/4001",)
    assert parse_hash_or_link(f" {CID} ") == Link(HASH)
    for cut in (CID[:-1], "bafk", ""):
        with pytest.raises(UsageError, match="neither a file hash"):
            parse_hash_or_link(cut)


KEY_TEXT = base64.urlsafe_b64encode(KEY).decode().rstrip("=")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "begins with cairn:"),
        (CID, "begins with cairn:"),
        (f"CAIRN:{CID}", "begins with cairn:"),
        (f"cairn://{CID}", "not a file hash"),
        ("cairn:", "not a file hash"),
        (f"cairn:{CID}#", "wrong length"),
        (f"cairn:{CID}#{KEY_TEXT[:-1]}", "wrong length"),
        (f"cairn:{CID}#{KEY_TEXT}A", "wrong length"),
        (f"cairn:{CID}#p{KEY_TEXT}", "wrong length"),
        (f"cairn:{CID}#{KEY_TEXT[:-1]}=", "damaged"),
        (f"cairn:{CID}#{KEY_TEXT[:-1]}+", "damaged"),
        (f"cairn:{CID}#{KEY_TEXT[:-1]}\u0664", "damaged"),
        (f"cairn:{CID}#{'A' * 42}B", "damaged"),  # bits behind the end
        (f"cairn:{CID}#p{'!' * 94}", "damaged"),
        (f"cairn:{CID}?#{KEY_TEXT}", "only via="),
        (f"cairn:{CID}?x=1", "only via="),
        (f"cairn:{CID}?via=", "not a multiaddr"),
        (f"cairn:{CID}?via=/ip4/1.2.3.4 /tcp/1", "not a multiaddr"),
        (f"cairn:{CID}?via=%ff", "percent-encoded"),
        (f"cairn:{CID}?via=/{'a' * limits.ADDRESS_BYTES_MAX}", "not a multiaddr"),
        (f"cairn:{CID}?" + "&".join(["via=/a"] * (limits.LINK_ADDRESSES_MAX + 1)), "at most 8 addresses"),
        ("cairn:" + "a" * limits.LINK_CHARS_MAX, "at most 4096 characters"),
    ],
)  # fmt: skip
def test_other_text_is_refused_in_one_line_without_the_key(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        parse_link(text)
    message = str(caught.value)
    assert "\n" not in message
    assert KEY_TEXT[:20] not in message
    assert caught.value.__cause__ is None


def test_a_password_link_opens_with_its_password_only() -> None:
    wrapped = wrap_key(KEY, HASH, "correct horse", SALT, CHEAP)
    link = parse_link(str(Link(HASH, wrapped=wrapped)))
    assert link.file_key("correct horse") == KEY
    with pytest.raises(WrongPassphraseError) as caught:
        link.file_key("battery staple")
    assert caught.value.exit_code == 12
    assert "staple" not in str(caught.value)
    with pytest.raises(UsageError, match="needs a password"):
        link.file_key()
    with pytest.raises(WrongPassphraseError):
        unwrap_key(wrapped, FileHash(bytes(32)), "correct horse")


@given(position=st.integers(0, 47), change=st.integers(1, 255))
@settings(max_examples=30)
def test_a_changed_wrapped_key_does_not_open(position: int, change: int) -> None:
    wrapped = wrap_key(KEY, HASH, "correct horse", SALT, CHEAP)
    sealed = bytearray(wrapped.sealed)
    sealed[position] ^= change
    with pytest.raises(WrongPassphraseError):
        unwrap_key(WrappedKey(SALT, CHEAP, bytes(sealed)), HASH, "correct horse")


@pytest.mark.parametrize(
    ("memory_kib", "passes"),
    [(limits.ARGON2_MEMORY_KIB_MAX + 1, 1), (2**32 - 1, 1), (0, 1), (1024, 0), (1024, 5), (1024, 255)],
)
def test_a_link_cannot_order_more_work_than_is_bearable(memory_kib: int, passes: int) -> None:
    packed = bytes([1]) + SALT + memory_kib.to_bytes(4, "big") + bytes([passes]) + bytes(48)
    with pytest.raises(UsageError, match="more work"):
        parse_link(f"cairn:{CID}#p{_base64url(packed)}")


def test_a_password_link_of_another_version_is_refused() -> None:
    with pytest.raises(UsageError, match="update"):
        parse_link(f"cairn:{CID}#p{_base64url(bytes([2]) + bytes(69))}")


def test_a_link_without_a_key_says_so() -> None:
    assert Link(HASH, KEY).file_key() == KEY
    with pytest.raises(UsageError, match="no key"):
        Link(HASH).file_key()


def test_keys_show_in_no_repr() -> None:
    wrapped = wrap_key(KEY, HASH, "correct horse", SALT, CHEAP)
    shown = repr(Link(HASH, KEY)) + repr(Link(HASH, wrapped=wrapped)) + repr(wrapped)
    for secret in (KEY, wrapped.sealed):
        assert repr(secret) not in shown
        assert _base64url(secret)[:10] not in shown


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
