"""A donor's disk is under its cap at every write: real nodes, the real network, the real disk.

The same on the simulated disk, with a rate, is in `tests/daemon/test_donor.py`.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from node.crypto.keystore import open_or_create
from node.daemon.compose import Node, NodePorts, open_node
from node.daemon.config import Config
from node.daemon.memory import DaemonMemory, Donation
from node.net.libp2p_network import open_network
from node.system.clock import SystemClock
from node.system.disk import DiskFile, DiskFiles
from node.system.entropy import SystemEntropy
from node.system.lmdb_store import LmdbStore
from node.system.offload import ThreadOffload
from node.units import Contact, Multiaddr
from tests.patience import PATIENCE_S
from tests.pushing import put_until_refused

CAP_BYTES = 64_000_000
UPLOADERS = 6

pytestmark = pytest.mark.swarm


class Watcher:
    """What lies under a folder, after every call that may change a disk."""

    def __init__(self, folder: Path) -> None:
        self._files = DiskFiles(folder)
        self._lock = threading.Lock()
        self.looks = 0
        self.most_bytes = 0

    def look(self) -> None:
        with self._lock:
            self.looks += 1
            self.most_bytes = max(self.most_bytes, self._files.allocated_bytes())

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            try:
                return call(*arguments, **named)
            finally:
                self.look()

        return watched


@asynccontextmanager
async def living(home: Path, *, gives: int = 0, listed: Sequence[Contact] = ()) -> AsyncIterator[Node]:
    """A node over the adapters of this machine, as the daemon has it; `home` exists."""
    async with AsyncExitStack() as stack:
        files, entropy = DiskFiles(home), SystemEntropy()
        keys = open_or_create(files, entropy, None)
        state, index = (LmdbStore(home / name) for name in ("state", "index"))
        stack.callback(state.close)
        stack.callback(index.close)
        DaemonMemory(state).set_donation(Donation(gives))
        listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
        network = await stack.enter_async_context(open_network(keys.identity.seed, listen))
        ports = NodePorts(network, files, state, index, SystemClock(), entropy, ThreadOffload())
        yield await stack.enter_async_context(open_node(Config(), ports, keys, listed=listed))


async def test_six_uploaders_push_a_real_donor_over_its_cap_at_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wants 16 MB kept: half more than fits."""
    homes = [tmp_path / name for name in ("donor", *(f"person {number}" for number in range(UPLOADERS)))]
    for home in homes:
        home.mkdir(mode=0o700)

    async with AsyncExitStack() as stack:
        donor = await stack.enter_async_context(living(homes[0], gives=CAP_BYTES))
        watcher = Watcher(homes[0])
        for owner, name in (
            (DiskFile, "write_at"), (DiskFile, "truncate"), (DiskFile, "sync"), (DiskFiles, "replace"),
            (LmdbStore, "update"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, watcher.after(getattr(owner, name)))
        contact = Contact(donor.keys.peer_id, donor.ports.network.listen_addresses())
        people = [await stack.enter_async_context(living(home, listed=[contact])) for home in homes[1:]]
        for person in people:
            assert await person.wait_joined(PATIENCE_S)
        refused = await put_until_refused(people, tmp_path, times=8)
        used_bytes = donor.statistics().store.used_bytes
    assert watcher.looks > 1_000
    assert watcher.most_bytes <= CAP_BYTES
    assert used_bytes > 0.8 * CAP_BYTES
    assert refused
