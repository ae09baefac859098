"""Hostile peers against a whole daemon: each costs it less than 50 MiB, and an honest reader's gets go on.

The node under attack is the only holder, so that every get goes through it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import pytest
import trio

from node import limits, wire
from node.chunks import messages
from node.chunks.client import HolderClient
from node.chunks.manifest import FileManifest
from node.control.local_swarm import LocalSwarm, NodeProcess
from node.crypto.hashing import parse_cid
from node.crypto.identity import parse_peer_id
from node.daemon.compose import NETWORK_ID, PROTOCOL_VERSION
from node.daemon.config import Config
from node.dht import messages as kad
from node.errors import RefusedError
from node.framing import Preamble
from node.net import identify
from node.net.libp2p_network import open_network
from node.units import MIB, Contact, Multiaddr
from tests.net import attackers
from tests.patience import PATIENCE_S
from tests.paying import RATE, certificate
from tests.process_memory import memory, restart_peak
from tests.swarm.command_line import cairn_json, command, environment


def framed(body: bytes) -> bytes:
    """With its length before it, as our own protocols have it."""
    return wire.frame_header(len(body), size_max=limits.FRAME_BYTES_MAX) + body


COST_BYTES_MAX = 50 * MIB
IS_FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
PREAMBLE = Preamble(NETWORK_ID, PROTOCOL_VERSION, (("audit.interval_s", Config().audit.interval_s),))
PREAMBLE_FRAME = framed(wire.encode(PREAMBLE.as_value()))
PROTOCOLS = (kad.PROTOCOL, messages.PROTOCOL, identify.IDENTIFY, identify.PING)
STRIPES = 15  # one block less than a donor hands to its store at once
CONTENT = Random(0).randbytes(3_000_000)

pytestmark = pytest.mark.swarm


@dataclass(frozen=True)
class Scene:
    """A donor under attack, and a reader of the file that only this donor keeps."""

    donor: NodeProcess
    reader: NodeProcess
    link: str
    file_hash: str
    outputs: Iterator[Path]

    @property
    def victim(self) -> Contact:
        """The donor, as an attacker dials it."""
        address = self.donor.address.partition("/p2p/")[0]
        return Contact(parse_peer_id(self.donor.peer_id), (Multiaddr(address),))

    async def get(self) -> None:
        """The reader's `cairn get`, checked byte for byte."""
        output = next(self.outputs)
        with trio.fail_after(PATIENCE_S):
            done = await trio.run_process(
                command(self.reader, "--json", "get", "-", "-o", str(output)),
                stdin=self.link.encode() + b"\n",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment(),
            )
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)["fetched_bytes"] >= len(CONTENT)
        assert output.read_bytes() == CONTENT

    @asynccontextmanager
    async def costing_little(self) -> AsyncIterator[None]:
        """The reader gets the file all along, and once more afterwards; then the bill is read."""
        pid = self.donor.process.pid
        before_bytes = memory(pid, "VmRSS")
        restart_peak(pid)
        gets = 0

        async def keep_getting() -> None:
            nonlocal gets
            while not is_over:
                await self.get()
                gets += 1

        is_over = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_getting)
            with trio.fail_after(PATIENCE_S):
                yield
            is_over = True
        await self.get()
        cost_bytes = memory(pid, "VmHWM") - before_bytes
        print(f"cost {cost_bytes / MIB:.1f} MiB, {gets} gets meanwhile")
        assert cost_bytes < COST_BYTES_MAX


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("hostile")
    source = folder / "source"
    source.write_bytes(CONTENT)
    with LocalSwarm(folder / "swarm") as swarm:
        (donor,) = swarm.start(donate="256MB")
        sharer, reader = swarm.start(2, bootstrap=[donor])
        put = cairn_json(sharer, "put", str(source), "--code", "2/4")
        sharer.kill()
        outputs = (folder / f"output-{number}" for number in count())
        yield Scene(donor, reader, put["link"], put["hash"], outputs)
        assert donor.is_running
        assert "Traceback" not in donor.log_tail()


@asynccontextmanager
async def holder_client(seed: bytes) -> AsyncIterator[HolderClient]:
    """A peer that speaks every protocol well, so that it can misuse one."""
    async with open_network(seed.ljust(32), []) as network:
        yield HolderClient(network, PREAMBLE)


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_a_dial_without_noise_is_refused(scene: Scene, protocol: str) -> None:
    assert not await attackers.offered_security(scene.victim, protocol)
    assert await attackers.offered_security(scene.victim, "/noise"), "the probe can tell"


async def test_garbage_on_every_protocol(scene: Scene) -> None:
    """Some of it from the first byte, some after a beginning that is right."""
    beginnings = {
        messages.PROTOCOL: (b"", PREAMBLE_FRAME, PREAMBLE_FRAME + (40).to_bytes(4, "big")),
        kad.PROTOCOL: (b"", kad.frame(kad.encode(kad.Message(kad.MessageType.PING))), b"\x7f"),
    }
    async with scene.costing_little():
        for seed in range(40 if IS_FULL else 4):
            await attackers.garbage_on_protocols(
                scene.victim, PROTOCOLS, Random(seed), rounds=8, beginnings=beginnings
            )
        await attackers.garbage_in_yamux(scene.victim, Random(2), rounds=200 if IS_FULL else 20)
        await attackers.garbage_in_tcp(scene.victim, Random(3), rounds=200 if IS_FULL else 5)


async def test_a_peer_that_ignores_its_window_is_cut_off(scene: Scene) -> None:
    """The answers to its pings are not taken, so that the node soon does not read on."""
    byte_count = 200_000_000 if IS_FULL else 40_000_000
    async with scene.costing_little():
        assert await attackers.ignore_window(scene.victim, identify.PING, byte_count=byte_count)


@pytest.mark.parametrize("protocol", PROTOCOLS[:3])
async def test_a_flood_beyond_the_window_costs_little(scene: Scene, protocol: str) -> None:
    """Where the stream ends first, the flood that follows belongs to none."""
    async with scene.costing_little():
        await attackers.ignore_window(scene.victim, protocol, byte_count=20_000_000)


async def test_full_windows_on_many_streams_are_bounded(scene: Scene) -> None:
    async with scene.costing_little():
        await attackers.fill_windows(scene.victim, identify.PING, streams=250, piece_bytes=60_000)


async def test_very_many_streams_are_turned_away(scene: Scene) -> None:
    async with scene.costing_little():
        await attackers.open_streams(scene.victim, count=20_000 if IS_FULL else 5_000)


async def test_idle_streams_on_every_protocol_stop_nobody(scene: Scene) -> None:
    """Silent from the start, and silent within a message."""
    beginnings = {messages.PROTOCOL: PREAMBLE_FRAME + b"\0\0", kad.PROTOCOL: b"\xff", identify.PING: b"half"}
    async with (
        scene.costing_little(),
        attackers.idle_streams(scene.victim, PROTOCOLS, each=40),
        attackers.idle_streams(
            scene.victim, PROTOCOLS, each=40, seed=b"stops half-way", beginnings=beginnings
        ),
    ):
        await scene.get()


async def test_half_open_puts_stop_nobody(scene: Scene) -> None:
    """As many as a peer may have, each with as many blocks as fit in memory; then the peer falls silent."""
    async with scene.costing_little(), holder_client(b"reserves") as client, AsyncExitStack() as stack:
        for number in range(limits.PUTS_OPEN_PER_PEER_MAX):
            session = await stack.enter_async_context(client.session(scene.victim))
            request = put_request(client, number)
            await session.open_put(request)
            for block_index in range(STRIPES):
                await session.send_block(0, block_index, bytes(limits.BLOCK_BYTES))
        session = await stack.enter_async_context(client.session(scene.victim))
        with pytest.raises(RefusedError, match="too many unfinished puts"):
            await session.open_put(put_request(client, limits.PUTS_OPEN_PER_PEER_MAX))
        store = scene.donor.call("status")["store"]
        assert store["reserved_bytes"] >= limits.PUTS_OPEN_PER_PEER_MAX * STRIPES * limits.BLOCK_BYTES
        await scene.get()


async def test_blocks_that_nobody_takes_are_not_piled_up(scene: Scene) -> None:
    """A reader asks for everything on as many streams as it may have, and takes nothing."""
    async with scene.costing_little(), holder_client(b"never takes") as client, AsyncExitStack() as stack:
        async with client.session(scene.victim) as session:
            data = await session.attachment(messages.ATTACHED_MANIFEST, parse_cid(scene.file_hash))
            segment_id = FileManifest.decode(data).segment_id(0)
        for _ in range(limits.SHARD_STREAMS_PER_PEER_MAX):
            session = await stack.enter_async_context(client.session(scene.victim))
            for shard_index in range(4):
                await session.request_blocks(segment_id, shard_index, range(20))
        await scene.get()


def put_request(client: HolderClient, number: int) -> messages.PutOpen:
    """A put of one shard."""
    put_id = messages.PutId(number.to_bytes(16, "big"))
    payer = certificate(client.peer_id, network=NETWORK_ID, now_s=int(time.time()))
    return messages.PutOpen(
        put_id, 1, 1, limits.BLOCK_BYTES, limits.BLOCK_BYTES, STRIPES, (0,), 1, RATE, payer
    )
