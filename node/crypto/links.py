"""Links: the read capability of a file as one line of text. Layer 1, pure.

    cairn:<file hash>[?via=<multiaddr>[&via=...]][#<key> | #p<wrapped key>]

The part before `#` is the verify capability. A key never appears in an error, nor in a `repr`; only `str`
writes it. Parsing accepts what `str` writes and nothing much else, and `parse_link(str(link)) == link`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from node.crypto.passwords import DEFAULT_COST, PasswordCost
from node.units import FileHash, Multiaddr


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A file key sealed under a password."""

    salt: bytes
    cost: PasswordCost
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A file hash, perhaps its key (plain or wrapped, never both), and addresses to join through."""

    file_hash: FileHash
    key: bytes | None = field(default=None, repr=False)
    via: tuple[Multiaddr, ...] = ()
    wrapped: WrappedKey | None = field(default=None, repr=False)

    def __str__(self) -> str:
        raise NotImplementedError

    def verify_link(self) -> Link:
        """The same without the key: whoever has it can check and repair, not read."""
        raise NotImplementedError

    def file_key(self, password: str | None = None) -> bytes:
        """The key, unwrapped with `password` where it is wrapped.

        Raises:
            UsageError: a link without a key, or no password given for one that needs it.
            WrongPassphraseError: the password is wrong.
        """
        raise NotImplementedError


def parse_link(text: str) -> Link:
    """The link written in `text`. Raises `UsageError`, which never repeats the key."""
    raise NotImplementedError


def parse_link_and_path(text: str) -> tuple[Link, str]:
    """A link with a folder entry's path behind it, `LINK/path`; the path is "" where there is none.

    The path is not checked here. Raises `UsageError`.
    """
    raise NotImplementedError


def parse_hash_or_link(text: str) -> Link:
    """A file hash alone, or a link. Raises `UsageError`."""
    raise NotImplementedError


def wrap_key(
    file_key: bytes, file_hash: FileHash, password: str, salt: bytes, cost: PasswordCost = DEFAULT_COST
) -> WrappedKey:
    """Seal a file key under a password; `salt` is 16 fresh random bytes. Takes about a third of a second."""
    raise NotImplementedError


def unwrap_key(wrapped: WrappedKey, file_hash: FileHash, password: str) -> bytes:
    """The file key. Raises `WrongPassphraseError`."""
    raise NotImplementedError
