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

import trio

from node import limits
from node.chunks.catalogue import CatalogueEntry
from node.chunks.folder import FolderIndex
from node.chunks.geometry import Code, FileGeometry
from node.chunks.header import FileHeader, FolderIndexLink
from node.chunks.put.journal import IndexStored, Journal, JournalName
from node.chunks.put.put_file import FilePut, PutServices, StoredFile, stored_bytes
from node.chunks.put.put_report import ProgressCallback, ProgressTeller, PutEstimate, PutReport, report_of
from node.chunks.put.put_summary import file_price
from node.chunks.put.source import Source, bytes_source, open_source
from node.chunks.put.unfinished import UnfinishedPuts, journal_name
from node.chunks.put.withdrawing import Withdrawing
from node.crypto.links import Link, wrap_key
from node.errors import CreditError, FileChangedError, NotEnoughPeersError
from node.ports import Files
from node.units import FileHash

PASSWORD_SALT_BYTES: Final = 16
DEFAULT_CODE: Final = Code(10, 30)


@dataclass(frozen=True, slots=True)
class PutOptions:
    """What a person may choose."""

    code: Code = DEFAULT_CODE
    name: str | None = None
    password: str | None = None
    lease_days: int = 30
    renews: bool = False
    """Whether the owner's node is to renew the leases by itself, until the file is removed."""


class Uploader:
    """Puts files of this node's account."""

    def __init__(self, services: PutServices, files: Files) -> None:
        """`files` is the node's home: journals stand in its folder `puts`."""
        self._services = services
        self._withdrawing = Withdrawing(self._services)
        self._unfinished = UnfinishedPuts(self._services, files, self._withdrawing)

    async def estimate(self, source: Path, options: PutOptions) -> PutEstimate:
        """What `put` would store and cost. Raises `UsageError`, `UnsafeNameError`."""
        opened = await self._services.offload.run(lambda: open_source(source, name=options.name))
        opened.reader.close()
        geometry = FileGeometry.of(opened.size_bytes, options.code)
        stored = stored_bytes(geometry)
        return PutEstimate(
            name=opened.name,
            bytes=opened.size_bytes,
            stored_bytes=stored,
            code=options.code,
            segments=geometry.segment_count,
            price_microcredits=file_price(geometry, options.lease_days),
        )

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
            CreditError: enough donors, but for the credit that they ask.
        """
        started_s = trio.current_time()
        progress = ProgressTeller(on_progress or (lambda _: None))
        progress.phase("scan")
        offload = self._services.offload
        opened = await offload.run(lambda: open_source(source, name=options.name))
        try:
            name = journal_name(opened.path, opened.name, options.code)
            async with self._unfinished.exclusive(name):
                journal = await self._unfinished.open(name, opened, options.code)
                try:
                    stored, link = await self._store(journal, opened, options, progress)
                finally:
                    journal.close()
        finally:
            opened.reader.close()
        return report_of(opened, stored, link, seconds=trio.current_time() - started_s)

    async def put_list_part(
        self, data: bytes, *, code: Code, lease_days: int, owner_salt: bytes
    ) -> StoredFile:
        """Store a part of the list of files: a file without a link to show, owned by the key of `owner_salt`.

        Raises as `put` does.
        """
        source = bytes_source("files", data)
        name = JournalName(f"{source.fingerprint[:16].hex()}-list")
        progress = ProgressTeller(lambda _: None)
        options = PutOptions(code=code, lease_days=lease_days, renews=True)
        header = FileHeader(source.name, source.size_bytes)
        async with self._unfinished.exclusive(name):
            journal = await self._unfinished.open(name, source, code, owner_salt=owner_salt)
            put = self._file_put(journal, source, options, progress)
            try:
                return await self._run_apart(
                    put,
                    journal,
                    header,
                    lambda stored: self._entry(
                        stored, header, self._link(stored, None), is_list=True, renews=True
                    ),
                )
            finally:
                journal.close()

    async def drop_stale(self) -> int:
        """Drop puts that nobody resumed, releasing their leases; how many."""
        return await self._unfinished.drop_older(self._services.settings.abandon_after_s)

    async def _store(
        self, journal: Journal, source: Source, options: PutOptions, progress: ProgressTeller
    ) -> tuple[StoredFile, Link]:
        """Run the put of one journal to its end; drop it where going on makes no sense."""
        try:
            folder = source.folder and await self._folder_part(journal, source.folder, options, progress)
            header = FileHeader(source.name, source.size_bytes, source.media_type, folder)
            put = self._file_put(journal, source, options, progress)
            index_hash = folder.file_hash if isinstance(folder, FolderIndexLink) else None
            links: list[Link] = []

            def entry_of(stored: StoredFile) -> CatalogueEntry:
                links.append(self._link(stored, options.password))
                return self._entry(stored, header, links[0], index_hash=index_hash, renews=options.renews)

            stored = await put.run(header, entry_of)
        except FileChangedError:
            await self._withdrawing.drop(journal)
            raise
        except (NotEnoughPeersError, CreditError):
            # Segments that are safe are kept for the next try; with none there is nothing to go on with.
            if journal.done:
                await self._withdrawing.withdraw(journal, everything=False, reserved=True)
            else:
                await self._withdrawing.drop(journal)
            raise
        await self._withdrawing.withdraw(journal, everything=False)
        await self._services.offload.run(journal.delete)
        return stored, links[0]

    def _file_put(
        self, journal: Journal, source: Source, options: PutOptions, progress: ProgressTeller
    ) -> FilePut:
        return FilePut(
            self._services,
            journal,
            source,
            lease_days=options.lease_days,
            on_phase=progress.phase,
            on_bytes=progress.bytes,
        )

    async def _folder_part(
        self, journal: Journal, index: FolderIndex, options: PutOptions, progress: ProgressTeller
    ) -> FolderIndex | FolderIndexLink:
        """The index itself, or, where it is large, a link to it as a file of its own."""
        data = await self._services.offload.run(index.encode)
        if len(data) <= limits.FOLDER_INDEX_BYTES_MAX:
            return index
        if journal.index is None:
            stored = await self._store_index(journal, data, options, progress)
            record = IndexStored(stored.file_hash, stored.file_key, len(data))
            await self._services.offload.run(lambda: journal.append(record))
        assert journal.index is not None
        return FolderIndexLink(journal.index.file_hash, journal.index.file_key, journal.index.index_bytes)

    async def _store_index(
        self, parent: Journal, data: bytes, options: PutOptions, progress: ProgressTeller
    ) -> StoredFile:
        source = bytes_source("index", data)
        name = JournalName(f"{parent.name}-index")
        code = Code(parent.started.data_shards, parent.started.total_shards)
        journal = await self._unfinished.open(name, source, code)
        header = FileHeader(source.name, source.size_bytes)
        put = self._file_put(journal, source, options, progress)
        return await self._run_apart(
            put,
            journal,
            header,
            lambda stored: self._entry(
                stored, header, self._link(stored, None), is_index=True, renews=options.renews
            ),
        )

    async def _run_apart(
        self,
        put: FilePut,
        journal: Journal,
        header: FileHeader,
        entry_of: Callable[[StoredFile], CatalogueEntry],
    ) -> StoredFile:
        """The put of a file that no person named, over a journal of its own."""
        try:
            stored = await put.run(header, entry_of)
        except (NotEnoughPeersError, CreditError):
            await self._withdrawing.drop(journal)
            raise
        await self._withdrawing.withdraw(journal, everything=False)
        await self._services.offload.run(journal.delete)
        return stored

    def _link(self, stored: StoredFile, password: str | None) -> Link:
        if password is None:
            return Link(stored.file_hash, key=stored.file_key)
        salt = self._services.entropy.random_bytes(PASSWORD_SALT_BYTES)
        return Link(stored.file_hash, wrapped=wrap_key(stored.file_key, stored.file_hash, password, salt))

    def _entry(
        self,
        stored: StoredFile,
        header: FileHeader,
        link: Link,
        *,
        index_hash: FileHash | None = None,
        is_index: bool = False,
        is_list: bool = False,
        renews: bool = False,
    ) -> CatalogueEntry:
        assert stored.summary.expires_s is not None
        return CatalogueEntry(
            file_hash=stored.file_hash,
            link=str(link),
            name=header.name,
            size_bytes=header.plaintext_bytes,
            data_shards=stored.manifest.code.data_shards,
            total_shards=stored.manifest.code.total_shards,
            segments=stored.manifest.segment_count,
            created_s=self._services.clock.now_s(),
            expires_s=stored.summary.expires_s,
            owner_salt=stored.manifest.owner_salt,
            index_hash=index_hash,
            is_index=is_index,
            is_list=is_list,
            renews=renews,
        )
