"""The daemon's life: lock the home, open everything, say "ready", wait for a signal, close in order. Layer 5.

Invariants: one process a home (`StoreInUseError`); "ready" means listening, store open and control socket
answering, and never waits for peers; SIGTERM and Ctrl-C end it cleanly, a second one at once; the log is
bounded and holds no key and no link. Source: design.md, section 7.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import trio

from node import limits
from node.chunks.store.space import check_cap
from node.control.api import control_handlers
from node.control.server import serving
from node.control.web import PageAddress, no_page, serving_page
from node.crypto.identity import account_text, peer_id_text
from node.crypto.keystore import NodeKeys, open_or_create
from node.daemon.compose import Node, NodePorts, open_node
from node.daemon.config import Config, load_config
from node.daemon.home import Home
from node.daemon.memory import DaemonMemory, Donation
from node.errors import ConfigError, DamagedStoreError, NodeError
from node.net.bootstrap import load_bootstrap_peers, parse_contact, peer_multiaddr
from node.net.libp2p_network import Libp2pNetwork, open_network
from node.net.mdns import discovering
from node.system.clock import SystemClock
from node.system.disk import DiskFiles, HomeLock
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore, is_damaged, open_anew_if_damaged
from node.system.offload import ThreadOffload
from node.units import KIB, Contact, Multiaddr

LOG_BYTES_MAX = 512 * KIB  # two of these fit the 4 MiB that a donor's cap keeps for records and logs
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `cairn run` was told."""

    home: Home
    listen: tuple[Multiaddr, ...] = ()
    announce: tuple[Multiaddr, ...] = ()
    """What others are told to dial as well: a forwarded port, a name."""
    bootstrap: tuple[str, ...] | None = None
    """Replaces the lists in files; None leaves them."""
    donate_bytes: int | None = None
    mdns: bool = True
    web: PageAddress | None = None
    """Where the page is served; None serves none."""
    overrides: tuple[str, ...] = ()
    verbose: int = 0
    passphrase: str | None = field(default=None, repr=False)
    """Opens the keystore; seals that of a new home."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a node says when it is ready; `addresses` end in `/p2p/<peer id>`."""

    peer_id: str
    addresses: tuple[str, ...]
    account: str
    pid: int
    gives_bytes: int
    web: str | None
    """The page's URL, with its token."""


OnReady = Callable[[Ready], None]


def run_node(options: RunOptions, on_ready: OnReady) -> None:
    """Run a node until a signal ends it; `on_ready` is called once.

    Raises:
        StoreInUseError: another process has this home.
        ConfigError: a setting, an address or a peer is not valid.
        WrongPassphraseError: the keystore does not open.
        StoreError: the disk or the store on it failed.
        UsageError: a cap too small to hold anything.
    """
    if len(options.announce) > limits.HINT_ADDRESSES_MAX:
        raise ConfigError(f"at most {limits.HINT_ADDRESSES_MAX} addresses can be announced")
    check_cap(options.donate_bytes or 0)
    options.home.make()
    with HomeLock(options.home.path), _logging(options):
        config = load_config(options.home.config_path, options.overrides)
        listed = _listed_peers(options)
        try:
            _run_to_the_end(options, config, listed, on_ready)
        except DamagedStoreError as error:
            if not is_damaged(options.home.path / "index"):
                raise
            _logger.warning("%s: starting again", error)
            _run_to_the_end(options, config, listed, on_ready)


def _run_to_the_end(
    options: RunOptions, config: Config, listed: Sequence[Contact], on_ready: OnReady
) -> None:
    try:
        trio.run(_run, options, config, listed, on_ready, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        _raise_one(group)


async def _run(options: RunOptions, config: Config, listed: Sequence[Contact], on_ready: OnReady) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, options, config, listed, on_ready)
            async for number in signals:
                _logger.info("stopping on %s", signal.Signals(number).name)
                nursery.cancel_scope.cancel()
                break
    # From here the default handlers are back: a second signal ends the process at once.


async def _serve(options: RunOptions, config: Config, listed: Sequence[Contact], on_ready: OnReady) -> None:
    async with _opened(options, config, listed) as node:
        handlers, log_path = control_handlers(node), options.home.log_path
        async with AsyncExitStack() as stack:
            page = None
            if options.web is not None:
                page = await stack.enter_async_context(
                    serving_page(node, handlers, options.web, log_path=log_path)
                )
            calls = {**handlers, "url": no_page if page is None else page.url_handler}
            path = options.home.place_socket()
            await stack.enter_async_context(serving(path, calls, log_path=log_path))
            on_ready(_ready(node, None if page is None else page.url))
            await trio.sleep_forever()


@asynccontextmanager
async def _opened(options: RunOptions, config: Config, listed: Sequence[Contact]) -> AsyncIterator[Node]:
    """A node over the adapters of this machine."""
    home = options.home.path
    async with AsyncExitStack() as stack:
        files, entropy = DiskFiles(home), SystemEntropy()
        keys = open_or_create(files, entropy, options.passphrase)
        state = _open_state(home / "state")
        stack.callback(state.close)
        index, damage = open_anew_if_damaged(home / "index")
        stack.callback(index.close)
        if damage is not None:
            _logger.warning("%s: it is made anew from the packs", damage)
        memory = DaemonMemory(state)
        if options.donate_bytes is not None:
            given = memory.donation()
            memory.set_donation(Donation(options.donate_bytes, given.rate_bytes_s, given.pledge))
        network = await stack.enter_async_context(_listening(options, keys, memory))
        ports = NodePorts(
            network, files, state, index, SystemClock(), entropy, ThreadOffload(), network.standing
        )
        node = await stack.enter_async_context(open_node(config, ports, keys, listed=listed))
        if options.mdns:
            await stack.enter_async_context(
                discovering(
                    keys.peer_id, network.listen_addresses(), lambda found: node.join_through([found])
                )
            )
        yield node


def _open_state(folder: Path) -> LmdbStore:
    try:
        return LmdbStore(folder)
    except DamagedStoreError as error:
        raise DamagedStoreError(
            f"{error}: put back a copy, or bring the account back in another home (`cairn recovery restore`)"
        ) from error


@asynccontextmanager
async def _listening(
    options: RunOptions, keys: NodeKeys, memory: DaemonMemory
) -> AsyncIterator[Libp2pNetwork]:
    """The network on the addresses given, else on the port that was chosen once, else on a fresh one."""
    seed = keys.identity.seed
    if options.listen:
        async with open_network(seed, options.listen, announce=options.announce) as network:
            yield network
        return
    port = memory.port()
    async with AsyncExitStack() as stack:
        try:
            network = await stack.enter_async_context(_open_anywhere(seed, port or 0, options.announce))
        except ConfigError:
            if port is None:
                raise
            _logger.warning("port %d is taken by another program: choosing a new one", port)
            network = await stack.enter_async_context(_open_anywhere(seed, 0, options.announce))
        if network.port is not None:
            memory.set_port(network.port)
        yield network


def _open_anywhere(
    seed: bytes, port: int, announce: Sequence[Multiaddr]
) -> AbstractAsyncContextManager[Libp2pNetwork]:
    """One port of every address of this machine, IPv6 where there is one."""
    return open_network(
        seed,
        [Multiaddr(f"/ip4/0.0.0.0/tcp/{port}")],
        also=[Multiaddr(f"/ip6/::/tcp/{port}")],
        announce=announce,
    )


def _listed_peers(options: RunOptions) -> tuple[Contact, ...]:
    if options.bootstrap is not None:
        return tuple(parse_contact(multiaddr) for multiaddr in options.bootstrap)
    return load_bootstrap_peers(options.home.path)


def _ready(node: Node, web: str | None) -> Ready:
    network, keys = node.ports.network, node.keys
    return Ready(
        peer_id=peer_id_text(keys.peer_id),
        addresses=tuple(peer_multiaddr(address, keys.peer_id) for address in network.listen_addresses()),
        account=account_text(keys.account_id),
        pid=os.getpid(),
        gives_bytes=node.donation().cap_bytes,
        web=web,
    )


@contextmanager
def _logging(options: RunOptions) -> Iterator[None]:
    """Everything to a bounded file; warnings (with -v all of it) to stderr as well."""
    root = logging.getLogger()
    level = logging.DEBUG if options.verbose > 1 else logging.INFO
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    file = logging.handlers.RotatingFileHandler(
        options.home.log_path, maxBytes=LOG_BYTES_MAX, backupCount=1, encoding="utf-8"
    )
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(level if options.verbose else logging.WARNING)
    for handler in (file, screen):
        handler.setFormatter(form)
        root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        for handler in (file, screen):
            root.removeHandler(handler)
            handler.close()


def _raise_one(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Of several tasks' errors, the one to tell a person about; a group without one is a bug and stays."""
    known, unknown = group.split(NodeError)
    if known is None or unknown is not None:
        raise group
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error
