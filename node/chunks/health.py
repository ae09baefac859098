"""Health of a file from proofs: who really has which shard, now. Layer 4.

Invariants: a shard counts as alive only when its holder answered with a leaf list that has the manifest's
root and with a block that has its leaf, during this call; records alone prove nothing; no key is needed.
Source: design.md, section 1 (health) and section 8, invariant 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from node.chunks.scores import Scoreboard
from node.ports import Directory, Entropy, Network, Offload
from node.units import FileHash, Multiaddr, PeerId

ShardState = Literal["proved", "slow", "corrupt", "missing", "unreachable"]


@dataclass(frozen=True, slots=True)
class HolderHealth:
    """What one holder answered for one shard."""

    peer_id: PeerId
    shard: int
    state: ShardState


@dataclass(frozen=True, slots=True)
class SegmentHealth:
    """`alive` counts distinct shards proved during the call (slow ones included)."""

    index: int
    alive: int
    needed: int
    total: int
    holders: tuple[HolderHealth, ...]


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a file; `healthy` when no segment has lost more of its parity than repair tolerates."""

    file_hash: FileHash
    healthy: bool
    segments: tuple[SegmentHealth, ...]


class HealthChecker:
    """Asks every known holder of every segment for a proof."""

    def __init__(
        self,
        *,
        network: Network,
        directory: Directory,
        entropy: Entropy,
        offload: Offload,
        scores: Scoreboard,
    ) -> None:
        raise NotImplementedError

    async def check(
        self,
        file_hash: FileHash,
        *,
        via: tuple[Multiaddr, ...] = (),
        verify: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> HealthReport:
        """Challenge every holder; with `verify`, read every block of every shard.

        `on_progress(segments_done, segments_total)`. Raises `NotFoundError` where no manifest is found;
        returns whatever the health is otherwise.
        """
        raise NotImplementedError
