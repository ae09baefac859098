"""The commands `open` and `read`, as the daemon answers them: files that another program reads bit by bit.
Layer 5.

`cairn mount` lives on them. Both name the file anew with each call (a link, or the hash of one of mine), so
that a reader outlives the node: what was opened is a cache here, and nothing is lost with it.

Invariants: at most `limits.OPEN_FILES_MAX` files are kept open; a file is opened once, however many ask for
it at the same time; a failure is not kept. Source: design.md, section 7, "mounting".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

import trio

from node import limits
from node.chunks.get.download import RemoteFile
from node.control.api_files import own_link
from node.control.api_waiting import join
from node.control.fields import field, required
from node.control.server import Events, Handler, Json
from node.crypto.hashing import blake3_256, cid_text
from node.crypto.links import parse_link
from node.daemon.compose import Node
from node.errors import UsageError


class OpenFiles:
    """Files that were opened lately, by what was asked."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._files: OrderedDict[bytes, RemoteFile] = OrderedDict()
        self._opening: dict[bytes, trio.Lock] = {}

    def handlers(self) -> Mapping[str, Handler]:
        """The commands that share these files."""
        return {"open": self.open, "read": self.read}

    async def open(self, request: Json, events: Events) -> Json:
        """What a link stands for; the index of a folder is sent as data."""
        remote = await self._file(request, events)
        entry = await self._node.ports.offload.run(partial(self._node.catalogue.get, remote.file_hash))
        index = b""
        if remote.index is not None:
            index = await self._node.ports.offload.run(remote.index.encode)
            await events.data(index)
        return {
            "hash": cid_text(remote.file_hash),
            "name": remote.name,
            "bytes": remote.size_bytes,
            "folder": remote.index is not None,
            "created": None if entry is None else entry.created_s,
            "stripe_bytes": remote.manifest_file.manifest.code.stripe_plaintext_bytes,
        }

    async def read(self, request: Json, events: Events) -> Json:
        """Bytes `first` to `last` of the file, a folder's as it is packed, as data."""
        first, last = required(request, "first", int), required(request, "last", int)
        remote = await self._file(request, events)
        if not 0 <= first <= last < remote.size_bytes:
            raise UsageError(f"bytes {first} to {last} are not within the {remote.size_bytes} of the file")
        async with remote.stream(first, last + 1) as pieces:
            async for piece in pieces:
                await events.data(piece)
        return {"bytes": last + 1 - first}

    async def _file(self, request: Json, events: Events) -> RemoteFile:
        """Raises what `Downloader.open_file` and `own_link` raise."""
        text, password = required(request, "link", str), field(request, "password", str)
        key = blake3_256(f"{text}\n{password or ''}".encode(errors="surrogatepass"))
        lock = self._opening.setdefault(key, trio.Lock())
        try:
            async with lock:
                remote = self._files.get(key)
                if remote is None:
                    remote = await self._open(text, password, events)
                    self._files[key] = remote
        finally:
            if not lock.statistics().tasks_waiting:
                self._opening.pop(key, None)
        self._files.move_to_end(key)
        while len(self._files) > limits.OPEN_FILES_MAX:
            self._files.popitem(last=False)
        return remote

    async def _open(self, text: str, password: str | None, events: Events) -> RemoteFile:
        wanted = parse_link(text) if "#" in text else await own_link(self._node, text, events)
        await join(self._node, wanted, events)
        return await self._node.downloader.open_file(wanted, password=password)
