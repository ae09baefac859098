"""Puts that are not done: one at a time of a source, resumed by the same call, dropped when stale. Layer 4.

Invariants: a put goes on only if its source is what was sealed before; nobody opens a journal that another
uses or looks at; a put that is dropped has its leases and reservations taken back first.
Source: design.md, section 4 (put).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio

from node.chunks.geometry import Code
from node.chunks.put.journal import VERSION as JOURNAL_VERSION
from node.chunks.put.journal import Journal, JournalName, PutStarted
from node.chunks.put.journal import names as journal_names
from node.chunks.put.put_file import PutServices
from node.chunks.put.source import Source
from node.chunks.put.withdrawing import Withdrawing
from node.crypto.hashing import blake3_256
from node.crypto.sealing import FILE_KEY_BYTES, OWNER_SALT_BYTES
from node.errors import FileChangedError, UsageError
from node.ports import Files


class UnfinishedPuts:
    """The journals of this node's puts."""

    def __init__(self, services: PutServices, files: Files, withdrawing: Withdrawing) -> None:
        self._services = services
        self._files = files
        self._withdrawing = withdrawing
        self._active: set[JournalName] = set()
        self._looking = trio.Lock()  # at a journal that nobody may use meanwhile

    @asynccontextmanager
    async def exclusive(self, name: JournalName) -> AsyncIterator[None]:
        """One put of a source at a time; waits only for a look at what is stale. Raises `UsageError`."""
        async with self._looking:
            if name in self._active:
                raise UsageError("this is being put already: wait for it, or look at its progress")
            self._active.add(name)
        try:
            yield
        finally:
            self._active.discard(name)

    async def open(
        self, name: JournalName, source: Source, code: Code, *, owner_salt: bytes | None = None
    ) -> Journal:
        """The unfinished put of this source, or a new one. Raises `FileChangedError`."""
        offload = self._services.offload
        journal = await offload.run(lambda: Journal.load(self._files, name))
        if journal is not None:
            if journal.started.fingerprint == source.fingerprint:
                return journal
            await self._withdrawing.drop(journal)
            raise FileChangedError(
                f"{source.path} changed since its put was interrupted; what was stored of it is released: "
                "put it again to store it as it is now"
            )
        started = PutStarted(
            version=JOURNAL_VERSION,
            file_key=self._services.entropy.random_bytes(FILE_KEY_BYTES),
            owner_salt=owner_salt or self._services.entropy.random_bytes(OWNER_SALT_BYTES),
            source=str(source.path).encode(errors="replace").decode(),
            fingerprint=source.fingerprint,
            size_bytes=source.size_bytes,
            data_shards=code.data_shards,
            total_shards=code.total_shards,
            name=source.name,
            created_s=self._services.clock.now_s(),
        )
        return await offload.run(lambda: Journal.create(self._files, name, started))

    async def drop_older(self, age_s: int) -> int:
        """Drop puts begun more than `age_s` ago that nobody is at, releasing their leases; how many."""
        horizon_s = self._services.clock.now_s() - age_s
        dropped = 0
        for name in await self._services.offload.run(lambda: journal_names(self._files)):
            if await self._drop_if_stale(name, horizon_s):
                dropped += 1
        return dropped

    async def _drop_if_stale(self, name: JournalName, horizon_s: int) -> bool:
        with ExitStack() as stack:
            async with self._looking:
                if name in self._active:
                    return False
                journal = await self._services.offload.run(lambda: Journal.load(self._files, name))
                if journal is None:
                    return False
                stack.callback(journal.close)
                if journal.started.created_s > horizon_s:
                    return False
                self._active.add(name)
                stack.callback(self._active.discard, name)
            await self._withdrawing.drop(journal)
        return True


def journal_name(path: Path, name: str, code: Code) -> JournalName:
    """One journal for each source as it is named, and code."""
    identity = b"\0".join((os.fsencode(path), name.encode(), str(code).encode()))
    return JournalName(blake3_256(identity)[:16].hex())
