"""Who decides how much a peer may send ahead: what Yamux needs of the node's rates. Layer 3.

Invariant: what a peer may send on a stream is what its first window allows, and what was granted since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from node import limits
from node.net.fair_queue import Flow


class WindowGate(Protocol):
    """When the peer may send more on one stream."""

    @property
    def is_open(self) -> bool:
        """Whether nothing limits it now."""
        ...

    def pay_from(self, flow: Flow) -> None:
        """Have what arrives paid from other buckets."""
        ...

    def want(self, byte_count: int) -> None:
        """The stream could take more: it is told what may come. Nothing while an earlier wish waits."""
        ...

    def came_unpaid(self, byte_count: int) -> None:
        """A frame came with bytes not granted here: of a first window, or from before a rate was set."""
        ...

    def close(self) -> None:
        """The stream takes nothing more."""
        ...


class WindowPacer(Protocol):
    """A node's part in it."""

    @property
    def first_window_bytes(self) -> int:
        """What a new stream may begin with, unasked."""
        ...

    def gate(self, on_granted: Callable[[int], None]) -> WindowGate:
        """For a new stream; `on_granted` is told how much may come, once for each wish."""
        ...


class Unpaced:
    """No rates: full windows at once."""

    first_window_bytes = limits.STREAM_FIRST_WINDOW_BYTES

    def gate(self, on_granted: Callable[[int], None]) -> WindowGate:
        """An open one."""
        return _OPEN


class _OpenGate:
    is_open = True

    def pay_from(self, flow: Flow) -> None:
        """Nothing is paid."""

    def want(self, byte_count: int) -> None:
        """Never asked of an open gate."""
        raise AssertionError("an open gate grants nothing")

    def came_unpaid(self, byte_count: int) -> None:
        """Nothing is paid."""

    def close(self) -> None:
        """Nothing waits."""


_OPEN = _OpenGate()
