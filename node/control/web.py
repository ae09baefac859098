"""The page: this node in a browser of the same machine. Layer 5.

Static files, and the calls that the page makes: those of the control API that read, and no others, so that
whatever went wrong in a browser can neither read a file of this machine nor write one.

Invariants: it listens on loopback only; every call carries the token, which is fresh with each start, is in
the fragment of the page's URL (browsers send no fragment) and so in no log; a request that names another host
(DNS rebinding) or comes from another origin is refused before anything else. Source: design.md, section 7.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from node.control.api_files import own_link
from node.control.api_waiting import join
from node.control.credit_words import peer_words, summary_lines
from node.control.fields import field
from node.control.file_urls import PREFIX, FileUrls, Headers, answer_in_words, begin
from node.control.server import ControlApp, Events, Handler, Json, answering, live
from node.crypto.links import parse_link_and_path
from node.daemon.compose import Node
from node.errors import ConfigError

TOKEN_BYTES: Final = 16
CALLS: Final = ("status", "peers", "ls", "link", "health", "credit")
"""What the page may ask of the control API; `url` is the page's own."""
_FOLDER: Final = Path(__file__).with_name("page")
_FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/favicon.svg": ("favicon.svg", "image/svg+xml"),
}
_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class PageAddress:
    """Where the page is served; port 0 is any free one."""

    host: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> PageAddress:
        """`127.0.0.1:8080`, `localhost:0` or `[::1]:8080`. Raises `ConfigError`."""
        host, colon, port_text = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if host == "localhost":
            host = "127.0.0.1"
        if not colon or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65_535:
            raise ConfigError(f"--web {text!r} is not HOST:PORT, such as 127.0.0.1:8080")
        try:
            is_loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback:
            raise ConfigError(
                f"--web {text!r}: the page is served on loopback only (127.0.0.1, ::1); "
                "from another machine use a tunnel, such as `ssh -L 8080:127.0.0.1:8080`"
            )
        return cls(host, int(port_text))


class PageApp:
    """The ASGI application: who may ask, and who answers."""

    def __init__(self, *, token: str, port: int, control: ControlApp, urls: FileUrls) -> None:
        """`control` answers the page's calls, `urls` the requests for files."""
        self._token = token.encode()
        self._hosts = {f"{host}:{port}".encode() for host in ("127.0.0.1", "localhost", "[::1]")}
        self._origins = {b"http://" + host for host in self._hosts}
        self._control = control
        self._urls = urls
        self._pages = {
            path: ((_FOLDER / name).read_bytes(), media_type.encode())
            for path, (name, media_type) in _FILES.items()
        }

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """One request, or (ASGI's "lifespan") the life of the server."""
        if scope["type"] == "lifespan":
            await live(receive, send)
        if scope["type"] != "http":
            return
        headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
        path = scope["path"]
        if headers.get(b"host") not in self._hosts:
            await answer_in_words(send, 421, "this is the page of a Cairn node: no other name leads here")
        elif headers.get(b"origin", b"") not in (b"", *self._origins):
            await answer_in_words(send, 403, "another site may not ask this node")
        elif path.startswith("/v1/"):
            given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
            if hmac.compare_digest(given, self._token):
                await self._control(scope, receive, send)
            else:
                await answer_in_words(
                    send, 401, "open the page with the whole address: `cairn url` prints it"
                )
        elif path.startswith(PREFIX):
            await self._urls.answer(scope, receive, send)
        elif path in self._pages and scope["method"] in ("GET", "HEAD"):
            body, media_type = self._pages[path]
            await _answer_page(send, b"" if scope["method"] == "HEAD" else body, len(body), media_type)
        else:
            await answer_in_words(send, 404, "there is nothing here")


async def _answer_page(send: ASGISendCallable, body: bytes, length: int, media_type: bytes) -> None:
    headers: Headers = [
        (b"content-type", media_type),
        (b"content-length", str(length).encode()),
        (b"content-security-policy", _POLICY),
    ]
    await begin(send, 200, headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is served."""

    url: str
    """With the token, in the fragment."""
    url_handler: Handler
    """Answers `cairn url`."""


@asynccontextmanager
async def serving_page(
    node: Node, handlers: Mapping[str, Handler], address: PageAddress, *, log_path: Path
) -> AsyncIterator[Page]:
    """Serve the page until the context ends; `handlers` are those of the control API.

    Raises `ConfigError` where the address is taken.
    """
    listener = _listen(address)
    port = listener.getsockname()[1]
    host = f"[{address.host}]" if ":" in address.host else address.host
    origin = f"http://{host}:{port}"
    token = node.ports.entropy.random_bytes(TOKEN_BYTES).hex()
    url = f"{origin}/#{token}"
    urls = FileUrls(origin, node.ports.entropy)
    url_handler = partial(_url, node, urls, url)
    calls: dict[str, Handler] = {name: handlers[name] for name in CALLS}
    calls |= {"credit": partial(_credit_in_words, handlers["credit"]), "url": url_handler}
    control = ControlApp(calls, log_path=log_path)
    async with answering(listener, PageApp(token=token, port=port, control=control, urls=urls)):
        yield Page(url, url_handler)


async def no_page(_request: Json, _events: Events) -> Json:
    """Answers `cairn url` of a node that serves none."""
    raise ConfigError("this node serves no page, so files have no URL: start it without --no-web")


async def _url(node: Node, urls: FileUrls, page_url: str, request: Json, events: Events) -> Json:
    """The URL of a file (a link, LINK/path, or the hash of one of mine); without a link that of the page."""
    text = field(request, "link", str)
    if text is None:
        return {"url": page_url}
    wanted, entry = parse_link_and_path(text) if "#" in text else (await own_link(node, text, events), "")
    await join(node, wanted, events)
    remote = await node.downloader.open_file(wanted, password=field(request, "password", str))
    if remote.entries is None and entry == remote.name:  # a single file is listed under its name
        entry = ""
    return {"url": urls.add(remote, remote.select(entry))}


async def _credit_in_words(credit: Handler, _request: Json, events: Events) -> Json:
    """The balances with what they mean: the page shows no bare number either, and sets no line."""
    result = await credit({}, events)
    peers: list[Any] = result["peers"]
    for peer in peers:
        peer["words"] = peer_words(peer, result["code"])
    return {**result, "words": summary_lines(result)}


def _listen(address: PageAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"can't serve the page on {address.host}:{address.port} ({error.strerror}): "
            "choose another --web HOST:PORT, or --no-web"
        ) from error
