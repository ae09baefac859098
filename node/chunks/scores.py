"""What this node has seen of each peer: latency, speed, failures. Layer 2, pure.

Invariants: scores come from own observations only; time is an argument; the number of peers kept is
bounded (`limits.SCORES_MAX`); a peer never seen ranks between the good and the bad.
"""

from __future__ import annotations

from node.units import PeerId


class Scoreboard:
    """Own observations of peers. Not thread-safe; one event loop uses it."""

    def answered(self, peer_id: PeerId, *, latency_s: float, now_s: int) -> None:
        """The peer answered a small request after `latency_s`."""
        raise NotImplementedError

    def delivered(self, peer_id: PeerId, *, byte_count: int, seconds: float, now_s: int) -> None:
        """The peer sent or took `byte_count` block bytes in `seconds`."""
        raise NotImplementedError

    def failed(self, peer_id: PeerId, *, now_s: int) -> None:
        """The peer was unreachable, fell silent or was replaced as too slow."""
        raise NotImplementedError

    def misbehaved(self, peer_id: PeerId, *, now_s: int) -> None:
        """The peer sent what no honest peer sends: a wrong block, a broken message."""
        raise NotImplementedError

    def expected_s(self, peer_id: PeerId, *, byte_count: int, now_s: int) -> float:
        """Expected seconds until `byte_count` bytes arrive from this peer, failures weighed in: a rank, not a promise."""
        raise NotImplementedError
