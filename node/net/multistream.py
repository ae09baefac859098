"""Agreeing on a protocol: multistream-select 1.0. Layer 3.

Source: github.com/multiformats/multistream-select. Both sides send a header line, then the dialler names a
protocol and the listener repeats it, or answers "na". Header and name leave together: one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from node import limits
from node.errors import ProtocolError
from node.ports import Buffer

_HEADER: Final = "/multistream/1.0.0"
_NOT_AVAILABLE: Final = "na"
_LIST: Final = "ls"


class ByteStream(Protocol):
    """What negotiation needs of a socket or a stream."""

    async def read_exactly(self, count: int) -> Buffer:
        """`count` bytes."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send all of `data`."""
        ...


def proposal(protocol: str) -> bytes:
    """What the dialler sends first."""
    return _line(_HEADER) + _line(protocol)


def refusal() -> bytes:
    """What a listener sends that does not speak the protocol."""
    return _line(_HEADER) + _line(_NOT_AVAILABLE)


async def agree(stream: ByteStream, protocols: Sequence[str]) -> str:
    """The dialler's side: the first of `protocols` that the listener takes. Raises `ProtocolError`."""
    await stream.send_all(proposal(protocols[0]))
    if await _read_line(stream) != _HEADER:
        raise ProtocolError("no multistream header")
    for index, protocol in enumerate(protocols):
        if index:
            await stream.send_all(_line(protocol))
        answer = await _read_line(stream)
        if answer == protocol:
            return protocol
        if answer != _NOT_AVAILABLE:
            break
    raise ProtocolError(f"the peer does not speak {' or '.join(protocols)}")


async def choose(
    stream: ByteStream, is_served: Callable[[str], bool], served: Callable[[], Sequence[str]]
) -> str | None:
    """The listener's side: the protocol agreed upon, or None after too many refusals.

    Raises `ProtocolError` for what is no negotiation.
    """
    if await _read_line(stream) != _HEADER:
        raise ProtocolError("no multistream header")
    await stream.send_all(_line(_HEADER))
    for _ in range(limits.PROTOCOL_PROPOSALS_MAX):
        wanted = await _read_line(stream)
        if wanted == _LIST:
            listing = b"".join(_line(protocol) for protocol in served())
            await stream.send_all(_uvarint(len(listing) + 1) + listing + b"\n")
        elif is_served(wanted):
            await stream.send_all(_line(wanted))
            return wanted
        else:
            await stream.send_all(_line(_NOT_AVAILABLE))
    return None


async def _read_line(stream: ByteStream) -> str:
    size = 0
    for shift in (0, 7):
        byte = bytes(await stream.read_exactly(1))[0]
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise ProtocolError("a negotiation line is too long")
    if not 1 <= size <= limits.PROTOCOL_LINE_BYTES_MAX:
        raise ProtocolError("a negotiation line is too long")
    line = bytes(await stream.read_exactly(size))
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProtocolError("a negotiation line is not text") from error
    if not text.endswith("\n"):
        raise ProtocolError("a negotiation line has no end")
    return text[:-1]


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return _uvarint(len(data)) + data


def _uvarint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
