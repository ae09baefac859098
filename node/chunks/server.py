"""The holder: serves `/cairn/shards/1`. Layer 4.

Invariants: nothing is reserved, read or kept beyond limits.py; a reply to a close means durable; what a peer
sends is checked against the manifest's roots and the owner's signature before it counts; an illegal
message ends its stream and changes nothing in the store. Source: design.md, sections 4 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from node.crypto.keystore import NodeKeys
from node.framing import Preamble
from node.ports import Clock, Directory, Network, Offload


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counts for `cairn status` and tests."""

    open_puts: int
    blocks_received: int
    blocks_served: int
    bytes_received: int
    bytes_served: int
    leases_signed: int
    requests_refused: int


class ShardServer:
    """Keeps shards for others, and serves them."""

    def __init__(
        self,
        *,
        network: Network,
        store: object,
        directory: Directory,
        keys: NodeKeys,
        preamble: Preamble,
        clock: Clock,
        offload: Offload,
    ) -> None:
        """`store` is a `ShardStore`; its cap decides whether this node is a donor at all."""
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once requests are taken."""
        raise NotImplementedError

    def statistics(self) -> ServerStatistics:
        """Counts as of now."""
        raise NotImplementedError
