"""The list of an account's files, as it is kept in the network. Layer 2, pure.

Rows by file hash, each with a version; where two devices changed one file the higher version counts. Rows
stand in *parts*, ordinary sealed files of the account's, and the newest ones in the *root*, which is sealed
into the list's pointer (node/records/list_pointer.py) together with hash and key of every part. Parts merge
as in a log-structured tree: four of a size become one of the next, so that a change costs a few rows' worth
of writing whatever the length of the list, and the root never names more than a few dozen.

Invariants: merging states is commutative, associative and idempotent (`wins` is a total order of rows); a row
of a removed file stays until no copy of an older row can be of use; nothing is sealed twice under one key.
Source: O'Neil et al., The Log-Structured Merge-Tree (1996); design.md, section 4 (recovery).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from node import limits, wire
from node.crypto.hashing import Context, derive
from node.crypto.sealing import NONCE_BYTES, OWNER_SALT_BYTES, open_bytes, owner_key, seal_bytes
from node.crypto.signing import KeyPair
from node.errors import CryptoError, ProtocolError
from node.units import FileHash, OwnerKey
from node.wire import Value

PART_MAGIC: Final = b"CairnLs1"
ROOT_TAG: Final = "cairn/list"
ROOT_VERSION: Final = 1
SALT_BYTES: Final = 16
MERGE_FACTOR: Final = 4
_PAD_BYTES: Final = 1_024
"""The root is padded to a multiple: its length tells little about the list."""
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class ListRow:
    """One file of the account, or that it was removed. `data` is the catalogue's row."""

    file_hash: FileHash
    version: int
    until_s: int
    """When the row is of no use any more: the file's leases have ended by then. Counts for removals."""
    data: bytes | None
    """None: the file was removed."""

    def encode(self) -> bytes:
        """As an array."""
        return wire.encode([self.file_hash, self.version, self.until_s, self.data])

    @classmethod
    def decode(cls, encoded: bytes) -> ListRow:
        """Raises `ProtocolError`."""
        values = wire.decode(encoded, size_max=limits.LIST_ROW_BYTES_MAX)
        file_hash, version, until_s, data = wire.expect_list(values, count=4)
        return cls(
            FileHash(wire.expect_bytes(file_hash, size=32)),
            wire.expect_int(version, low=1, high=2**53),
            wire.expect_int(until_s, low=0, high=limits.RECORD_TIME_S_MAX),
            None if data is None else wire.expect_bytes(data, size_max=limits.LIST_ROW_BYTES_MAX),
        )


def wins(new: ListRow, old: ListRow) -> bool:
    """Whether a row takes the place of another one of the same file: a total order, so that order of arrival
    never matters."""
    return (new.version, new.data is None, new.data or b"") > (old.version, old.data is None, old.data or b"")


@dataclass(frozen=True, slots=True)
class ListPart:
    """A part: a sealed file of its own. `rows` counts those in it."""

    file_hash: FileHash
    file_key: bytes = field(repr=False)
    rows: int


@dataclass(frozen=True, slots=True)
class ListRoot:
    """The state of a list: its parts and the rows that are in none yet."""

    parts: tuple[ListPart, ...] = ()
    rows: tuple[ListRow, ...] = ()

    def encode(self) -> bytes:
        """Padded. Raises `ProtocolError` where it does not fit a pointer: see `fits`."""
        body = self._body()
        if not self.fits():
            raise ProtocolError("a list's root that no pointer can carry")
        return (len(body).to_bytes(_LENGTH_BYTES, "big") + body).ljust(_padded(len(body)), b"\0")

    def fits(self) -> bool:
        """Whether a pointer can carry it."""
        return _padded(len(self._body())) <= limits.LIST_ROOT_BYTES_MAX

    def _body(self) -> bytes:
        parts: list[Value] = [[part.file_hash, part.file_key, part.rows] for part in self.parts]
        return wire.encode([ROOT_TAG, ROOT_VERSION, parts, [row.encode() for row in self.rows]])

    @classmethod
    def decode(cls, padded: bytes) -> ListRoot:
        """Raises `ProtocolError`."""
        length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
        body = padded[_LENGTH_BYTES : _LENGTH_BYTES + length]
        if len(body) != length or len(padded) != _padded(length) or any(padded[_LENGTH_BYTES + length :]):
            raise ProtocolError("a list's root of another length than it says")
        tag, version, parts, rows = wire.expect_list(
            wire.decode(body, size_max=limits.LIST_ROOT_BYTES_MAX), count=4
        )
        if tag != ROOT_TAG or version != ROOT_VERSION:
            raise ProtocolError("a list of another kind or version than this program knows: update it")
        return cls(
            tuple(_decode_part(part) for part in wire.expect_list(parts, count_max=limits.LIST_PARTS_MAX)),
            tuple(ListRow.decode(wire.expect_bytes(row)) for row in wire.expect_list(rows)),
        )


@dataclass(frozen=True, slots=True)
class ListKeys:
    """What the account seed (32 bytes) gives: the key pair that owns the parts and signs the pointer."""

    account_seed: bytes = field(repr=False)
    owner_salt: bytes
    owner: KeyPair = field(repr=False)

    @classmethod
    def derive(cls, account_seed: bytes) -> ListKeys:
        """The keys of one account's list."""
        salt = derive(Context.LIST_OWNER_SALT, account_seed)[:OWNER_SALT_BYTES]
        return cls(account_seed, salt, owner_key(account_seed, salt))

    @property
    def owner_key(self) -> OwnerKey:
        """The public half."""
        return OwnerKey(self.owner.public)

    def seal(self, root: ListRoot, *, sequence: int, salt: bytes) -> bytes:
        """The sealed root; `salt` is `SALT_BYTES` fresh random bytes, so that each root has its own key."""
        return salt + seal_bytes(self._key(salt), bytes(NONCE_BYTES), self._aad(sequence), root.encode())

    def open(self, sealed: bytes, *, sequence: int) -> ListRoot:
        """Raises `CryptoError`, `ProtocolError`."""
        salt, text = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
        if len(salt) != SALT_BYTES:
            raise CryptoError("too short to be a sealed list")
        return ListRoot.decode(open_bytes(self._key(salt), bytes(NONCE_BYTES), self._aad(sequence), text))

    def _key(self, salt: bytes) -> bytes:
        return derive(Context.LIST_ROOT_KEY, self.account_seed + salt)

    def _aad(self, sequence: int) -> bytes:
        return bytes([ROOT_VERSION]) + self.owner.public + sequence.to_bytes(8, "big")


def encode_part(rows: Sequence[ListRow]) -> bytes:
    """The bytes of a part: the magic, then each row behind its length (4 bytes)."""
    pieces = [PART_MAGIC]
    for row in rows:
        encoded = row.encode()
        pieces += (len(encoded).to_bytes(_LENGTH_BYTES, "big"), encoded)
    return b"".join(pieces)


class PartReader:
    """Reads a part as it arrives; memory is bounded by a piece and a row."""

    def __init__(self) -> None:
        self._buffer = b""
        self._is_begun = False

    def feed(self, piece: bytes) -> Iterator[ListRow]:
        """The rows that `piece` completes. Raises `ProtocolError`."""
        self._buffer += piece
        at = 0
        if not self._is_begun:
            if len(self._buffer) < len(PART_MAGIC):
                return
            if not self._buffer.startswith(PART_MAGIC):
                raise ProtocolError("not a part of a list of files")
            self._is_begun, at = True, len(PART_MAGIC)
        while len(self._buffer) - at >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[at : at + _LENGTH_BYTES], "big")
            if length > limits.LIST_ROW_BYTES_MAX:
                raise ProtocolError("a row of a list of files over its limit")
            if len(self._buffer) - at - _LENGTH_BYTES < length:
                break
            at += _LENGTH_BYTES
            yield ListRow.decode(self._buffer[at : at + length])
            at += length
        self._buffer = self._buffer[at:]

    def finish(self) -> None:
        """Raises `ProtocolError` if the part ended within a row."""
        if self._buffer or not self._is_begun:
            raise ProtocolError("a part of a list of files that was cut off")


def plan_merge(live: Mapping[FileHash, int]) -> tuple[FileHash, ...]:
    """The parts to write anew as one, given how many rows of each still count; none where nothing is due.

    Of a size class (a power of `MERGE_FACTOR`) at most `MERGE_FACTOR` - 1 parts stay. What merges moves up a
    class, so a row is written once a class, and a list of n rows has a few times log(n) parts.
    """
    classes: dict[int, list[FileHash]] = {}
    for part, count in live.items():
        classes.setdefault(_size_class(count), []).append(part)
    merging: list[FileHash] = []
    gathered = 0
    for size_class in sorted(classes):
        parts = classes[size_class]
        # What smaller parts make together may be the one too many here: one merge instead of two.
        is_joined = bool(merging) and _size_class(gathered) >= size_class
        if size_class > limits.LIST_PART_CLASS_MAX or len(parts) + is_joined < MERGE_FACTOR:
            continue
        merging += parts
        gathered += sum(live[part] for part in parts)
    return tuple(merging)


def _size_class(count: int) -> int:
    size_class = 0
    while count >= MERGE_FACTOR:
        count //= MERGE_FACTOR
        size_class += 1
    return size_class


def _padded(body_bytes: int) -> int:
    return -(-(body_bytes + _LENGTH_BYTES) // _PAD_BYTES) * _PAD_BYTES


def _decode_part(value: Value) -> ListPart:
    file_hash, file_key, rows = wire.expect_list(value, count=3)
    return ListPart(
        FileHash(wire.expect_bytes(file_hash, size=32)),
        wire.expect_bytes(file_key, size=32),
        wire.expect_int(rows, low=0, high=2**32),
    )
