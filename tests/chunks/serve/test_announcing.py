"""Five holders announce a segment, others each week, and the living take over from the dead."""

from __future__ import annotations

from pathlib import Path

from trio.testing import MockClock

from node.chunks.geometry import Code
from node.chunks.put.upload import PutOptions
from node.chunks.roster import ANNOUNCERS, WEEK_S
from node.chunks.serve.announcing import AnnouncingTurns
from node.crypto.hashing import multihash
from simulations.machine import InlineOffload
from tests.chunks.put_swarm import BoardDirectory, Donor, Putter, Swarm, swarm_of, write_file
from tests.clocks import VirtualClock


def turns_of(swarm: Swarm, donor: Donor, *, weeks: int) -> AnnouncingTurns:
    return AnnouncingTurns(
        store=donor.store,
        rosters=donor.server.rosters,
        directory=BoardDirectory(swarm.board, donor.peer_id),
        peer_id=donor.peer_id,
        clock=VirtualClock(weeks * WEEK_S),
        offload=InlineOffload(),
    )


async def test_each_week_five_holders_announce_segment_and_file(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with swarm_of(12) as swarm:
        async with Putter(swarm).running() as uploader:
            report = await uploader.put(write_file(tmp_path, 1000), PutOptions(code=Code(4, 12)))
        (segment_id,) = swarm.donors[0].store.segments()
        keys = multihash(segment_id), multihash(report.file_hash)
        seen = set()
        for week in (1, 2, 3):
            for donor in swarm.donors:
                await turns_of(swarm, donor, weeks=week).change()
            announcing = [frozenset(swarm.board.providers[key]) for key in keys]
            assert len(announcing[0]) == ANNOUNCERS
            assert announcing[0] == announcing[1]
            seen.add(announcing[0])
        assert len(seen) == 3


async def test_nothing_is_announced_after_the_last_lease(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with swarm_of(4) as swarm:
        async with Putter(swarm).running() as uploader:
            await uploader.put(write_file(tmp_path, 1000), PutOptions(code=Code(2, 4)))
        for donor in swarm.donors:
            assert await turns_of(swarm, donor, weeks=1).change() == 2
            donor.store.expire(VirtualClock(52 * WEEK_S).now_s())
            assert await turns_of(swarm, donor, weeks=52).change() == 0
