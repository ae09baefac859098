"""Placement hints: the owner's signed list of holders, as any DHT node can check it. Layer 1, pure.

A hint is a cache, never evidence. It carries the first KiB of the file manifest with a BLAKE3 proof against
the file hash, and the owner key stands at a fixed place in it: so a node that has never seen the file knows
that the signer owns it. Of two valid hints under one key the larger sequence counts.
Source: design.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from node import limits
from node.crypto.signing import KeyPair
from node.records.base import Record
from node.units import Contact, FileHash, OwnerKey
from node.wire import Value

HINT_NAMESPACE = b"cairn-hint"
FILE_MANIFEST_TAG = "cairn.file"
OWNER_KEY_OFFSET = 15  # bytes into a file manifest: array head, tag, version 1, bytes head


@dataclass(frozen=True, slots=True)
class PlacementHint(Record):
    """Holders of the segments of one page (1,024 segments; page 0 begins with segment 0)."""

    TYPE: ClassVar[str] = "placement-hint"
    BYTES_MAX: ClassVar[int] = limits.HINT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 9
    SIGNATURE_COUNT: ClassVar[int] = 1

    network: str
    file_hash: FileHash
    owner_key: OwnerKey
    sequence: int
    page: int
    expires_s: int
    holders: tuple[Contact, ...]
    manifest_bytes: int
    first_chunk: bytes
    path: bytes
    signature: bytes = b""

    @classmethod
    def make(
        cls,
        *,
        network: str,
        manifest: bytes,
        owner: KeyPair,
        sequence: int,
        expires_s: int,
        holders: Sequence[Contact],
        page: int = 0,
    ) -> PlacementHint:
        """A signed hint for the file with this manifest, with as many of `holders` as fit, first ones first;
        each keeps its first address before any keeps a second.

        Raises:
            CryptoError: `owner` does not own that manifest.
            ProtocolError: a number is out of bounds.
        """
        raise NotImplementedError

    def key(self) -> bytes:
        """Its key in the DHT."""
        return hint_key(self.file_hash, self.page)

    def verify(self) -> None:
        """Raises `CryptoError` unless the chunk is the file's and names the owner, and the owner signed."""
        raise NotImplementedError

    def _fields(self) -> list[Value]:
        raise NotImplementedError

    def _signatures(self) -> Sequence[bytes]:
        return (self.signature,)

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        raise NotImplementedError


def hint_key(file_hash: FileHash, page: int = 0) -> bytes:
    """The DHT key of a hint: `/cairn-hint/` + file hash (32) + page (2)."""
    return b"/" + HINT_NAMESPACE + b"/" + file_hash + page.to_bytes(2, "big")


def validate_hint(key: bytes, value: bytes, *, now_s: int, network: str) -> PlacementHint:
    """The hint in a value record, verified, unexpired and belonging under `key`. Raises `ProtocolError`."""
    raise NotImplementedError


def best_hint(values: Sequence[bytes], *, network: str) -> int:
    """Index of the best of some *validated* hints: the largest sequence, then the largest record id."""
    raise NotImplementedError


def owner_key_in(first_chunk: bytes) -> OwnerKey:
    """The owner key in the first KiB of a file manifest. Raises `ProtocolError` if that is none."""
    raise NotImplementedError
