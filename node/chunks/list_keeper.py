"""Keeps the list of files in the network, and brings it back. Layer 4.

A change of the catalogue is published within seconds: sealed into the list's pointer, or, once that is full,
as a part (node/chunks/file_list.py). A home restored from its words looks for the pointer until it is found.
Invariants: a row counts as published only once nodes of the DHT took the pointer that leads to it; what
another device published is taken in before anything is published over it; a part's leases end only after the
pointer that does without it is out. At rest there is one look at the DHT in 20 hours, and none in a home that
never had a file. Source: design.md, section 4 (recovery).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from node import limits
from node.chunks.catalogue import CHANGED, Catalogue, CatalogueEntry
from node.chunks.file_list import (
    SALT_BYTES,
    ListKeys,
    ListPart,
    ListRoot,
    ListRow,
    PartReader,
    encode_part,
    plan_merge,
)
from node.chunks.geometry import Code
from node.chunks.get.download import Downloader, RemoteFile
from node.chunks.get.renew import Renewer
from node.chunks.list_store import IN_ROOT, KnownPart, KnownRoot, ListStore
from node.chunks.put.upload import Uploader
from node.crypto.links import Link
from node.errors import AvailabilityError, CryptoError, NodeError, NotFoundError, ProtocolError
from node.ports import Clock, Directory, Entropy, Offload
from node.records.list_pointer import ListPointer, list_key, validate_pointer
from node.units import DAY_S, HOUR_S, FileHash

LIST_LEASE_DAYS: Final = 365
"""Parts outlive their owner's absence by far: whoever comes back late learns at least what there was."""
COALESCE_S: Final = 5.0
"""Changes within so long are published together, unless somebody waits for it."""
REFRESH_S: Final = 20 * HOUR_S
FRESH_S: Final = 300.0
"""A pointer looked up so recently is not looked up again before one is published over it."""
RETRY_S: Final = 2.0
RETRY_S_MAX: Final = 600.0
LOOKS_ENOUGH: Final = 4
"""Looks for a list, some 14 seconds of them, after which a command goes on without it."""
POINTER_LIFE_S: Final = limits.LIST_POINTER_LIFE_S_MAX - DAY_S
PART_ROWS: Final = 16_384
_MERGE_BATCH_ROWS: Final = 500

_logger = logging.getLogger(__name__)


class ListKeeper:
    """One node's part in its account's list. Run `run` in a nursery."""

    def __init__(
        self,
        *,
        store: ListStore,
        catalogue: Catalogue,
        uploader: Uploader,
        downloader: Downloader,
        renewer: Renewer,
        directory: Directory,
        clock: Clock,
        entropy: Entropy,
        offload: Offload,
        network: str,
        account_seed: bytes,
        code: Code,
    ) -> None:
        """`code` is that of the parts."""
        self._store = store
        self._catalogue = catalogue
        self._uploader = uploader
        self._downloader = downloader
        self._renewer = renewer
        self._directory = directory
        self._clock = clock
        self._entropy = entropy
        self._offload = offload
        self._network = network
        self._keys = ListKeys.derive(account_seed)
        self._key = list_key(self._keys.owner_key)
        self._code = code
        self._changed = trio.Event()
        self._urgent = trio.Event()
        self._round_over = trio.Event()
        self._looked_at = -math.inf
        self._looks_failed = 0

    async def run(self) -> None:
        """Until cancelled."""
        token = trio.lowlevel.current_trio_token()
        self._catalogue.on_change = lambda: token.run_sync_soon(self._wake)
        try:
            await self._offload.run(self._store.begin)
            retry_s = RETRY_S
            while True:
                self._changed = trio.Event()
                try:
                    pause_s = await self._round()
                    retry_s = RETRY_S
                except NodeError as error:
                    # No peers yet, too few donors, no credit, a sick disk: the rows stay where they are.
                    _logger.info("the list of files is not published, again in %d s: %s", retry_s, error)
                    pause_s, retry_s = retry_s, min(RETRY_S_MAX, 2 * retry_s)
                self._round_over.set()
                self._round_over = trio.Event()
                with trio.move_on_after(pause_s):
                    await self._changed.wait()
                    with trio.move_on_after(COALESCE_S):
                        await self._urgent.wait()
                self._urgent = trio.Event()
        finally:
            self._catalogue.on_change = None

    async def wait_published(self, timeout_s: float) -> bool:
        """Have every change published at once; False when time is up."""
        with trio.move_on_after(timeout_s):
            while await self._offload.run(self._store.has_changes):
                self._changed.set()
                self._urgent.set()
                await self._round_over.wait()
        return not await self._offload.run(self._store.has_changes)

    async def wait_found(self, timeout_s: float) -> bool:
        """In a home restored from its words, wait for the list; False when time is up, or when several looks
        found nothing."""
        with trio.move_on_after(timeout_s):
            while self._looks_failed < LOOKS_ENOUGH and await self._offload.run(self._store.is_wanted):
                await self._round_over.wait()
        return not await self._offload.run(self._store.is_wanted)

    def _wake(self) -> None:
        self._changed.set()

    # --- rounds -----------------------------------------------------------------------------------------

    async def _round(self) -> float:
        """Look, take in, publish, as far as there is anything to do; seconds until the next round.

        Raises `NodeError`.
        """
        is_wanted = await self._offload.run(self._store.is_wanted)
        has_changes = await self._offload.run(self._store.has_changes)
        root = await self._offload.run(self._store.root)
        if not (is_wanted or has_changes or root.sequence):
            return math.inf
        age_s = trio.current_time() - self._looked_at
        if is_wanted or root.unread or age_s > (FRESH_S if has_changes else REFRESH_S / 2):
            await self._look(is_wanted=is_wanted)
            await self._tidy()
        while await self._offload.run(self._store.has_changes):
            await self._publish_changes()
        while await self._merge_parts():
            pass
        if is_wanted and await self._offload.run(self._store.is_wanted):
            # New files are published all the same: of two lists the one with the higher sequence stays, and
            # whoever sees it takes it in.
            raise NotFoundError("no node that was asked has this account's list of files")
        return REFRESH_S

    async def _look(self, *, is_wanted: bool) -> None:
        """Take in what the network has that is newer, or give it back what it has lost.

        Raises `AvailabilityError` where a part of it can't be read now.
        """
        value = await self._directory.get_value(self._key)
        pointer = None if value is None else self._valid(value)
        root = await self._offload.run(self._store.root)
        if pointer is not None and value is not None:
            if pointer.sequence >= root.sequence and value != root.pointer:
                await self._adopt(pointer, value)
        elif is_wanted and not root.sequence:
            self._looks_failed += 1
            return
        root = await self._offload.run(self._store.root)
        if root.pointer and (pointer is None or pointer.sequence < root.sequence):
            await self._directory.put_value(self._key, root.pointer)
        for part in root.unread:
            await self._read_part(part)
        self._looked_at = trio.current_time()
        if is_wanted:
            await self._offload.run(self._store.found)
            count = len(await self._offload.run(self._catalogue.files))
            _logger.info("the list of files is back: %d files", count)

    def _valid(self, value: bytes) -> ListPointer | None:
        try:
            return validate_pointer(self._key, value, now_s=self._clock.now_s(), network=self._network)
        except ProtocolError:
            return None  # whoever answered with it is the DHT's to judge

    async def _adopt(self, pointer: ListPointer, value: bytes) -> None:
        try:
            found = self._keys.open(pointer.sealed, sequence=pointer.sequence)
        except CryptoError as error:
            raise NotFoundError(f"the list of files in the network can't be opened: {error}") from error
        known = await self._offload.run(self._store.root)
        read = {each.part.file_hash for each in known.parts if each.is_read}
        parts = tuple(KnownPart(part, part.file_hash in read) for part in found.parts)
        root = KnownRoot(pointer.sequence, value, parts)
        await self._offload.run(lambda: self._store.adopt(root, found.rows))

    async def _read_part(self, part: ListPart) -> None:
        """Take in the rows of a part. Raises `AvailabilityError`, `ProtocolError`."""
        remote = await self._downloader.open_file(Link(part.file_hash, key=part.file_key))
        reader, rows = PartReader(), list[ListRow]()
        async with remote.stream() as pieces:
            async for piece in pieces:
                rows += reader.feed(piece)
                while len(rows) >= _MERGE_BATCH_ROWS:
                    await self._merge_rows(part, rows[:_MERGE_BATCH_ROWS])
                    del rows[:_MERGE_BATCH_ROWS]
        reader.finish()
        await self._merge_rows(part, rows)
        await self._offload.run(lambda: self._know_part(part, remote))
        await self._offload.run(lambda: self._store.part_read(part.file_hash))

    async def _merge_rows(self, part: ListPart, rows: Sequence[ListRow]) -> None:
        await self._offload.run(lambda: self._store.merge_part_rows(part.file_hash, rows))

    def _know_part(self, part: ListPart, remote: RemoteFile) -> None:
        """Enter a part that another device made into the catalogue: its leases are to be renewed here too."""
        if self._catalogue.get(part.file_hash) is not None:
            return
        manifest, now_s = remote.manifest_file.manifest, self._clock.now_s()
        entry = CatalogueEntry(
            file_hash=part.file_hash,
            link=str(Link(part.file_hash, key=part.file_key)),
            name=remote.name,
            size_bytes=remote.size_bytes,
            data_shards=manifest.code.data_shards,
            total_shards=manifest.code.total_shards,
            segments=manifest.segment_count,
            created_s=now_s,
            expires_s=now_s,  # a renewal asks the holders
            owner_salt=manifest.owner_salt,
            is_list=True,
            renews=True,
        )
        self._catalogue.add(entry, list(remote.manifest_file.contacts.values()))

    # --- publishing ---------------------------------------------------------------------------------------

    async def _publish_changes(self) -> None:
        """Publish what the network lacks, up to a part's worth of rows. Raises `NodeError`."""
        known = await self._offload.run(self._store.root)
        parts = tuple(each.part for each in known.parts)
        rows = await self._offload.run(lambda: self._store.rows([IN_ROOT, CHANGED], limit=PART_ROWS))
        root = ListRoot(parts, tuple(rows))
        if len(rows) < PART_ROWS and root.fits():
            await self._publish(known, root, read=parts, carried={IN_ROOT: rows})
            return
        part = await self._put_part(rows)
        await self._publish(
            known, ListRoot((*parts, part)), read=(*parts, part), carried={part.file_hash: rows}
        )

    async def _merge_parts(self) -> bool:
        """Write parts of a size anew as one, where there are enough; whether so. Raises `NodeError`."""
        live = await self._offload.run(self._store.live_counts)
        empty = tuple(part for part, count in live.items() if not count)
        merging = plan_merge({part: count for part, count in live.items() if count})
        if not empty and not merging:
            return False
        known = await self._offload.run(self._store.root)
        gone = {*empty, *merging}
        parts = tuple(each.part for each in known.parts if each.part.file_hash not in gone)
        in_root = await self._offload.run(lambda: self._store.rows([IN_ROOT], limit=PART_ROWS))
        carried: dict[bytes, Sequence[ListRow]] = {IN_ROOT: in_root}
        if merging:
            rows_max = sum(live[part] for part in merging)
            rows = await self._offload.run(lambda: self._store.rows(merging, limit=rows_max))
            part = await self._put_part(rows)
            parts = (*parts, part)
            carried[part.file_hash] = rows
        await self._publish(known, ListRoot(parts, tuple(in_root)), read=parts, carried=carried)
        for file_hash in gone:
            await self._release(file_hash)
        return True

    async def _put_part(self, rows: Sequence[ListRow]) -> ListPart:
        data = await self._offload.run(lambda: encode_part(rows))
        stored = await self._uploader.put_list_part(
            data, code=self._code, lease_days=LIST_LEASE_DAYS, owner_salt=self._keys.owner_salt
        )
        return ListPart(stored.file_hash, stored.file_key, len(rows))

    async def _publish(
        self,
        known: KnownRoot,
        root: ListRoot,
        *,
        read: Sequence[ListPart],
        carried: Mapping[bytes, Sequence[ListRow]],
    ) -> None:
        """Store a new pointer in the DHT, then remember it. Raises `AvailabilityError` if nobody takes it."""
        sequence = known.sequence + 1
        salt = self._entropy.random_bytes(SALT_BYTES)
        pointer = ListPointer(
            network=self._network,
            owner_key=self._keys.owner_key,
            sequence=sequence,
            expires_s=self._clock.now_s() + POINTER_LIFE_S,
            sealed=self._keys.seal(root, sequence=sequence, salt=salt),
        ).sign(self._keys.owner)
        value = pointer.encode()
        if not await self._directory.put_value(self._key, value):
            self._looked_at = -math.inf  # nobody is there, or somebody has a newer one
            raise AvailabilityError("no node of the DHT took the list of files")
        unread = {part.file_hash for part in known.unread}
        is_read = {part.file_hash for part in read} - unread
        parts = tuple(KnownPart(part, part.file_hash in is_read) for part in root.parts)
        versions = {
            carrier: [(row.file_hash, row.version) for row in rows] for carrier, rows in carried.items()
        }
        await self._offload.run(lambda: self._store.published(KnownRoot(sequence, value, parts), versions))

    # --- parts that are of no use any more ------------------------------------------------------------------

    async def _tidy(self) -> None:
        """Release parts that no root names: superseded while a holder was away, or before a crash."""
        await self._offload.run(lambda: self._store.forget(now_s=self._clock.now_s()))
        root = await self._offload.run(self._store.root)
        named = {known.part.file_hash for known in root.parts}
        listed = await self._offload.run(
            lambda: [entry.file_hash for entry in self._catalogue.entries() if entry.is_list]
        )
        for file_hash in listed:
            if file_hash not in named:
                await self._release(file_hash)

    async def _release(self, file_hash: FileHash) -> None:
        """End a part's leases; those of holders that don't answer are tried again, and end by themselves."""
        entry = await self._offload.run(lambda: self._catalogue.get(file_hash))
        if entry is None:
            return
        try:
            report = await self._renewer.release(file_hash)
            is_over = not report.unreachable_holders
        except AvailabilityError:
            is_over = entry.expires_s <= self._clock.now_s()
        if is_over:
            await self._offload.run(lambda: self._catalogue.remove(file_hash))
        elif entry.renews:
            kept = replace(entry, renews=False)
            await self._offload.run(lambda: self._catalogue.add(kept, []))
