"""Joining: keep some peers connected, from every source of addresses there is. Layer 4.

Sources: `--bootstrap` (which replaces the lists in files), the lists in `bootstrap_peers.toml`, the
addresses in links, peers found by mDNS, and peers that were met before. New addresses are tried at once;
after that, candidates are dialled only while fewer than `peers_min` peers are connected, with a growing wait
after each failure. Nothing waits for this: a node without peers works, alone.

Remembered peers live in one table of bounded size: peer id -> [last seen, addresses].
"""

from __future__ import annotations

import importlib.metadata
import logging
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from node import limits, wire
from node.crypto.identity import parse_peer_id, peer_id_text
from node.errors import ConfigError, ProtocolError, StoreError, UnreachableError, UsageError
from node.ports import Clock, KeyValue, Network, Offload, WriteTransaction
from node.units import Contact, Multiaddr, PeerId

logger = logging.getLogger(__name__)

FILE_NAME: Final = "bootstrap_peers.toml"
_TABLE: Final = "remembered-peers"
_PEERS_MIN: Final = 4
_DIALS_AT_ONCE: Final = 4
_CHECK_INTERVAL_S: Final = 5.0
_CALM_INTERVAL_S: Final = 60.0
"""Between looks when enough peers are connected: a node at rest should hardly wake up."""
_WRITE_INTERVAL_S: Final = 60.0
_FIRST_WAIT_S: Final = 2.0
_WAIT_S_MAX: Final = 300.0
_MULTIADDR_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class BootstrapStatistics:
    """What the join looks like from here."""

    connected: int
    candidates: int
    remembered: int


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    is_listed: bool
    is_new: bool = True
    failures: int = 0
    due_s: float = 0.0


class Bootstrap:
    """Keeps at least `peers_min` peers connected, in the background."""

    def __init__(
        self,
        network: Network,
        key_values: KeyValue,
        clock: Clock,
        listed: Sequence[Contact],
        *,
        offload: Offload | None = None,
        peers_min: int = _PEERS_MIN,
    ) -> None:
        """`listed` are tried first and never forgotten. With `offload`, commits run beside the event loop."""
        self._network = network
        self._key_values = key_values
        self._clock = clock
        self._offload = offload
        self._peers_min = peers_min
        self._candidates: dict[PeerId, _Candidate] = {}
        self._met: dict[PeerId, Contact] = {}
        self._woken = trio.Event()
        self._connected = trio.Event()
        self._has_met = trio.Event()
        for contact in listed:
            self._add(contact, is_listed=True)
        for contact in self._load():
            self._add(contact, is_listed=False)
        network.on_connected(self._on_connected)

    async def run(self) -> None:
        """Until cancelled. Never raises for a peer's sake."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_forever)
            while True:
                self._woken = trio.Event()
                await self._dial_due()
                is_calm = len(self._network.connected()) >= self._peers_min
                with trio.move_on_after(_CALM_INTERVAL_S if is_calm else _CHECK_INTERVAL_S):
                    await self._woken.wait()

    def add(self, contacts: Sequence[Contact]) -> None:
        """Try these now: addresses of a link, or of a peer seen on the LAN."""
        for contact in contacts:
            self._add(contact, is_listed=False)
        self._woken.set()

    def remember(self, contact: Contact) -> None:
        """A peer worth coming back to after a restart."""
        if contact.addresses and len(self._met) < limits.REMEMBERED_PEERS_MAX:
            self._met[contact.peer_id] = contact
            self._has_met.set()

    def statistics(self) -> BootstrapStatistics:
        """For `cairn status`."""
        with self._key_values.view() as view:
            remembered = view.count(_TABLE)
        return BootstrapStatistics(len(self._network.connected()), len(self._candidates), remembered)

    async def wait_connected(self, timeout_s: float) -> bool:
        """Whether some peer is connected, waiting up to `timeout_s` for the first."""
        if not self._network.connected():
            with trio.move_on_after(timeout_s):
                await self._connected.wait()
        return bool(self._network.connected())

    def _on_connected(self, peer_id: PeerId) -> None:
        self._connected.set()
        self.remember(Contact(peer_id, self._network.addresses_of(peer_id)))

    def _add(self, contact: Contact, *, is_listed: bool) -> None:
        if contact.peer_id == self._network.peer_id or not contact.addresses:
            return
        known = self._candidates.pop(contact.peer_id, None)
        addresses = contact.addresses + (known.contact.addresses if known else ())
        addresses = tuple(dict.fromkeys(addresses))[: limits.DIAL_ADDRESSES_MAX]
        is_listed = is_listed or (known is not None and known.is_listed)
        self._candidates[contact.peer_id] = _Candidate(Contact(contact.peer_id, addresses), is_listed)
        if len(self._candidates) > limits.BOOTSTRAP_CANDIDATES_MAX:
            oldest = next((peer for peer, c in self._candidates.items() if not c.is_listed), None)
            if oldest is not None:
                del self._candidates[oldest]

    async def _dial_due(self) -> None:
        """Dial new candidates, then as many others as are needed, listed ones first."""
        connected = set(self._network.connected())
        now_s = trio.current_time()
        due = [
            candidate
            for peer_id, candidate in self._candidates.items()
            if peer_id not in connected and candidate.due_s <= now_s
        ]
        due.sort(key=lambda candidate: (not candidate.is_new, not candidate.is_listed, candidate.failures))
        for start in range(0, len(due), _DIALS_AT_ONCE):
            batch = due[start : start + _DIALS_AT_ONCE]
            if len(self._network.connected()) >= self._peers_min:
                batch = [candidate for candidate in batch if candidate.is_new]
            if not batch:
                continue
            async with trio.open_nursery() as nursery:
                for candidate in batch:
                    nursery.start_soon(self._dial, candidate)

    async def _dial(self, candidate: _Candidate) -> None:
        candidate.is_new = False
        try:
            await self._network.connect(candidate.contact)
        except UnreachableError as error:
            logger.debug("joining: %s", error)
            wait_s = min(_FIRST_WAIT_S * 2.0 ** min(candidate.failures, 16), _WAIT_S_MAX)
            candidate.failures += 1
            candidate.due_s = trio.current_time() + wait_s
        else:
            candidate.failures = 0

    async def _write_forever(self) -> None:
        while True:
            await self._has_met.wait()
            await trio.sleep(_WRITE_INTERVAL_S)
            await self.flush()

    async def flush(self) -> None:
        """Write down who was met."""
        met, self._met = self._met, {}
        self._has_met = trio.Event()
        now_s = self._clock.now_s()

        def change(transaction: WriteTransaction) -> None:
            for peer_id, contact in met.items():
                transaction.put(_TABLE, peer_id, wire.encode([now_s, list(contact.addresses)]))
            _forget_oldest(transaction)

        try:
            if self._offload is None:
                self._key_values.update(change)
                await trio.lowlevel.checkpoint()
            else:
                await self._offload.run(lambda: self._key_values.update(change))
        except StoreError as error:
            logger.warning("who was met is written down later: %s", error)
            self._met = met | self._met

    def _load(self) -> list[Contact]:
        """Remembered peers, latest first."""
        found: list[tuple[int, Contact]] = []
        with self._key_values.view() as view:
            for peer_id, value in view.scan(_TABLE):
                remembered = _decode(value)
                if remembered is not None:
                    found.append((remembered[0], Contact(PeerId(peer_id), remembered[1])))
        found.sort(key=lambda item: -item[0])
        return [contact for _, contact in found]


def load_bootstrap_peers(home: Path) -> tuple[Contact, ...]:
    """Peers of the shipped `bootstrap_peers.toml` and of the file of that name in `home`.

    Raises `ConfigError` naming the file and the entry.
    """
    found: list[Contact] = []
    for path in (_shipped_file(), home / FILE_NAME):
        if path is not None and path.is_file():
            found.extend(_parse_file(path))
    return tuple(found)


def parse_contact(multiaddr: str) -> Contact:
    """The contact of `/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...`. Raises `ConfigError`."""
    address, separator, peer_text = multiaddr.strip().rpartition("/p2p/")
    if not separator or not address.startswith("/") or len(multiaddr) > _MULTIADDR_CHARACTERS_MAX:
        raise ConfigError(
            f"{multiaddr[:80]!r} does not name a peer: write /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo..."
        )
    try:
        return Contact(parse_peer_id(peer_text), (Multiaddr(address),))
    except UsageError as error:
        raise ConfigError(f"{multiaddr[:80]!r} does not end in a peer id: {error}") from error


def peer_multiaddr(address: str, peer_id: PeerId) -> str:
    """`address` with its /p2p part, as `ready` prints it."""
    return f"{address}/p2p/{peer_id_text(peer_id)}"


def _shipped_file() -> Path | None:
    """Beside the package in a checkout, in share/cairn where pip put it."""
    in_checkout = Path(__file__).parents[2] / FILE_NAME
    if in_checkout.is_file():
        return in_checkout
    try:
        files = importlib.metadata.files("cairn") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == FILE_NAME), None)


def _parse_file(path: Path) -> list[Contact]:
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8")).get("peers", [])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(listed, list) or not all(isinstance(entry, str) for entry in listed):
        raise ConfigError(f"{path}: `peers` must be a list of multiaddrs in quotes")
    try:
        return [parse_contact(entry) for entry in listed]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _forget_oldest(transaction: WriteTransaction) -> None:
    excess = transaction.count(_TABLE) - limits.REMEMBERED_PEERS_MAX
    if excess > 0:
        seen = sorted(((_decode(value) or (0, ()))[0], key) for key, value in transaction.scan(_TABLE))
        for _, key in seen[:excess]:
            transaction.delete(_TABLE, key)


def _decode(value: bytes) -> tuple[int, tuple[Multiaddr, ...]] | None:
    """None for what another version wrote: these are hints."""
    try:
        fields = wire.expect_list(wire.decode(value, size_max=limits.FRAME_BYTES_MAX), count=2)
        addresses = wire.expect_list(fields[1], count_max=limits.DIAL_ADDRESSES_MAX)
        texts = [wire.expect_str(address, bytes_max=_MULTIADDR_CHARACTERS_MAX) for address in addresses]
        return wire.expect_int(fields[0], low=0, high=2**63), tuple(map(Multiaddr, texts))
    except ProtocolError:
        return None
