"""From a TCP connection to streams: Noise, then Yamux, each agreed by multistream-select. Layer 3.

A muxer is offered twice: as Cairn nodes speak it (node/net/yamux.py) and, to whoever does not, as specified.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from node.errors import ProtocolError
from node.net import multistream
from node.net.noise import ChannelError, Handshake, SecureChannel, SocketReader
from node.units import PeerId

_NOISE: Final = "/noise"
YAMUX: Final = "/yamux/1.0.0"
CAIRN_YAMUX: Final = "/cairn/yamux/1"
_MUXERS: Final = (CAIRN_YAMUX, YAMUX)


async def upgrade_dialled(
    stream: trio.abc.Stream, handshake: Handshake, peer_id: PeerId, *, muxers: Sequence[str] = _MUXERS
) -> SecureChannel:
    """The dialler's side, offering `muxers` in turn.

    Raises `ProtocolError` (another peer answers, say) and `ChannelError`.
    """
    reader = SocketReader(stream)
    await multistream.agree(_Plain(stream, reader), (_NOISE,))
    channel = await handshake.dialled(stream, reader, peer_id)
    sealed = _Sealed(channel)
    channel.muxer = await multistream.agree(sealed, muxers)
    channel.give_back(sealed.rest)
    return channel


async def upgrade_accepted(stream: trio.abc.Stream, handshake: Handshake) -> SecureChannel:
    """The listener's side. Raises `ProtocolError` and `ChannelError`."""
    reader = SocketReader(stream)
    await _choose(_Plain(stream, reader), (_NOISE,))
    channel = await handshake.accepted(stream, reader)
    sealed = _Sealed(channel)
    channel.muxer = await _choose(sealed, _MUXERS)
    channel.give_back(sealed.rest)
    return channel


async def _choose(stream: multistream.ByteStream, served: Sequence[str]) -> str:
    chosen = await multistream.choose(stream, served.__contains__, lambda: served)
    if chosen is None:
        raise ProtocolError(f"the peer does not speak {' or '.join(served)}")
    return chosen


class _Plain:
    def __init__(self, stream: trio.abc.Stream, reader: SocketReader) -> None:
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
