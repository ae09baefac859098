"""Fetches stripes of one segment from its holders, hedged. Layer 4.

The pure schedule (`hedging`) says what to ask of whom; this module has one task and one verified
stream (`shard_stream`) a holder. Invariants: memory is what the caller's window allows; a holder
that fails costs its blocks only; too few shards are declared only after rosters and the DHT were asked for
other holders. Source: design.md, section 4 (get).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from node.chunks import messages
from node.chunks.get.hedging import Ask, Column, SegmentSchedule
from node.chunks.get.locate import LocatedFile, Locator, ShardPlace
from node.chunks.get.shard_stream import ByteCount, ShardStream
from node.chunks.holders import Holders, end
from node.chunks.manifest import SegmentManifest
from node.errors import (
    NodeError,
    NotEnoughShardsError,
    NotFoundError,
    PeerMisbehavedError,
    RefusedError,
    RemoteError,
)
from node.units import PeerId, format_count, format_duration

FRUITLESS_MAX = 2
"""Sessions in a row that may end without a block before a holder counts as gone."""
RECONNECT_S = 0.5
"""Wait before a new session; doubles."""
BUSY_S = 1.0
"""Wait after a holder said that it is busy; doubles."""
SILENT_S = 5.0
"""A holder that gave nothing for so long in one session gets no second."""
DIAL_S = 0.15
"""What a dial with its handshake adds: a parity shard of a connected holder is had sooner."""
_ABOUT_ONE_SHARD = (messages.REFUSED_MISSING, messages.REFUSED_CORRUPT)


@dataclass(slots=True)
class _HolderState:
    """One holder of the segment, by the schedule's number for it."""

    number: int
    peer_id: PeerId
    stream: ShardStream
    started: bool = False
    gone: bool = False
    fruitless: int = 0


class SegmentFetch:
    """Stripes [first_stripe, end_stripe) of one segment.

    Run `run`, open the window with `extend`, take stripes in order with `wait_stripe`.
    """

    def __init__(
        self,
        *,
        holders: Holders,
        locator: Locator,
        file: LocatedFile,
        segment_index: int,
        first_stripe: int,
        end_stripe: int,
        count: ByteCount,
    ) -> None:
        self.segment_index = segment_index
        self._holders = holders
        self._locator = locator
        self._file = file
        self._count = count
        self._needed = file.manifest.code.data_shards
        self._schedule = SegmentSchedule(
            data_shards=self._needed, first_stripe=first_stripe, end_stripe=end_stripe
        )
        self._window_end = first_stripe
        self._segment: SegmentManifest | None = None
        self._states: list[_HolderState] = []
        self._by_peer: dict[PeerId, _HolderState] = {}
        self._blocks: dict[int, dict[int, memoryview]] = {}
        self._failure: NodeError | None = None
        self._nursery: trio.Nursery | None = None
        self._progress = trio.Event()
        self._asked = trio.Event()
        self._attention = trio.Event()

    @property
    def manifest(self) -> SegmentManifest:
        """The segment's manifest; there once a stripe is."""
        assert self._segment is not None
        return self._segment

    def leaf_lists(self) -> dict[int, bytes]:
        """Leaf lists by shard, each checked under its root: of every shard that a block was taken of."""
        return {shard: leaves for state in self._states for shard, leaves in state.stream.leaf_lists.items()}

    def extend(self, window_end: int) -> None:
        """Allow stripes up to `window_end` in memory."""
        self._window_end = max(self._window_end, window_end)
        if self._nursery is not None:
            self._dispatch(self._schedule.extend(self._window_end, trio.current_time()))

    def has_stripe(self, stripe: int) -> bool:
        """Whether `wait_stripe` would return at once."""
        return stripe in self._blocks and self._schedule.is_complete(stripe)

    async def wait_stripe(self, stripe: int) -> dict[int, memoryview]:
        """The verified blocks of a stripe, by shard index; they leave this object's memory.

        Raises:
            NotEnoughShardsError: too few shards of the segment can be had.
            OwnerInconsistentError: the segment contradicts its file.
        """
        while not self.has_stripe(stripe):
            if self._failure is not None:
                raise self._failure
            await self._progress.wait()
        return self._blocks.pop(stripe)

    async def run(self) -> None:
        """Fetch until all stripes are complete or can't be; errors show in `wait_stripe`."""
        try:
            self._segment = await self._locator.segment_manifest(self._file, self.segment_index)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._add(self._locator.placed(self._file, self.segment_index))
                self.extend(self._window_end)
                nursery.start_soon(self._tick)
                try:
                    await self._watch()
                except NodeError as error:
                    self._fail(error)
                nursery.cancel_scope.cancel()
        except NotFoundError:
            self._fail(self._shortage(self._needed))
        except NodeError as error:
            self._fail(error)
        finally:
            self._nursery = None

    # --- asking -----------------------------------------------------------------------------------------

    def _add(self, places: Sequence[ShardPlace]) -> None:
        """Take shards at holders into the schedule."""
        by_holder: dict[PeerId, list[Column]] = {}
        for place in places:
            if not 0 <= place.shard_index < self.manifest.code.total_shards:
                continue
            state = self._state_of(place.holder)
            if not state.gone:
                by_holder.setdefault(place.holder, []).append(Column(state.number, place.shard_index))
        now_s = self._holders.clock.now_s()
        block_bytes = self.manifest.geometry.block_bytes(0)
        for peer_id, columns in by_holder.items():
            expected_s = self._holders.scores.expected_s(peer_id, byte_count=block_bytes, now_s=now_s)
            if not self._holders.client.is_near(peer_id):
                expected_s += DIAL_S
            self._dispatch(self._schedule.add_columns(columns, expected_s, trio.current_time()))

    def _state_of(self, peer_id: PeerId) -> _HolderState:
        known = self._by_peer.get(peer_id)
        if known is not None:
            return known
        stream = ShardStream(
            self.manifest,
            on_block=lambda shard, stripe, block: self._on_block(state, shard, stripe, block),
            on_fault=lambda shard, code: self._on_fault(state, shard, code),
            count=self._count,
            reader=None if peer_id == self._holders.client.peer_id else self._holders.reader,
        )
        state = _HolderState(len(self._states), peer_id, stream)
        self._by_peer[peer_id] = state
        self._states.append(state)
        return state

    def _dispatch(self, asks: Sequence[Ask]) -> None:
        """Hand asks to their holders' tasks, starting those that don't run yet."""
        assert self._nursery is not None
        by_holder: dict[int, list[tuple[int, int]]] = {}
        for ask in asks:
            by_holder.setdefault(ask.column.holder, []).append((ask.column.shard, ask.stripe))
        for number, blocks in by_holder.items():
            state = self._states[number]
            state.stream.ask(blocks)
            if not state.started:
                state.started = True
                self._nursery.start_soon(self._serve, state)
        if asks:
            self._asked.set()
        self._attention.set()

    async def _tick(self) -> None:
        """Look for late holders whenever one may be."""
        while True:
            due = self._schedule.next_tick()
            self._asked = trio.Event()
            if due is None:
                await self._asked.wait()
                continue
            await trio.sleep_until(due)
            self._dispatch(self._schedule.tick(trio.current_time()))

    async def _watch(self) -> None:
        """Return when all stripes are complete; look for more holders, once, when too few are left."""
        searched = False
        while not self._schedule.done:
            missing = self._schedule.missing_shards()
            if not missing:
                self._attention = trio.Event()
                await self._attention.wait()
            elif searched:
                raise self._shortage(missing)
            else:
                searched = True
                self._add(await self._locator.search_places(self._file, self.manifest, self.segment_index))

    def _shortage(self, missing: int) -> NotEnoughShardsError:
        scores = (self._holders.scores.score(state.peer_id) for state in self._states)
        seen = [score.answered_s for score in scores if score is not None and score.answered_s]
        now_s = self._holders.clock.now_s()
        ago = f", last seen {format_duration(max(0, now_s - max(seen)))} ago" if seen else ""
        return NotEnoughShardsError(
            f"segment {self.segment_index}: {format_count(missing, 'shard is', 'shards are')} missing "
            f"of the {self._needed} needed{ago}: try again when more of its holders are on"
        )

    def _fail(self, error: NodeError) -> None:
        self._failure = error
        self._progress.set()

    # --- one holder -------------------------------------------------------------------------------------

    def _on_block(self, state: _HolderState, shard_index: int, stripe: int, block: memoryview) -> None:
        state.fruitless = 0
        if not self._schedule.arrived(Column(state.number, shard_index), stripe, trio.current_time()):
            return
        self._blocks.setdefault(stripe, {})[shard_index] = block
        if self._schedule.is_complete(stripe):
            self._progress.set()
            self._progress = trio.Event()
            if self._schedule.done:
                self._attention.set()

    def _on_fault(self, state: _HolderState, shard_index: int, code: str) -> None:
        if code == messages.REFUSED_CORRUPT:
            self._holders.scores.misbehaved(state.peer_id, now_s=self._holders.clock.now_s())
        column = Column(state.number, shard_index)
        self._dispatch(self._schedule.fail_column(column, trio.current_time()))

    async def _serve(self, state: _HolderState) -> None:
        """Have one holder answer what the schedule asks of it, until it is gone."""
        wait_s = RECONNECT_S
        while state.fruitless < FRUITLESS_MAX:
            await state.stream.wait_asked()
            state.fruitless += 1
            began_s = trio.current_time()
            try:
                await self._session(state)
            except RefusedError as error:
                if error.code in _ABOUT_ONE_SHARD:
                    state.fruitless = 0  # there are finitely many shards, and this one was given up
                    wait_s = 0.0
                elif error.code == messages.REFUSED_BUSY:
                    wait_s = max(wait_s, BUSY_S)
                else:
                    break
            except PeerMisbehavedError as error:
                self._holders.blame(state.peer_id, error)
                break
            except RemoteError as error:
                self._holders.blame(state.peer_id, error)
            self._interrupt(state)
            if state.fruitless and trio.current_time() - began_s >= SILENT_S:
                state.fruitless = FRUITLESS_MAX
            if state.fruitless < FRUITLESS_MAX:  # else gone, and whoever is next need not wait for that
                await trio.sleep(wait_s)
                wait_s = max(RECONNECT_S, 2 * wait_s)
        state.gone = True
        self._dispatch(self._schedule.fail_holder(state.number, trio.current_time()))

    def _interrupt(self, state: _HolderState) -> None:
        """What the holder owes is lost: have it asked of others."""
        state.stream.forget()
        self._dispatch(self._schedule.interrupt_holder(state.number, trio.current_time()))

    async def _session(self, state: _HolderState) -> None:
        """One session with a holder. Raises `RemoteError`."""
        contact = self._file.contact(state.peer_id)
        session = await self._holders.open(contact, on_stale=lambda: self._interrupt(state))
        stream = state.stream
        before_bytes, before_s = stream.received_bytes, stream.waited_s
        try:
            await stream.run(session)
        finally:
            await end(session, clean=await stream.sign_off(session, contact))
            now_s = self._holders.clock.now_s()
            if stream.first_answer_s is not None:
                self._holders.scores.answered(state.peer_id, latency_s=stream.first_answer_s, now_s=now_s)
            self._holders.scores.delivered(
                state.peer_id,
                byte_count=stream.received_bytes - before_bytes,
                seconds=stream.waited_s - before_s,
                now_s=now_s,
            )
