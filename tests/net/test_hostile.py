"""Hostile peers: each costs a node less than 50 MiB, and another peer's exchange goes on meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from node.crypto.identity import parse_peer_id
from node.errors import UnreachableError
from node.net import identify
from node.net.libp2p_network import open_network
from node.net.upgrade import CAIRN_YAMUX, YAMUX
from node.ports import Network
from node.units import MIB, Contact, Multiaddr
from tests.net import attackers
from tests.net.victim import DEAF, ECHO, FRAMED
from tests.patience import PATIENCE_S

COST_BYTES_MAX = 50 * MIB
IS_FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
PROTOCOLS = (ECHO, DEAF, FRAMED, identify.IDENTIFY, identify.PING, "/cairn/nothing/1")

pytestmark = pytest.mark.swarm


class Victim:
    """The node under attack, in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        ready = json.loads(self._read())
        self.contact = Contact(parse_peer_id(ready["peer_id"]), (Multiaddr(ready["address"]),))

    def ask(self, command: str) -> int:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the victim died"
        return line


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.net.victim"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Victim(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=PATIENCE_S) == 0


@asynccontextmanager
async def costing_little(victim: Victim) -> AsyncIterator[None]:
    """An honest peer exchanges all along, before, while and after; then the bill is read."""
    async with open_network(b"honest".ljust(32), []) as network:
        await exchange(network, victim.contact)
        before_bytes = await trio.to_thread.run_sync(victim.ask, "memory")
        exchanges = 0

        async def keep_exchanging() -> None:
            nonlocal exchanges
            while True:
                await exchange(network, victim.contact)
                exchanges += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_exchanging)
            with trio.fail_after(PATIENCE_S):
                yield
                so_far = exchanges
                while exchanges == so_far:  # noqa: ASYNC110 - at least one more after the attack
                    await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        await exchange(network, victim.contact)
        peak_bytes = await trio.to_thread.run_sync(victim.ask, "peak")
        assert network.connected() == (victim.contact.peer_id,), "the honest connection was lost"
        cost_bytes = peak_bytes - before_bytes
        print(f"cost {cost_bytes / MIB:.1f} MiB, {exchanges} exchanges meanwhile")
        assert cost_bytes < COST_BYTES_MAX


async def exchange(network: Network, contact: Contact) -> None:
    stream = await network.open_stream(contact, ECHO)
    with trio.fail_after(PATIENCE_S):
        await stream.send_all(b"still there?")
        received = b""
        while len(received) < 12:
            part = await stream.receive_some(12)
            assert part
            received += part
    assert received == b"still there?"
    await stream.aclose()


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_only_noise_is_taken(victim: Victim, protocol: str) -> None:
    async with costing_little(victim):
        assert not await attackers.offered_security(victim.contact, protocol)


async def test_noise_is_taken(victim: Victim) -> None:
    """The probe of the test above can tell."""
    assert await attackers.offered_security(victim.contact, "/noise")


@pytest.mark.parametrize("security", ["insecure", "secio"])
async def test_the_librarys_own_unsafe_dial_is_refused(victim: Victim, security: str) -> None:
    """py-libp2p's client with the transport that an impersonator would choose."""
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.peer.id import ID
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
    from libp2p.security.secio import transport as secio
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux
    from libp2p.transport.exceptions import SecurityUpgradeFailure
    from libp2p.transport.upgrader import TransportUpgrader

    key_pair = create_new_key_pair(b"impersonator".ljust(32))
    offered = {
        "insecure": {PLAINTEXT_PROTOCOL_ID: InsecureTransport(key_pair)},
        "secio": {secio.ID: secio.Transport(key_pair)},
    }[security]
    upgrader = TransportUpgrader(offered, {PROTOCOL_ID: Yamux})
    async with await attackers.tcp(victim.contact) as stream:
        connection = RawConnection(TrioTCPStream(stream), True)
        with pytest.raises(SecurityUpgradeFailure):
            await upgrader.upgrade_security(connection, True, ID(victim.contact.peer_id))


@pytest.mark.parametrize("muxer", [YAMUX, CAIRN_YAMUX])
async def test_a_peer_that_ignores_its_window_is_cut_off(victim: Victim, muxer: str) -> None:
    async with costing_little(victim):
        byte_count = 200_000_000 if IS_FULL else 60_000_000
        assert await attackers.ignore_window(victim.contact, DEAF, byte_count=byte_count, muxer=muxer)


@pytest.mark.parametrize(
    ("length", "flags"),
    [(0, 0), (511, 0), (262_144, attackers.ACK), (7, attackers.ACK)],
    ids=["no window", "too small a window", "an answer too many", "an answer to nothing"],
)
async def test_a_peer_that_confuses_first_windows_is_cut_off(victim: Victim, length: int, flags: int) -> None:
    async with costing_little(victim):
        assert await attackers.confuse_windows(victim.contact, ECHO, length=length, flags=flags)


async def test_any_number_of_wishes_for_window_cost_little(victim: Victim) -> None:
    async with costing_little(victim):
        await attackers.wish_for_windows(victim.contact, DEAF, count=300_000 if IS_FULL else 100_000)


@pytest.mark.parametrize("piece_bytes", [1, 60_000])
async def test_full_windows_on_many_streams_are_bounded(victim: Victim, piece_bytes: int) -> None:
    """Within every stream's window, and more than this node keeps for one connection."""
    async with costing_little(victim):
        streams = 250 if piece_bytes > 1 else 40 if IS_FULL else 3
        await attackers.fill_windows(victim.contact, DEAF, streams=streams, piece_bytes=piece_bytes)


async def test_attackers_together_are_bounded_and_stop_nobody(victim: Victim) -> None:
    """Eight connections that would each hold what one may: together more than the node keeps."""
    async with costing_little(victim), trio.open_nursery() as nursery:
        for index in range(8):
            seed = b"one of many %d" % index

            async def attack(seed: bytes = seed) -> None:
                await attackers.fill_windows(victim.contact, DEAF, streams=30, piece_bytes=60_000, seed=seed)

            nursery.start_soon(attack)


async def test_very_many_streams_are_turned_away(victim: Victim) -> None:
    async with costing_little(victim):
        await attackers.open_streams(victim.contact, count=20_000 if IS_FULL else 5_000)


async def test_idle_streams_stop_nobody(victim: Victim) -> None:
    async with (
        costing_little(victim),
        attackers.idle_streams(victim.contact, PROTOCOLS, each=40),
        open_network(b"another".ljust(32), []) as network,
    ):
        for _ in range(20):
            await exchange(network, victim.contact)


async def test_answers_that_nobody_reads_are_not_kept(victim: Victim) -> None:
    async with costing_little(victim):
        assert await attackers.ping_without_reading(victim.contact, count=5_000_000)


async def test_garbage_on_every_protocol(victim: Victim) -> None:
    async with costing_little(victim):
        rounds = 40 if IS_FULL else 8
        await attackers.garbage_on_protocols(victim.contact, PROTOCOLS, Random(1), rounds=rounds)


async def test_garbage_below_the_protocols(victim: Victim) -> None:
    async with costing_little(victim):
        rounds = 200 if IS_FULL else 20
        await attackers.garbage_in_yamux(victim.contact, Random(2), rounds=rounds)
        await attackers.garbage_in_tcp(victim.contact, Random(3), rounds=rounds)


async def test_silent_callers_keep_nobody_out(victim: Victim) -> None:
    """More connections that never say a word than may be in the handshake at once."""
    async with costing_little(victim):
        silent = [await attackers.tcp(victim.contact) for _ in range(300 if IS_FULL else 100)]
        async with open_network(b"late".ljust(32), []) as network:
            await exchange(network, victim.contact)
        for stream in silent:
            await stream.aclose()


async def test_a_stranger_with_the_victims_name_is_not_believed(victim: Victim) -> None:
    """A node that dials the victim's id at another node's address gets no connection."""
    async with (
        open_network(b"impostor".ljust(32), [Multiaddr("/ip4/127.0.0.1/tcp/0")]) as impostor,
        open_network(b"dialler".ljust(32), []) as network,
    ):
        with pytest.raises(UnreachableError):
            await network.connect(Contact(victim.contact.peer_id, impostor.listen_addresses()))
        assert network.connected() == ()
