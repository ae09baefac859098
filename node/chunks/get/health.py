"""Health of a file from proofs: who really has which shard, now. Layer 4.

Every holder that the placement, the rosters or the DHT name for a segment is asked for the leaf list and a
random block of each of its shards. Invariants: a shard counts as alive only when its holder answered with a
leaf list under the manifest's root and with blocks under their leaves, during this call; records alone prove
nothing; no key is needed; blocks in memory are few. Source: design.md, section 1 (health), section 8 (6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import trio

from node.chunks import messages
from node.chunks.client import HolderClient
from node.chunks.get.locate import KnownHolders, LocatedFile, Locator, ShardPlace
from node.chunks.get.shard_stream import ShardStream
from node.chunks.holders import Holders, end
from node.chunks.manifest import SegmentManifest
from node.chunks.scores import Scoreboard
from node.errors import NotFoundError, OwnerInconsistentError, PeerMisbehavedError, RefusedError, RemoteError
from node.ports import Clock, Directory, Entropy
from node.units import FileHash, PeerId

ShardState = Literal["proved", "slow", "corrupt", "missing", "unreachable"]

SLOW_S = 5.0
"""A proof that takes longer says that something is wrong with the holder or the way to it."""
REPAIR_THRESHOLD = 0.5
"""Share of the parity that may be lost before repair starts (`repair.threshold`)."""
SEGMENTS_AT_ONCE = 4
HOLDERS_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class HolderHealth:
    """What one holder answered for one shard."""

    peer_id: PeerId
    shard: int
    state: ShardState


@dataclass(frozen=True, slots=True)
class SegmentHealth:
    """`alive` counts distinct shards proved during the call, slow ones included."""

    index: int
    alive: int
    needed: int
    total: int
    holders: tuple[HolderHealth, ...]
    segment_id: bytes = b""

    @property
    def healthy(self) -> bool:
        """Whether no more of the parity is lost than repair tolerates."""
        return self.total - self.alive <= REPAIR_THRESHOLD * (self.total - self.needed)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a file."""

    file_hash: FileHash
    segments: tuple[SegmentHealth, ...]

    @property
    def healthy(self) -> bool:
        """Whether every segment is."""
        return all(segment.healthy for segment in self.segments)

    @property
    def retrievable(self) -> bool:
        """Whether every segment can be restored from what was proved."""
        return all(segment.alive >= segment.needed for segment in self.segments)


class HealthChecker:
    """Asks every known holder of every segment for proofs."""

    def __init__(
        self,
        *,
        client: HolderClient,
        directory: Directory,
        clock: Clock,
        entropy: Entropy,
        scores: Scoreboard,
        known_holders: KnownHolders | None = None,
    ) -> None:
        """`known_holders` gives what this node remembers of a file's holders."""
        self._holders = Holders(client=client, directory=directory, clock=clock, scores=scores)
        self._locator = Locator(self._holders, known_holders=known_holders)
        self._entropy = entropy
        self._sessions = trio.CapacityLimiter(HOLDERS_AT_ONCE)

    async def check(
        self,
        file_hash: FileHash,
        *,
        verify: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> HealthReport:
        """Challenge every holder; with `verify`, read every block of every shard.

        `on_progress(segments done, segments in all)`. Raises `NotFoundError` where no manifest is found, and
        `OwnerInconsistentError`; whatever the health, it returns.
        """
        file = await self._locator.locate(file_hash)
        count = file.manifest.segment_count
        found: dict[int, SegmentHealth] = {}
        errors: list[OwnerInconsistentError] = []
        slots = trio.Semaphore(SEGMENTS_AT_ONCE)

        async def check_one(index: int) -> None:
            try:
                found[index] = await self._check_segment(file, index, verify=verify)
            except OwnerInconsistentError as error:
                errors.append(error)
                nursery.cancel_scope.cancel()
            finally:
                slots.release()
            if on_progress is not None:
                on_progress(len(found), count)

        async with trio.open_nursery() as nursery:
            for index in range(count):
                await slots.acquire()
                nursery.start_soon(check_one, index)
        if errors:
            raise errors[0]
        return HealthReport(file_hash, tuple(found[index] for index in range(count)))

    async def _check_segment(self, file: LocatedFile, index: int, *, verify: bool) -> SegmentHealth:
        code = file.manifest.code
        placed = self._locator.placed(file, index)
        try:
            segment = await self._locator.segment_manifest(file, index)
        except NotFoundError:
            gone = tuple(HolderHealth(place.holder, place.shard_index, "unreachable") for place in placed)
            segment_id = file.manifest.segment_id(index)
            return SegmentHealth(index, 0, code.data_shards, code.total_shards, gone, segment_id)
        results = await self._challenge(file, segment, placed, verify=verify)
        if len(_alive(results)) < code.total_shards:
            # What is not where it was placed may have been repaired to elsewhere.
            asked = {(result.peer_id, result.shard) for result in results}
            moved = [
                place
                for place in await self._locator.search_places(file, segment, index)
                if (place.holder, place.shard_index) not in asked
            ]
            results += await self._challenge(file, segment, moved, verify=verify)
        results.sort(key=lambda result: (result.shard, result.peer_id))
        return SegmentHealth(
            index,
            len(_alive(results)),
            code.data_shards,
            code.total_shards,
            tuple(results),
            segment.segment_id,
        )

    async def _challenge(
        self, file: LocatedFile, segment: SegmentManifest, places: Sequence[ShardPlace], *, verify: bool
    ) -> list[HolderHealth]:
        """Challenge every holder of the given shards, several at once."""
        by_holder: dict[PeerId, list[int]] = {}
        for place in places:
            if place.shard_index < segment.code.total_shards:
                by_holder.setdefault(place.holder, []).append(place.shard_index)
        results: list[HolderHealth] = []

        async def challenge_one(peer_id: PeerId, shards: list[int]) -> None:
            async with self._sessions:
                states = await _Challenge(self._holders, segment, shards).run(
                    file, peer_id, self._blocks(segment, shards, verify=verify)
                )
            results.extend(HolderHealth(peer_id, shard, states[shard]) for shard in shards)

        async with trio.open_nursery() as nursery:
            for peer_id, shards in by_holder.items():
                nursery.start_soon(challenge_one, peer_id, shards)
        return results

    def _blocks(
        self, segment: SegmentManifest, shards: Iterable[int], *, verify: bool
    ) -> dict[int, list[int]]:
        """Which blocks of which shard prove it: all, or one that the holder can't foresee."""
        count = segment.geometry.stripe_count
        if verify:
            return {shard: list(range(count)) for shard in shards}
        return {shard: [int.from_bytes(self._entropy.random_bytes(4), "big") % count] for shard in shards}


class _Challenge:
    """One holder's shards of one segment."""

    def __init__(self, holders: Holders, segment: SegmentManifest, shards: Sequence[int]) -> None:
        self._holders = holders
        self._segment = segment
        self._left: dict[int, int] = {}
        self._states: dict[int, ShardState] = dict.fromkeys(shards, "unreachable")
        self._slow: set[int] = set()
        self._latest_s = 0.0  # when the latest block came, or the first was asked

    async def run(
        self, file: LocatedFile, peer_id: PeerId, blocks: dict[int, list[int]]
    ) -> dict[int, ShardState]:
        """The state of each shard."""
        stream = ShardStream(self._segment, on_block=self._on_block, on_fault=self._on_fault)
        waiting = list(blocks)
        # A holder that says "missing" ends its stream, so the shards after that one are asked for again.
        while waiting:
            for shard in waiting:
                self._left[shard] = len(blocks[shard])
            try:
                await self._session(stream, file, peer_id, [(s, b) for s in waiting for b in blocks[s]])
            except RefusedError as error:
                if error.code not in (messages.REFUSED_MISSING, messages.REFUSED_CORRUPT):
                    break
            except PeerMisbehavedError as error:
                self._holders.blame(peer_id, error)
                for shard in waiting:
                    if self._states[shard] == "unreachable":
                        self._states[shard] = "corrupt"
                break
            except RemoteError as error:
                self._holders.blame(peer_id, error)
                break
            stream.forget()
            before = len(waiting)
            waiting = [shard for shard in waiting if self._states[shard] == "unreachable"]
            if len(waiting) == before:
                break
        if "corrupt" in self._states.values():
            self._holders.scores.misbehaved(peer_id, now_s=self._holders.clock.now_s())
        return self._states

    async def _session(
        self, stream: ShardStream, file: LocatedFile, peer_id: PeerId, blocks: list[tuple[int, int]]
    ) -> None:
        session = await self._holders.open(file.contact(peer_id))
        try:
            stream.ask(blocks)
            self._latest_s = trio.current_time()
            await stream.run(session, until_idle=True)
        finally:
            await end(session, clean=stream.idle)

    def _on_block(self, shard_index: int, _stripe: int, _block: memoryview) -> None:
        self._left[shard_index] -= 1
        now = trio.current_time()
        took_s, self._latest_s = now - self._latest_s, now
        if took_s > SLOW_S:
            self._slow.add(shard_index)
        if not self._left[shard_index]:
            self._states[shard_index] = "slow" if shard_index in self._slow else "proved"

    def _on_fault(self, shard_index: int, code: str) -> None:
        self._states[shard_index] = "missing" if code == messages.REFUSED_MISSING else "corrupt"


def _alive(results: Iterable[HolderHealth]) -> set[int]:
    return {result.shard for result in results if result.state in ("proved", "slow")}
