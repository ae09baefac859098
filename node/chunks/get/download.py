"""Get: from a link to bytes, in order, by range, resumable. Layer 4.

Invariants: what leaves here equals what put read, or an error does; memory is bounded by stripes, never by
the file; a range fetches at most the stripes that contain it; nothing stands under a final name before it
is complete. Source: design.md, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import trio

from node.chunks.client import HolderClient
from node.chunks.erasure import CodingEngine
from node.chunks.folder import FolderEntry, FolderIndex
from node.chunks.get.locate import KnownHolders, LocatedFile, Locator
from node.chunks.get.output import FileOutput, Output, choose_target
from node.chunks.get.output_tree import TreeOutput
from node.chunks.get.range_stream import Earlier, RangeStream
from node.chunks.get.segment_fetch import SegmentFetch
from node.chunks.get.shard_stream import ByteCount
from node.chunks.header import FileHeader, FolderIndexLink
from node.chunks.holders import Holders
from node.chunks.scores import Scoreboard
from node.chunks.serving import Reader
from node.crypto.links import Link
from node.crypto.sealing import FileKeys
from node.errors import CryptoError, NotFoundError, OwnerInconsistentError, ProtocolError, UsageError
from node.ports import Clock, Directory, Offload
from node.units import FileHash

CHECKPOINT_BYTES = 32 * 1024 * 1024
"""Plaintext written between two points from which a get resumes."""


@dataclass(frozen=True, slots=True)
class GetProgress:
    """How far a get is, in plaintext bytes of what was asked; `fetched_bytes` counts block bytes received.

    Phases: locate, fetch, finish.
    """

    phase: str
    done_bytes: int
    total_bytes: int
    fetched_bytes: int


ProgressCallback = Callable[[GetProgress], None]


@dataclass(frozen=True, slots=True)
class GetReport:
    """What `get` did."""

    path: Path
    name: str
    bytes: int
    fetched_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GetSettings:
    """What a node may tune."""

    window_bytes: int = 16 * 1024 * 1024
    """Block bytes of one get in memory, fetched or on their way; two stripes at least."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a file is wanted: bytes [start, stop) of its stream, and the entries if it is a tree."""

    name: str
    start: int
    stop: int
    executable: bool = False
    entries: tuple[FolderEntry, ...] | None = None
    """Of a folder: paths relative to it, offsets relative to `start`."""

    @property
    def length(self) -> int:
        """Bytes wanted."""
        return self.stop - self.start


class RemoteFile:
    """A file of the swarm, opened with its key: name, size, entries, and its bytes by range."""

    def __init__(
        self,
        *,
        header: FileHeader,
        index: FolderIndex | None,
        file: LocatedFile,
        keys: FileKeys,
        holders: Holders,
        locator: Locator,
        engine: CodingEngine,
        offload: Offload,
        settings: GetSettings,
    ) -> None:
        """Made by `Downloader.open_file`."""
        self.file_hash: FileHash = file.manifest.file_hash
        self.name = header.name
        self.size_bytes = header.plaintext_bytes
        self.media_type = header.media_type
        self.index = index
        self._file = file
        self._keys = keys
        self._holders = holders
        self._locator = locator
        self._engine = engine
        self._offload = offload
        self._settings = settings
        self._count = ByteCount()

    @property
    def manifest_file(self) -> LocatedFile:
        """The manifest and what is known of the holders."""
        return self._file

    @property
    def entries(self) -> tuple[FolderEntry, ...] | None:
        """The files of a folder in packing order; None for a single file."""
        return None if self.index is None else self.index.entries

    @property
    def fetched_bytes(self) -> int:
        """Block bytes received for this file so far."""
        return self._count.fetched_bytes

    def select(self, path: str = "", byte_range: tuple[int, int] | None = None) -> Selection:
        """What `path` (a file or a folder in a folder; "" is all) and an inclusive byte range name.

        Raises:
            NotFoundError: the folder has no such path.
            UsageError: a path in a single file, a range of a folder, or one beyond the end.
        """
        selection = self._select_path(path.strip("/"))
        if byte_range is None:
            return selection
        first, last = byte_range
        if selection.entries is not None:
            raise UsageError("a range is of one file: name it as LINK/path")
        if not 0 <= first <= last or first >= selection.length:
            raise UsageError(
                f"the range {first}-{last} is not within the {selection.length} bytes of the file"
            )
        stop = min(last + 1, selection.length)
        return Selection(
            selection.name, selection.start + first, selection.start + stop, selection.executable
        )

    def stream(
        self, start: int = 0, stop: int | None = None, *, earlier: Earlier | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The plaintext bytes [start, stop) in order, as a context manager around an iterator of pieces:

            async with remote.stream(start, stop) as pieces:
                async for piece in pieces: ...

        Pieces are up to a stripe long. The iterator raises NotEnoughShardsError and OwnerInconsistentError:
        of a segment that is read from its beginning, or that `earlier` has the beginning of, also before its
        last piece where a root is not that of its shard.
        Raises `UsageError` for a range beyond the file.
        """
        stop = self.size_bytes if stop is None else stop
        if not 0 <= start <= stop <= self.size_bytes:
            raise UsageError(f"bytes {start} to {stop} are not within the {self.size_bytes} of the file")
        code = self._file.manifest.code
        stripe_bytes = code.stripe_plaintext_bytes
        ranged = RangeStream(
            manifest=self._file.manifest,
            keys=self._keys,
            engine=self._engine,
            offload=self._offload,
            make_fetch=self._make_fetch,
            window_stripes=max(2, self._settings.window_bytes // stripe_bytes),
            earlier=earlier,
        )
        return ranged.open_range(start, stop)

    def _make_fetch(self, segment_index: int, first_stripe: int, end_stripe: int) -> SegmentFetch:
        return SegmentFetch(
            holders=self._holders,
            locator=self._locator,
            file=self._file,
            segment_index=segment_index,
            first_stripe=first_stripe,
            end_stripe=end_stripe,
            count=self._count,
        )

    def _select_path(self, path: str) -> Selection:
        if not path:
            entries = None if self.index is None else self.index.entries
            return Selection(self.name, 0, self.size_bytes, entries=entries)
        if self.index is None:
            raise UsageError(f"{self.name!r} is a single file: leave the path after the link away")
        name = PurePosixPath(path).name
        try:
            entry = self.index.entry(path)
        except NotFoundError:
            below = self.index.below(path)
            start, prefix = below[0].offset, len(path) + 1
            entries = tuple(
                FolderEntry(entry.path[prefix:], entry.offset - start, entry.byte_count, entry.executable)
                for entry in below
            )
            return Selection(name, start, below[-1].stop, entries=entries)
        return Selection(name, entry.offset, entry.stop, entry.executable)


class Downloader:
    """Finds files by their links and fetches them from whoever is fastest."""

    def __init__(
        self,
        *,
        client: HolderClient,
        directory: Directory,
        clock: Clock,
        offload: Offload,
        engine: CodingEngine,
        scores: Scoreboard,
        known_holders: KnownHolders | None = None,
        settings: GetSettings | None = None,
        reader: Reader | None = None,
    ) -> None:
        """`known_holders` gives what this node remembers of a file's holders (its catalogue does);
        `reader` signs for what is fetched."""
        self._holders = Holders(client=client, directory=directory, clock=clock, scores=scores, reader=reader)
        self._locator = Locator(self._holders, known_holders=known_holders)
        self._offload = offload
        self._engine = engine
        self._settings = settings or GetSettings()

    async def open_file(self, link: Link, *, password: str | None = None) -> RemoteFile:
        """Manifest and header of a link's file.

        Raises:
            NotFoundError: nobody has a manifest of it.
            WrongPassphraseError: the password does not open the link.
            UsageError: the link carries no key, or needs a password.
            CryptoError: the key does not belong to the file.
            OwnerInconsistentError, UnsafeNameError: the file's own header is damaged or hostile.
        """
        key = await self._offload.run(lambda: link.file_key(password))
        return await self._open(link.file_hash, FileKeys.derive(key))

    async def save(
        self,
        link: Link,
        output: Path,
        *,
        entry: str = "",
        byte_range: tuple[int, int] | None = None,
        password: str | None = None,
        force: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> GetReport:
        """Fetch a file, a path in a folder, a folder or a range (`(first, last)`, inclusive) to disk.

        `output` is an absolute path: a folder to write into under the file's own name, or the final name.
        Cancelled or failed, it leaves a partial output, which the same call resumes; refused, nothing.

        Raises what `open_file`, `RemoteFile.select` and `RemoteFile.stream` raise, and:
            OutputExistsError: something stands at the target and `force` is false.
            StoreFullError, StoreError: the disk.
        """
        started = trio.current_time()
        report = on_progress or (lambda _: None)
        report(GetProgress("locate", 0, 0, 0))
        remote = await self.open_file(link, password=password)
        selection = remote.select(entry, byte_range)
        target = choose_target(output, selection.name)
        sink = await self._offload.run(lambda: _begin(remote, selection, target, force))
        try:
            await self._fill(remote, selection, sink, report)
            report(GetProgress("finish", selection.length, selection.length, remote.fetched_bytes))
            path = await self._offload.run(sink.finish)
        except OwnerInconsistentError:
            await self._offload.run(sink.discard)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._offload.run(sink.close)
        return GetReport(
            path, selection.name, selection.length, remote.fetched_bytes, trio.current_time() - started
        )

    async def _fill(
        self, remote: RemoteFile, selection: Selection, sink: Output, report: ProgressCallback
    ) -> None:
        """Write what is missing, with a point to resume from now and then."""

        def say(done_bytes: int) -> None:
            report(GetProgress("fetch", done_bytes, selection.length, remote.fetched_bytes))

        done_bytes = saved_bytes = sink.done_bytes
        say(done_bytes)
        earlier = Earlier(
            selection.start, lambda offset, count: sink.read_back(offset - selection.start, count)
        )
        async with remote.stream(selection.start + done_bytes, selection.stop, earlier=earlier) as pieces:
            async for piece in pieces:
                await self._offload.run(lambda piece=piece: sink.write(piece))  # type: ignore[misc]
                done_bytes += len(piece)
                say(done_bytes)
                if done_bytes - saved_bytes >= CHECKPOINT_BYTES:
                    await self._offload.run(sink.checkpoint)
                    saved_bytes = done_bytes

    async def _open(self, file_hash: FileHash, keys: FileKeys, *, is_index: bool = False) -> RemoteFile:
        file = await self._locator.locate(file_hash)
        manifest = file.manifest
        if keys.key_check != manifest.key_check:
            raise CryptoError("the key in the link does not belong to this file: copy the whole link again")
        try:
            sealed = manifest.sealed_header
            header = FileHeader.decode(keys.header_key.open(sealed), plaintext_bytes=manifest.plaintext_bytes)
        except (ProtocolError, CryptoError) as error:
            raise OwnerInconsistentError(f"the file's header is damaged: {error}") from error
        index = header.folder if isinstance(header.folder, FolderIndex) else None
        if isinstance(header.folder, FolderIndexLink):
            if is_index:
                raise OwnerInconsistentError("the folder's index is a folder itself: it is damaged")
            index = await self._fetch_index(header.folder, manifest.plaintext_bytes)
        return RemoteFile(
            header=header,
            index=index,
            file=file,
            keys=keys,
            holders=self._holders,
            locator=self._locator,
            engine=self._engine,
            offload=self._offload,
            settings=self._settings,
        )

    async def _fetch_index(self, link: FolderIndexLink, packed_bytes: int) -> FolderIndex:
        """The index of a large folder: a sealed file of its own."""
        remote = await self._open(link.file_hash, FileKeys.derive(link.file_key), is_index=True)
        if remote.size_bytes != link.index_bytes:
            raise OwnerInconsistentError("the folder's index has another length than its header says")
        async with remote.stream() as pieces:
            data = b"".join([piece async for piece in pieces])
        try:
            index = await self._offload.run(lambda: FolderIndex.decode(data))
        except ProtocolError as error:
            raise OwnerInconsistentError(f"the folder's index is damaged: {error}") from error
        if index.packed_bytes != packed_bytes:
            raise OwnerInconsistentError("the folder's index and the file have different lengths")
        return index


def _begin(remote: RemoteFile, selection: Selection, target: Path, force: bool) -> Output:
    """The output for a selection. Raises `OutputExistsError`, `UsageError`, `StoreError`."""
    identity = remote.file_hash + selection.start.to_bytes(8, "big") + selection.stop.to_bytes(8, "big")
    if selection.entries is not None:
        return TreeOutput(target, selection.entries, identity=identity, force=force)
    return FileOutput(
        target, identity=identity, length=selection.length, force=force, executable=selection.executable
    )
