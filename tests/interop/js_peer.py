"""A js-libp2p node as a child process: peer.js."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from node.crypto.identity import parse_peer_id
from node.units import Contact, Multiaddr
from tests.js_process import JsProcess, js_process


class JsPeer:
    """One js-libp2p node; `call` names an operation of peer.js. Raises `JsError`."""

    def __init__(self, process: JsProcess) -> None:
        """`process` runs peer.js."""
        self.peer: str = process.first_line["peer"]
        addresses = [address.partition("/p2p/")[0] for address in process.first_line["addresses"]]
        self.contact = Contact(parse_peer_id(self.peer), tuple(map(Multiaddr, addresses)))
        self.call = process.call


@asynccontextmanager
async def js_peer(*, namespaces: tuple[str, ...] = ("cairn-hint",)) -> AsyncIterator[JsPeer]:
    """A js-libp2p node on loopback, until the context ends."""
    script = Path(__file__).with_name("peer.js")
    async with js_process(script, {"DHT_NAMESPACES": ",".join(namespaces)}) as process:
        yield JsPeer(process)
