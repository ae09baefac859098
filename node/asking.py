"""One peer, as whoever asks it sees it: requests over one stream, one after another. Layer 4.

Invariants: every wait for a reply has a deadline; what is illegal in the bytes that came is the peer's fault
(`PeerMisbehavedError`), a refusal in words is not (`RefusedError`). A session is used by one task at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from node import limits
from node.errors import PeerMisbehavedError, ProtocolError
from node.framing import FramedStream
from node.tagged import Table
from node.units import PeerId

M = TypeVar("M")
Reply = TypeVar("Reply")


class Session(Generic[M]):
    """What sessions of any protocol have in common; its context closes it, or resets it after an error."""

    def __init__(self, framed: FramedStream, messages: Table[M]) -> None:
        self._framed = framed
        self._messages = messages

    @property
    def peer_id(self) -> PeerId:
        """The other end."""
        return self._framed.peer_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            await self.reset()

    async def aclose(self) -> None:
        """End the session in good order."""
        await self._framed.aclose()

    async def reset(self) -> None:
        """Drop the session."""
        await self._framed.reset()

    async def _send(self, request: M) -> None:
        await self._framed.send(self._messages.encode(request))

    async def _ask(
        self, request: M, kind: type[Reply], *, deadline_s: float = limits.REPLY_DEADLINE_S
    ) -> Reply:
        await self._send(request)
        return await self._reply(kind, deadline_s=deadline_s)

    async def _reply(self, kind: type[Reply], *, deadline_s: float = limits.REPLY_DEADLINE_S) -> Reply:
        with self._blaming():
            return expect(self._messages.decode(await self._framed.receive(deadline_s=deadline_s)), kind)

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """What is illegal in the bytes that came is the peer's fault."""
        try:
            yield
        except ProtocolError as error:
            raise PeerMisbehavedError(self._framed.peer, str(error)) from error


def expect(message: object, kind: type[Reply]) -> Reply:
    """`message`, which is to be of this kind. Raises `ProtocolError`."""
    if not isinstance(message, kind):
        raise ProtocolError(f"a {type(message).__name__} where a {kind.__name__} was due")
    return message
