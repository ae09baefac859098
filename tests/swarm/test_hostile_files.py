"""Files by hostile owners, and manifests by hostile holders: `cairn get` refuses them and writes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from node import limits, wire
from node.chunks import messages
from node.chunks.bodies import send_body
from node.chunks.client import HolderClient
from node.chunks.folder import FOLDER_MAGIC
from node.chunks.geometry import Code
from node.chunks.header import HEADER_MAGIC
from node.chunks.manifest import FILE_MAGIC, SEGMENT_MAGIC
from node.chunks.merkle import leaf_of
from node.chunks.pipeline import EncodedStripe
from node.control.local_swarm import LocalSwarm, NodeProcess
from node.crypto.hashing import blake3_256, multihash
from node.crypto.links import Link, parse_link
from node.crypto.sealing import FileKeys
from node.daemon.compose import NETWORK_ID, PROTOCOL_VERSION
from node.daemon.config import Config
from node.dht.service import DhtService
from node.framing import FramedStream, Preamble
from node.net.bootstrap import parse_contact
from node.net.libp2p_network import open_network
from node.ports import Stream
from node.system.clock import SystemClock
from node.system.entropy import SystemEntropy
from node.units import MIB, Contact, FileHash, Multiaddr, PeerId
from simulations.machine import InlineOffload
from tests.chunks.planting import Era, plant
from tests.dht.support import MemoryKeyValue
from tests.patience import PATIENCE_S
from tests.process_memory import memory, restart_peak
from tests.swarm.command_line import cairn, error_of

pytestmark = pytest.mark.swarm

PREAMBLE = Preamble(NETWORK_ID, PROTOCOL_VERSION, (("audit.interval_s", Config().audit.interval_s),))
IS_FULL = os.environ.get("CAIRN_TEST_FULL") == "1"
ALLOCATED_BYTES_MAX = 24 * MIB
CONTENT = b"ten bytes."
REFUSED = 40

HOSTILE_NAMES = {
    "parent": "../x",
    "absolute": "/etc/cron.d/x",
    "backslash": "..\\x",
    "drive": "C:x",
    "newline": "a\nb",
    "escape": "\x1b[2Jx",
    "nul": "a\0b",
    "bidi": "photo\u202egnp.exe",
    "invisible": "a\u200bb",
    "device": "NUL.txt",
    "dots": "..",
    "empty": "",
    "long": "x" * 256,
}
HOSTILE_PATHS = {
    **{kind: f"folder/{name}" for kind, name in HOSTILE_NAMES.items() if kind != "nul"},
    "up and down": "a/../../x",
    "rooted": "/x",
    "deep": "/".join("a" * 10_000),
    "endless": "a" * 60_000,
}


def some(cases: Mapping[str, object], *quick: str) -> Sequence[str]:
    """All cases in the full run; the named ones in the quick run, where their modules' own tests have all."""
    return tuple(cases) if IS_FULL else quick


@dataclass(frozen=True)
class Scene:
    """Two honest donors and a reader."""

    donors: list[NodeProcess]
    reader: NodeProcess

    def refuse(self, link: str, folder: Path, *, code: int = REFUSED) -> str:
        """Have the reader get a link into a folder that stays empty; what the error says."""
        error = error_of(cairn(self.reader, "--json", "get", "-", "-o", str(folder), text=link + "\n"))
        assert error["code"] == code
        assert list(folder.iterdir()) == []
        message = str(error["message"])
        assert message.isprintable()
        assert message.isascii()
        assert len(message) < 1_000
        return message


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with LocalSwarm(tmp_path_factory.mktemp("hostile files")) as swarm:
        (first,) = swarm.start(donate="64MB")
        second, reader = (
            *swarm.start(donate="64MB", bootstrap=[first]),
            *swarm.start(bootstrap=[first]),
        )
        assert swarm.wait_known(reader, 2) == 2
        yield Scene([first, second], reader)
        for node in swarm.nodes:
            assert node.is_running
            assert "Traceback" not in node.log_tail()


# --- hostile owners: their files lie in honest stores -------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """A daemon as `plant` sees a holder."""

    contact: Contact

    @property
    def peer_id(self) -> PeerId:
        return self.contact.peer_id


class NoDirectory:
    """The owner leaves announcing to the holders."""

    async def put_value(self, key: bytes, value: bytes) -> int:
        await trio.lowlevel.checkpoint()
        return 0


@dataclass(frozen=True)
class Owner:
    """What `plant` needs of a node that puts."""

    client: HolderClient
    directory: NoDirectory


class RealGround:
    """Real daemons as `plant` sees a swarm."""

    def __init__(self, donors: Sequence[NodeProcess]) -> None:
        self.holders = [Plot(parse_contact(donor.address)) for donor in donors]

    @asynccontextmanager
    async def visitor(self) -> AsyncIterator[Owner]:
        async with open_network(b"hostile owner".ljust(32), []) as network:
            yield Owner(HolderClient(network, PREAMBLE), NoDirectory())


async def plant_header(scene: Scene, header: bytes, content: bytes = CONTENT) -> str:
    """A file in real stores whose sealed header is these bytes; its link."""
    planted = await plant(
        cast(Any, RealGround(scene.donors)),
        content,
        code=Code(1, 2),
        name=blake3_256(header).hex(),
        raw_header=header,
        era=Era(NETWORK_ID, int(time.time())),
    )
    return str(planted.link)


def header_of(name: str, folder: wire.Value = None, plaintext_bytes: int = len(CONTENT)) -> bytes:
    """A header as a program without checks would write it."""
    return wire.encode([HEADER_MAGIC, 1, name, plaintext_bytes, "", folder])


def index_of(*paths: str, count: int | None = None, sizes: Sequence[int] = (len(CONTENT),)) -> bytes:
    """A folder index as a program without checks would write it."""
    packed = b"".join(size.to_bytes(8, "big") for size in sizes)
    count = len(paths) if count is None else count
    return wire.encode([FOLDER_MAGIC, 1, count, "\0".join(paths), packed, bytes(-(-count // 8))])


async def test_a_good_header_is_taken(scene: Scene, tmp_path: Path) -> None:
    """The tests below could not fail if this did."""
    link = await plant_header(scene, header_of("box", index_of("a/b")))
    assert cairn(scene.reader, "get", link, "-o", str(tmp_path)).returncode == 0
    assert (tmp_path / "box" / "a" / "b").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", some(HOSTILE_NAMES, "parent", "absolute", "escape", "bidi", "device"))
async def test_a_hostile_name_is_refused(scene: Scene, tmp_path: Path, kind: str) -> None:
    scene.refuse(await plant_header(scene, header_of(HOSTILE_NAMES[kind])), tmp_path)


@pytest.mark.parametrize("kind", some(HOSTILE_PATHS, "parent", "rooted", "bidi", "device", "deep"))
async def test_a_hostile_path_in_a_folder_is_refused(scene: Scene, tmp_path: Path, kind: str) -> None:
    header = header_of("box", index_of(HOSTILE_PATHS[kind]))
    scene.refuse(await plant_header(scene, header), tmp_path)


async def test_a_hostile_folder_is_not_listed_or_streamed(scene: Scene) -> None:
    link = await plant_header(scene, header_of("box", index_of("b/../../x")))
    assert error_of(cairn(scene.reader, "--json", "ls", link))["code"] == REFUSED
    done = cairn(scene.reader, "get", link, "-o", "-")
    assert (done.returncode, done.stdout) == (REFUSED, "")


@pytest.mark.parametrize("shard_index", [0, 1])
async def test_roots_that_contradict_each_other_are_refused(
    scene: Scene, tmp_path: Path, shard_index: int
) -> None:
    """Either shard alone is the file: with one root of other bytes, readers of the other fail too."""

    def tamper(_: int, stripe: EncodedStripe) -> tuple[list[bytes], bytes, bytes]:
        blocks = [bytes(block) for block in stripe.blocks]
        blocks[shard_index] = bytes(len(blocks[shard_index]))
        return blocks, b"".join(map(leaf_of, blocks)), stripe.stripe_hash

    planted = await plant(
        cast(Any, RealGround(scene.donors)),
        CONTENT,
        code=Code(1, 2),
        name=f"contradiction {shard_index}",
        tamper=tamper,
        era=Era(NETWORK_ID, int(time.time())),
    )
    assert "segment 0" in scene.refuse(str(planted.link), tmp_path)


async def test_a_hostile_path_in_a_large_index_is_refused(scene: Scene, tmp_path: Path) -> None:
    """An index that is a sealed file of its own passes the same gate."""
    index = index_of("../x")
    link = await plant_header(scene, header_of("index", plaintext_bytes=len(index)), index)
    index_link = parse_link(link)
    folder: wire.Value = [index_link.file_hash, index_link.file_key(None), len(index)]
    scene.refuse(await plant_header(scene, header_of("box", folder)), tmp_path)


@pytest.mark.parametrize(
    "folder",
    [
        index_of("a", count=100_000),
        index_of("a", sizes=(2**63,)),
        index_of("a", sizes=(9,)),
        index_of("a", "b", sizes=(10, 0))[:-1],
        index_of("b", "a", sizes=(5, 5)),
        index_of("a", "A", sizes=(5, 5)),
        index_of("a", "a/b", sizes=(5, 5)),
    ],
    ids=["counts", "huge", "short", "cut", "disorder", "one on another disk", "a file as a folder"],
)
async def test_an_index_that_does_not_add_up_is_refused(scene: Scene, tmp_path: Path, folder: bytes) -> None:
    scene.refuse(await plant_header(scene, header_of("box", folder)), tmp_path)


# --- hostile holders: they serve what no honest store keeps ------------------------------------------------

FILE_KEY = bytes(range(32))
ROOM = 2**30  # more than fits the reader's bound many times


def file_manifest(**changes: wire.Value) -> bytes:
    """A file manifest as a program without checks would write it."""
    keys = FileKeys.derive(FILE_KEY)
    fields: dict[str, wire.Value] = {
        "magic": FILE_MAGIC,
        "version": 1,
        "owner_key": bytes(32),
        "owner_salt": bytes(16),
        "suite": 1,
        "data_shards": 1,
        "total_shards": 2,
        "block_bytes": limits.BLOCK_BYTES,
        "plaintext_bytes": len(CONTENT),
        "segment_ids": bytes(32),
        "key_check": keys.key_check,
        "sealed_header": keys.header_key.seal(header_of("file")),
    }
    return wire.encode(list({**fields, **changes}.values()))


def segment_manifest(**changes: wire.Value) -> bytes:
    """The manifest of the only segment of the file above, in the same way."""
    fields: dict[str, wire.Value] = {
        "magic": SEGMENT_MAGIC,
        "version": 1,
        "owner_key": bytes(32),
        "owner_salt": bytes(16),
        "data_shards": 1,
        "total_shards": 2,
        "block_bytes": limits.BLOCK_BYTES,
        "plaintext_bytes": len(CONTENT),
        "roots": bytes(64),
        "stripe_hashes": bytes(32),
    }
    return wire.encode(list({**fields, **changes}.values()))


def not_shortest(manifest: bytes) -> bytes:
    """The same values with the version in two bytes instead of one."""
    at = manifest.index(b"\x01")
    return manifest[:at] + b"\xcc\x01" + manifest[at + 1 :]


def cut_after_magic(manifest: bytes, magic: str, rest: bytes) -> bytes:
    """The beginning of a manifest, and then something else."""
    return manifest[: manifest.index(magic.encode()) + len(magic)] + rest


HOSTILE_FILE_MANIFESTS = {
    "four billion items": b"\xdd\xff\xff\xff\xff" + bytes(100),
    "four gigabytes in one item": cut_after_magic(file_manifest(), FILE_MAGIC, b"\xc6\xff\xff\xff\xff"),
    "nested without end": b"\x91" * 1_000_000,
    "many small items": b"\xdd\x00\x3f\xff\x00" + bytes(0x3FFF00),
    "a length beyond any": file_manifest(plaintext_bytes=2**63),
    "a length without its segments": file_manifest(plaintext_bytes=10**12),
    "segments without a length": file_manifest(segment_ids=bytes(32 * 100_000)),
    "no shards": file_manifest(data_shards=0),
    "more data than shards": file_manifest(data_shards=3),
    "too many shards": file_manifest(total_shards=256),
    "blocks of another size": file_manifest(block_bytes=ROOM),
    "a header too long": file_manifest(sealed_header=bytes(limits.SEALED_HEADER_BYTES_MAX + 1)),
    "a truth value for a number": file_manifest(version=True),
    "not the shortest": not_shortest(file_manifest()),
    "something behind it": file_manifest() + b"\0",
    "cut": file_manifest()[:-1],
    "nothing": b"\xc0",
}
HOSTILE_SEGMENT_MANIFESTS = {
    "four billion items": b"\xdd\xff\xff\xff\xff" + bytes(100),
    "a length beyond any": segment_manifest(plaintext_bytes=2**63),
    "another length": segment_manifest(plaintext_bytes=len(CONTENT) + 1),
    "another code": segment_manifest(total_shards=3, roots=bytes(96)),
    "another owner": segment_manifest(owner_key=b"x" * 32),
    "too few roots": segment_manifest(roots=bytes(32)),
    "too many stripes": segment_manifest(stripe_hashes=bytes(32 * 200)),
    "not the shortest": not_shortest(segment_manifest()),
    "something behind it": segment_manifest() + b"\0",
}


class HostileHolder:
    """Says that it holds a file, and answers whatever it likes."""

    def __init__(self, manifest: bytes, segment: bytes = b"", *, announced_bytes: int | None = None) -> None:
        """`announced_bytes` is how long it says that the manifest is."""
        self._manifest = manifest
        self._segment = segment
        self._announced_bytes = len(manifest) if announced_bytes is None else announced_bytes
        self.asked = 0

    async def serve(self, stream: Stream) -> None:
        framed = await FramedStream.accepted(stream, PREAMBLE)
        while (frame := await framed.receive_or_end(deadline_s=PATIENCE_S)) is not None:
            request = messages.decode(frame.values)
            if isinstance(request, messages.GetAttachment) and request.kind == messages.ATTACHED_MANIFEST:
                self.asked += 1
                await framed.send(messages.encode(messages.Body(self._announced_bytes)))
                await send_body(framed, self._manifest)
            elif isinstance(request, messages.GetManifest):
                await framed.send(messages.encode(messages.ManifestReply(self._segment, (0,))))
            else:
                await framed.send_error(messages.REFUSED_MISSING, "no")
                return

    @asynccontextmanager
    async def among(self, donors: Sequence[NodeProcess], file_hash: bytes) -> AsyncIterator[None]:
        """Announced as the holder of a file and of segment 0, while the context lasts."""
        async with (
            open_network(blake3_256(self._manifest), [Multiaddr("/ip4/127.0.0.1/tcp/0")]) as network,
            trio.open_nursery() as nursery,
        ):
            network.serve(messages.PROTOCOL, self.serve, streams_max=64, streams_max_per_peer=64)
            dht = DhtService(
                network, MemoryKeyValue(), SystemClock(), SystemEntropy(), InlineOffload(), validators={}
            )
            await nursery.start(dht.run)
            dht.add_contact(parse_contact(donors[0].address))
            assert await dht.wait_joined(20)
            assert await dht.provide([multihash(file_hash), multihash(blake3_256(self._segment))])
            yield
            nursery.cancel_scope.cancel()


async def refuse_from(
    scene: Scene, holder: HostileHolder, file_hash: bytes, folder: Path, *, code: int = REFUSED
) -> None:
    """Have the reader get a file from a hostile holder, and see what that took in memory."""
    link = str(Link(FileHash(file_hash), FILE_KEY))
    async with holder.among(scene.donors, file_hash):
        process = scene.reader.process.pid
        before_bytes = memory(process, "VmRSS")
        restart_peak(process)
        await trio.to_thread.run_sync(lambda: scene.refuse(link, folder, code=code))
        assert holder.asked
        assert memory(process, "VmHWM") - before_bytes < ALLOCATED_BYTES_MAX


@pytest.mark.parametrize(
    "kind",
    some(
        HOSTILE_FILE_MANIFESTS,
        "four billion items",
        "four gigabytes in one item",
        "many small items",
        "a length beyond any",
        "a length without its segments",
        "no shards",
        "not the shortest",
    ),
)
async def test_a_hostile_file_manifest_is_refused(scene: Scene, tmp_path: Path, kind: str) -> None:
    manifest = HOSTILE_FILE_MANIFESTS[kind]
    await refuse_from(scene, HostileHolder(manifest), blake3_256(manifest), tmp_path)


@pytest.mark.parametrize(
    "kind",
    some(
        HOSTILE_SEGMENT_MANIFESTS, "four billion items", "another length", "too few roots", "not the shortest"
    ),
)
async def test_a_hostile_segment_manifest_is_refused(scene: Scene, tmp_path: Path, kind: str) -> None:
    segment = HOSTILE_SEGMENT_MANIFESTS[kind]
    manifest = file_manifest(segment_ids=blake3_256(segment))
    await refuse_from(scene, HostileHolder(manifest, segment), blake3_256(manifest), tmp_path)


@pytest.mark.parametrize(
    ("file_hash", "announced_bytes"),
    [(b"?" * 32, None), (None, ROOM), (None, limits.FILE_MANIFEST_BYTES_MAX), (None, 1)],
    ids=["other bytes", "beyond the cap", "more than it sends", "less than it sends"],
)
async def test_a_holder_that_does_not_send_the_manifest_is_passed_over(
    scene: Scene, tmp_path: Path, file_hash: bytes | None, announced_bytes: int | None
) -> None:
    """The file may be a good one, so it is not found rather than refused."""
    manifest = file_manifest()
    holder = HostileHolder(manifest, announced_bytes=announced_bytes)
    await refuse_from(scene, holder, file_hash or blake3_256(manifest), tmp_path, code=22)
