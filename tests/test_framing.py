"""Frames: what is sent arrives, what is malformed is refused, nothing waits without a deadline."""

from __future__ import annotations

from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node import limits, wire
from node.errors import ProtocolError, RefusedError, UnreachableError
from node.framing import FramedStream, Preamble
from node.ports import Buffer
from tests.loop_stream import LoopStream

PREAMBLE = Preamble("cairn-test", 1, (("audit.interval_s", 86_400),))
DEADLINE_S = 5.0


async def raw(*data: bytes, ended: bool = True) -> FramedStream:
    stream = LoopStream()
    for part in data:
        await stream.send_all(part)
    if ended:
        await stream.close_write()
    return FramedStream(stream)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


async def test_messages_and_blocks_arrive_in_order() -> None:
    stream = FramedStream(LoopStream())
    block = Random(0).randbytes(limits.BLOCK_BYTES)
    await stream.send(["put", 7, b"\x00" * 32])
    await stream.send_block([3, 63], block)
    await stream.send([])
    assert await stream.receive(deadline_s=DEADLINE_S) == ["put", 7, b"\x00" * 32]
    header, received = await stream.receive_block(deadline_s=DEADLINE_S)
    assert header == [3, 63]
    assert bytes(received) == block
    assert await stream.receive(deadline_s=DEADLINE_S) == []


async def test_a_full_block_is_one_write_of_one_noise_message() -> None:
    loop = LoopStream()
    header = [b"h" * (limits.BLOCK_HEADER_BYTES_MAX - 3)]
    assert len(wire.encode(header)) == limits.BLOCK_HEADER_BYTES_MAX
    await FramedStream(loop).send_block(header, bytes(limits.BLOCK_BYTES))
    assert [len(write) for write in loop.writes] == [65_507]


async def test_too_large_is_refused_before_it_is_sent() -> None:
    loop = LoopStream()
    stream = FramedStream(loop)
    with pytest.raises(ProtocolError):
        await stream.send_block([b"h" * 30], b"")
    with pytest.raises(ProtocolError):
        await stream.send_block([], bytes(limits.BLOCK_BYTES + 1))
    with pytest.raises(ProtocolError):
        await stream.send([bytes(limits.FRAME_BYTES_MAX)])
    assert loop.writes == []


async def test_the_preamble_leaves_with_the_first_message() -> None:
    loop = LoopStream()
    opener = FramedStream.opened(loop, PREAMBLE)
    assert loop.writes == []
    await opener.send(["hello"])
    assert len(loop.writes) == 1
    acceptor = await FramedStream.accepted(loop, PREAMBLE)
    assert await acceptor.receive(deadline_s=DEADLINE_S) == ["hello"]


async def test_a_full_block_after_the_preamble_is_still_a_write_of_its_own() -> None:
    loop = LoopStream()
    await FramedStream.opened(loop, PREAMBLE).send_block([], bytes(limits.BLOCK_BYTES))
    assert len(loop.writes) == 2
    assert max(map(len, loop.writes)) <= limits.STREAM_WRITE_BYTES_MAX


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        (Preamble("other", 1, PREAMBLE.parameters), "other"),
        (Preamble("cairn-test", 2, PREAMBLE.parameters), "version"),
        (Preamble("cairn-test", 1, (("audit.interval_s", 60),)), "audit.interval_s"),
        (Preamble("cairn-test", 1), "audit.interval_s"),
        (Preamble("cairn-test", 1, (("a", 1), *PREAMBLE.parameters)), "parameters"),
    ],
)
async def test_a_mismatch_is_refused_in_words_on_both_sides(theirs: Preamble, word: str) -> None:
    loop = LoopStream()
    opener = FramedStream.opened(loop, theirs)
    await opener._flush()
    with pytest.raises(RefusedError, match=word) as refused:
        await FramedStream.accepted(loop, PREAMBLE)
    assert refused.value.code == "network"
    with pytest.raises(RefusedError, match=word) as refused:
        await opener.receive(deadline_s=DEADLINE_S)
    assert refused.value.code == "network"


@pytest.mark.parametrize(
    "value",
    [
        [],
        ["net"],
        [1, 1, []],
        ["cairn-test", "1", []],
        ["cairn-test", 1, [["a"]]],
        ["cairn-test", 1, [1] * 99],
    ],
)
async def test_a_malformed_preamble_is_a_protocol_error(value: wire.Value) -> None:
    stream = await raw(framed(wire.encode(value)))
    with pytest.raises(ProtocolError):
        await FramedStream.accepted(stream._stream, PREAMBLE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",  # a block frame without a header
        b"\x01",  # a header that is missing
        b"\x01\x90"[:1] + b"\x01",  # a header that is no array
        b"\x1f" + b"\x90" * 40,  # a header over the cap
        b"\x92\x01",  # half an array
        b"\x90\x90",  # trailing bytes
        b"\x91\xcd\x00\x01",  # an integer that is not the shortest
        b"\x81\x01\x01",  # a map
        b"\xc0",
        wire.encode(["error"]),
        wire.encode(["error", "x" * 33, "words"]),
        wire.encode(["error", "code", 5]),
    ],
)
async def test_malformed_frames_are_protocol_errors(body: bytes) -> None:
    stream = await raw(framed(body))
    with pytest.raises(ProtocolError):
        await stream.receive_frame(deadline_s=DEADLINE_S)


async def test_the_cap_is_checked_before_the_body_is_awaited() -> None:
    stream = await raw((limits.FRAME_BYTES_MAX + 1).to_bytes(4, "big"), ended=False)
    with pytest.raises(ProtocolError):
        await stream.receive(deadline_s=DEADLINE_S)
    stream = await raw((11).to_bytes(4, "big"), ended=False)
    with pytest.raises(ProtocolError):
        await stream.receive(deadline_s=DEADLINE_S, size_max=10)


async def test_one_kind_is_not_taken_for_the_other() -> None:
    stream = await raw(framed(b"\x01\x90data"))
    with pytest.raises(ProtocolError):
        await stream.receive(deadline_s=DEADLINE_S)
    stream = await raw(framed(wire.encode([1])))
    with pytest.raises(ProtocolError):
        await stream.receive_block(deadline_s=DEADLINE_S)


async def test_an_error_frame_is_a_refusal_wherever_it_comes() -> None:
    stream = FramedStream(LoopStream())
    await stream.send_error("busy", "later\nplease")
    with pytest.raises(RefusedError, match="later please") as refused:
        await stream.receive_block(deadline_s=DEADLINE_S)
    assert refused.value.code == "busy"


@pytest.mark.parametrize("kept", [1, 3, 4, 5, 9])
async def test_an_end_inside_a_frame_is_an_absence(kept: int) -> None:
    stream = await raw(framed(wire.encode([b"abcde"]))[:kept])
    with pytest.raises(UnreachableError):
        await stream.receive(deadline_s=DEADLINE_S)
    with pytest.raises(UnreachableError):
        await (await raw(framed(wire.encode([b"abcde"]))[:kept])).receive_or_end(deadline_s=DEADLINE_S)


async def test_an_end_between_frames_counts_only_where_it_is_allowed() -> None:
    stream = await raw(framed(wire.encode([1])))
    assert await stream.receive_or_end(deadline_s=DEADLINE_S) is not None
    assert await stream.receive_or_end(deadline_s=DEADLINE_S) is None
    with pytest.raises(UnreachableError):
        await stream.receive(deadline_s=DEADLINE_S)


async def test_a_peer_that_takes_nothing_holds_no_sender(autojump_clock: MockClock) -> None:
    class FullStream(LoopStream):
        async def send_all(self, data: Buffer) -> None:
            await trio.sleep_forever()

    started = trio.current_time()
    with pytest.raises(UnreachableError, match="took nothing"):
        await FramedStream.opened(FullStream(), PREAMBLE).send([1])
    assert trio.current_time() - started == limits.SEND_DEADLINE_S
    with pytest.raises(UnreachableError, match="took nothing"):
        await FramedStream.opened(FullStream(), PREAMBLE).send_block([0, 0], bytes(64))
    await FramedStream(FullStream()).send_error("busy", "later")  # nobody is there to be told


async def test_silence_ends_at_the_deadline(autojump_clock: MockClock) -> None:
    stream = await raw(b"\x00\x00", ended=False)
    start_s = trio.current_time()
    with pytest.raises(UnreachableError):
        await stream.receive(deadline_s=30)
    assert trio.current_time() - start_s == pytest.approx(30)


VALUES = st.lists(
    st.recursive(
        st.integers(-(2**63), 2**64 - 1)
        | st.binary(max_size=80)
        | st.text(max_size=20)
        | st.none()
        | st.booleans(),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    ),
    max_size=6,
).filter(lambda value: value[:1] != ["error"])


@settings(max_examples=30, deadline=None)
@given(
    frames=st.lists(st.tuples(VALUES, st.none() | st.binary(min_size=1, max_size=300)), max_size=8),
    seed=st.integers(),
)
def test_any_sequence_of_frames_survives_any_cutting(
    frames: list[tuple[list[wire.Value], bytes | None]], seed: int
) -> None:
    async def exchange() -> None:
        stream = FramedStream(LoopStream(piece_sizes=Random(seed)))
        sent = []
        for values, block in frames:
            if block is None:
                await stream.send(values)
            elif len(wire.encode(values)) <= limits.BLOCK_HEADER_BYTES_MAX:
                await stream.send_block(values, block)
            else:
                continue
            sent.append((values, block))
        for values, block in sent:
            frame = await stream.receive_frame(deadline_s=DEADLINE_S)
            assert (frame.values, frame.block) == (values, block)

    trio.run(exchange)


@settings(max_examples=60, deadline=None)
@given(garbage=st.binary(max_size=200))
def test_garbage_never_raises_anything_else(garbage: bytes) -> None:
    async def feed() -> None:
        stream = await raw(garbage)
        for _ in range(len(garbage) + 1):
            try:
                await stream.receive_frame(deadline_s=DEADLINE_S)
            except (ProtocolError, UnreachableError, RefusedError):
                return
        pytest.fail("more frames than bytes")

    trio.run(feed)
