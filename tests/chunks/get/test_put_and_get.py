"""Put and get together: what a link gives back is what was put, by whoever has the link."""

from __future__ import annotations

from pathlib import Path

import pytest
from trio.testing import MockClock

from node.chunks.coding_engines import best_engine
from node.chunks.geometry import Code
from node.chunks.get.download import Downloader
from node.chunks.get.health import HealthChecker
from node.chunks.get.renew import Renewer
from node.chunks.put.upload import PutOptions
from node.chunks.scores import Scoreboard
from node.crypto.links import parse_link
from node.units import DAY_S
from simulations.machine import InlineOffload, SeededEntropy
from tests.chunks.put_swarm import BoardDirectory, Putter, Swarm, swarm_of, write_file
from tests.clocks import VirtualClock
from tests.conftest import FULL

STRIPE = Code(10, 30).stripe_plaintext_bytes
SIZES = [0, 1, 3000, STRIPE, 3_000_000]


async def get(swarm: Swarm, link: str, output: Path) -> Path:
    """As a stranger with nothing but the link."""
    async with swarm.client(f"stranger {output.name}") as client:
        downloader = Downloader(
            client=client,
            directory=BoardDirectory(swarm.board, client.peer_id),
            clock=VirtualClock(),
            offload=InlineOffload(),
            engine=best_engine(),
            scores=Scoreboard(),
        )
        return (await downloader.save(parse_link(link), output)).path


@pytest.mark.parametrize("donors", [1, 3, 12, 30])
async def test_every_size_is_found_at_once_by_a_stranger(
    autojump_clock: MockClock, tmp_path: Path, donors: int
) -> None:
    async with swarm_of(donors) as swarm, Putter(swarm).running() as uploader:
        for size in SIZES if FULL or donors == 12 else SIZES[2:4]:
            source = write_file(tmp_path, size, name=f"source {size}", seed=size)
            report = await uploader.put(source, PutOptions())
            path = await get(swarm, str(report.link), tmp_path / f"got {size}")
            assert path.read_bytes() == source.read_bytes()


async def test_a_folder_survives_the_loss_of_20_holders_and_its_putter(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    source = tmp_path / "box"
    (source / "deep").mkdir(parents=True)
    for number in range(50):
        write_file(source / "deep", 1000 + number, name=f"{number}.bin", seed=number)
    async with swarm_of(30) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(source, PutOptions())
        assert not report.weak
        for donor in swarm.donors[:20]:
            await donor.die()
        path = await get(swarm, str(report.link), tmp_path / "got")
        for file in (source / "deep").iterdir():
            assert (path / "deep" / file.name).read_bytes() == file.read_bytes()


async def test_a_put_file_is_healthy_then_renewed_then_released_by_its_account(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(12) as swarm:
        putter = Putter(swarm)
        async with putter.running() as uploader:
            report = await uploader.put(write_file(tmp_path, 100_000), PutOptions())
        async with swarm.client("tool") as client:
            scores, clock, entropy = Scoreboard(), VirtualClock(), SeededEntropy("tool")
            directory = BoardDirectory(swarm.board, client.peer_id)
            checker = HealthChecker(
                client=client, directory=directory, clock=clock, entropy=entropy, scores=scores
            )
            health = await checker.check(report.file_hash, verify=True)
            assert health.healthy
            assert health.segments[0].alive == 30
            renewer = Renewer(
                client=client, directory=directory, clock=clock, entropy=entropy, scores=scores,
                account_seed=putter.keys.account.seed, known_holders=putter.catalogue.holders,
            )  # fmt: skip
            renewed = await renewer.renew(report.file_hash, duration_s=90 * DAY_S)
            assert renewed.leases == 30
            assert renewed.expires_s is not None
            assert renewed.expires_s > report.expires_s
            released = await renewer.release(report.file_hash)
            assert released.leases == 60
            assert swarm.leases() == 0
