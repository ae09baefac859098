"""A small swarm that tests share: who takes part in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.control.local_swarm import LocalSwarm, NodeProcess
from node.limits import DHT_BUCKET_CONTACTS


@dataclass(frozen=True)
class People:
    """The sharer puts, the friend fetches, donors keep. The first two give nothing."""

    swarm: LocalSwarm
    donors: list[NodeProcess]
    sharer: NodeProcess
    friend: NodeProcess

    @property
    def everyone(self) -> list[NodeProcess]:
        """All nodes."""
        return [*self.donors, self.sharer, self.friend]


@contextmanager
def gathering(folder: Path, *, donors: int, donate: str) -> Iterator[People]:
    """A swarm in which everybody knows everybody."""
    with LocalSwarm(folder) as swarm:
        (first,) = swarm.start(donate=donate)
        others = [swarm.spawn(donate=donate, bootstrap=[first]) for _ in range(donors - 1)]
        sharer, friend = (swarm.spawn(bootstrap=[first]) for _ in range(2))
        for node in (*others, sharer, friend):
            node.wait_ready()
        for node in swarm.nodes:
            swarm.wait_known(node, min(donors + 1, DHT_BUCKET_CONTACTS))
        yield People(swarm, [first, *others], sharer, friend)
