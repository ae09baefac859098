"""Files of the swarm as loopback URLs, for players and browsers. Layer 5.

Invariants: a URL names a file by a random handle, so that no key and no link is in a path, a history or a
log; a file is fetched as it is read, and a reader that goes away stops that; what a stored file says never
acts on the page of the same origin: nothing but sound, pictures and plain text is shown, the rest is saved,
and all of it is sandboxed. Source: RFC 9110, sections 13 and 14 (conditional and range requests).
"""

from __future__ import annotations

import mimetypes
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable

from node import limits
from node.chunks.get.download import RemoteFile, Selection
from node.control.server import cancel_on_disconnect
from node.crypto.hashing import cid_text
from node.errors import NodeError, NotFoundError, UsageError
from node.ports import Entropy

PREFIX = "/file/"
HANDLE_BYTES = 16
_SHOWN = re.compile(r"(audio|video|image)/(?!svg)[\w.+-]+|text/plain")
_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)

Headers = list[tuple[bytes, bytes]]

SAFE_HEADERS: Headers = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
"""Of every answer over TCP: kept by nobody, taken for nothing else, of no use to another site."""


class RangeNotSatisfiableError(UsageError):
    """A range that begins behind the end of the file."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """What a handle stands for."""

    remote: RemoteFile
    selection: Selection

    @property
    def etag(self) -> str:
        """Names these bytes for good: the hash is of the content."""
        first, last = self.selection.start, self.selection.stop
        return f'"{cid_text(self.remote.file_hash)}-{first}-{last}"'


class FileUrls:
    """The files that have a URL, and the answers to requests for them."""

    def __init__(self, origin: str, entropy: Entropy) -> None:
        """`origin` is where they are served: `http://127.0.0.1:41234`."""
        self._origin = origin
        self._entropy = entropy
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def add(self, remote: RemoteFile, selection: Selection) -> str:
        """A URL of one file; the same one as before if it has one. Raises `UsageError` for a folder."""
        if selection.entries is not None:
            raise UsageError("a folder has no URL: name one file in it as LINK/path (`cairn ls LINK`)")
        new = OpenFile(remote, selection)
        handle = next((key for key, old in self._files.items() if old.etag == new.etag), None)
        if handle is None:
            handle = self._entropy.random_bytes(HANDLE_BYTES).hex()
        self._files[handle] = new
        self._files.move_to_end(handle)
        if len(self._files) > limits.FILE_URLS_MAX:
            self._files.popitem(last=False)
        return f"{self._origin}{PREFIX}{handle}/{quote(selection.name, safe='')}"

    async def answer(self, scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """One request for a file: all of it, or one range."""
        handle = scope["path"].removeprefix(PREFIX).partition("/")[0]
        file = self._files.get(handle)
        if file is None:
            await answer_in_words(send, 404, "this address has expired: ask `cairn url LINK` for a new one")
            return
        if scope["method"] not in ("GET", "HEAD"):
            await answer_in_words(send, 405, "files are only read here", [(b"allow", b"GET, HEAD")])
            return
        self._files.move_to_end(handle)
        asked = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in scope["headers"]}
        length = file.selection.length
        try:
            part = requested_range(asked, length=length, etag=file.etag)
        except RangeNotSatisfiableError as error:
            await answer_in_words(send, 416, str(error), [(b"content-range", f"bytes */{length}".encode())])
            return
        status, (start, stop) = (200, (0, length)) if part is None else (206, part)
        headers = _headers(file, start, stop, is_part=part is not None)
        if scope["method"] == "HEAD":
            await begin(send, status, headers)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
            await _send_bytes(file, start, stop, send, status, headers)
            nursery.cancel_scope.cancel()


def requested_range(asked: dict[bytes, str], *, length: int, etag: str) -> tuple[int, int] | None:
    """[start, stop) of the one range that a request's headers ask for; None for the whole file.

    What is no range, several ranges, and one of another version are answered with the whole file, as RFC 9110
    allows. Raises `RangeNotSatisfiableError`.
    """
    match = _ONE_RANGE.fullmatch(asked.get(b"range", "").replace(" ", ""))
    if match is None or asked.get(b"if-range", etag) != etag:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if first and last and int(first) > int(last):
        return None
    start = int(first) if first else max(0, length - int(last))
    stop = min(length, int(last) + 1) if first and last else length
    if start >= length:
        raise RangeNotSatisfiableError(f"the file has {length} bytes: there is nothing from {start} on")
    return start, stop


async def _send_bytes(
    file: OpenFile, start: int, stop: int, send: ASGISendCallable, status: int, headers: Headers
) -> None:
    """The answer, begun with the first bytes: until then what is wrong can still be said in words.

    Afterwards a failure cuts the answer off, which its length gives away.
    """
    has_begun = False
    offset = file.selection.start
    try:
        async with file.remote.stream(offset + start, offset + stop) as pieces:
            async for piece in pieces:
                if not has_begun:
                    await begin(send, status, headers)
                    has_begun = True
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except NodeError as error:
        if not has_begun:
            await answer_in_words(send, 404 if isinstance(error, NotFoundError) else 503, str(error))
        return
    if not has_begun:
        await begin(send, status, headers)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(file: OpenFile, start: int, stop: int, *, is_part: bool) -> Headers:
    name = file.selection.name
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    shown = _SHOWN.fullmatch(media_type) is not None
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(stop - start).encode()),
        (b"content-disposition", _disposition("inline" if shown else "attachment", name)),
        (b"content-security-policy", b"sandbox"),
        (b"accept-ranges", b"bytes"),
        (b"etag", file.etag.encode()),
    ]
    if is_part:
        content_range = f"bytes {start}-{stop - 1}/{file.selection.length}"
        headers.append((b"content-range", content_range.encode()))
    return headers


def _disposition(kind: str, name: str) -> bytes:
    """RFC 6266: the name in UTF-8, percent-encoded, so that nothing in it ends the header."""
    return f"{kind}; filename*=UTF-8''{quote(name, safe='')}".encode()


async def answer_in_words(
    send: ASGISendCallable, status: int, text: str, more: Headers | None = None
) -> None:
    """A whole answer of one line."""
    body = text.encode() + b"\n"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *(more or []),
    ]
    await begin(send, status, headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def begin(send: ASGISendCallable, status: int, headers: Headers) -> None:
    """Status and headers of an answer over TCP."""
    headers = [*headers, *SAFE_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers, "trailers": False})
