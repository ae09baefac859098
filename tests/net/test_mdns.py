"""Multicast DNS, on the loopback interface alone."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.net import mdns
from node.net.mdns import discovering
from node.units import Contact, Multiaddr
from tests.dht.support import peer_id_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.swarm

LOOPBACK = ["127.0.0.1"]


async def test_nodes_find_each_other() -> None:
    contacts = [
        Contact(peer_id_of(index), (Multiaddr(f"/ip4/127.0.0.1/tcp/{4001 + index}"),)) for index in (1, 2)
    ]
    found: dict[int, Contact] = {}
    both = trio.Event()

    async def live(me: int) -> None:
        def on_found(contact: Contact) -> None:
            found[me] = contact
            if len(found) == 2:
                both.set()

        async with discovering(contacts[me].peer_id, contacts[me].addresses, on_found, interfaces=LOOPBACK):
            await trio.sleep_forever()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live, 0)
            nursery.start_soon(live, 1)
            await both.wait()
            nursery.cancel_scope.cancel()
    assert found == {0: contacts[1], 1: contacts[0]}


async def test_a_machine_without_multicast_is_no_error() -> None:
    """An interface address that is not this machine's."""
    async with discovering(
        peer_id_of(1), [Multiaddr("/ip4/127.0.0.1/tcp/1")], lambda contact: None, interfaces=["192.0.2.1"]
    ):
        await trio.testing.wait_all_tasks_blocked()


async def test_a_node_on_loopback_alone_stays_off_the_lan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "Zeroconf", None)  # starting it would fail
    async with discovering(peer_id_of(1), [Multiaddr("/ip4/127.0.0.1/tcp/1")], lambda contact: None):
        await trio.testing.wait_all_tasks_blocked()
