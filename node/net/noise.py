"""Noise over TCP: who is at the other end, and sealed messages from then on. Layer 3.

From py-libp2p comes the handshake (Noise XX with the libp2p payload:
github.com/libp2p/specs/tree/master/noise). What follows it is done here, on the handshake's cipher states:
the library's reader gives up after 101 partial reads, copies each message four times, and can't tell a lost
connection from a closed one (network.md, traps 3 and 8).

Nothing but Noise is offered or accepted: plaintext, secio and TLS have no handler (trap 1). Only Ed25519
identities are accepted, since a peer id must contain its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import trio

from node import limits
from node.errors import NodeError, ProtocolError
from node.net.byte_wire import wire_over
from node.net.libp2p_parts import ID, KeyType, NoiseTransport, create_new_key_pair, create_noise_key_pair
from node.ports import Buffer
from node.units import PeerId

_LENGTH_BYTES: Final = 2
_TAG_BYTES: Final = 16
_ED25519_PEER_ID_BYTES: Final = 38
_FAULTS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ChannelError(NodeError):
    """The connection is gone, or its bytes do not decrypt. Stays inside node/net."""


class SocketReader:
    """Exact reads from a wire, without a copy where one read brought all of it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.wire = wire_over(stream)
        self._unread = memoryview(b"")

    async def read_exactly(self, count: int) -> memoryview:
        """`count` bytes. Raises `ChannelError` at the end of the stream."""
        while len(self._unread) < count:
            await self.fill()
        return self._take(count)

    def take_message(self) -> memoryview | None:
        """The next message behind a length, if all of it is here; without waiting."""
        unread = self._unread
        if len(unread) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(unread[:_LENGTH_BYTES], "big")
        return self._take(end)[_LENGTH_BYTES:] if len(unread) >= end else None

    async def fill(self) -> None:
        """Wait for bytes and take what is there. A checkpoint. Raises `ChannelError` at the end."""
        try:
            chunk = await self.wire.read()
        except _FAULTS as error:
            raise ChannelError("the connection broke") from error
        if not chunk:
            raise ChannelError("the connection was closed")
        self._unread = memoryview(b"".join((self._unread, chunk)) if self._unread else chunk)

    def _take(self, count: int) -> memoryview:
        taken, self._unread = self._unread[:count], self._unread[count:]
        return taken


class SecureChannel:
    """Sealed messages with one authenticated peer; made by `Handshake`."""

    def __init__(self, stream: trio.abc.Stream, reader: SocketReader, session: Any) -> None:
        """`session` is the library's `SecureSession`: its type is not exported for checking."""
        self.peer_id = PeerId(session.remote_peer.to_bytes())
        self.muxer = ""
        """What was agreed to run over it."""
        self._stream = stream
        self._reader = reader
        self._returned = b""
        noise = session.conn.noise_state.noise_protocol
        self._encrypt = noise.cipher_state_encrypt.encrypt_with_ad
        self._decrypt = noise.cipher_state_decrypt.decrypt_with_ad

    async def send(self, messages: Sequence[bytes]) -> None:
        """Send messages of at most 65,519 bytes each in one write. One caller at a time.

        Waits only where the system takes no more. Raises `ChannelError`, also where the peer takes too long.
        A cancellation leaves the channel unusable.
        """
        parts: list[Buffer] = []
        for message in messages:
            sealed = self._encrypt(None, message)
            parts.append(len(sealed).to_bytes(_LENGTH_BYTES, "big"))
            parts.append(sealed)
        wire = self._reader.wire
        try:
            rest = wire.write_nowait(parts)
            if rest:
                with trio.move_on_after(limits.CONNECTION_SILENCE_S) as scope:
                    await wire.write(rest)
                if scope.cancelled_caught:
                    raise ChannelError("the peer takes no bytes")
        except _FAULTS as error:
            raise ChannelError("the connection broke") from error

    async def receive(self) -> bytes:
        """The next message. Raises `ChannelError` when the connection ended, for whatever reason."""
        return (await self.receive_some(1))[0]

    async def receive_some(self, count_max: int) -> list[bytes]:
        """The messages that are here, at least one, for which it waits. Raises as `receive` does."""
        if self._returned:
            returned, self._returned = self._returned, b""
            return [returned]
        messages: list[bytes] = []
        while True:
            while len(messages) < count_max and (sealed := self._reader.take_message()) is not None:
                messages.append(self._open(sealed))
            if messages:
                return messages
            await self._reader.fill()

    def give_back(self, data: bytes) -> None:
        """Have `receive` return `data` first: what negotiation read beyond its end."""
        self._returned = data

    async def aclose(self) -> None:
        """Close the socket, at once."""
        await trio.aclose_forcefully(self._stream)

    def _open(self, sealed: memoryview) -> bytes:
        if len(sealed) < _TAG_BYTES:
            raise ChannelError("a sealed message is too short")
        try:
            plain: bytes = self._decrypt(None, sealed)
        except Exception as error:  # cryptography's InvalidTag, or noise's own: each means forged bytes
            raise ChannelError("bytes that do not decrypt") from error
        return plain


class Handshake:
    """Makes connections secure for one identity."""

    def __init__(self, identity_seed: bytes) -> None:
        """`identity_seed` is the Ed25519 seed, 32 bytes."""
        key_pair = create_new_key_pair(identity_seed)
        self.peer_id = PeerId(ID.from_pubkey(key_pair.public_key).to_bytes())
        self.public_key = bytes(key_pair.public_key.serialize())
        # The static key of Noise is signed by the identity, and lives as long as this process.
        noise_key_pair = create_noise_key_pair()
        self._transport = NoiseTransport(key_pair, noise_privkey=noise_key_pair.private_key)

    async def dialled(self, stream: trio.abc.Stream, reader: SocketReader, peer_id: PeerId) -> SecureChannel:
        """The channel of a connection that this node made. Raises `ProtocolError`, `ChannelError`."""
        try:
            session = await self._transport.secure_outbound(_LibraryConnection(stream, reader), ID(peer_id))
        except ChannelError:
            raise
        except Exception as error:  # the library lets anything through that a peer's bytes provoke
            raise ProtocolError(f"the Noise handshake failed: {type(error).__name__}") from error
        channel = _checked(SecureChannel(stream, reader, session))
        if channel.peer_id != peer_id:
            raise ProtocolError("another peer answered")
        return channel

    async def accepted(self, stream: trio.abc.Stream, reader: SocketReader) -> SecureChannel:
        """The channel of a connection that someone else made. Raises `ProtocolError`, `ChannelError`."""
        try:
            session = await self._transport.secure_inbound(_LibraryConnection(stream, reader))
        except ChannelError:
            raise
        except Exception as error:  # as in `dialled`
            raise ProtocolError(f"the Noise handshake failed: {type(error).__name__}") from error
        return _checked(SecureChannel(stream, reader, session))


class _LibraryConnection:
    """The raw connection as the library's handshake wants it."""

    def __init__(self, stream: trio.abc.Stream, reader: SocketReader) -> None:
        self._stream = stream
        self._reader = reader

    async def read(self, count: int) -> bytes:
        return bytes(await self._reader.read_exactly(count))

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ChannelError("the connection broke") from error


def _checked(channel: SecureChannel) -> SecureChannel:
    if len(channel.peer_id) != _ED25519_PEER_ID_BYTES:
        raise ProtocolError(f"the identity is no {KeyType.Ed25519.name} key")
    return channel
