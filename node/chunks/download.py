"""Get: from a link to bytes, in order, by range, resumable. Layer 4.

Invariants: what leaves here equals what put read, or an error does; memory is bounded by stripes, never by
the file; a range fetches at most the stripes that contain it; nothing stands under a final name before it
is complete. Source: design.md, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from node.chunks.health import HealthReport
from node.chunks.scores import Scoreboard
from node.crypto.links import Link
from node.ports import Clock, Directory, Entropy, Network, Offload
from node.units import FileHash


@dataclass(frozen=True, slots=True)
class GetProgress:
    """How far a get is, in plaintext bytes of what was asked for; `fetched_bytes` counts block bytes received."""

    phase: str
    done_bytes: int
    total_bytes: int
    fetched_bytes: int


ProgressCallback = Callable[[GetProgress], None]


@dataclass(frozen=True, slots=True)
class GetReport:
    """What `get` did. `path` is None when the bytes went to a stream."""

    path: Path | None
    name: str
    bytes: int
    fetched_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GetSettings:
    """What a node may tune."""

    window_bytes: int = 24 * 1024 * 1024
    locate_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """One file of a folder: its path (checked safe) and where it lies in the packed stream."""

    path: str
    offset: int
    bytes: int
    executable: bool


class RemoteFile:
    """A file of the swarm, opened with its key: name, size, entries, and its bytes by range."""

    file_hash: FileHash
    name: str
    size_bytes: int
    media_type: str
    entries: tuple[RemoteEntry, ...] | None
    """Entries of a folder in packing order; None for a single file."""

    def entry(self, path: str) -> RemoteEntry:
        """The entry at `path`. Raises `NotFoundError`, `UsageError` for a single file."""
        raise NotImplementedError

    def stream(
        self, start: int = 0, end: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The plaintext of [start, end) in order, as an async context manager around an async iterator.

        Use: `async with remote.stream(a, b) as pieces: async for piece in pieces: ...`.
        The iterator raises NotEnoughShardsError, OwnerInconsistentError, CryptoError.
        """
        raise NotImplementedError

    @property
    def fetched_bytes(self) -> int:
        """Block bytes received for this file so far."""
        raise NotImplementedError


class Downloader:
    """Finds files by their links and fetches them from whoever is fastest."""

    def __init__(
        self,
        *,
        network: Network,
        directory: Directory,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        scores: Scoreboard,
        settings: GetSettings | None = None,
    ) -> None:
        raise NotImplementedError

    async def open_file(self, link: Link, *, password: str | None = None) -> RemoteFile:
        """Manifest and header of a link's file.

        Raises:
            NotFoundError: nobody has a manifest of it.
            WrongPassphraseError: the password does not open the link, or none was given for a password link.
            UsageError: the link carries no key.
            CryptoError: the key does not belong to the file.
        """
        raise NotImplementedError

    async def save(
        self,
        link: Link,
        output: Path,
        *,
        entry: str | None = None,
        byte_range: tuple[int, int] | None = None,
        password: str | None = None,
        force: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> GetReport:
        """Fetch a file, an entry, a folder or a range (`(first, last)`, inclusive) to disk, resuming a partial one.

        `output` is an absolute path: an existing folder to write into under the file's own name, or the
        final name. Raises what `open_file` and `RemoteFile.stream` raise, OutputExistsError, UnsafeNameError
        and StoreError; cancelled or failed, it leaves a partial output that the same call resumes.
        """
        raise NotImplementedError
