"""One put of some shards of one segment to one holder: open, stream, close, with second tries. Layer 4.

Invariants: blocks leave only when they are given here, and they are given only once their stripe's hash is
journalled; a lease is asked for only when its body is journalled; what the holder countersigns is checked
to be what was asked. Whoever fails, or takes nothing for `stall_s`, is reported, never waited for.
Source: design.md, section 4 (put).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Payer
from node.chunks.client import HolderClient, HolderSession
from node.chunks.geometry import SegmentGeometry
from node.chunks.manifest import SegmentManifest
from node.chunks.put import journal as records
from node.chunks.put.journal_queue import JournalQueue
from node.crypto.identity import peer_id_text
from node.crypto.signing import KeyPair
from node.errors import (
    CryptoError,
    NodeError,
    PeerMisbehavedError,
    ProtocolError,
    RefusedError,
    RemoteError,
    UnreachableError,
)
from node.ports import Buffer, Clock, Entropy, Offload
from node.records.lease import LEASE_ID_BYTES, LEASE_NONCE_BYTES, Lease
from node.units import DAY_S, Contact, LeaseId, OwnerKey

CONNECTIONS_MAX: Final = 3
"""Streams tried for one put: a broken connection is resumed, a dead holder is given up."""
EGRESS_FACTOR: Final = 30
"""How often a shard may be read within its lease before credit orders the queue."""


class StalledError(UnreachableError):
    """The holder takes nothing any more: a further connection would not help."""


@dataclass(frozen=True, slots=True)
class HolderPutContext:
    """What all puts of one segment share."""

    client: HolderClient
    journal: JournalQueue
    owner: KeyPair
    lease_days: int
    geometry: SegmentGeometry
    segment_index: int
    clock: Clock
    entropy: Entropy
    offload: Offload
    stall_s: float
    queue_stripes: int
    on_change: Callable[[], None]
    on_sent: Callable[[int], None]
    on_delivered: Callable[[Contact, int, float], None]
    payer: Payer | None = None


class SharedStripe:
    """The blocks of a stripe, given back when the last holder has sent its own."""

    def __init__(self, release: Callable[[], None], users: int) -> None:
        self._release = release
        self._users = users

    def done(self) -> None:
        """One user needs it no more."""
        self._users -= 1
        if self._users == 0:
            self._release()


class HolderPut:
    """Feeds one holder. The producer calls `push`; `run` does the rest."""

    def __init__(
        self,
        context: HolderPutContext,
        contact: Contact,
        shard_indexes: Sequence[int],
        *,
        price: int = 0,
        journalled: records.PutState | None = None,
    ) -> None:
        """`journalled`: a put of an earlier run, to go on with."""
        self.contact = contact
        self.shard_indexes = tuple(shard_indexes)
        self.price = price
        self.leases: tuple[Lease, ...] = ()
        self.failure: NodeError | None = None
        self.over = False
        self.ready = False
        self.next_stripe = 0
        """The next stripe that the producer must give."""
        self.cancel_scope = trio.CancelScope()
        self._context = context
        self._put_id = journalled.put_id if journalled else messages.PutId(context.entropy.random_bytes(16))
        self._known = journalled is not None
        self._asked = journalled.asked if journalled else ()
        self._queue: deque[tuple[int, Sequence[Buffer], SharedStripe | None]] = deque()
        self._next_blocks: tuple[int, ...] = ()
        self._noted_stripes = 0
        self._wake = trio.Event()
        self._manifest: SegmentManifest | None = None

    @property
    def room(self) -> int:
        """Stripes that may be pushed now."""
        return self._context.queue_stripes - len(self._queue) if self.ready and not self.over else 0

    @property
    def wants_stripes(self) -> bool:
        """Whether it still needs stripes (or does not know yet)."""
        return not self.over and self.next_stripe < self._context.geometry.stripe_count

    @property
    def all_sent(self) -> bool:
        """Whether every block has left."""
        return self.over or (self.ready and not self.wants_stripes and not self._queue)

    def push(self, stripe_index: int, blocks: Sequence[Buffer], shared: SharedStripe | None) -> None:
        """Give the next stripe: this holder's blocks in the order of its shards."""
        assert stripe_index == self.next_stripe
        assert self.room > 0
        self.next_stripe += 1
        self._queue.append((stripe_index, blocks, shared))
        self._wake.set()

    def set_manifest(self, manifest: SegmentManifest) -> None:
        """The segment is complete: leases may be asked for."""
        self._manifest = manifest
        self._wake.set()

    async def run(self) -> None:
        """From opening to countersigned leases, or to `failure`. Raises nothing of its own."""
        try:
            with self.cancel_scope:
                self.leases = await self._attempt()
            if not self.leases:
                self.failure = StalledError(self._name, "too slow, replaced")
        except NodeError as error:
            self.failure = error
        finally:
            self.over = True
            self._drop_queue()
            self._context.on_change()

    @property
    def _name(self) -> str:
        return peer_id_text(self.contact.peer_id)

    async def _attempt(self) -> tuple[Lease, ...]:
        """The whole exchange, on up to `CONNECTIONS_MAX` streams."""
        for connections_left in reversed(range(CONNECTIONS_MAX)):
            try:
                return await self._exchange()
            except StalledError:
                raise
            except UnreachableError:
                if not connections_left:
                    raise
            except RefusedError as error:
                # The holder restarted, or the put lapsed: it begins again there, with nothing reserved.
                if error.code != messages.REFUSED_UNKNOWN or not self._known or not connections_left:
                    raise
                await self._forget_old()
            self._rewind()
        raise AssertionError("the last round raises or returns")

    async def _exchange(self) -> tuple[Lease, ...]:
        session = await self._open_session()
        async with session:
            if not self._asked:
                await self._open(session)
                await self._send_blocks(session)
                await self._ask_leases()
            return await self._close(session)

    async def _open_session(self) -> HolderSession:
        with trio.move_on_after(limits.REPLY_DEADLINE_S):
            return await self._context.client.open(self.contact)
        raise StalledError(self._name, "does not answer")

    async def _open(self, session: HolderSession) -> None:
        context, geometry = self._context, self._context.geometry
        request = messages.PutOpen(
            put_id=self._put_id,
            data_shards=geometry.code.data_shards,
            total_shards=geometry.code.total_shards,
            block_bytes=limits.BLOCK_BYTES,
            last_block_bytes=geometry.last_block_bytes,
            stripe_count=geometry.stripe_count,
            shard_indexes=self.shard_indexes,
            lease_days=context.lease_days,
            rate=self.price,
            payer=b"" if context.payer is None else context.payer.cert(),
        )
        if self._known:
            self._next_blocks = await session.resume_put(request)
        else:
            opened = records.PutOpened(
                context.segment_index,
                self._put_id,
                self.contact.peer_id,
                self.contact.addresses[: limits.PLACEMENT_ADDRESSES_MAX],
                self.shard_indexes,
            )
            await context.journal.append(opened)
            self._next_blocks = await session.open_put(request)
            self._known = True
        self.next_stripe = min(self._next_blocks)
        self._note_sent(self.next_stripe)  # an earlier run sent these
        self.ready = True
        context.on_change()

    async def _send_blocks(self, session: HolderSession) -> None:
        started_s, sent_bytes = trio.current_time(), 0
        while self.wants_stripes or self._queue:
            if self._queue:
                sent_bytes += await self._send_queued(session)
            else:
                await self._wait()
        self._context.on_delivered(self.contact, sent_bytes, trio.current_time() - started_s)

    async def _send_queued(self, session: HolderSession) -> int:
        """Send all that is queued, each block within `stall_s`; how many bytes."""
        stall_s, sent_bytes = self._context.stall_s, 0
        with trio.move_on_after(stall_s) as scope:
            while self._queue:
                stripe_index, blocks, _ = self._queue[0]
                for slot, block in enumerate(blocks):
                    if stripe_index < self._next_blocks[slot]:
                        continue
                    await session.send_block(slot, stripe_index, block)
                    scope.deadline = trio.current_time() + stall_s
                    sent_bytes += len(block)
                self._note_sent(stripe_index + 1)
                self._pop()
                self._context.on_change()
        if scope.cancelled_caught:
            raise StalledError(self._name, f"took nothing for {stall_s:g} s")
        return sent_bytes

    def _note_sent(self, next_stripe: int) -> None:
        """Tell of the blocks of stripes before `next_stripe`, of each once, however often it is sent."""
        noted, self._noted_stripes = self._noted_stripes, max(next_stripe, self._noted_stripes)
        new_bytes = sum(map(self._context.geometry.block_bytes, range(noted, self._noted_stripes)))
        self._context.on_sent(new_bytes * len(self.shard_indexes))

    async def _ask_leases(self) -> None:
        """Journal the owner's halves, once the segment's manifest is known."""
        while self._manifest is None:
            await self._wait()
        context, manifest = self._context, self._manifest
        today = context.clock.now_s() // DAY_S
        asked = []
        for shard_index in self.shard_indexes:
            lease = Lease(
                network=context.client.preamble.network_id,
                lease_id=LeaseId(context.entropy.random_bytes(LEASE_ID_BYTES)),
                segment_id=manifest.segment_id,
                shard_index=shard_index,
                root=manifest.root(shard_index),
                byte_count=manifest.geometry.shard_bytes,
                owner_key=OwnerKey(context.owner.public),
                holder=self.contact.peer_id,
                start_day=today,
                end_day=today + context.lease_days,
                rate=self.price,
                egress_cap_bytes=EGRESS_FACTOR * manifest.geometry.shard_bytes,
                nonce=context.entropy.random_bytes(LEASE_NONCE_BYTES),
            )
            asked.append(lease.sign_as_owner(context.owner).encode())
        closing = records.PutClosing(context.segment_index, self._put_id, tuple(asked))
        await context.journal.append(closing)
        self._asked = tuple(asked)

    async def _close(self, session: HolderSession) -> tuple[Lease, ...]:
        """Ask for the leases; asked again after a lost reply, the holder answers the same."""
        while self._manifest is None:
            await self._wait()
        self.ready, self.next_stripe = True, self._context.geometry.stripe_count
        manifest, context = self._manifest, self._context
        replies = await session.close_put(
            self._put_id, manifest.encoded, self._asked, self._charges(len(manifest.encoded))
        )
        leases = self._verified(replies)
        closed = records.PutClosed(context.segment_index, self._put_id, tuple(replies))
        await context.journal.append(closed)
        if context.payer is not None:
            context.payer.dealt_with(self.contact)
        return leases

    def _charges(self, manifest_bytes: int) -> list[bytes]:
        """Who pays for the leases asked for; the same bytes each time."""
        payer = self._context.payer
        if payer is None:
            return []
        network = self._context.client.preamble.network_id
        leases = [Lease.decode(lease, network=network) for lease in self._asked]
        return [payer.charge(lease, manifest_bytes).encode() for lease in leases]

    def _verified(self, replies: Sequence[bytes]) -> tuple[Lease, ...]:
        network = self._context.client.preamble.network_id
        try:
            leases = tuple(Lease.decode(reply, network=network) for reply in replies)
            asked = [Lease.decode(lease, network=network).body() for lease in self._asked]
            if [lease.body() for lease in leases] != asked:
                raise ProtocolError("countersigned other leases than those asked for")
            for lease in leases:
                lease.verify()
        except (ProtocolError, CryptoError) as error:
            raise PeerMisbehavedError(self._name, str(error)) from error
        return leases

    async def _forget_old(self) -> None:
        """Begin again under a new name: nobody may mistake blocks of the old put for the new one's."""
        context = self._context
        dropped = records.PutDropped(context.segment_index, self._put_id)
        await context.journal.append(dropped)
        self._put_id = messages.PutId(context.entropy.random_bytes(16))
        self._known, self._asked = False, ()

    def _rewind(self) -> None:
        """Nothing that is queued counts: the holder will say what it has."""
        self._drop_queue()
        self.ready, self.next_stripe = False, 0
        self._context.on_change()

    def _pop(self) -> None:
        _, _, shared = self._queue.popleft()
        if shared is not None:
            shared.done()

    def _drop_queue(self) -> None:
        while self._queue:
            self._pop()

    async def _wait(self) -> None:
        await self._wake.wait()
        self._wake = trio.Event()


def is_fatal(error: NodeError) -> bool:
    """Whether a failure is this node's own (its disk), so that no other holder would help."""
    return not isinstance(error, RemoteError)
