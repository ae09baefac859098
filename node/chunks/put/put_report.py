"""What a person is told of a put: before it, while it goes on, and at its end. Layer 4.

Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from node.chunks.geometry import Code
from node.chunks.put.put_file import StoredFile
from node.chunks.put.source import Source
from node.crypto.links import Link
from node.units import FileHash, format_count


@dataclass(frozen=True, slots=True)
class PutProgress:
    """How far a put is; bytes are plaintext bytes of the source. Phases: scan, offers, send, publish."""

    phase: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[PutProgress], None]


@dataclass(frozen=True, slots=True)
class PutEstimate:
    """What a put would store and cost, without asking anybody."""

    name: str
    bytes: int
    stored_bytes: int
    code: Code
    segments: int
    price_microcredits: int


@dataclass(frozen=True, slots=True)
class PutReport:
    """What a put did. `stored_bytes` counts block bytes that holders acknowledged."""

    link: Link
    file_hash: FileHash
    name: str
    bytes: int
    stored_bytes: int
    code: Code
    segments: int
    holders: int
    weak: bool
    expires_s: int
    price_microcredits: int
    seconds: float
    missing_shards: int
    notes: tuple[str, ...]
    """Lines for a person: links skipped, shards still to be repaired."""


class ProgressTeller:
    """Keeps phase and bytes together for the callback."""

    def __init__(self, callback: ProgressCallback) -> None:
        self._callback = callback
        self._state = PutProgress("scan", 0, 0)

    def phase(self, name: str) -> None:
        """A new phase began."""
        self._state = PutProgress(name, self._state.done_bytes, self._state.total_bytes)
        self._callback(self._state)

    def bytes(self, done_bytes: int, total_bytes: int) -> None:
        """More has left."""
        self._state = PutProgress(self._state.phase, done_bytes, total_bytes)
        self._callback(self._state)


def report_of(source: Source, stored: StoredFile, link: Link, *, seconds: float) -> PutReport:
    """What a put that is done did, `seconds` after it began."""
    summary = stored.summary
    notes = list(source.notes)
    if summary.missing_shards:
        notes.append(f"{format_count(summary.missing_shards, 'shard')} found no holder: queued for repair")
    if not stored.published.announced and not stored.published.hints:
        notes.append("no node of the DHT took the file's record: it may not be found from elsewhere yet")
    assert summary.expires_s is not None
    return PutReport(
        link=link,
        file_hash=stored.file_hash,
        name=source.name,
        bytes=source.size_bytes,
        stored_bytes=summary.stored_bytes,
        code=stored.manifest.code,
        segments=stored.manifest.segment_count,
        holders=len(summary.contacts),
        weak=summary.weak,
        expires_s=summary.expires_s,
        price_microcredits=summary.price_microcredits,
        seconds=seconds,
        missing_shards=summary.missing_shards,
        notes=tuple(notes),
    )
