"""Placement hints: the owner's signed list of holders, as any DHT node can check it. Layer 1, pure.

A hint is a cache, never evidence. It carries the first KiB of the file manifest with a BLAKE3 proof against
the file hash, and the owner key stands at a fixed place in it: so a node that has never seen the file knows
that the signer owns it. Of two valid hints under one key the larger sequence counts.
Source: design.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Self

from node import limits, wire
from node.crypto.blake3_tree import CHUNK_BYTES, chunk_proof, verify_chunk
from node.crypto.hashing import blake3_256
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.records.base import SignedOnce, expect_peer_id, expect_time_s
from node.units import Contact, FileHash, Multiaddr, OwnerKey, PeerId, is_multiaddr
from node.wire import Value

HINT_NAMESPACE = b"cairn-hint"
FILE_MANIFEST_TAG = "cairn/file"
OWNER_KEY_OFFSET = 15  # bytes into a file manifest: array head, tag with its head, version 1, key's head
_KEY_PREFIX = b"/" + HINT_NAMESPACE + b"/"
_MANIFEST_HEAD = wire.encode([FILE_MANIFEST_TAG, 1])[1:] + b"\xc4\x20"  # tag, version, head of 32 bytes
_GROWING_HEADS_BYTES = 4  # the msgpack heads of the holders' array and of the body, when they pass 15 or 255
_PATH_BYTES_MAX = 32 * 12  # 4 MiB of manifest are 4,096 chunks


@dataclass(frozen=True, slots=True)
class PlacementHint(SignedOnce):
    """Holders of the segments of one page (1,024 segments; page 0 begins with segment 0)."""

    TYPE: ClassVar[str] = "placement-hint"
    BYTES_MAX: ClassVar[int] = limits.HINT_BYTES_MAX
    FIELD_COUNT: ClassVar[int] = 9

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
        first_chunk, path = chunk_proof(manifest, 0)
        if owner_key_in(first_chunk) != owner.public:
            raise CryptoError("a placement hint is signed by the owner key of the manifest")
        bare = PlacementHint(
            network=network,
            file_hash=FileHash(blake3_256(manifest)),
            owner_key=OwnerKey(owner.public),
            sequence=sequence,
            page=page,
            expires_s=expires_s,
            holders=(),
            manifest_bytes=len(manifest),
            first_chunk=first_chunk,
            path=path,
            signature=bytes(64),
        )
        room = limits.HINT_BYTES_MAX - len(bare.encode()) - _GROWING_HEADS_BYTES
        hint = replace(bare, holders=fit_holders(holders, bytes_max=room), signature=b"")
        return replace(hint, signature=hint.sign_body(owner))

    def key(self) -> bytes:
        """Its key in the DHT."""
        return hint_key(self.file_hash, self.page)

    def verify(self) -> None:
        """Raises `CryptoError` unless the chunk is the file's and names the owner, and the owner signed."""
        self.verify_body(self.owner_key, self.signature)
        try:
            named = owner_key_in(self.first_chunk)
        except ProtocolError as error:
            raise CryptoError("a placement hint without the beginning of a file manifest") from error
        if named != self.owner_key:
            raise CryptoError("a placement hint that someone else than the file's owner signed")
        verify_chunk(self.file_hash, self.manifest_bytes, 0, self.first_chunk, self.path)

    def _fields(self) -> list[Value]:
        return [
            self.file_hash, self.owner_key, self.sequence, self.page, self.expires_s,
            [_holder_value(holder) for holder in self.holders],
            self.manifest_bytes, self.first_chunk, self.path,
        ]  # fmt: skip

    @classmethod
    def _from_fields(cls, network: str, fields: Sequence[Value], signatures: Sequence[bytes]) -> Self:
        holders = tuple(
            _expect_holder(item) for item in wire.expect_list(fields[5], count_max=limits.HINT_HOLDERS_MAX)
        )
        if len({holder.peer_id for holder in holders}) != len(holders):
            raise ProtocolError("a placement hint that names a holder twice")
        return cls(
            network=network,
            file_hash=FileHash(wire.expect_bytes(fields[0], size=32)),
            owner_key=OwnerKey(wire.expect_bytes(fields[1], size=32)),
            sequence=wire.expect_int(fields[2], low=0, high=2**63 - 1),
            page=wire.expect_int(fields[3], low=0, high=limits.HINT_PAGES_MAX - 1),
            expires_s=expect_time_s(fields[4]),
            holders=holders,
            manifest_bytes=wire.expect_int(fields[6], low=1, high=limits.FILE_MANIFEST_BYTES_MAX),
            first_chunk=wire.expect_bytes(fields[7], size_max=CHUNK_BYTES),
            path=wire.expect_bytes(fields[8], size_max=_PATH_BYTES_MAX),
            signature=signatures[0],
        )


@dataclass(frozen=True, slots=True)
class HintValidator:
    """The DHT's rules for value records of the namespace `cairn-hint` on one network."""

    network: str

    def validate(self, key: bytes, value: bytes, *, now_s: int) -> None:
        """Raises `ProtocolError` unless `value` is a hint that may stand under `key` now."""
        validate_hint(key, value, now_s=now_s, network=self.network)

    def sequence(self, key: bytes, value: bytes) -> int:
        """The sequence of a hint that `validate` accepted; the largest counts."""
        return PlacementHint.decode(value, network=self.network).sequence

    def expires_s(self, key: bytes, value: bytes) -> int | None:
        """Until when a hint that `validate` accepted is good."""
        return PlacementHint.decode(value, network=self.network).expires_s


def hint_key(file_hash: FileHash, page: int = 0) -> bytes:
    """The DHT key of a hint: `/cairn-hint/` + file hash (32) + page (2)."""
    return _KEY_PREFIX + file_hash + page.to_bytes(2, "big")


def validate_hint(key: bytes, value: bytes, *, now_s: int, network: str) -> PlacementHint:
    """The hint in a value record, verified, unexpired and belonging under `key`. Raises `ProtocolError`."""
    hint = PlacementHint.decode(value, network=network)
    if hint.key() != key:
        raise ProtocolError("a placement hint under another file's key")
    if hint.expires_s <= now_s:
        raise ProtocolError("a placement hint that has expired")
    if hint.expires_s > now_s + limits.HINT_LIFE_S_MAX:
        raise ProtocolError("a placement hint that would live too long")
    try:
        hint.verify()
    except CryptoError as error:
        raise ProtocolError(str(error)) from error
    return hint


def owner_key_in(first_chunk: bytes) -> OwnerKey:
    """The owner key in the first KiB of a file manifest. Raises `ProtocolError` if that is none."""
    head, key = first_chunk[:OWNER_KEY_OFFSET], first_chunk[OWNER_KEY_OFFSET : OWNER_KEY_OFFSET + 32]
    # A msgpack array of at most 15 items, the tag, version 1, 32 bytes.
    if not head or head[0] & 0xF0 != 0x90 or head[1:] != _MANIFEST_HEAD or len(key) != 32:
        raise ProtocolError("not the beginning of a file manifest")
    return OwnerKey(key)


def fit_holders(holders: Sequence[Contact], *, bytes_max: int) -> tuple[Contact, ...]:
    """As many of `holders`, in order and once each, as encode to `bytes_max` bytes.

    Each has its first well-formed address, if it has any, before one has a second.
    """
    offered: dict[PeerId, list[Multiaddr]] = {}
    for holder in holders:
        well_formed = [address for address in holder.addresses if is_multiaddr(address)]
        offered.setdefault(holder.peer_id, well_formed[: limits.HINT_ADDRESSES_MAX])
    chosen: dict[PeerId, list[Multiaddr]] = {}
    room = bytes_max
    for peer_id, addresses in islice(offered.items(), limits.HINT_HOLDERS_MAX):
        cost = _size([peer_id, addresses[:1]])
        if cost <= room:
            chosen[peer_id] = addresses[:1]
            room -= cost
    for rank in range(1, limits.HINT_ADDRESSES_MAX):
        for peer_id, kept in chosen.items():
            further = offered[peer_id][rank : rank + 1]
            cost = sum(_size(address) for address in further)
            if cost <= room:
                kept += further
                room -= cost
    return tuple(Contact(peer_id, tuple(addresses)) for peer_id, addresses in chosen.items())


def _size(value: Value) -> int:
    """Bytes that `value` adds to an array."""
    return len(wire.encode([value])) - 1


def _holder_value(holder: Contact) -> Value:
    return [holder.peer_id, list(holder.addresses)]


def _expect_holder(value: Value) -> Contact:
    peer_id, addresses = wire.expect_list(value, count=2)
    return Contact(
        expect_peer_id(peer_id),
        tuple(
            _expect_address(item) for item in wire.expect_list(addresses, count_max=limits.HINT_ADDRESSES_MAX)
        ),
    )


def _expect_address(value: Value) -> Multiaddr:
    text = wire.expect_str(value, bytes_max=limits.ADDRESS_BYTES_MAX)
    if not is_multiaddr(text):
        raise ProtocolError("not a multiaddr")
    return Multiaddr(text)
