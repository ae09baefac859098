"""From a TCP connection to streams: Noise, then Yamux, each agreed by multistream-select. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from node.errors import ProtocolError
from node.net import multistream
from node.net.noise import ChannelError, Handshake, SecureChannel, SocketReader
from node.units import PeerId

_NOISE: Final = "/noise"
_YAMUX: Final = "/yamux/1.0.0"


async def upgrade_dialled(stream: trio.SocketStream, handshake: Handshake, peer_id: PeerId) -> SecureChannel:
    """The dialler's side. Raises `ProtocolError` (another peer answers, say) and `ChannelError`."""
    reader = SocketReader(stream)
    await multistream.agree(_Plain(stream, reader), _NOISE)
    channel = await handshake.dialled(stream, reader, peer_id)
    sealed = _Sealed(channel)
    await multistream.agree(sealed, _YAMUX)
    channel.give_back(sealed.rest)
    return channel


async def upgrade_accepted(stream: trio.SocketStream, handshake: Handshake) -> SecureChannel:
    """The listener's side. Raises `ProtocolError` and `ChannelError`."""
    reader = SocketReader(stream)
    await _choose(_Plain(stream, reader), _NOISE)
    channel = await handshake.accepted(stream, reader)
    sealed = _Sealed(channel)
    await _choose(sealed, _YAMUX)
    channel.give_back(sealed.rest)
    return channel


async def _choose(stream: multistream.ByteStream, only: str) -> None:
    def served() -> Sequence[str]:
        return (only,)

    if await multistream.choose(stream, lambda wanted: wanted == only, served) is None:
        raise ProtocolError(f"the peer does not speak {only}")


class _Plain:
    def __init__(self, stream: trio.SocketStream, reader: SocketReader) -> None:
        self._stream = stream
        self._reader = reader

    async def read_exactly(self, count: int) -> memoryview:
        return await self._reader.read_exactly(count)

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ChannelError("the connection broke") from error


class _Sealed:
    def __init__(self, channel: SecureChannel) -> None:
        self.rest = b""
        self._channel = channel

    async def read_exactly(self, count: int) -> bytes:
        while len(self.rest) < count:
            self.rest += await self._channel.receive()
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    async def send_all(self, data: bytes) -> None:
        await self._channel.send([data])
