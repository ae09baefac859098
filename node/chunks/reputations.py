"""What chunks' services ask and tell about donors' reputation, as a port. Layer 2, pure.

The composition wires it to credit's reputation store; cores of chunks and credit never import each other.
Source: credit.md, "Audits".
"""

from __future__ import annotations

from typing import Final, Protocol

from node.units import PeerId

FULL_WEIGHT: Final = 1_000_000


class Reputations(Protocol):
    """Donors, as this node's own observations show them."""

    def takes_new_shards(self, peer_id: PeerId) -> bool:
        """Whether anything new is placed there: not while it is suspended, never after a contradiction."""
        ...

    def weight(self, peer_id: PeerId) -> int:
        """For placement and get, 0 to `FULL_WEIGHT`; unknown donors have the full one."""
        ...

    def is_vetted(self, peer_id: PeerId) -> bool:
        """Whether it has passed audits enough to be more than new."""
        ...

    def is_contradicted(self, peer_id: PeerId) -> bool:
        """Whether it signed an answer that contradicts a root."""
        ...


class ReputationLog(Reputations, Protocol):
    """The same, for whoever observes."""

    def passed(self, peer_id: PeerId, sample_count: int, *, late: bool = False) -> None:
        """Samples of one audit were right."""
        ...

    def failed(self, peer_id: PeerId, sample_count: int, *, contradicts: bool = False) -> None:
        """Samples were missing, or signed and false."""
        ...

    def erred(self, peer_id: PeerId) -> None:
        """An audit ended in an error that says nothing of the bytes."""
        ...

    def left_unanswered(self, peer_id: PeerId, challenge: bytes) -> bool:
        """Connected, no answer in time; whether that was once too often, which is a failure."""
        ...

    def unreachable(self, peer_id: PeerId) -> None:
        """It can't be dialled: suspended until it can."""
        ...

    def reachable(self, peer_id: PeerId) -> None:
        """It is there again."""
        ...


class NoReputations:
    """Everyone is as good as new: for a node's parts used alone."""

    def takes_new_shards(self, peer_id: PeerId) -> bool:
        """Yes."""
        return True

    def weight(self, peer_id: PeerId) -> int:
        """The full one."""
        return FULL_WEIGHT

    def is_vetted(self, peer_id: PeerId) -> bool:
        """Nobody is."""
        return False

    def is_contradicted(self, peer_id: PeerId) -> bool:
        """Nobody is."""
        return False
