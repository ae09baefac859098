"""My files: what this account put, where it is and until when. Layer 3, over the KeyValue port."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.ports import KeyValue
from node.records.lease import Lease
from node.units import Contact, FileHash, SegmentId


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One file. `link` is the text with its key; the home folder is private."""

    file_hash: FileHash
    link: str
    name: str
    bytes: int
    data_shards: int
    total_shards: int
    segments: int
    created_s: int
    expires_s: int
    owner_salt: bytes
    index_hash: FileHash | None = None
    """The file that keeps a large folder's index; renewed and released together with this one."""


@dataclass(frozen=True, slots=True)
class CatalogueSegment:
    """Where one segment was put, as of then (and renewals since)."""

    segment_index: int
    segment_id: SegmentId
    leases: tuple[Lease, ...]


class Catalogue:
    """The table of my files."""

    def __init__(self, key_values: KeyValue, *, network: str) -> None:
        raise NotImplementedError

    def add(self, entry: CatalogueEntry, contacts: Sequence[Contact]) -> None:
        """Add or replace a file, durably; `contacts` are its holders' last known addresses."""
        raise NotImplementedError

    def add_segments(self, file_hash: FileHash, segments: Sequence[CatalogueSegment]) -> None:
        """Add or replace segments, durably."""
        raise NotImplementedError

    def get(self, file_hash: FileHash) -> CatalogueEntry | None:
        """One file."""
        raise NotImplementedError

    def files(self) -> Sequence[CatalogueEntry]:
        """All files, newest first."""
        raise NotImplementedError

    def segments(self, file_hash: FileHash) -> Iterator[CatalogueSegment]:
        """The segments of a file, in order."""
        raise NotImplementedError

    def holders(self, file_hash: FileHash) -> Sequence[Contact]:
        """Holders of a file with their last known addresses."""
        raise NotImplementedError

    def set_expiry(self, file_hash: FileHash, expires_s: int) -> None:
        """After a renewal."""
        raise NotImplementedError

    def remove(self, file_hash: FileHash) -> None:
        """Forget a file."""
        raise NotImplementedError
