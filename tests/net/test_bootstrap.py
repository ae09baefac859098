"""Joining: sources, order, back-off, memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from node import limits
from node.crypto.identity import peer_id_text
from node.errors import ConfigError
from node.net.bootstrap import Bootstrap, load_bootstrap_peers, parse_contact, peer_multiaddr
from node.units import Contact, Multiaddr
from simulations.network import Internet, SimulatedNetwork, contacts_of
from tests.clocks import VirtualClock
from tests.dht.support import MemoryKeyValue, contact_of, peer_id_of


@asynccontextmanager
async def peers(internet: Internet, count: int, *, first: int = 0) -> AsyncIterator[list[SimulatedNetwork]]:
    stop = trio.Event()
    joined: list[SimulatedNetwork] = []

    async def live(index: int) -> None:
        async with internet.join(peer_id_of(index)) as network:
            joined.append(network)
            await stop.wait()

    async with trio.open_nursery() as nursery:
        for index in range(first, first + count):
            nursery.start_soon(live, index)
        await trio.testing.wait_all_tasks_blocked()
        yield joined
        stop.set()


@asynccontextmanager
async def running(
    network: SimulatedNetwork, store: MemoryKeyValue, listed: Sequence[Contact] = ()
) -> AsyncIterator[Bootstrap]:
    bootstrap = Bootstrap(network, store, VirtualClock(), listed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bootstrap.run)
        yield bootstrap
        nursery.cancel_scope.cancel()


async def test_listed_peers_are_dialled(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with (
        peers(internet, 3) as others,
        internet.join(peer_id_of(99)) as me,
        running(me, MemoryKeyValue(), contacts_of(others)) as bootstrap,
    ):
        assert await bootstrap.wait_connected(30)
        await trio.sleep(1)
        assert set(me.connected()) == {other.peer_id for other in others}


async def test_without_peers_nothing_raises_and_nothing_waits_forever(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with (
        internet.join(peer_id_of(99)) as me,
        running(me, MemoryKeyValue(), [contact_of(1), Contact(me.peer_id, ())]) as bootstrap,
    ):
        assert not await bootstrap.wait_connected(600)


async def test_a_listed_peer_that_comes_later_is_found(autojump_clock: MockClock) -> None:
    """The waits grow, and stay within five minutes."""
    internet = Internet(Random(0))
    address = Multiaddr("/ip4/10.9.9.9/tcp/4001")
    async with (
        internet.join(peer_id_of(99)) as me,
        running(me, MemoryKeyValue(), [Contact(peer_id_of(1), (address,))]),
    ):
        await trio.sleep(7_000)
        async with internet.join(peer_id_of(1), address=address):
            await trio.sleep(310)
            assert me.connected() == (peer_id_of(1),)


async def test_a_failing_peer_is_dialled_less_and_less(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    dials: list[float] = []
    async with internet.join(peer_id_of(99)) as me:
        connect = me.connect

        async def counted(contact: Contact) -> None:
            dials.append(trio.current_time())
            await connect(contact)

        me.connect = counted  # type: ignore[method-assign]
        async with running(me, MemoryKeyValue(), [contact_of(1)]):
            await trio.sleep(3_600)
    gaps = [later - earlier for earlier, later in pairwise(dials)]
    assert gaps == sorted(gaps)
    assert max(gaps) <= 305
    assert len(dials) < 25


async def test_addresses_of_a_link_are_tried_at_once_even_when_connected(autojump_clock: MockClock) -> None:
    internet = Internet(Random(0))
    async with (
        peers(internet, 6) as others,
        internet.join(peer_id_of(99)) as me,
        running(me, MemoryKeyValue(), contacts_of(others[:5])) as bootstrap,
    ):
        await trio.sleep(20)
        bootstrap.add(contacts_of(others[5:]))
        await trio.sleep(0.1)
        assert others[5].peer_id in me.connected()


async def test_peers_met_once_are_remembered_after_a_restart(autojump_clock: MockClock) -> None:
    internet, store = Internet(Random(0)), MemoryKeyValue()
    async with (
        peers(internet, 3) as others,
        internet.join(peer_id_of(99)) as me,
        running(me, store, contacts_of(others)),
    ):
        await trio.sleep(120)
        async with internet.join(peer_id_of(98)) as me, running(me, store) as bootstrap:
            assert await bootstrap.wait_connected(30)
            assert bootstrap.statistics().remembered == 3


async def test_the_memory_is_bounded_and_keeps_the_latest(autojump_clock: MockClock) -> None:
    internet, store = Internet(Random(0)), MemoryKeyValue()
    count = limits.REMEMBERED_PEERS_MAX
    async with internet.join(peer_id_of(9_999)) as me:
        bootstrap = Bootstrap(me, store, VirtualClock(), [])
        for start in (0, count):
            for index in range(start, start + count):
                bootstrap.remember(contact_of(index))
            await bootstrap.flush()
            await trio.sleep(10)
        assert bootstrap.statistics().remembered == count
        again = Bootstrap(me, store, VirtualClock(), [])
        assert set(again._candidates) == {peer_id_of(index) for index in range(count, 2 * count)}


async def test_what_another_version_remembered_is_passed_over() -> None:
    internet, store = Internet(Random(0)), MemoryKeyValue()
    store.tables["remembered-peers"] = {b"peer": b"\xc1nonsense", b"other": b"\x90"}
    async with internet.join(peer_id_of(99)) as me:
        assert Bootstrap(me, store, VirtualClock(), []).statistics().candidates == 0


async def test_candidates_are_bounded_and_listed_ones_stay() -> None:
    internet = Internet(Random(0))
    async with internet.join(peer_id_of(99_999)) as me:
        listed = [contact_of(50_000)]
        bootstrap = Bootstrap(me, MemoryKeyValue(), VirtualClock(), listed)
        bootstrap.add([contact_of(index) for index in range(limits.BOOTSTRAP_CANDIDATES_MAX + 50)])
        assert bootstrap.statistics().candidates == limits.BOOTSTRAP_CANDIDATES_MAX
        assert listed[0].peer_id in bootstrap._candidates


def test_a_multiaddr_names_a_peer() -> None:
    contact = contact_of(5)
    text = peer_multiaddr(contact.addresses[0], contact.peer_id)
    assert parse_contact(f" {text} ") == contact


@pytest.mark.parametrize(
    "text",
    ["", "/ip4/1.2.3.4/tcp/1", "ip4/1.2.3.4/tcp/1/p2p/x", "/ip4/1.2.3.4/tcp/1/p2p/", "/p2p/" + "1" * 9_000],
)
def test_what_names_no_peer_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_contact(text)


def test_the_shipped_list_is_found_and_empty(tmp_path: Path) -> None:
    assert load_bootstrap_peers(tmp_path) == ()


def test_the_list_in_the_home_is_read(tmp_path: Path) -> None:
    entry = peer_multiaddr("/dns4/node.example.org/tcp/4001", peer_id_of(3))
    (tmp_path / "bootstrap_peers.toml").write_text(f'peers = ["{entry}"]')
    assert [peer_id_text(contact.peer_id) for contact in load_bootstrap_peers(tmp_path)] == [
        peer_id_text(peer_id_of(3))
    ]


@pytest.mark.parametrize("text", ["peers = 5", "peers = [5]", "peers = ['nonsense']", "peers = [", "\xff"])
def test_a_bad_list_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bootstrap_peers.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bootstrap_peers\.toml"):
        load_bootstrap_peers(tmp_path)
