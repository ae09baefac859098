"""Links: the read capability of a file as one line of text. Layer 1, pure.

    cairn:<file hash>[?via=<multiaddr>[&via=...]][#<key> | #p<wrapped key>]

The part before `#` is the verify capability. A key never appears in an error, nor in a `repr`; only `str`
writes it. Parsing accepts what `str` writes and little else, and `parse_link(str(link)) == link`.
A wrapped key is base64url of: version 1 (1 byte), salt (16), Argon2id memory in KiB (4), passes (1), and the
file key sealed (48) under the stretched password with the file hash as additional data.
Source: design.md, section 4, "share"; RFC 3986 for the form, RFC 4648 for base64url.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from node import limits
from node.crypto.hashing import CID_CHARS, cid_text, parse_cid
from node.crypto.passwords import DEFAULT_COST, SALT_BYTES, PasswordCost, stretch
from node.crypto.sealing import FILE_KEY_BYTES, NONCE_BYTES, SEAL_BYTES, open_bytes, seal_bytes
from node.errors import CryptoError, ProtocolError, UsageError, WrongPassphraseError
from node.units import FileHash, Multiaddr, is_multiaddr

SCHEME = "cairn:"
KEY_CHARS = 43
WRAP_VERSION = 1
_WRAPPED_BYTES = 1 + SALT_BYTES + 4 + 1 + FILE_KEY_BYTES + SEAL_BYTES
_WRAPPED_CHARS = -(-_WRAPPED_BYTES * 4 // 3)
_VIA = "via="


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A file key sealed under a password."""

    salt: bytes
    cost: PasswordCost
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Link:
    """A file hash, perhaps its key (plain or wrapped, never both), and addresses to join through.

    Raises `UsageError` for addresses that no link can carry.
    """

    file_hash: FileHash
    key: bytes | None = field(default=None, repr=False)
    via: tuple[Multiaddr, ...] = ()
    wrapped: WrappedKey | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert self.key is None or self.wrapped is None
        if len(self.via) > limits.LINK_ADDRESSES_MAX:
            raise UsageError(f"a link carries at most {limits.LINK_ADDRESSES_MAX} addresses")
        if not all(map(is_multiaddr, self.via)):
            raise UsageError(
                "an address in the link (via=) is not a multiaddr such as /ip4/192.0.2.1/tcp/4001"
            )

    def __str__(self) -> str:
        query = "&".join(_VIA + quote(address, safe="/:") for address in self.via)
        fragment = ""
        if self.key is not None:
            fragment = "#" + _to_base64url(self.key)
        elif self.wrapped is not None:
            fragment = "#p" + _to_base64url(_pack_wrapped(self.wrapped))
        return SCHEME + cid_text(self.file_hash) + ("?" + query if query else "") + fragment

    def verify_link(self) -> Link:
        """The same without the key: whoever has it can check and repair, not read."""
        return replace(self, key=None, wrapped=None)

    def file_key(self, password: str | None = None) -> bytes:
        """The key, unwrapped with `password` where it is wrapped.

        Raises:
            UsageError: a link without a key, or no password given for one that needs it.
            WrongPassphraseError: the password is wrong.
        """
        if self.key is not None:
            return self.key
        if self.wrapped is None:
            raise UsageError("this link has no key: ask for the whole link, with the part after #")
        if password is None:
            raise UsageError("this link needs a password: give it with --password-file")
        return unwrap_key(self.wrapped, self.file_hash, password)


def parse_link(text: str) -> Link:
    """The link written in `text`. Raises `UsageError`, which never repeats the key."""
    text = text.strip()
    if len(text) > limits.LINK_CHARS_MAX:
        raise UsageError(f"a link has at most {limits.LINK_CHARS_MAX} characters")
    if not text.startswith(SCHEME):
        raise UsageError(f"not a link: a link begins with {SCHEME}")
    public, hash_sign, fragment = text.removeprefix(SCHEME).partition("#")
    cid, question_mark, query = public.partition("?")
    link = Link(parse_cid(cid), via=_parse_query(query) if question_mark else ())
    if not hash_sign:
        return link
    if len(fragment) == KEY_CHARS:
        return replace(link, key=_from_base64url(fragment, FILE_KEY_BYTES))
    if fragment.startswith("p") and len(fragment) == 1 + _WRAPPED_CHARS:
        return replace(link, wrapped=_unpack_wrapped(_from_base64url(fragment[1:], _WRAPPED_BYTES)))
    raise UsageError("the key in the link (after #) has the wrong length: copy the whole link")


def parse_link_and_path(text: str) -> tuple[Link, str]:
    """A link with a folder entry's path behind it, `LINK/path`; the path is "" where there is none.

    The path is not checked here. Raises `UsageError`.
    """
    public, hash_sign, rest = text.strip("\r\n").partition("#")
    fragment, _, path = rest.partition("/")  # no key contains a slash
    return parse_link(public + hash_sign + fragment), path


def parse_hash_or_link(text: str) -> Link:
    """A file hash alone, or a link. Raises `UsageError`."""
    text = text.strip()
    if len(text) == CID_CHARS:
        return Link(parse_cid(text))
    if not text.startswith(SCHEME):
        raise UsageError(
            f"neither a file hash ({CID_CHARS} characters: see `cairn ls`) nor a link ({SCHEME}...)"
        )
    return parse_link(text)


def wrap_key(
    file_key: bytes, file_hash: FileHash, password: str, salt: bytes, cost: PasswordCost = DEFAULT_COST
) -> WrappedKey:
    """Seal a file key under a password; `salt` is 16 fresh random bytes. Takes about a third of a second.

    Raises `UsageError` for an empty or overlong password.
    """
    assert len(file_key) == FILE_KEY_BYTES
    assert len(salt) == SALT_BYTES
    # A fresh salt makes the key new, so that the nonce may stay zero.
    sealed = seal_bytes(stretch(password, salt, cost), bytes(NONCE_BYTES), _wrap_aad(file_hash), file_key)
    return WrappedKey(salt, cost, sealed)


def unwrap_key(wrapped: WrappedKey, file_hash: FileHash, password: str) -> bytes:
    """The file key. Raises `WrongPassphraseError`, or `UsageError` for an empty or overlong password."""
    key = stretch(password, wrapped.salt, wrapped.cost)
    try:
        return open_bytes(key, bytes(NONCE_BYTES), _wrap_aad(file_hash), wrapped.sealed)
    except CryptoError:
        raise WrongPassphraseError("the password does not open this link") from None


def _wrap_aad(file_hash: FileHash) -> bytes:
    return bytes([WRAP_VERSION]) + file_hash


def _pack_wrapped(wrapped: WrappedKey) -> bytes:
    cost = wrapped.cost.memory_kib.to_bytes(4, "big") + bytes([wrapped.cost.passes])
    return bytes([WRAP_VERSION]) + wrapped.salt + cost + wrapped.sealed


def _unpack_wrapped(packed: bytes) -> WrappedKey:
    version, salt, rest = packed[0], packed[1 : 1 + SALT_BYTES], packed[1 + SALT_BYTES :]
    if version != WRAP_VERSION:
        raise UsageError("this password link is of a version that this program does not know: update it")
    try:
        cost = PasswordCost(memory_kib=int.from_bytes(rest[:4], "big"), passes=rest[4])
    except ProtocolError:
        raise UsageError("this password link asks for more work than any honest one: it is refused") from None
    return WrappedKey(salt, cost, sealed=rest[5:])


def _parse_query(query: str) -> tuple[Multiaddr, ...]:
    addresses = []
    for item in query.split("&"):
        if not item.startswith(_VIA):
            raise UsageError("the link has a part after ? that this program does not know: only via= is")
        try:
            addresses.append(Multiaddr(unquote(item.removeprefix(_VIA), errors="strict")))
        except UnicodeDecodeError:
            raise UsageError("an address in the link (via=) is badly percent-encoded") from None
    return tuple(addresses)


def _to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_base64url(text: str, size: int) -> bytes:
    """Exactly `size` bytes, in their one spelling. Errors never repeat the text."""
    if re.fullmatch(r"[A-Za-z0-9_-]+", text):
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(data) == size and _to_base64url(data) == text:
            return data
    raise UsageError("the key in the link (after #) is damaged: copy the whole link")
