"""A Yamux stream as the port's Stream: errors mapped, protocol agreed upon. Layer 3."""

from __future__ import annotations

import trio

from node.crypto.identity import peer_id_text
from node.errors import RefusedError, UnreachableError
from node.net import multistream
from node.net.fair_queue import Flow
from node.net.noise import ChannelError
from node.net.yamux_stream import PEER_RESET, YamuxStream
from node.ports import Buffer
from node.units import PeerId

_REFUSAL = multistream.refusal()


class NetworkStream:
    """One stream of the Network port."""

    def __init__(self, stream: YamuxStream, peer_id: PeerId) -> None:
        self._stream = stream
        self._peer_id = peer_id
        self._answer_due = b""
        self._answer = b""

    @property
    def peer_id(self) -> PeerId:
        """Who is at the other end."""
        return self._peer_id

    async def propose(self, protocol: str) -> None:
        """Name the protocol; the answer is what the peer sends first. Raises `UnreachableError`."""
        proposal = multistream.proposal(protocol)
        self._answer_due = proposal  # who agrees repeats it
        await self.send_all(proposal)

    async def wait_agreed(self) -> None:
        """Read the answer; after a cancellation, go on. Raises `RefusedError`, `UnreachableError`."""
        while self._answer_due and self._answer != self._answer_due:
            try:
                part = await self._stream.receive_some(len(self._answer_due) - len(self._answer))
            except ChannelError as error:
                if self._stream.fault == PEER_RESET:
                    raise RefusedError(self.peer, "busy", "has too many streams") from error
                raise self._unreachable(error) from error
            if not part:
                raise UnreachableError(self.peer, "the stream ended before its protocol was agreed")
            self._answer += part
            if not self._answer_due.startswith(self._answer):
                self._stream.reset()
                if _REFUSAL.startswith(self._answer):
                    raise RefusedError(self.peer, "protocol", "does not speak this protocol")
                raise UnreachableError(self.peer, "the answer is no protocol negotiation")
        self._answer_due = b""

    async def send_all(self, data: Buffer) -> None:
        """As the port says."""
        try:
            await self._stream.send_all(data)
        except ChannelError as error:
            raise self._unreachable(error) from error

    async def receive_some(self, max_bytes: int) -> bytes:
        """As the port says."""
        try:
            if self._answer_due:
                await self.wait_agreed()
            return await self._stream.receive_some(max_bytes)
        except ChannelError as error:
            raise self._unreachable(error) from error
        except RefusedError as error:
            # The peer spoke this protocol a moment ago; only `open_stream` may refuse.
            raise UnreachableError(self.peer, "no longer takes streams of this protocol") from error

    def pay_from(self, flow: Flow) -> None:
        """Have what arrives paid from these buckets."""
        self._stream.pay_from(flow)

    async def wait_window(self, wanted_bytes: int) -> int:
        """Wait until the peer takes some of `wanted_bytes`; how many. Raises `UnreachableError`."""
        try:
            return await self._stream.wait_window(wanted_bytes)
        except ChannelError as error:
            raise self._unreachable(error) from error

    async def close_write(self) -> None:
        """As the port says."""
        self._stream.close_write()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """As the port says."""
        self._stream.close()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """As the port says."""
        self._stream.reset()
        await trio.lowlevel.checkpoint()

    def reset_nowait(self) -> None:
        """The same, where nothing can be awaited."""
        self._stream.reset()

    @property
    def peer(self) -> str:
        """The peer id as text, for errors."""
        return peer_id_text(self._peer_id)

    def _unreachable(self, error: ChannelError) -> UnreachableError:
        return UnreachableError(self.peer, str(error))
