"""Bodies: whole, in order, and never larger in memory than was announced."""

from __future__ import annotations

import tracemalloc

import pytest

from node import limits
from node.chunks.bodies import receive_body, send_body
from node.errors import ProtocolError
from node.framing import FramedStream
from tests.loop_stream import LoopStream


@pytest.mark.parametrize("size", [0, 1, limits.BODY_PART_BYTES, 3 * limits.BODY_PART_BYTES + 1])
async def test_what_is_sent_arrives(size: int) -> None:
    framed = FramedStream(LoopStream())
    body = bytes(range(250)) * (size // 250 + 1)
    await send_body(framed, body[:size])
    assert await receive_body(framed, size) == body[:size]


@pytest.mark.parametrize(
    "parts", [[(1, b"a")], [(0, b"ab"), (0, b"c")], [(0, b"abcd")], [(0, b"ab"), (2, b"cd")]]
)
async def test_parts_out_of_order_or_beyond_the_end_are_refused(parts: list[tuple[int, bytes]]) -> None:
    framed = FramedStream(LoopStream())
    for offset, part in parts:
        await framed.send_block([offset], part)
    with pytest.raises(ProtocolError):
        await receive_body(framed, 3)


async def test_single_bytes_cost_no_more_than_the_body() -> None:
    framed = FramedStream(LoopStream())
    count = 20_000
    for offset in range(count):
        await framed.send_block([offset], b"x")
    tracemalloc.start()
    try:
        assert await receive_body(framed, count) == b"x" * count
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000, "a view a byte would be 5 MB"
