"""Sessions: a reply of the kind that is due, or blame for whoever broke the rules, and for nobody else."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from trio.testing import MockClock

from node import limits
from node.asking import Session
from node.chunks.healing import messages
from node.errors import PeerMisbehavedError, RefusedError, UnreachableError
from node.framing import FramedStream
from tests.loop_stream import LoopStream


class Asked(Session[messages.Message]):
    """A session with a peer that answers every request by its echo."""

    def __init__(self, loop: LoopStream) -> None:
        super().__init__(FramedStream(loop), messages.TABLE)

    async def done(self) -> int:
        return (await self._ask(messages.Done(7), messages.Done)).count

    async def wrong(self) -> None:
        await self._ask(messages.Ready(), messages.Done)

    async def silent(self) -> None:
        await self._reply(messages.Done)


async def test_the_reply_that_is_due() -> None:
    assert await Asked(LoopStream()).done() == 7


async def test_another_reply_or_none_at_all_is_the_peers_fault() -> None:
    with pytest.raises(PeerMisbehavedError, match="a Ready where a Done was due"):
        await Asked(LoopStream()).wrong()
    loop = LoopStream()
    await FramedStream(loop).send(["nonsense", 1])
    with pytest.raises(PeerMisbehavedError, match="no such message"):
        await Asked(loop).silent()


async def test_a_refusal_and_silence_are_no_fault(autojump_clock: MockClock) -> None:
    loop = LoopStream()
    await FramedStream(loop).send_error("busy", "later")
    with pytest.raises(RefusedError, match="later"):
        await Asked(loop).silent()
    with pytest.raises(UnreachableError, match=f"{limits.REPLY_DEADLINE_S:g} s"):
        await Asked(LoopStream()).silent()


@pytest.mark.parametrize("fails", [False, True])
async def test_the_context_closes_in_good_order_and_resets_after_an_error(fails: bool) -> None:
    ended: list[str] = []

    class Watched(LoopStream):
        async def aclose(self) -> None:
            ended.append("closed")

        async def reset(self) -> None:
            ended.append("reset")

    with pytest.raises(ZeroDivisionError) if fails else nullcontext():
        async with Asked(Watched()) as session:
            await session.done()
            if fails:
                raise ZeroDivisionError
    assert ended == ["reset" if fails else "closed"]
