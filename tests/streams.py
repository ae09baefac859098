"""What tests do with a stream."""

from __future__ import annotations

from node.ports import Stream


async def echo(stream: Stream) -> None:
    """A handler that sends back what comes, to its end."""
    while data := await stream.receive_some(65_536):
        await stream.send_all(data)
    await stream.close_write()


async def read_to_end(stream: Stream) -> bytes:
    received = bytearray()
    while data := await stream.receive_some(65_536):
        received += data
    return bytes(received)


async def read_exactly(stream: Stream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = await stream.receive_some(count - len(received))
        assert data, "the stream ended early"
        received += data
    return bytes(received)
