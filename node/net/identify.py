"""Identify and ping, which other libp2p nodes expect of a peer. Layer 3.

Source: github.com/libp2p/specs/tree/master/identify and .../ping. The message type is py-libp2p's
generated one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from node import limits
from node.errors import ProtocolError, UnreachableError
from node.net.addresses import Endpoint
from node.net.libp2p_parts import Identify
from node.ports import Stream

IDENTIFY: Final = "/ipfs/id/1.0.0"
PING: Final = "/ipfs/ping/1.0.0"
AGENT_VERSION: Final = "cairn/0.1.0"
_PROTOCOL_VERSION: Final = "ipfs/0.1.0"
_PING_BYTES: Final = 32
_IP_CODES: Final = {4: ("ip4", 4), 41: ("ip6", 16)}


def describe(
    public_key: bytes, listen: Sequence[Endpoint], protocols: Sequence[str], observed: Endpoint | None
) -> bytes:
    """What this node says about itself, with its length before it."""
    message = Identify(
        protocol_version=_PROTOCOL_VERSION,
        agent_version=AGENT_VERSION,
        public_key=public_key,
        listen_addrs=[endpoint.binary() for endpoint in listen],
        observed_addr=observed.binary() if observed else b"",
        protocols=protocols,
    ).SerializeToString()
    size = len(message)
    prefix = bytearray()
    while size >= 0x80:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + bytes(message)


async def read_observed(stream: Stream) -> bytes | None:
    """The packed IP address at which the peer sees this node, if it says one.

    Raises `ProtocolError`, `UnreachableError`. The caller sets the deadline.
    """
    data = bytearray()
    while chunk := await stream.receive_some(limits.PEER_TEXT_BYTES_MAX):
        data += chunk
        if len(data) > limits.PEER_TEXT_BYTES_MAX:
            raise ProtocolError("an identify message over the cap")
    body = bytes(data)
    while body and body[0] >= 0x80:
        body = body[1:]
    try:
        message = Identify.FromString(body[1:])
    except DecodeError as error:
        raise ProtocolError("not an identify message") from error
    observed = bytes(message.observed_addr)
    if not observed or observed[0] not in _IP_CODES:
        return None
    _, size = _IP_CODES[observed[0]]
    return observed[1 : 1 + size] if len(observed) > size else None


async def answer_pings(stream: Stream) -> None:
    """Send back every 32 bytes, until the peer ends the stream or falls silent (the connection's own
    keep-alive ends that)."""
    pending = b""
    while chunk := await stream.receive_some(limits.STREAM_READ_BYTES):
        pending += chunk
        whole = len(pending) - len(pending) % _PING_BYTES
        if whole:
            await stream.send_all(pending[:whole])
            pending = pending[whole:]
    if pending:
        raise UnreachableError("", "the stream ended inside a ping")
