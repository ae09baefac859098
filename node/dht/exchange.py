"""Messages of the DHT over one stream, each with a deadline. Layer 4."""

from __future__ import annotations

import trio

from node import limits
from node.dht import messages
from node.dht.messages import Message
from node.errors import ProtocolError, UnreachableError
from node.ports import Stream


class Exchange:
    """Sends and receives whole messages; used by the side that asks and the side that answers."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, *batch: Message) -> None:
        """Send messages back to back. Raises `UnreachableError`, also when it takes too long."""
        data = b"".join(messages.frame(messages.encode(message)) for message in batch)
        with trio.move_on_after(limits.DHT_REQUEST_S) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise UnreachableError(messages.id_text(self._stream.peer_id), "does not read what it is sent")

    async def receive(self, deadline_s: float) -> Message | None:
        """The next message, or None at the end of the stream.

        The deadline is for the whole message, so that one sent byte by byte holds nothing up.

        Raises:
            UnreachableError: the stream broke, or the deadline passed.
            ProtocolError: what came is no message, or an incomplete one at the end.
        """
        with trio.move_on_after(deadline_s):
            return await self._receive()
        raise UnreachableError(messages.id_text(self._stream.peer_id), "sent no message in time")

    async def ask(self, message: Message) -> Message | None:
        """Send one message and wait for the next; for who has a deadline for both. Raises as they do."""
        await self._stream.send_all(messages.frame(messages.encode(message)))
        return await self._receive()

    async def _receive(self) -> Message | None:
        while True:
            data = messages.take_frame(self._buffer)
            if data is not None:
                return messages.decode(data)
            received = await self._stream.receive_some(limits.STREAM_READ_BYTES)
            if not received:
                if self._buffer:
                    raise ProtocolError("the stream ended within a message")
                return None
            self._buffer += received
