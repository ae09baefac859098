"""The holder: serves `/cairn/shards/1`. Layer 4.

Invariants: nothing is reserved, read or kept beyond limits.py; a reply to a close means durable; what a peer
sends is checked against the manifest's roots and the owner's signature before it counts; an illegal
message ends its stream and changes nothing in the store; a donor sees no key and no name.
Source: design.md, sections 4 and 6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from node import limits
from node.chunks import messages
from node.chunks.admission import Admission
from node.chunks.serve.attachments import Attachments
from node.chunks.serve.conversation import Conversation, Desks
from node.chunks.serve.incoming import PutTable, RefusalError
from node.chunks.serve.keeping import Keeper
from node.chunks.serve.offering import Offering
from node.chunks.serve.reading import Reading, Traffic
from node.chunks.serve.rosters import Rosters
from node.chunks.serve.suspension import StoreCare
from node.chunks.serve.turns import Turns
from node.chunks.serving import Serving, StreamTally
from node.chunks.store.shard_store import ShardStore
from node.crypto.keystore import NodeKeys
from node.errors import (
    CreditError,
    CryptoError,
    ProtocolError,
    RefusedError,
    StoreError,
    StoreFullError,
)
from node.framing import FramedStream, Preamble
from node.ports import Clock, Directory, Network, Offload, Stream

_logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that py-libp2p brings leave it out of trio

GRACE_DAYS: Final = 14
LAPSE_CHECK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counts for `cairn status` and tests, since the start."""

    open_puts: int
    blocks_received: int
    blocks_served: int
    bytes_received: int
    bytes_served: int
    leases_signed: int
    requests_refused: int


class ShardServer:
    """Keeps shards for others, and serves them."""

    def __init__(
        self,
        *,
        network: Network,
        store: ShardStore,
        directory: Directory,
        keys: NodeKeys,
        preamble: Preamble,
        clock: Clock,
        offload: Offload,
        grace_days: int = GRACE_DAYS,
        uptime_permille: Callable[[], int] = lambda: 1000,
        admission: Admission | None = None,
        serving: Serving | None = None,
        is_leaving: Callable[[], bool] = lambda: False,
    ) -> None:
        """The store's cap decides whether this node is a donor at all, `admission` for whom it keeps.

        `serving` gets the receipts of readers. One that is leaving takes nothing new.
        """
        self._network = network
        self._keys = keys
        self._preamble = preamble
        self.puts = PutTable(store, offload, admission)
        self.care = StoreCare(store, self.puts, clock, offload)
        self.traffic = Traffic()
        self.rosters = Rosters(store, preamble.network_id)
        self.keeper = Keeper(
            store=store,
            puts=self.puts,
            rosters=self.rosters,
            directory=directory,
            identity=keys.identity,
            network=preamble.network_id,
            clock=clock,
            offload=offload,
            grace_days=grace_days,
            admission=admission,
        )
        self.offering = Offering(
            store=store,
            puts=self.puts,
            care=self.care,
            keys=keys,
            network=preamble.network_id,
            clock=clock,
            offload=offload,
            uptime_permille=uptime_permille,
            admission=admission,
            is_leaving=is_leaving,
        )
        reading = Reading(
            store=store,
            care=self.care,
            network=preamble.network_id,
            clock=clock,
            offload=offload,
            serving=serving,
            traffic=self.traffic,
        )
        self._desks = Desks(
            network_id=preamble.network_id,
            offload=offload,
            puts=self.puts,
            offering=self.offering,
            keeper=self.keeper,
            rosters=self.rosters,
            attachments=Attachments(store, offload, preamble.network_id),
            reading=reading,
            large_bodies=Turns(limits.LARGE_BODIES_PER_PEER_MAX),
            traffic=self.traffic,
        )
        self._refused = 0

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve, and end silent puts, until cancelled; started once requests are taken."""
        self._network.serve(
            messages.PROTOCOL,
            self._serve_stream,
            streams_max=limits.SHARD_STREAMS_MAX,
            streams_max_per_peer=limits.SHARD_STREAMS_PER_PEER_MAX,
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_silent_puts)
                nursery.start_soon(self.care.run)
                task_status.started()
        finally:
            with trio.CancelScope(shield=True):
                await self.puts.end_all()

    def statistics(self) -> ServerStatistics:
        """Counts as of now."""
        return ServerStatistics(
            open_puts=len(self.puts),
            blocks_received=self.traffic.blocks_received,
            blocks_served=self.traffic.blocks_served,
            bytes_received=self.traffic.bytes_received,
            bytes_served=self.traffic.bytes_served,
            leases_signed=self.keeper.leases_signed,
            requests_refused=self._refused,
        )

    async def _end_silent_puts(self) -> None:
        while True:
            await self.puts.wait_open()
            await trio.sleep(LAPSE_CHECK_S)
            await self.puts.end_silent()

    async def _serve_stream(self, stream: Stream) -> None:
        try:
            framed = await FramedStream.accepted(stream, self._preamble)
        except RefusedError:
            return  # the opener was told why; raising would reset the stream before it has read that
        try:
            await Conversation(self._desks, framed, StreamTally(self._keys.peer_id)).run()
        except RefusalError as error:
            self._refused += 1
            await framed.send_error(error.code, str(error))
        except StoreFullError as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_FULL, str(error))
        except StoreError as error:
            self._refused += 1
            _logger.warning("the store failed for %s: %s", framed.peer, error)
            await self.care.on_fault()
            refusal = self.care.refusal()
            await framed.send_error(refusal.code, str(refusal))
        except CreditError as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_CREDIT, str(error))
        except (ProtocolError, CryptoError) as error:
            self._refused += 1
            await framed.send_error(messages.REFUSED_INVALID, str(error))
