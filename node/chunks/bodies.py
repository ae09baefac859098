"""Bodies: content too large for one message, sent after it as raw frames. Layer 3, over framing.

The length stands in the message before; parts come in order with their offset. Whoever receives has checked
the length against a bound before the first part is waited for. Parts are joined as they come: a peer that
sends single bytes makes nothing larger than the body.
"""

from __future__ import annotations

from node import limits, wire
from node.errors import ProtocolError
from node.framing import FramedStream


async def send_body(framed: FramedStream, body: bytes) -> None:
    """Send a body whose length was announced. Raises `UnreachableError`."""
    view = memoryview(body)
    for offset in range(0, len(body), limits.BODY_PART_BYTES):
        await framed.send_block([offset], view[offset : offset + limits.BODY_PART_BYTES])


async def receive_body(
    framed: FramedStream, body_bytes: int, *, deadline_s: float = limits.REPLY_DEADLINE_S
) -> bytes:
    """A body of exactly `body_bytes`; each part within `deadline_s`.

    Raises:
        ProtocolError: a part out of order, empty or beyond the announced length.
        UnreachableError: silence, or the stream ended.
    """
    body = bytearray()
    while len(body) < body_bytes:
        header, part = await framed.receive_block(deadline_s=deadline_s)
        wire.expect_list(list(header), count=1)
        wire.expect_int(header[0], low=len(body), high=len(body))
        if len(body) + len(part) > body_bytes:
            raise ProtocolError(f"a body longer than the {body_bytes} bytes announced")
        body += part
    return bytes(body)
