"""Put: from a file or folder to leases on many disks, and one link. Layer 4.

Invariants: the journal is durable before the first block leaves, so a put that was killed goes on instead of
sealing again; what was sealed once is never sealed differently (`FileChangedError`); a put that is dropped
releases its leases and reservations; when `put` returns, any node finds the file on its first try; memory
is bounded by stripes, never by the file. Source: design.md, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.chunks.catalogue import Catalogue
from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.geometry import Code
from node.chunks.scores import Scoreboard
from node.crypto.links import Link
from node.ports import Clock, Directory, Entropy, Files, Network, Offload
from node.units import FileHash

DEFAULT_CODE: Final = Code(10, 30)


@dataclass(frozen=True, slots=True)
class PutProgress:
    """How far a put is; bytes are plaintext bytes of the source. Phases: scan, offers, send, publish."""

    phase: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[PutProgress], None]


@dataclass(frozen=True, slots=True)
class PutOptions:
    """What a person may choose."""

    code: Code = DEFAULT_CODE
    name: str | None = None
    password: str | None = None
    lease_days: int = 30


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


@dataclass(frozen=True, slots=True)
class PutSettings:
    """What a node may tune."""

    segments_in_flight: int = 2
    window_bytes: int = 24 * 1024 * 1024
    """Encoded bytes kept for all segments in flight."""
    stall_s: float = 20.0
    """A holder that takes nothing for so long is replaced."""
    straggler_s: float = 30.0
    """So long (or twice the others' time) a holder may lag when all others are done."""
    abandon_after_s: int = 7 * 86_400
    """A put not resumed for so long is dropped."""


class Uploader:
    """Puts files of this node's account."""

    def __init__(
        self,
        *,
        network: Network,
        client: HolderClient,
        directory: Directory,
        files: Files,
        catalogue: Catalogue,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        engine: CodingEngine,
        account_seed: bytes,
        scores: Scoreboard | None = None,
        settings: PutSettings | None = None,
    ) -> None:
        """`files` is the node's home: journals stand in its folder `puts`."""
        raise NotImplementedError

    async def estimate(self, source: Path, options: PutOptions) -> PutEstimate:
        """What `put` would store and cost. Raises `UsageError`, `UnsafeNameError`."""
        raise NotImplementedError

    async def put(
        self, source: Path, options: PutOptions, on_progress: ProgressCallback | None = None
    ) -> PutReport:
        """Store a file or folder; goes on with an unfinished put of the same source and options.

        Cancelled, it stops in a state that the same call resumes.

        Raises:
            UsageError: the source is missing, unreadable, or is already being put.
            UnsafeNameError: a name can't be given to others.
            FileChangedError: the source changed since or while it was read; what was stored is released.
            NotEnoughPeersError: too few donors, with how many answered and how many are needed.
        """
        raise NotImplementedError

    async def drop_stale(self) -> int:
        """Drop puts that nobody resumed, releasing their leases; how many."""
        raise NotImplementedError
