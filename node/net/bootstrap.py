"""Joining: keep some peers connected from every source of addresses there is. Layer 4.

Sources, in this order of trust: `--bootstrap` (which replaces the lists in files), the lists in
`bootstrap_peers.toml`, the addresses in links (`via`), peers found by mDNS, peers that were met before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node.ports import Clock, KeyValue, Network
from node.units import Contact, PeerId


@dataclass(frozen=True, slots=True)
class BootstrapStatistics:
    """What the join looks like from here."""

    connected: int
    listed: int
    remembered: int


class Bootstrap:
    """Keeps at least `peers_min` peers connected, in the background."""

    def __init__(
        self,
        network: Network,
        key_values: KeyValue,
        clock: Clock,
        listed: Sequence[Contact],
        *,
        peers_min: int = 4,
    ) -> None: ...

    async def run(self) -> None:
        """Until cancelled. Never raises for a peer's sake."""
        raise NotImplementedError

    def add(self, contacts: Sequence[Contact]) -> None:
        """Try these soon: addresses of a link, or of a peer seen on the LAN."""

    def remember(self, contact: Contact) -> None:
        """A peer worth coming back to after a restart; call when a dial succeeded."""

    def statistics(self) -> BootstrapStatistics:
        """For `cairn status`."""
        raise NotImplementedError

    async def wait_connected(self, timeout_s: float) -> bool:
        """Whether some peer is connected, waiting up to `timeout_s` for the first."""
        raise NotImplementedError


def load_bootstrap_peers(home: Path) -> tuple[Contact, ...]:
    """Peers of the shipped `bootstrap_peers.toml` and of the file of that name in `home`.

    Raises `ConfigError` naming the file and the entry.
    """
    raise NotImplementedError


def parse_contact(multiaddr: str) -> Contact:
    """The contact of `/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...`. Raises `ConfigError`."""
    raise NotImplementedError


def peer_multiaddr(address: str, peer_id: PeerId) -> str:
    """`address` with its /p2p part, as `ready` prints it."""
    raise NotImplementedError
